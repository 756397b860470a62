"""Checkpoints of score_sde_pytorch: the trainer's own answers, what is asked, and what is refused."""

from __future__ import annotations

import json
from functools import partial

import numpy as np
import pytest
import torch
from checkpoint_builders import FIXTURES, WITHOUT, guided_diffusion, pytorch_ddpm
from score_tools import answer, checkpoint, plan

from diffmem.errors import UserError
from diffmem.models import open_model
from diffmem.models.denoiser import Denoiser
from diffmem.models.discrete import DiscreteDenoiser
from diffmem.models.pretrained.score_sde import SETTINGS, open_score_sde, recognise

SHAPE = (3, 16, 16)
VP = {"sde": "vpsde", "continuous": True, "centered": True, "beta_min": 0.1, "beta_max": 20.0, "fir": False}
VE = {"sde": "vesde", "continuous": True, "centered": False, "scale_by_sigma": True, "fir": True}
NCSNPP = {"fourier": True, "pyramid": "residual"}


def refused(action, *words):
    with pytest.raises(UserError) as error:
        action()
    assert "\n" not in str(error.value)
    for word in words:
        assert word in str(error.value)


def opened(held=None, settings=VP, shape=SHAPE, **options):
    return open_score_sde(checkpoint() if held is None else held, shape, settings, **options)


def of_fixture(folder, **changes):
    """Open a fixture with what its configuration says and no tensor does."""
    groups = json.loads((FIXTURES / folder / "facts.json").read_text())
    facts = {key: value for part in ("training", "model", "data") for key, value in groups[part].items()}
    wanted = [name for name in SETTINGS if name in facts and (facts["sde"] != "vesde" or "beta" not in name)]
    return open_model(
        FIXTURES / folder / "checkpoint_1.pth",
        settings={name: facts[name] for name in wanted} | changes,
        device="cpu",
    )


def error_of(denoiser, folder):
    """The largest relative L2 error of D, in the units of the trainer's images, which of VE are in [0, 1]."""
    units = "-ve-" in folder
    with np.load(FIXTURES / folder / "io.npz", allow_pickle=False) as file:
        errors = []
        for x, sigma, wanted in zip(file["x"], file["sigma"], file["D"], strict=True):
            given = torch.from_numpy(x)
            made = denoiser(2 * given - 1, 2 * sigma) if units else denoiser(given, float(sigma))
            made = ((made + 1) / 2 if units else made).numpy()
            errors.append(np.linalg.norm(made - wanted) / np.linalg.norm(wanted))
    return max(errors)


FOLDERS = ["score_sde-ve-ncsnpp-continuous", "score_sde-vp-ddpmpp-continuous"]
needs_fixtures = pytest.mark.skipif(not FIXTURES.is_dir(), reason=WITHOUT)


@needs_fixtures
@pytest.mark.parametrize("folder", FOLDERS)
def test_a_trained_checkpoint_answers_as_its_trainers_own_model(folder):
    model = of_fixture(folder)
    assert error_of(model, folder) < 1e-5
    assert model.origin.format == "score_sde_pytorch checkpoint"
    assert "1 updates), saved at step 1" in model.origin.notes[0]


@needs_fixtures
@pytest.mark.parametrize(
    ("folder", "change"),
    [(FOLDERS[0], {"scale_by_sigma": False}), (FOLDERS[1], {"fir": True}),
     (FOLDERS[1], {"sde": "subvpsde"}), (FOLDERS[1], {"beta_max": 19.0})],
)  # fmt: skip
def test_a_wrong_setting_is_not_what_the_trainer_answered(folder, change):
    model = of_fixture(folder, **change)
    assert error_of(model, folder) > 1e-3


@needs_fixtures
def test_sigma_in_the_trainers_own_units_is_not_what_the_trainer_answered():
    with np.load(FIXTURES / FOLDERS[0] / "io.npz", allow_pickle=False) as file:
        x, sigma, wanted = torch.from_numpy(file["x"][2]), float(file["sigma"][2]), file["D"][2]
    model = of_fixture(FOLDERS[0])
    for made in (
        model(x, sigma),
        (model(2 * x - 1, sigma) + 1) / 2,
        of_fixture(FOLDERS[0], centered=True)(x, sigma),
    ):
        assert np.linalg.norm(made.numpy() - wanted) / np.linalg.norm(wanted) > 1e-3


def predicted(held, options, fir, x, t, weights="ema"):
    """What the network of a made checkpoint predicts, by its formulas."""
    names = [name for name in held["model"] if name not in ("module.sigmas", "module.all_modules.0.W")]
    tensors = {name: one for name, one in held["model"].items() if name != "module.sigmas"}
    if weights == "ema":
        tensors |= dict(zip(names, held["ema"]["shadow_params"], strict=True))
    return answer(tensors, plan(**options), x, torch.full((len(x),), t), fir)


def error(made, wanted):
    return float((made.double() - wanted).norm() / wanted.norm())


@pytest.mark.parametrize("weights", ["ema", "raw"])
def test_vp_and_sub_vp_predict_the_noise_at_999_t(weights):
    held, t = checkpoint(), 0.4
    m = np.exp(-19.9 * t**2 / 4 - 0.1 * t / 2)
    for sde, level in (("vpsde", np.sqrt(1 - m**2) / m), ("subvpsde", (1 - m**2) / m)):
        denoiser, notes = opened(held, VP | {"sde": sde}, weights=weights)
        x = torch.randn(2, *SHAPE, generator=torch.Generator().manual_seed(3)) * 2
        wanted = x.double() - level * predicted(held, {}, False, m * x.double(), 999 * t, weights)
        assert error(denoiser(x, float(level)), wanted) < 1e-5
        assert ("averaged weights (ema, decay 0.999, 7 updates), saved at step 1,200." in notes[0]) == (
            weights == "ema"
        )


def test_vp_of_discrete_time_is_that_of_the_timesteps_and_their_float32_rates():
    held = checkpoint(sigmas=(50.0, 0.01, 1000))
    denoiser, notes = opened(held, VP | {"continuous": False})
    assert isinstance(denoiser, DiscreteDenoiser)
    signal = (1 - torch.linspace(0.1 / 1000, 20 / 1000, 1000)).cumprod(0).double()
    torch.testing.assert_close(denoiser.levels, ((1 - signal) / signal).sqrt())
    x, level = torch.randn(2, *SHAPE), float(denoiser.levels[300])
    noise = predicted(held, {}, False, x.double() * signal[300].sqrt(), 300.0)
    assert error(denoiser(x, level), x.double() - level * noise) < 1e-5
    assert "1,000 timesteps" in " ".join(notes)


def test_vp_of_discrete_time_of_images_in_0_to_1_has_levels_of_twice_the_width():
    held = checkpoint(sigmas=(50.0, 0.01, 1000))
    denoiser, _ = opened(held, VP | {"continuous": False, "centered": False})
    signal = (1 - torch.linspace(0.1 / 1000, 20 / 1000, 1000)).cumprod(0).double()[300]
    x, level = torch.randn(2, *SHAPE), float(((1 - signal) / signal).sqrt())
    state = (x.double() + 1) / 2
    noise = predicted(held, {}, False, 2 * state * signal.sqrt() - 1, 300.0)
    assert error(denoiser(x, 2 * level), 2 * (state - level * noise) - 1) < 1e-5


@pytest.mark.parametrize(("options", "settings"), [({}, VP), (NCSNPP, VE | {"centered": True})])
def test_sums_of_two_paths_are_divided_unless_the_settings_say_otherwise(monkeypatch, options, settings):
    held, x = checkpoint(**options), torch.randn(2, *SHAPE)
    usual, same, other = (
        opened(held, settings | more) for more in ({}, {"skip_rescale": True}, {"skip_rescale": False})
    )
    assert torch.equal(usual[0](x, 1.0), same[0](x, 1.0))
    monkeypatch.setattr("score_tools.PATHS", 1.0)
    if settings is VP:
        t = float(999 * (np.sqrt(0.01 + 2 * 19.9 * np.log(2)) - 0.1) / 19.9)
        wanted = x.double() - predicted(held, options, False, x.double() / np.sqrt(2), t)
    else:
        wanted = x.double() + predicted(held, options, True, x.double(), 1.0)
    assert error(other[0](x, 1.0), wanted) < 1e-5
    assert error(usual[0](x, 1.0), wanted) > 1e-3
    assert "not divided by sqrt(2), as the settings say" in " ".join(other[1])


@pytest.mark.parametrize(
    ("options", "changes"),
    [
        (NCSNPP, {}),
        (NCSNPP, {"centered": True}),
        (NCSNPP, {"scale_by_sigma": False}),
        ({}, {"scale_by_sigma": False}),
        ({}, {"continuous": False}),
        ({}, {"continuous": False, "scale_by_sigma": False, "centered": True}),
    ],
)
def test_ve_predicts_the_score_in_the_units_of_its_images(options, changes):
    held, answers = checkpoint(**options), VE | changes
    denoiser, notes = opened(held, answers)
    unit = not answers["centered"]
    assert denoiser.sigma_min == pytest.approx(0.02 if unit else 0.01)
    assert denoiser.sigma_max == pytest.approx(100 if unit else 50)
    sigma, x = 3.0, torch.randn(2, *SHAPE) * 3
    state, s = ((x.double() + 1) / 2, sigma / 2) if unit else (x.double(), sigma)
    time = s if answers["continuous"] else 99 * np.log(50 / s) / np.log(50 / 0.01)
    score = predicted(held, options, True, 2 * state - 1 if unit else state, float(time))
    clean = state + s ** (1 if answers["scale_by_sigma"] else 2) * score
    assert error(denoiser(x, sigma), 2 * clean - 1 if unit else clean) < 1e-5
    assert ("[0, 1]" in " ".join(notes)) == unit
    assert ("not compared" in " ".join(notes)) == (not answers["continuous"])


def test_a_network_with_pyramids_of_images_opens_and_says_that_these_were_not_compared():
    options = {"fourier": True, "pyramid": "input_skip", "output_skip": True}
    held, x = checkpoint(**options), torch.randn(2, *SHAPE)
    denoiser, notes = opened(held, VE)
    state = (x.double() + 1) / 2
    clean = state + 0.5 * predicted(held, options, True, 2 * state - 1, 0.5)
    assert error(denoiser(x, 1.0), 2 * clean - 1) < 1e-5
    assert "input_skip, output_skip" in " ".join(notes)
    assert "input_skip" not in " ".join(opened()[1])


def test_it_is_a_denoiser_and_its_notes_say_what_was_assumed():
    denoiser, notes = opened()
    assert isinstance(denoiser, Denoiser)
    assert (denoiser.image_shape, denoiser.num_labels) == (SHAPE, 0)
    text = " ".join(notes)
    for part in ("score_sde_pytorch", "VP with continuous time", "0.1 to 20", "noise", "[-1, 1]", "No classes", "skip_rescale True",
                 "swish", "scale_by_sigma False"):  # fmt: skip
        assert part in text


@pytest.mark.parametrize(
    ("settings", "name", "words"),
    [
        (VP, "sde", ["'vpsde' or 'subvpsde' or 'vesde'", "settings={'sde': 'vpsde'}"]),
        (VP, "continuous", ["True or False", "_continuous"]),
        (VP, "centered", ["False for 'vesde'"]),
        (VP, "beta_min", ["a positive number", "0.1"]),
        (VP, "beta_max", ["a positive number", "20"]),
        (VP, "fir", ["NCSN++"]),
        (VE, "scale_by_sigma", ["True for 'vesde'"]),
        (VE, "centered", ["False for 'vesde'"]),
    ],
)
def test_what_the_file_does_not_tell_is_asked_for_with_the_trainers_default(settings, name, words):
    given = {key: value for key, value in settings.items() if key != name}
    refused(
        lambda: opened(checkpoint(fourier=settings is VE), given),
        name,
        "default",
        f"--model-set {name}=",
        *words,
    )


def test_what_tensors_tell_or_no_process_needs_is_not_asked_for():
    opened(checkpoint(**NCSNPP), {key: value for key, value in VE.items() if key != "fir"})
    opened(settings={key: value for key, value in VP.items() if key != "continuous"} | {"sde": "subvpsde"})
    opened(checkpoint(multipliers=(1,)), {key: value for key, value in VP.items() if key != "fir"})


def test_the_size_of_the_images_is_asked_for_or_taken_from_their_shape():
    refused(lambda: opened(shape=None), "image_size", "image_shape")
    assert opened(shape=None, settings=VP | {"image_size": 16})[0].image_shape == SHAPE
    refused(lambda: opened(shape=(1, 16, 16)), "(3, 16, 16)", "(1, 16, 16)")
    refused(lambda: opened(shape=(3, 16, 8)), "square")
    refused(lambda: opened(shape=(3, 15, 15)), "multiples of 2")


@pytest.mark.parametrize(
    ("options", "settings", "words"),
    [
        ({}, VP | {"sde": "subvpsde", "continuous": False}, ["no discrete training"]),
        (NCSNPP, VP | {"continuous": False, "fir": True}, ["logarithm"]),
        (NCSNPP, VE | {"fir": False}, ["fir must be True"]),
        ({}, VE, ["sinusoids"]),
        ({}, VP | {"scale_by_sigma": True}, ["'vesde' alone"]),
        ({}, VP | {"continuous": False, "beta_max": 100}, ["below 100"]),
        ({}, VP | {"beta_max": 1e9}, ["below 700", "1e+09"]),
        ({}, VP | {"beta_min": 0}, ["a positive number"]),
        ({}, VP | {"sde": "edm"}, ["'edm'"]),
        ({}, VP | {"beta_mn": 1.0}, ["beta_mn", "Did you mean 'beta_min'?"]),
    ],
)
def test_settings_that_do_not_fit_are_refused(options, settings, words):
    refused(partial(opened, checkpoint(**options), settings), *words)


def test_averaged_weights_that_are_not_those_of_the_network_in_order_are_refused():
    held = checkpoint()
    shadows = held["ema"]["shadow_params"]
    held["ema"]["shadow_params"] = shadows[:-1]
    refused(lambda: opened(held), f"{len(shadows) - 1} tensors", f"{len(shadows)} that are trained")
    opened(held, weights="raw")
    held["ema"]["shadow_params"] = [shadows[1], shadows[0], *shadows[2:]]
    refused(lambda: opened(held), "module.all_modules.0.weight", "in order")
    held["ema"]["shadow_params"] = [3, *shadows[1:]]
    refused(lambda: opened(held), "module.all_modules.0.weight", "int")
    refused(lambda: opened(weights="mean"), "'ema' or 'raw'", "'mean'")


@pytest.mark.parametrize(
    "levels",
    [torch.ones(4), torch.arange(1.0, 5), torch.tensor([4.0, 2.0, 1.5]), torch.tensor([1.0, torch.nan]), torch.ones(1),
     torch.tensor([2.0, 0.0])],
)  # fmt: skip
def test_levels_that_are_not_descending_at_one_ratio_are_refused(levels):
    held = checkpoint(**NCSNPP)
    held["model"]["module.sigmas"] = levels
    refused(lambda: opened(held, VE), "module.sigmas")
    del held["model"]["module.sigmas"]
    refused(lambda: opened(held, VE, weights="raw"), "module.sigmas")


def test_the_trainers_other_networks_are_refused_by_what_they_are():
    held = checkpoint()
    held["model"]["module.all_modules.3.NIN_0.W"] = torch.zeros(8, 8)
    refused(lambda: opened(held, weights="raw"), "'ddpm'", "--samples")
    held = checkpoint()
    held["model"]["module.all_modules.99.Conv_0.weight"] = torch.zeros(8, 8, 3, 3)
    refused(lambda: opened(held, weights="raw"), "input pyramid without fir")
    ncsn = {"module.sigmas": torch.ones(2), "module.begin_conv.weight": torch.zeros(8, 3, 3, 3)}
    refused(lambda: opened(held | {"model": ncsn}, weights="raw"), "NCSNv2", "--samples")
    refused(lambda: opened(held | {"model": {"module.x": 3}}, weights="raw"), "named tensors alone")


def test_only_its_own_checkpoints_are_recognised():
    assert recognise(checkpoint())
    for other in ({}, guided_diffusion(), pytorch_ddpm(), {"model": {}, "ema": {}}):
        assert not recognise(other)
    assert not recognise({"model": {"module.sigmas": 1}, "ema": {"shadow_params": 3}})
    assert not recognise(
        {"model": {"module.conv.weight": torch.ones(2)}, "ema": {"shadow_params": [torch.ones(2)]}}
    )
