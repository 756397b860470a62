"""Folders of diffusers whose networks know a continuous noise level: EDM's preconditioning, and scores of images in [0, 1]."""

from __future__ import annotations

import json
import math

import numpy as np
import pytest
import torch
from checkpoint_builders import FIXTURES, WITHOUT, worst_error
from diffusers_tools import diffusers, refused, saved, scheduler_of, tiny_autoencoder, tiny_unet

from diffmem.errors import UserError
from diffmem.models import open_model
from diffmem.models.pretrained.diffusers_folder import open_diffusers
from diffmem.models.pretrained.diffusers_schedulers import (
    EdmSettings,
    KarrasVeSettings,
    VarianceExplodingSettings,
)
from diffmem.sampling import SamplerConfig
from diffmem.sampling.samplers import sample_latents

needs_fixtures = pytest.mark.skipif(not FIXTURES.is_dir(), reason=WITHOUT)
FOURIER = {"time_embedding_type": "fourier"}


@needs_fixtures
def test_an_edm_scheduler_answers_what_diffusers_answered():
    with torch.no_grad():
        assert worst_error(open_model(FIXTURES / "diffusers-edm_dpm"), FIXTURES / "diffusers-edm_dpm") <= 1e-5


@needs_fixtures
def test_a_score_of_images_between_0_and_1_answers_what_diffusers_answered_in_these_units():
    folder = FIXTURES / "diffusers-score_sde_ve"
    denoiser = open_model(folder)
    with np.load(folder / "io.npz") as file, torch.no_grad():
        for x, sigma, wanted in zip(file["x"], file["sigma"], file["D"], strict=True):
            made = denoiser(torch.from_numpy(2 * x.astype(np.float64) - 1).float(), 2 * float(sigma))
            in_units = (made.numpy() + 1) / 2
            assert np.linalg.norm(in_units - wanted) <= 1e-5 * np.linalg.norm(wanted)
    assert (denoiser.sigma_min, denoiser.sigma_max) == (0.02, 2696)
    assert any("[0, 1]" in note for note in denoiser.origin.notes)
    assert not any("timesteps" in note for note in denoiser.origin.notes)


def batch(channels=3):
    return torch.randn(2, channels, 8, 8, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize("kind", ["EDMEulerScheduler", "EDMDPMSolverMultistepScheduler"])
@pytest.mark.parametrize("prediction", ["epsilon", "v_prediction"])
def test_edm_schedulers_are_read_as_the_library_preconditions(tmp_path, kind, prediction):
    scheduler = scheduler_of(kind, prediction_type=prediction, sigma_data=0.7)
    unet = tiny_unet()
    denoiser = open_diffusers(saved(tmp_path, unet, scheduler))
    for sigma in (0.002, 0.3, 1.0, 80.0):
        x, level = sigma * batch(), torch.tensor(sigma)
        shown = scheduler.precondition_inputs(x, level)
        with torch.no_grad():
            raw = unet(shown, scheduler.precondition_noise(level)).sample
            wanted = scheduler.precondition_outputs(x, raw, level)
            made = denoiser(x, sigma)
        assert torch.allclose(made, wanted, rtol=1e-5, atol=1e-5 * float(wanted.abs().max()))


@pytest.fixture(scope="module")
def exploding(tmp_path_factory):
    """A network of scores, and its folder."""
    unet = tiny_unet(**FOURIER)
    return unet, saved(
        tmp_path_factory.mktemp("ve"), unet, scheduler_of("ScoreSdeVeScheduler"), "ScoreSdeVePipeline"
    )


def test_the_score_of_the_denoiser_is_what_the_network_of_the_library_says(exploding):
    """With x01 = (x + 1) / 2 and s = sigma / 2, the score is (D01 - x01) / s^2."""
    unet, folder = exploding
    denoiser, sigma, x = open_diffusers(folder), 0.8, batch()
    with torch.no_grad():
        score = unet((x + 1) / 2, torch.full((2,), sigma / 2)).sample
        made = (denoiser(x, sigma) - x) / 2 / (sigma / 2) ** 2
    assert torch.allclose(made, score, rtol=1e-4, atol=1e-4 * float(score.abs().max()))


def karras_ve(folder, tmp_path):
    """The same network with the scheduler and the pipeline of Karras et al., as old versions of the library wrote them."""
    home = tmp_path / "karras"
    home.mkdir()
    for path in folder.rglob("*"):
        target = home / path.relative_to(folder)
        if path.is_dir():
            target.mkdir(exist_ok=True)
        else:
            target.write_bytes(path.read_bytes())
    index = home / "model_index.json"
    texts = json.loads(index.read_text())
    texts |= {"_class_name": "KarrasVePipeline", "scheduler": ["diffusers", "KarrasVeScheduler"]}
    index.write_text(json.dumps(texts))
    (home / "scheduler" / "scheduler_config.json").write_text(
        json.dumps({"_class_name": "KarrasVeScheduler", "sigma_min": 0.02, "sigma_max": 100, "s_churn": 80})
    )
    return home


def test_the_network_of_karras_ve_answers_the_same_within_levels_in_other_units(exploding, tmp_path):
    _, folder = exploding
    denoiser = open_diffusers(karras_ve(folder, tmp_path))
    assert (denoiser.sigma_min, denoiser.sigma_max) == (0.02, 100)
    with torch.no_grad():
        assert torch.equal(denoiser(batch(), 0.8), open_diffusers(folder)(batch(), 0.8))


def test_the_network_of_karras_ve_answers_as_the_library_steps(tmp_path):
    """Its pipeline shows the network (x + 1) / 2 at sigma / 2 and steps with that times sigma / 2; its scheduler says the clean image."""
    unet, scheduler, sigma, x = tiny_unet(**FOURIER), diffusers.KarrasVeScheduler(), 0.8, batch()
    denoiser = open_diffusers(saved(tmp_path, unet, scheduler, "KarrasVePipeline"))
    with torch.no_grad():
        shown = sigma / 2 * unet((x + 1) / 2, torch.full((2,), sigma / 2)).sample
        wanted = scheduler.step(shown, sigma, sigma, x).pred_original_sample
        made = denoiser(x, sigma)
    assert torch.allclose(made, wanted, rtol=1e-5, atol=1e-5 * float(wanted.abs().max()))


def optimum(x, sigma, images):
    """The mean of images given x = image + sigma noise, in the units of both."""
    distances = (x[:, None] - images[None]).flatten(2).square().sum(2) / (2 * sigma.view(-1, 1) ** 2)
    return torch.einsum("bn,nchw->bchw", torch.softmax(-distances, 1), images)


@pytest.mark.parametrize(
    "settings",
    [
        VarianceExplodingSettings(),
        KarrasVeSettings(),
        EdmSettings(),
        EdmSettings(prediction_type="v_prediction"),
    ],
)
def test_the_optimal_network_of_each_head_is_the_optimal_denoiser(settings):
    """The closed-form optimum pushed through the inverse of the head: F = (D - skip x) / out."""
    from diffmem.models.continuous import ContinuousDenoiser

    images = torch.rand(5, 3, 4, 4, generator=torch.Generator().manual_seed(1)).double() * 2 - 1
    process = settings.process()
    in_units = (images + 1) / 2 if process.unit_range else images

    def network(shown, time, labels):
        is_edm = isinstance(settings, EdmSettings)
        level = ((4 * time.double()).exp() if is_edm else time.double()).view(-1, 1, 1, 1)
        data = 0.5
        if not is_edm:
            return ((optimum(shown.double(), level, in_units) - shown) / level**2).float()
        x = shown.double() * (level**2 + data**2).sqrt()
        sign = -1 if settings.prediction_type == "v_prediction" else 1
        skip, out = data**2 / (level**2 + data**2), sign * level * data / (level**2 + data**2).sqrt()
        return ((optimum(x, level, in_units) - skip * x) / out).float()

    denoiser = ContinuousDenoiser(network, process, (3, 4, 4))
    noise = torch.randn(4, 3, 4, 4, generator=torch.Generator().manual_seed(2))
    for sigma in (0.1, 0.7, 3.0, 40.0):
        x = images[:4].float() + sigma * noise
        wanted = optimum(x.double(), torch.full((4,), sigma, dtype=torch.float64), images)
        error = (denoiser(x, sigma).double() - wanted).norm() / wanted.norm()
        assert float(error) <= (1e-5 if sigma < 10 else 1e-4)


@pytest.mark.parametrize(
    ("scheduler", "options", "message"),
    [
        ("ScoreSdeVeScheduler", {"time_embedding_type": "learned", "num_train_timesteps": 10}, "looks whole timesteps up in a table"),
        ("EDMEulerScheduler", FOURIER, "takes the logarithm of a noise level"),
        ("DDPMScheduler", FOURIER, "takes the logarithm of a noise level"),
    ],
)  # fmt: skip
def test_a_network_that_does_not_fit_the_levels_of_its_scheduler_is_refused(
    tmp_path, scheduler, options, message
):
    assert message in refused(saved(tmp_path, tiny_unet(**options), scheduler_of(scheduler)))


def test_levels_of_no_order_and_other_predictions_are_refused(tmp_path):
    folder = saved(tmp_path, tiny_unet(), scheduler_of("EDMEulerScheduler"))
    path = folder / "scheduler_config.json"
    texts = json.loads(path.read_text())
    for change, message in (
        ({"sigma_min": 90.0}, "sigma_min 90 is not below sigma_max 80"),
        ({"sigma_data": 0}, "sigma_data 0 is not supported"),
        ({"sigma_max": math.inf}, "sigma_max inf is not supported"),
        ({"prediction_type": "sample"}, "prediction_type 'sample' is not supported"),
    ):
        path.write_text(json.dumps(texts | change))
        assert message in refused(folder)


def test_a_pipeline_of_scores_takes_no_other_scheduler(tmp_path, exploding):
    home = karras_ve(exploding[1], tmp_path)
    index = home / "model_index.json"
    index.write_text(index.read_text().replace("KarrasVeScheduler", "DDPMScheduler"))
    assert "must be KarrasVeScheduler" in refused(home)


def test_latents_have_no_range_from_0_to_1(tmp_path):
    unet = tiny_unet(in_channels=4, out_channels=4)
    folder = saved(tmp_path, unet, scheduler_of("ScoreSdeVeScheduler"))
    tiny_autoencoder().save_pretrained(folder / "vae")
    assert "latents, which have no such range" in refused(folder)


def test_a_network_of_continuous_levels_has_no_timesteps_and_no_thresholds(tmp_path):
    folder = saved(tmp_path, tiny_unet(), scheduler_of("EDMDPMSolverMultistepScheduler", thresholding=True))
    for options, message in (
        ({"timesteps": "nearest"}, "argument timesteps"),
        ({"clip": True}, "argument clip"),
    ):
        with pytest.raises(UserError, match=message):
            open_diffusers(folder, **options)


def test_the_sampler_of_the_library_and_ours_with_its_settings_end_in_the_same_images(tmp_path):
    """Euler's method over the levels of Karras et al., from sigma_max to 0."""
    scheduler, unet = scheduler_of("EDMEulerScheduler"), tiny_unet()
    denoiser = open_diffusers(saved(tmp_path, unet, scheduler))
    scheduler.set_timesteps(10)
    noise = batch()
    state = float(scheduler.sigmas[0]) * noise
    with torch.no_grad():
        for t in scheduler.timesteps:
            raw = unet(scheduler.scale_model_input(state, t), t).sample
            state = scheduler.step(raw, t, state).prev_sample
    config = SamplerConfig(
        solver="euler", steps=10, sigma_min=denoiser.sigma_min, sigma_max=denoiser.sigma_max
    )
    made = sample_latents(denoiser, noise.double(), None, config)
    assert torch.allclose(made.float(), state, rtol=1e-4, atol=1e-4 * float(state.abs().max()))
