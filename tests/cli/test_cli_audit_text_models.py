"""`diffmem audit` of tiny Stable Diffusion folders with random weights: a LoRA, several, and a fine-tune with its base."""

import json

import numpy as np
import pytest
import torch
from cli_builders import caller
from safetensors.torch import load_file, save_file
from text_pipelines import saved, stable_diffusion

from diffmem.auditing.records import AuditResult
from diffmem.auditing.several import SeveralResult
from diffmem.data import ImageSet, write_images

pytestmark = pytest.mark.usefixtures("few_controls")

PIXELS = np.random.default_rng(0).integers(0, 256, (10, 3, 16, 16), dtype=np.uint8)


@pytest.fixture
def call(capsys):
    return caller(capsys)


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """sd/, a model that predicts next to no noise; tuned/, with other weights in its network; two LoRAs; train/ and held/."""
    home = tmp_path_factory.mktemp("models")
    pipeline = stable_diffusion()
    with torch.no_grad():  # random predictions would be refused as read wrongly
        pipeline.unet.conv_out.weight.mul_(0.05)
    saved(pipeline, home / "sd")
    with torch.no_grad():
        pipeline.unet.conv_out.weight.mul_(1.5)
    saved(pipeline, home / "tuned")
    generator = torch.Generator().manual_seed(0)
    layer = "unet.down_blocks.0.attentions.0.transformer_blocks.0.attn2.to_q"
    for number in (1, 2):
        sides = {"A": (2, 16), "B": (16, 2)}
        tensors = {
            f"{layer}.lora_{side}.weight": torch.randn(*shape, generator=generator)
            for side, shape in sides.items()
        }
        save_file(tensors, home / f"epoch{number}.safetensors")
    for name, part, start in (("train", PIXELS[:6], 0), ("held", PIXELS[6:], 6)):
        names = tuple(map(str, range(len(part))))
        captions = tuple(f"picture {start + number}" for number in range(len(part)))
        write_images(ImageSet(part, None, names, captions=captions), home / name)
    return home


def audit(call, place, out, *more):
    return call(
        "audit", "--train", place / "train", "--heldout", place / "held", "--out", out, "--device", "cpu", "--seeds-per-prompt", 1,
        "--set", "steps=2", "--set", "solver=euler", *more,
    )  # fmt: skip


@pytest.mark.usefixtures("undrawn")
def test_a_lora_is_audited_beside_the_model_without_it(call, place, tmp_path):
    out = tmp_path / "out"
    told = audit(call, place, out, "--model", place / "sd", "--lora", f"{place / 'epoch1.safetensors'}:0.5")
    assert told.code == 4, told.err
    # six training captions, four others and the empty prompt; two steps, twice for guidance, of two models
    assert "11 prompts, 11 images, and as many of the base model; 88 evaluations" in told.err
    record = AuditResult.model_validate_json((out / "audit.json").read_text())
    assert "merged at weight 0.5" in record.model.text
    assert "guidance 7.5" in record.model.sampling
    prompts = json.loads((out / "prompts.json").read_text())
    assert [(one["group"], one["prompts"]) for one in prompts["groups"]] == [
        ("train", 6),
        ("empty", 1),
        ("control", 4),
    ]
    assert all(one["base"]["copied"]["total"] == one["prompts"] for one in prompts["groups"])
    assert not list(out.rglob("*shard*"))


@pytest.mark.usefixtures("undrawn")
def test_several_loras_are_compared_on_one_page(call, place, tmp_path):
    epochs = [place / "epoch1.safetensors", place / "epoch2.safetensors"]
    told = audit(call, place, tmp_path / "out", "--model", place / "sd", "--lora", *epochs)
    assert told.code == 4, told.err
    found = SeveralResult.model_validate_json((tmp_path / "out" / "audit.json").read_text())
    assert [one.folder for one in found.models] == ["1-epoch1.safetensors", "2-epoch2.safetensors"]
    assert len({one.text for one in found.models}) == 2
    assert "Copies are not found in epoch2.safetensors, the last in the order given" in told.out
    assert list(found.models[1].rates) == [
        "Training captions", "Training captions, base model", "Captions of held-out images",
    ]  # fmt: skip
    first, second = (one.captions for one in found.models)
    assert (first.threshold, first.tests[0].prompts, first.control.total) == (second.threshold, 6, 4)


@pytest.mark.usefixtures("undrawn")
def test_a_fine_tune_is_audited_beside_its_base(call, place, tmp_path):
    told = audit(
        call, place, tmp_path / "out", "--model", place / "tuned", "--base", place / "sd", "--guidance", 1
    )
    assert told.code == 4, told.err
    assert "44 evaluations" in told.err
    assert "base model" in told.out


def test_a_lora_that_does_not_fit_or_a_wrong_question_is_one_line_with_code_2(call, place, tmp_path):
    tensors = load_file(place / "epoch1.safetensors")
    save_file(
        {name.replace("to_q", "to_x"): tensor for name, tensor in tensors.items()}, tmp_path / "x.safetensors"
    )
    two = [place / "epoch1.safetensors", tmp_path / "x.safetensors"]
    for more, message in (
        (["--model", place / "sd", "--lora", tmp_path / "x.safetensors"], "fit"),
        (["--model", place / "sd", "--lora", *two], "fit"),
        (["--model", place / "sd", place / "tuned", "--lora", *two], "not both"),
        (["--samples", place / "held", "--base", place / "sd"], "--base is for a text-to-image model"),
        (["--model", place / "sd", "--model-set", "a=1"], "--model-set is not for a text-to-image model"),
    ):
        told = audit(call, place, tmp_path / "out", *more)
        assert told.code == 2, more
        assert message in told.err
        assert not (tmp_path / "out" / "audit.html").exists()
