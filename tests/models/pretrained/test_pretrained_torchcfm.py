import json
import math
from pathlib import Path

import pytest
import torch
from checkpoint_builders import FIXTURES, WITHOUT, guided_diffusion, pytorch_ddpm, torchcfm, worst_error
from continuous_builders import OPTIMUM, straight_network, trigonometric_network

from diffmem.errors import UserError
from diffmem.models import open_model
from diffmem.models.continuous import ContinuousDenoiser
from diffmem.models.denoiser import Denoiser, check_independent_noise
from diffmem.models.pretrained.torchcfm import open_torchcfm, recognise

SHAPE = (3, 8, 8)
FIXTURE = FIXTURES / "torchcfm-icfm"
needs_fixtures = pytest.mark.skipif(not FIXTURES.is_dir(), reason=WITHOUT)


def opened(held=None, path="icfm", weights="ema", **answers):
    return open_torchcfm(
        torchcfm() if held is None else held,
        SHAPE,
        {"path": path, "num_head_channels": 8, **answers},
        weights,
        Path("weights.pt"),
    )


def still(velocity, path):
    """A model whose velocity is the same everywhere."""
    held = torchcfm(scale=0.0)
    held["ema_model"]["out.2.bias"] = torch.tensor(velocity)
    return opened(held, path)[0]


@pytest.fixture
def trained():
    (path,) = FIXTURE.glob("*.pt")
    known = json.loads((FIXTURE / "facts.json").read_text())
    return path, {"num_head_channels": known["num_head_channels"]}


@needs_fixtures
def test_a_trained_checkpoint_answers_as_its_trainers_own_model(trained):
    path, answers = trained
    denoiser = open_model(path, settings=answers, device="cpu")
    assert denoiser.image_shape == (3, 32, 32)
    assert worst_error(denoiser, FIXTURE) < 1e-6
    assert denoiser.origin.format == "torchcfm checkpoint"
    text = " ".join(denoiser.origin.notes)
    for part in ("model icfm, as the file's name says", "ema_model", "step 2", "straight paths", "old order"):
        assert part in text


@needs_fixtures
@pytest.mark.parametrize(
    "wrong", [{"use_new_attention_order": True}, {"path": "si"}, {"num_head_channels": 8}]
)
def test_another_reading_of_a_trained_checkpoint_is_not_what_the_trainer_answered(trained, wrong):
    path, answers = trained
    assert worst_error(open_model(path, settings=answers | wrong, device="cpu"), FIXTURE) > 1e-3


@needs_fixtures
@pytest.mark.parametrize("old", [False, True])
def test_the_names_of_parallel_training_are_stripped(trained, tmp_path, old):
    path, answers = trained
    held = torch.load(path, weights_only=True)
    for name in ("net_model", "ema_model"):
        held[name] = {f"module.{key}": one for key, one in held[name].items()}
    torch.save(held, tmp_path / path.name, _use_new_zipfile_serialization=not old)
    assert worst_error(open_model(tmp_path / path.name, settings=answers, device="cpu"), FIXTURE) < 1e-6


def test_it_is_a_denoiser():
    denoiser, notes = opened()
    assert isinstance(denoiser, Denoiser)
    assert (denoiser.image_shape, denoiser.num_labels) == (SHAPE, 0)
    assert (denoiser.sigma_min, denoiser.sigma_max) == (1e-4, 1e4)
    assert torch.isfinite(denoiser(torch.randn(2, *SHAPE), torch.tensor([0.01, 80.0]))).all()
    assert "No classes." in notes


@pytest.mark.parametrize("path", ["icfm", "fm", "otcfm"])
def test_a_velocity_of_straight_paths_leads_to_the_image(path):
    """With y - n = v: D = t x + (1 - t) v at t = 1 / (1 + sigma)."""
    x, velocity = torch.randn(2, *SHAPE), torch.tensor([0.5, -1.0, 2.0])
    wanted = x / 4 + 0.75 * velocity[:, None, None]
    torch.testing.assert_close(still(velocity.tolist(), path)(x, 3.0), wanted)


def test_a_velocity_of_trigonometric_paths_leads_to_the_image():
    """sigma = 1 is half of the way, an angle of pi / 4: D = sin(a)^2 x + (2 / pi) cos(a) v."""
    x, velocity = torch.randn(2, *SHAPE), torch.tensor([0.5, -1.0, 2.0])
    wanted = x / 2 + 2 / math.pi * math.sqrt(0.5) * velocity[:, None, None]
    torch.testing.assert_close(still(velocity.tolist(), "si")(x, 1.0), wanted)


@pytest.mark.parametrize(
    ("path", "network"),
    [(path, straight_network) for path in ("otcfm", "icfm", "fm")] + [("si", trigonometric_network)],
)
@pytest.mark.parametrize("sigma", [0.1, 1.0, 20.0])
def test_the_optimum_as_a_velocity_of_its_paths_is_the_optimum(path, network, sigma):
    denoiser = ContinuousDenoiser(network, opened(path=path)[0].process, OPTIMUM.image_shape)
    x = torch.randn(3, *OPTIMUM.image_shape, generator=torch.Generator().manual_seed(0)) * max(sigma, 1)
    wanted = OPTIMUM(x.double(), sigma)
    assert float((denoiser(x.double(), sigma) - wanted).norm() / wanted.norm()) < 1e-6


@pytest.mark.parametrize(("path", "time"), [("icfm", 0.25), ("si", 2 / math.pi * math.atan(1 / 3))])
def test_the_network_is_told_the_time_as_it_is(path, time):
    denoiser, _ = opened(path=path)
    seen = []
    denoiser._network.register_forward_pre_hook(lambda network, given: seen.append(given[1]))
    denoiser(torch.zeros(1, *SHAPE), 3.0)
    torch.testing.assert_close(seen[0], torch.tensor([time]))


def test_the_averaged_weights_are_taken_unless_the_raw_ones_are_asked_for():
    x = torch.randn(1, *SHAPE)
    held = torchcfm()
    same = {**held, "net_model": held["ema_model"]}
    averaged, notes = opened(held)
    assert "averaged weights (ema_model), saved at step 400,000" in notes[0]
    assert torch.equal(opened(same, weights="raw")[0](x, 1.0), averaged(x, 1.0))
    raw, notes = opened(held, weights="raw")
    assert "raw weights (net_model)" in notes[0]
    assert not torch.allclose(raw(x, 1.0), averaged(x, 1.0), atol=1e-3)
    del held["ema_model"]
    with pytest.raises(UserError, match=r"'ema_model'\. Take weights='raw'"):
        opened(held)


def named(file, shape=None, **answers):
    return open_torchcfm(torchcfm(), shape, {"num_head_channels": 8, **answers}, beside=Path(file))


@pytest.mark.parametrize("path", ["otcfm", "icfm", "fm", "si"])
def test_the_name_of_the_file_tells_the_path_and_the_images(path):
    denoiser, notes = named(f"{path}_cifar10_weights_step_20000.pt")
    assert denoiser.image_shape == (3, 32, 32)
    assert f"model {path}, as the file's name says" in notes[0]
    assert ("trigonometric" in notes[1]) == (path == "si")


def test_a_setting_goes_before_the_name_of_the_file():
    assert "model si, as the settings say" in named("icfm_cifar10_weights_step_1.pt", path="si")[1][0]
    assert named("icfm_cifar10_weights_step_1.pt", image_size=16)[0].image_shape == (3, 16, 16)
    assert named("icfm_cifar10_weights_step_1.pt", SHAPE)[0].image_shape == SHAPE


@pytest.mark.parametrize(
    ("answers", "shape", "words"),
    [
        ({}, SHAPE, ["path", "'otcfm' or 'icfm' or 'fm' or 'si'", "--model-set path=otcfm"]),
        ({"path": "icfm"}, None, ["image_size"]),
        ({"path": "cfm"}, SHAPE, ["path", "'cfm'"]),
        ({"path": "icfm", "model": "icfm"}, SHAPE, ["'model'", "path"]),
    ],
)
def test_what_a_file_of_another_name_does_not_tell_is_asked(answers, shape, words):
    with pytest.raises(UserError) as found:
        named("best.pt", shape, **answers)
    for word in words:
        assert word in str(found.value)


def test_heads_are_asked_with_the_scripts_default():
    with pytest.raises(UserError, match=r"num_head_channels.*--model-set num_head_channels=64.*64 in its"):
        open_torchcfm(torchcfm(), SHAPE, {"path": "icfm"})
    one = open_torchcfm(torchcfm(), SHAPE, {"path": "icfm", "num_heads": 4, "num_head_channels": -1})[0]
    x = torch.randn(1, *SHAPE)
    assert torch.equal(one(x, 1.0), opened()[0](x, 1.0))


def test_only_pairs_by_optimal_transport_are_no_independent_noise_and_that_is_said():
    for path in ("icfm", "fm", "si"):
        denoiser, notes = opened(path=path)
        check_independent_noise(denoiser)
        assert "optimal transport" not in " ".join(notes)
    denoiser, notes = opened(path="otcfm")
    assert "membership inference and the gap to the optimum are not defined" in notes[-1]
    with pytest.raises(UserError, match="optimal transport"):
        check_independent_noise(denoiser)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"extra.weight": torch.zeros(1)}, "'extra.weight'"),
        ({"out.2.bias": torch.full((3,), torch.nan)}, "not finite"),
        ({"out.2.weight": torch.zeros(6, 32, 3, 3), "out.2.bias": torch.zeros(6)}, "only output"),
        ({"step": 3}, "'ema_model'.*tensors alone"),
        ({4: torch.zeros(1)}, "'ema_model'.*tensors alone"),
    ],
)
def test_a_network_that_is_another_is_refused(change, words):
    held = torchcfm()
    held["ema_model"] |= change
    with pytest.raises(UserError, match=words):
        opened(held)


def test_only_its_own_checkpoints_are_recognised():
    assert recognise(torchcfm())
    assert recognise(torchcfm(parallel=True))
    assert recognise({"net_model": guided_diffusion()})
    for other in ({}, pytorch_ddpm(), guided_diffusion(), {"model": guided_diffusion(), "epoch": 1}):
        assert not recognise(other)
