"""Agreement with the library itself, on tiny random networks."""

from __future__ import annotations

import json
import math
import shutil
from itertools import pairwise

import pytest
import torch
from diffusers_tools import (
    SIDE,
    STEPS,
    WEIGHTS,
    answer,
    assert_alike,
    copy_of,
    cut_network,
    diffusers,
    in_sigma,
    noisy,
    original,
    refused,
    saved,
    scheduler_of,
    stepped,
    tiny_unet,
)
from parameters import slow, these
from safetensors.torch import load_file, save_file

from diffmem.errors import UserError
from diffmem.models import open_model
from diffmem.models.denoiser import Denoiser
from diffmem.models.discrete import betas_of, levels_of, zero_terminal
from diffmem.models.pretrained.diffusers_folder import open_diffusers
from diffmem.sampling import SamplerConfig, generate
from diffmem.sampling.samplers import sample_latents


@pytest.fixture(autouse=True)
def no_network(monkeypatch):
    cut_network(monkeypatch)


@pytest.fixture(scope="module")
def plain(tmp_path_factory):
    return saved(tmp_path_factory.mktemp("plain"), tiny_unet(), scheduler_of())


def predictor(unet):
    return lambda state, steps, labels=None: unet(state, steps, labels).sample


@pytest.mark.parametrize("prediction", ["epsilon", "sample", "v_prediction"])
@pytest.mark.parametrize(
    ("kind", "schedule", "classes"),
    [
        slow(("DDPMPipeline", "linear", None)),
        ("DDIMPipeline", "linear", None),
        slow((None, "linear", None)),
        (None, "squaredcos_cap_v2", None),
        ("DDPMPipeline", "linear", 5),
        slow((None, "squaredcos_cap_v2", 5)),
    ],
)
def test_it_agrees_with_the_original_at_every_timestep(tmp_path, prediction, kind, schedule, classes):
    unet = tiny_unet(num_class_embeds=classes)
    scheduler = scheduler_of(beta_schedule=schedule, prediction_type=prediction, clip_sample=False)
    denoiser = open_diffusers(saved(tmp_path, unet, scheduler, kind))
    steps, state = torch.arange(STEPS), noisy()
    labels = None if classes is None else steps % classes
    x, sigma = in_sigma(scheduler, state, steps)
    assert torch.equal(denoiser.levels, sigma)
    found = denoiser(x, sigma, labels)
    assert_alike(found, original(predictor(unet), scheduler, state, steps, labels), sigma)
    # The comparison can tell timesteps, and classes, apart.
    late = denoiser(x[:-1], sigma[1:], None if labels is None else labels[:-1])
    assert float((late - found[:-1]).abs().amax((1, 2, 3)).min()) > 1e-5
    if classes:
        other = denoiser(x, sigma, (labels + 1) % classes)
        assert float((other - found).abs().amax((1, 2, 3)).min()) > 1e-4


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"beta_start": 0.001, "beta_end": 0.01, "num_train_timesteps": 77},
        {"beta_schedule": "scaled_linear", "beta_start": 0.00085, "beta_end": 0.012},
        {"beta_schedule": "squaredcos_cap_v2"},
        {"beta_schedule": "squaredcos_cap_v2", "num_train_timesteps": 4000},
        {"beta_schedule": "sigmoid"},
        {"trained_betas": [0.01, 0.02, 0.05, 0.5], "num_train_timesteps": 4},
    ],
)
def test_noise_levels_are_those_of_the_library_to_the_bit(tmp_path, options):
    scheduler = scheduler_of(**options)
    denoiser = open_diffusers(saved(tmp_path, tiny_unet(), scheduler, "DDPMPipeline"))
    kept = scheduler.alphas_cumprod.double()
    assert torch.equal(denoiser.levels, ((1 - kept) / kept).sqrt())


@pytest.mark.parametrize("schedule", ["linear", "squaredcos_cap_v2"])
def test_rescaled_rates_agree_with_the_library(schedule):
    scheduler = scheduler_of(beta_schedule=schedule, rescale_betas_zero_snr=True)
    mine = (1 - zero_terminal(betas_of(schedule, STEPS))).cumprod(0)
    assert torch.allclose(mine, scheduler.alphas_cumprod, rtol=1e-4, atol=1e-12)


@pytest.mark.parametrize("prediction", ["sample", "v_prediction"])
def test_with_an_infinite_level_the_range_ends_before_it(tmp_path, prediction):
    unet = tiny_unet()
    scheduler = scheduler_of(
        rescale_betas_zero_snr=True,
        prediction_type=prediction,
        clip_sample=False,
        timestep_spacing="trailing",
    )
    denoiser = open_diffusers(saved(tmp_path, unet, scheduler, "DDPMPipeline"))
    steps, state = torch.arange(STEPS - 1), noisy(STEPS - 1)
    assert len(denoiser.levels) == STEPS - 1
    assert math.isfinite(denoiser.sigma_max)
    x, sigma = in_sigma(scheduler, state, steps)
    assert_alike(denoiser(x, denoiser.levels), original(predictor(unet), scheduler, state, steps), sigma)


@pytest.mark.parametrize(
    "options",
    [
        {"clip_sample": True},
        {"clip_sample": True, "clip_sample_range": 0.25},
        {"thresholding": True, "dynamic_thresholding_ratio": 0.9, "sample_max_value": 3.0},
    ],
)
def test_the_schedulers_clipping_is_done_where_it_is_wanted(tmp_path, options):
    unet, scheduler = tiny_unet(), scheduler_of(prediction_type="v_prediction", **options)
    folder = saved(tmp_path, unet, scheduler, "DDPMPipeline")
    steps, state = torch.arange(0, STEPS, 7), noisy(143) * 2
    x, sigma = in_sigma(scheduler, state, steps)
    wanted = original(predictor(unet), scheduler, state, steps)
    assert_alike(open_diffusers(folder, clip=True)(x, sigma), wanted, sigma)
    assert float((open_diffusers(folder)(x, sigma) - wanted).abs().max()) > 0.1


@pytest.mark.parametrize("clip", these([False, True], True))
@pytest.mark.parametrize("prediction", ["epsilon", "sample", "v_prediction"])
def test_an_euler_step_of_the_sampler_is_the_deterministic_ddim_step(tmp_path, prediction, clip):
    unet = tiny_unet()
    scheduler = scheduler_of("DDIMScheduler", prediction_type=prediction, clip_sample=clip)
    denoiser = open_diffusers(saved(tmp_path, unet, scheduler, "DDIMPipeline"), clip=clip)
    scheduler.set_timesteps(20)
    for t in scheduler.timesteps[:-1].tolist():
        state, before = noisy(1), t - STEPS // 20
        _, wanted = stepped(scheduler, unet(state, t).sample[0], state[0], t, use_clipped_model_output=clip)
        high, low = float(denoiser.levels[t]), float(denoiser.levels[before])
        seen = []
        sample_latents(
            denoiser,
            in_sigma(scheduler, state, [t])[0] / high,
            None,
            SamplerConfig(solver="euler", steps=2, sigma_max=high, sigma_min=low),
            callback=lambda done, steps, x, sigma, seen=seen: seen.append((x, sigma)),
        )
        x, sigma = seen[0]
        assert sigma == pytest.approx(low, rel=1e-9)
        assert torch.allclose(
            x[0] * float(scheduler.alphas_cumprod[before]) ** 0.5, wanted.double(), atol=2e-5
        )


def test_a_whole_ddim_run_ends_at_the_same_image(tmp_path):
    unet = tiny_unet()
    scheduler = scheduler_of("DDIMScheduler", clip_sample=False)
    denoiser = open_diffusers(saved(tmp_path, unet, scheduler, "DDIMPipeline"))
    scheduler.set_timesteps(10)
    steps, state = scheduler.timesteps.tolist(), noisy(2)
    x = in_sigma(scheduler, state, steps[:1])[0]
    for t in steps:
        state = scheduler.step(unet(state, t).sample, t, state).prev_sample
    levels = [*denoiser.levels[steps].tolist(), 0.0]
    for sigma, after in pairwise(levels):
        x = x + (after - sigma) * (x - denoiser(x, sigma)) / sigma
    assert torch.allclose(x.float(), state, rtol=1e-3, atol=1e-3)


def test_a_learned_variance_is_left_out(tmp_path):
    unet = tiny_unet(out_channels=6)
    scheduler = scheduler_of(variance_type="learned_range", clip_sample=False)
    denoiser = open_diffusers(saved(tmp_path, unet, scheduler, "DDPMPipeline"))
    steps, state = torch.arange(0, STEPS, 50), noisy(20)
    x, sigma = in_sigma(scheduler, state, steps)
    assert_alike(denoiser(x, sigma), original(predictor(unet), scheduler, state, steps), sigma)


def test_a_network_with_a_table_of_timesteps_is_asked_whole_ones(tmp_path):
    unet = tiny_unet(time_embedding_type="learned", num_train_timesteps=STEPS)
    scheduler = scheduler_of(clip_sample=False)
    denoiser = open_diffusers(saved(tmp_path, unet, scheduler))
    assert denoiser.timesteps == "nearest"
    steps, state = torch.arange(0, STEPS, 50), noisy(20)
    x, sigma = in_sigma(scheduler, state, steps)
    assert_alike(denoiser(x, sigma), original(predictor(unet), scheduler, state, steps), sigma)
    assert bool(torch.isfinite(denoiser(x, sigma * 1.01)).all())


def test_grey_images_that_are_not_square_and_a_centred_input_agree(tmp_path):
    unet = tiny_unet(in_channels=1, out_channels=1, sample_size=(4, 8), center_input_sample=True)
    scheduler = scheduler_of(clip_sample=False)
    denoiser = open_diffusers(saved(tmp_path, unet, scheduler, "DDPMPipeline"))
    assert denoiser.image_shape == (1, 4, 8)
    steps, state = torch.arange(0, STEPS, 50), torch.randn(20, 1, 4, 8)
    x, sigma = in_sigma(scheduler, state, steps)
    assert_alike(denoiser(x, sigma), original(predictor(unet), scheduler, state, steps), sigma)


def test_it_is_ready_to_evaluate(plain):
    before = torch.random.get_rng_state()
    denoiser = open_diffusers(str(plain))
    assert torch.equal(torch.random.get_rng_state(), before)
    assert isinstance(denoiser, Denoiser)
    assert (denoiser.image_shape, denoiser.num_labels, denoiser.device.type) == ((3, SIDE, SIDE), 0, "cpu")
    assert (denoiser.prediction, denoiser.timesteps) == ("epsilon", "interpolated")
    assert not answer(denoiser).requires_grad
    assert torch.equal(answer(denoiser), answer(denoiser))


def test_dropout_is_off(tmp_path):
    folder = saved(tmp_path, tiny_unet(dropout=0.5).train(), scheduler_of())
    denoiser = open_diffusers(folder)
    assert torch.equal(answer(denoiser), answer(denoiser))


def test_it_is_differentiable_in_the_image(plain):
    denoiser, sigma = open_diffusers(plain), 0.3
    x = noisy(1).double().requires_grad_()
    direction = torch.randn(1, 3, SIDE, SIDE, dtype=torch.float64)
    (gradient,) = torch.autograd.grad(denoiser(x, sigma).sum(), x)
    with torch.no_grad():
        ends = [denoiser(x + sign * 1e-2 * direction, sigma).double().sum() for sign in (1, -1)]
    assert float((gradient * direction).sum()) == pytest.approx(float(ends[0] - ends[1]) / 2e-2, rel=1e-2)


def test_images_are_generated_from_it(tmp_path, plain):
    config = SamplerConfig(steps=3)
    assert generate(open_diffusers(plain), [0, 1], config).images.shape == (2, 3, SIDE, SIDE)
    conditional = open_diffusers(saved(tmp_path, tiny_unet(num_class_embeds=3), scheduler_of()))
    made = generate(conditional, list(range(8)), config)
    assert set(made.labels.tolist()) <= {0, 1, 2}


def test_the_first_published_layout_with_its_old_names_of_attention_is_read(tmp_path, plain):
    folder = copy_of(plain, tmp_path)
    index = {
        "_class_name": "DDPMPipeline",
        "unet": ["diffusers", "UNet2DModel"],
        "scheduler": ["diffusers", "DDPMScheduler"],
    }
    (folder / "model_index.json").write_text(json.dumps(index))
    old = {"to_q": "query", "to_k": "key", "to_v": "value", "to_out.0": "proj_attn"}
    tensors = {}
    for name, tensor in load_file(plain / WEIGHTS).items():
        for new, word in old.items():
            name = name.replace(f".{new}.", f".{word}.")
        tensors[name] = tensor
    assert any(".proj_attn." in name for name in tensors)
    save_file(tensors, folder / WEIGHTS)
    assert torch.equal(answer(open_diffusers(folder)), answer(open_diffusers(plain)))
    # The library reads it alike.
    pipeline = diffusers.DDPMPipeline.from_pretrained(folder, local_files_only=True)
    wanted = pipeline.unet(noisy(2), 7).sample
    assert torch.equal(
        wanted, diffusers.UNet2DModel.from_pretrained(plain, local_files_only=True)(noisy(2), 7).sample
    )


def test_half_precision_weights_compute_in_single(tmp_path, plain):
    folder = copy_of(plain, tmp_path)
    save_file({name: t.half() for name, t in load_file(plain / WEIGHTS).items()}, folder / WEIGHTS)
    out = answer(open_diffusers(folder))
    assert out.dtype == torch.float32
    assert torch.allclose(out, answer(open_diffusers(plain)), atol=0.05)


def test_shards_and_an_allowed_pickle_hold_the_same_network(tmp_path, plain):
    unet = diffusers.UNet2DModel.from_pretrained(plain, local_files_only=True)
    unet.save_pretrained(tmp_path / "shards", max_shard_size="20KB")
    assert len(list((tmp_path / "shards").glob("*.safetensors"))) > 1
    unet.save_pretrained(tmp_path / "pickle", safe_serialization=False)
    for folder in (tmp_path / "shards", tmp_path / "pickle"):
        scheduler_of().save_pretrained(folder)
        assert torch.equal(answer(open_diffusers(folder, allow_pickle=True)), answer(open_diffusers(plain)))
    assert "allow_pickle" in refused(tmp_path / "pickle")


def test_what_the_levels_are_for_a_thousand_linear_steps(plain):
    denoiser = open_diffusers(plain)
    assert torch.equal(denoiser.levels, levels_of(betas_of("linear", STEPS)))
    with pytest.raises(UserError, match="outside"):
        denoiser(noisy(1), 0.002)


def test_a_folder_is_opened_by_what_opens_any_model_and_known_by_all_that_belongs_to_it(tmp_path, plain):
    folder = shutil.copytree(plain, tmp_path / "model")
    opened = open_model(folder)
    assert (opened.origin.format, opened.origin.path) == ("diffusers folder", folder)
    assert torch.equal(answer(opened), answer(open_diffusers(plain)))
    settings = folder / "scheduler_config.json"
    settings.write_text(json.dumps(json.loads(settings.read_text()) | {"beta_end": 0.01}))
    assert open_model(folder).origin.digest != opened.origin.digest
