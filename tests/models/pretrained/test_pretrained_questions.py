"""What a checkpoint does not tell is asked for: each question names the setting, its values, the trainer's default and how to answer."""

from __future__ import annotations

import re

import lucidrains_tools
import pytest
import torch
from checkpoint_builders import flow_matching, guided_diffusion, pytorch_ddpm, torchcfm
from edm2_builder import ARGUMENTS, codes_encoder, snapshot2, state_of
from edm_pickle_builder import saved
from score_tools import checkpoint as score_sde

from diffmem.errors import UserError
from diffmem.models import open_model
from diffmem.models.pretrained.answers import Answers
from diffmem.models.pretrained.doors import DOORS
from diffmem.settings import override

HEADS = {"num_heads", "use_new_attention_order"}
GUIDED = {"image_size", *HEADS, "noise_schedule", "diffusion_steps", "predict_xstart"}
VP = {"sde", "continuous", "beta_min", "beta_max", "centered", "fir", "image_size"}


def without_loss_weights():
    """As versions before 1.5 wrote it, whose loss weights do not tell the objective."""
    made = lucidrains_tools.checkpoint()
    for state, prefix in ((made["model"], ""), (made["ema"], "ema_model.")):
        del state[f"{prefix}loss_weight"]
    return made


def without_noise():
    made = pytorch_ddpm(steps=20)
    del made["x_T"]
    return made


CASES = {
    "lucidrains": (without_loss_weights, "model-1.pt", {}, {"resolution", "objective"}),
    "lucidrains, classes": (lambda: lucidrains_tools.guided(width=16), "model.pt", {"heads": 4}, {"resolution", "heads"}),
    "lucidrains, elucidated": (lucidrains_tools.elucidated, "model.pt", {}, {"resolution"}),
    "pytorch-ddpm": (without_noise, "ckpt.pt", {}, {"resolution", "beta_1", "beta_T"}),
    "guided-diffusion": (guided_diffusion, "ema_0.9999_010000.pt", {}, GUIDED),
    "improved-diffusion": (guided_diffusion, "model010000.pt", {"diffusion_steps": 4000}, GUIDED | {"rescale_timesteps"}),
    "torchcfm": (torchcfm, "last.pt", {"num_head_channels": 8}, {"path", "image_size", "num_head_channels"}),
    "flow_matching": (flow_matching, "checkpoint.pth", {"num_heads": 4}, {*HEADS, "image_size"}),
    "score_sde, VP": (score_sde, "checkpoint_1.pth", {}, VP),
    "score_sde, sub-VP": (score_sde, "checkpoint_1.pth", {"sde": "subvpsde"}, VP - {"continuous"}),
    "score_sde, VE": (
        lambda: score_sde(fourier=True, pyramid="residual"), "checkpoint_1.pth", {"sde": "vesde"},
        {"sde", "continuous", "scale_by_sigma", "centered", "image_size"},
    ),
}  # fmt: skip
"""A checkpoint, its name, answers other than the examples of the questions, and the questions."""


@pytest.mark.parametrize("case", CASES)
def test_every_question_has_its_parts_and_its_own_examples_open_the_model(tmp_path, case):
    make, name, others, expected = CASES[case]
    path = tmp_path / name
    torch.save(make(), path)
    choices = {key: values for door in DOORS for key, values in door.choices.items()}
    choices |= {"path": ("otcfm", "icfm", "fm", "si"), "objective": ("pred_v", "pred_noise", "pred_x0")}
    settings, resolution = {}, None
    for _ in range(len(expected) + 1):
        try:
            model = open_model(path, settings=settings or None, resolution=resolution, device="cpu")
            break
        except UserError as error:
            told = str(error)
        assert str(path) in told
        assert set(re.findall(r"--[a-z-]+", told)) <= {"--model-set", "--resolution"}
        key, example = re.search(
            r"on the command line (?:as )?--(?:model-set )?(\w+)[= ](\S+?)[.;,]?(?: |$)", told
        ).groups()
        assert f"{key}={example}" in told or f"{{'{key}': " in told
        if key == "resolution":
            resolution = 8
            continue
        assert key not in settings, told
        assert re.search(r"the trainer's own default is \S", told)
        assert f"does not tell {key}: give " in told
        for value in choices.get(key, ()):
            assert repr(value) in told
        assert key in choices or re.search(rf"{key}: give (a|the) ", told)
        settings |= override({}, [f"{key}={example}"])
        if key == "image_size":
            settings[key] = 8
        settings |= {one: value for one, value in others.items() if one == key}
    assert model.image_shape == (3, 8, 8)
    assert {*settings, *(["resolution"] if resolution else [])} == expected


def test_the_autoencoder_of_an_edm2_network_of_latents_is_asked_for(tmp_path):
    arguments = ARGUMENTS | {"img_channels": 4}
    path = tmp_path / "network-snapshot-0000000-0.050.pkl"
    path.write_bytes(saved(snapshot2(state_of(arguments), arguments, codes_encoder()), True))
    with pytest.raises(UserError) as error:
        open_model(path, device="cpu")
    told = str(error.value)
    for part in (
        "does not tell vae: give the path of a folder",
        "--model-set vae=FOLDER",
        "the trainer's own default is stabilityai/",
    ):
        assert part in told


@pytest.mark.parametrize("text", ["1e-4", "1E-4", "0.0001"])
def test_a_number_may_be_written_with_an_exponent_alone(text):
    """YAML takes 1e-4, which has no point, for a text."""
    answers = Answers("It", override({}, [f"rate={text}"]), ["rate"])
    assert answers.fraction("rate", "1", 1) == answers.positive("rate", "1", 1) == 1e-4


@pytest.mark.parametrize(
    "text", ["nan", "inf", "-1", "one", "1e999", "1_0e-2", " ", True, None, 0, -(10**400), 10**400]
)
def test_no_other_text_and_no_number_without_a_float_is_one(text):
    answers = Answers("It", {"rate": text}, ["rate"])
    with pytest.raises(UserError, match="must be a positive number"):
        answers.positive("rate", "1", 1)


@pytest.mark.parametrize("shape", [(3, 8), (3, 8.0, 8), (3, 0, 8), (3, -8, 8), ("3", 8, 8), (3, 8, 8, 1)])
def test_a_shape_of_images_is_three_positive_whole_numbers(tmp_path, shape):
    torch.save(guided_diffusion(), tmp_path / "model000010.pt")
    with pytest.raises(UserError, match="three positive whole numbers"):
        open_model(tmp_path / "model000010.pt", shape, {"num_heads": 4})
