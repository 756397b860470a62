import json
import pathlib
from argparse import Namespace
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from checkpoint_builders import FIXTURES, WITHOUT, flow_matching, guided_diffusion, torchcfm, worst_error

from diffmem.errors import UserError
from diffmem.models import open_model
from diffmem.models.denoiser import Denoiser
from diffmem.models.networks.guided_unet import GuidedUNet, Heads
from diffmem.models.pretrained.flow_matching import SETTINGS, open_flow_matching, recognise
from diffmem.models.pretrained.guided_diffusion import open_guided_diffusion

SHAPE = (3, 8, 8)
FIXTURE = FIXTURES / "flow_matching-cond"
needs_fixtures = pytest.mark.skipif(not FIXTURES.is_dir(), reason=WITHOUT)
ANSWERS = {"num_heads": 4, "use_new_attention_order": True}


def opened(held=None, shape=SHAPE, weights="ema", beside=None, **answers):
    return open_flow_matching(
        flow_matching() if held is None else held, shape, {**ANSWERS, **answers}, weights, beside
    )


def facts():
    known = json.loads((FIXTURE / "facts.json").read_text())
    return {name: known[name] for name in SETTINGS if name in known}


def error_without_labels(denoiser):
    with np.load(FIXTURE / "io.npz", allow_pickle=False) as file:
        pairs = zip(file["x"], file["sigma"], file["D_null"], strict=True)
        found = [
            (denoiser(torch.from_numpy(x), float(sigma)).numpy() - wanted, wanted)
            for x, sigma, wanted in pairs
        ]
    return max(np.linalg.norm(off) / np.linalg.norm(wanted) for off, wanted in found)


@needs_fixtures
def test_a_trained_checkpoint_answers_as_its_trainers_own_model_with_and_without_labels():
    denoiser = open_model(FIXTURE / "checkpoint.pth", (3, 32, 32), facts(), device="cpu")
    assert denoiser.num_labels == 6
    assert worst_error(denoiser, FIXTURE) < 1e-6
    assert error_without_labels(denoiser) < 1e-6
    assert denoiser.origin.format == "flow_matching checkpoint"
    text = " ".join(denoiser.origin.notes)
    for part in ("shadow_params, by position", "epoch 3", "straight paths", "new order", "6 classes"):
        assert part in text


@needs_fixtures
@pytest.mark.parametrize("wrong", [{"use_new_attention_order": False}, {"num_head_channels": 8}])
def test_another_reading_of_a_trained_checkpoint_is_not_what_the_trainer_answered(wrong):
    path = FIXTURE / "checkpoint.pth"
    assert worst_error(open_model(path, (3, 32, 32), facts() | wrong, device="cpu"), FIXTURE) > 1e-3
    assert worst_error(open_model(path, (3, 32, 32), facts(), "raw", device="cpu"), FIXTURE) > 1e-3


@needs_fixtures
@pytest.mark.parametrize("old", [False, True])
def test_the_trainers_own_container_opens_without_its_arguments(tmp_path, old):
    path = tmp_path / "checkpoint-3.pth"
    held = torch.load(FIXTURE / "checkpoint.pth", weights_only=True)
    arguments = Namespace(
        dataset="imagenet", lr=1e-4, class_drop_prob=0.2, ode_options={"nfe": 50}, betas=[0.9, 0.95],
        output_dir=pathlib.PurePosixPath("/home/me"), resume=None, use_ema=True,
    )  # fmt: skip
    arguments.job_dir = pathlib.Path("/home/me/job")
    arguments.output_dir = arguments.job_dir
    torch.save({**held, "args": arguments}, path, _use_new_zipfile_serialization=not old)
    denoiser = open_model(path, (3, 32, 32), facts(), device="cpu")
    assert worst_error(denoiser, FIXTURE) < 1e-6
    assert "class_drop_prob of the training: 0.2." in " ".join(denoiser.origin.notes)


class Hostile(Namespace):
    def __reduce__(self):
        return (exec, ("raise SystemExit('this was executed')",))


@pytest.mark.parametrize("protocol", [2, 4, 5])
def test_arguments_are_an_inert_record_and_what_they_hold_is_not_called(tmp_path, protocol):
    path = tmp_path / "checkpoint.pth"
    torch.save(flow_matching(arguments=Namespace(lr=1e-4)), path, pickle_protocol=protocol)
    assert open_model(path, SHAPE, ANSWERS, device="cpu").num_labels == 0
    torch.save(flow_matching(arguments=Namespace(lr=Hostile())), path, pickle_protocol=protocol)
    with pytest.raises(UserError, match="exec"):
        open_model(path, SHAPE, ANSWERS, device="cpu")


def test_it_is_a_denoiser_and_its_notes_say_what_was_assumed():
    denoiser, notes = opened()
    assert isinstance(denoiser, Denoiser)
    assert denoiser.independent_noise
    assert (denoiser.image_shape, denoiser.num_labels) == (SHAPE, 0)
    text = " ".join(notes)
    for part in (
        "flow_matching",
        "num_updates 7",
        "epoch 3",
        "4 head(s)",
        "No classes",
        "[-1, 1]",
        "choice",
    ):
        assert part in text


def test_d_is_the_end_of_the_straight_path():
    held = flow_matching(scale=0.0)
    position = list(guided_diffusion()).index("out.2.bias")
    held["model"][f"shadow_params.{position}"] = torch.tensor([1.0, 2.0, 3.0])
    x = torch.randn(2, *SHAPE)
    wanted = x / 4 + 0.75 * torch.tensor([1.0, 2.0, 3.0])[:, None, None]
    torch.testing.assert_close(opened(held)[0](x, 3.0), wanted)


@pytest.mark.parametrize("count", [torch.tensor(torch.inf), torch.zeros(2, dtype=torch.int64)])
def test_a_number_of_updates_that_is_none_is_not_said(count):
    held = flow_matching()
    held["model"]["num_updates"] = count
    assert "num_updates" not in opened(held)[1][0]


def test_without_averages_the_raw_weights_are_taken_and_said():
    x = torch.randn(1, *SHAPE)
    bare, notes = opened(flow_matching(averaged=False))
    assert "raw weights, the only ones (training without use_ema)" in notes[0]
    assert torch.equal(bare(x, 1.0), opened(weights="raw")[0](x, 1.0))
    assert not torch.allclose(bare(x, 1.0), opened()[0](x, 1.0), atol=1e-3)


def test_the_last_class_stands_for_no_label():
    denoiser, notes = opened(flow_matching(classes=4))
    assert denoiser.num_labels == 3
    x = torch.randn(2, *SHAPE)
    torch.testing.assert_close(denoiser(x, 1.0), denoiser(x, 1.0, torch.tensor([-1, -1])))
    assert not torch.allclose(denoiser(x, 1.0), denoiser(x, 1.0, torch.tensor([0, 2])), atol=1e-3)
    with pytest.raises(UserError, match=r"0\.\.2"):
        denoiser(x, 1.0, torch.tensor([0, 3]))
    assert "3 classes, and one for 'no label'. Which of both training taught" in " ".join(notes)


@pytest.mark.parametrize(
    ("share", "words"),
    [(0.2, "0.2."), (1.0, "ask without labels"), (0, "ask with labels"), ("x", "Which of both")],
)
def test_how_often_classes_were_left_out_is_said_if_the_file_happens_to_tell(tmp_path, share, words):
    path = tmp_path / "checkpoint.pth"
    torch.save(flow_matching(classes=4, arguments=Namespace(class_drop_prob=share)), path)
    assert words in " ".join(open_model(path, SHAPE, ANSWERS, device="cpu").origin.notes)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"shadow_params.3": None}, ["averaged weights do not fit", "tensors for"]),
        ({"shadow_params.999": torch.zeros(1)}, ["averaged weights do not fit", "shadow_params.999"]),
        ({"shadow_params.3": torch.zeros(5)}, ["'shadow_params.3'", "(5,)", "time_embed.2.bias"]),
        ({"other": torch.zeros(1)}, ["'other'"]),
        ({"num_updates": 3}, ["tensors alone"]),
        ({4: torch.zeros(1)}, ["tensors alone"]),
    ],
)
@pytest.mark.parametrize("weights", ["ema", "raw"])
def test_averages_that_do_not_fit_the_network_are_refused(change, words, weights):
    held = flow_matching()
    held["model"] = {name: one for name, one in {**held["model"], **change}.items() if one is not None}
    with pytest.raises(UserError) as found:
        opened(held, weights=weights)
    for word in words:
        assert word in str(found.value)


def test_discrete_flow_matching_is_refused_by_name():
    held = flow_matching(outputs=3 * 257, inputs=30)
    held["model"] = {name.replace("model.", "model.unet."): one for name, one in held["model"].items()} | {
        "model.pixel_embedding.embedding_table.weight": torch.zeros(257, 10)
    }
    assert recognise(held)
    with pytest.raises(UserError, match=r"discrete flow matching.*--samples"):
        opened(held)


def test_a_network_with_more_inputs_than_the_image_is_refused():
    with pytest.raises(UserError, match=r"15 channels.*Fourier"):
        opened(flow_matching(inputs=15))


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("num_heads", ["1 for CIFAR-10", "num_head_channels", "64 for ImageNet"]),
        ("use_new_attention_order", ["False or True", "True in all"]),
        ("image_size", ["image_shape"]),
    ],
)
def test_what_the_file_does_not_tell_is_asked(name, words):
    answers = {key: value for key, value in {**ANSWERS, "image_size": 8}.items() if key != name}
    with pytest.raises(UserError) as found:
        open_flow_matching(flow_matching(), None, answers)
    for word in (name, *words):
        assert word in str(found.value)


def test_only_its_own_checkpoints_are_recognised():
    assert recognise(flow_matching())
    assert recognise(flow_matching(averaged=False))
    for other in ({}, torchcfm(), guided_diffusion(), {"model": guided_diffusion()}, {"model": 3}):
        assert not recognise(other)


@pytest.mark.parametrize("others", [{}, {"scaler": {}, "optimizer": {}}, {"args": {"lr": 1e-4}}])
def test_a_network_as_many_trainers_save_it_is_not_taken_for_a_velocity(others):
    held = {"model": guided_diffusion(), "epoch": 3, **others}
    with pytest.raises(UserError, match="as many trainers save it"):
        opened(held, beside=Path("checkpoint.pth"))
    assert "raw weights" in opened(held | {"lr_schedule": {}}, beside=Path("any.pt"))[1][0]


def test_sides_that_change_without_tensors_are_found_by_the_numbers_left_out():
    """The same as convolutions that take the mean of 2 x 2 pixels, and leave doubled ones as they are."""
    tensors = guided_diffusion(resample=False)
    pooled = GuidedUNet(tensors, Heads(4))
    pooled.load_state_dict(tensors, assign=True)
    sides = []
    for stage in (*pooled.input_blocks, pooled.middle_block, *pooled.output_blocks):
        stage.register_forward_hook(lambda stage, given, made: sides.append(made.shape[-1]))
    x, t = torch.randn(1, *SHAPE), torch.tensor([0.3])
    made = pooled(x, t)
    assert sides == [8, 8, 4, 4, 4, 4, 8, 8, 8]
    assert pooled.scale == 2
    unit = torch.eye(32)[:, :, None, None]
    same = tensors | {
        "input_blocks.2.0.op.weight": F.pad(unit.expand(-1, -1, 2, 2) / 4, (1, 0, 1, 0)),
        "output_blocks.1.1.conv.weight": F.pad(unit, (1, 1, 1, 1)),
        "input_blocks.2.0.op.bias": torch.zeros(32),
        "output_blocks.1.1.conv.bias": torch.zeros(32),
    }
    network = GuidedUNet(same, Heads(4))
    network.load_state_dict(same, assign=True)
    # The kernel's last four numbers cover pixels 0 and 1, 2 and 3, ... of a stride of two behind one pixel of padding.
    torch.testing.assert_close(made, network(x, t), rtol=1e-4, atol=1e-5)


def test_guided_diffusion_without_resampling_by_convolutions_opens_too():
    answers = {"num_heads": 1, "noise_schedule": "linear", "diffusion_steps": 1000, "predict_xstart": False}
    denoiser, _ = open_guided_diffusion(guided_diffusion(resample=False), SHAPE, answers)
    assert torch.isfinite(denoiser(torch.randn(1, *SHAPE), 1.0)).all()
    with pytest.raises(UserError, match="multiples of 2"):
        open_guided_diffusion(guided_diffusion(resample=False), (3, 7, 7), answers)


@pytest.mark.parametrize("lost", [0, 1, 3])
def test_a_block_that_is_missing_is_not_taken_for_a_change_of_sides(lost):
    tensors = {
        name: one
        for name, one in guided_diffusion(resample=False).items()
        if f"input_blocks.{lost}." not in name
    }
    with pytest.raises(UserError, match="Of 4 'input_blocks'"):
        GuidedUNet(tensors, Heads(4))
