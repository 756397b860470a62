"""Latent folders against the library itself, on tiny random networks."""

from __future__ import annotations

import json
import shutil
from itertools import pairwise

import numpy as np
import pytest
import torch
from diffusers_tools import (
    SIDE,
    STEPS,
    WEIGHTS,
    assert_alike,
    cut_network,
    diffusers,
    in_sigma,
    noisy,
    original,
    refused,
    scheduler_of,
    tiny_autoencoder,
    tiny_transformer,
    tiny_unet,
)
from parameters import these
from safetensors.torch import load_file, save_file

from diffmem.errors import UserError
from diffmem.models import Denoiser, Latent, LatentDenoiser, open_diffusers
from diffmem.sampling import SamplerConfig, generate

PIXELS = (3, 2 * SIDE, 2 * SIDE)
AUTOENCODERS = ["AutoencoderKL", "VQModel"]


@pytest.fixture(autouse=True)
def no_network(monkeypatch):
    cut_network(monkeypatch)


def unet_for(autoencoder, **options):
    channels = autoencoder.config.latent_channels
    return tiny_unet(in_channels=channels, out_channels=channels, **options)


def ldm(folder, kind="VQModel", classes=None, **options):
    """Write an LDMPipeline and return it."""
    autoencoder = tiny_autoencoder(kind)
    unet = unet_for(autoencoder, num_class_embeds=classes)
    scheduler = scheduler_of("DDIMScheduler", **({"clip_sample": False} | options))
    pipeline = diffusers.LDMPipeline(vqvae=autoencoder, unet=unet, scheduler=scheduler)
    pipeline.save_pretrained(folder)
    pipeline.set_progress_bar_config(disable=True)
    return pipeline


def dit(folder, scheduler="DDIMScheduler", **options):
    """Write a DiTPipeline and return it."""
    pipeline = diffusers.DiTPipeline(
        transformer=tiny_transformer(**options),
        vae=tiny_autoencoder(),
        scheduler=scheduler_of(scheduler, clip_sample=False),
        id2label={0: "cat, tabby", 1: "dog"},
    )
    pipeline.save_pretrained(folder)
    pipeline.set_progress_bar_config(disable=True)
    return pipeline


@pytest.fixture(scope="module")
def quantized(tmp_path_factory):
    folder = tmp_path_factory.mktemp("ldm")
    return ldm(folder), folder


@pytest.fixture(scope="module")
def transformed(tmp_path_factory):
    folder = tmp_path_factory.mktemp("dit")
    return dit(folder), folder


def assert_it_agrees(denoiser, predict, scheduler, labels=None):
    """At every timestep, on latents, and in a way that can tell timesteps and classes apart."""
    scheduler.set_timesteps(STEPS)
    steps, state = torch.arange(STEPS), noisy(STEPS, denoiser.image_shape[0])
    x, sigma = in_sigma(scheduler, state, steps)
    assert torch.equal(denoiser.inner.levels, sigma)
    given = () if labels is None else (labels,)
    found = denoiser(x, sigma, labels)
    assert_alike(found, original(predict, scheduler, state, steps, *given), sigma)
    late = denoiser(x[:-1], sigma[1:], None if labels is None else labels[:-1])
    assert float((late - found[:-1]).abs().amax((1, 2, 3)).min()) > 1e-5
    if labels is not None:
        other = denoiser(x, sigma, (labels + 1) % denoiser.num_labels)
        assert float((other - found).abs().amax((1, 2, 3)).min()) > 1e-5


@pytest.mark.parametrize("prediction", ["epsilon", "v_prediction"])
@pytest.mark.parametrize(("kind", "classes"), [("AutoencoderKL", 5), ("VQModel", None)])
def test_an_ldm_pipeline_agrees_with_the_original_at_every_timestep(tmp_path, kind, classes, prediction):
    options = {"beta_schedule": "scaled_linear", "beta_start": 0.0015, "beta_end": 0.0195}
    pipeline = ldm(tmp_path, kind, classes, prediction_type=prediction, **options)
    denoiser = open_diffusers(tmp_path)
    assert isinstance(denoiser, LatentDenoiser)
    assert isinstance(denoiser, Denoiser)
    assert isinstance(denoiser, Latent)
    assert denoiser.image_shape == (4 if kind == "AutoencoderKL" else 3, SIDE, SIDE)
    assert (denoiser.pixel_shape, denoiser.num_labels) == (PIXELS, classes or 0)
    labels = None if classes is None else torch.arange(STEPS) % classes
    unet = pipeline.unet
    assert_it_agrees(denoiser, lambda *given: unet(*given).sample, pipeline.scheduler, labels)


@pytest.mark.parametrize("out_channels", these([8, 4, None], 8))
def test_a_dit_pipeline_agrees_with_the_original_at_every_timestep(tmp_path, out_channels):
    pipeline = dit(tmp_path, out_channels=out_channels)
    denoiser = open_diffusers(tmp_path)
    assert (denoiser.image_shape, denoiser.pixel_shape, denoiser.num_labels) == ((4, SIDE, SIDE), PIXELS, 5)

    def predict(state, steps, labels):
        return pipeline.transformer(state, steps, class_labels=labels).sample[:, :4]

    assert_it_agrees(denoiser, predict, pipeline.scheduler, torch.arange(STEPS) % 5)


def test_no_label_is_the_class_that_guidance_uses(transformed):
    pipeline, folder = transformed
    denoiser = open_diffusers(folder)
    steps, state = torch.arange(0, STEPS, 100), noisy(10, 4)
    x, sigma = in_sigma(pipeline.scheduler, state, steps)
    null = torch.full((10,), 5)
    pipeline.scheduler.set_timesteps(STEPS)

    def predict(state, steps):
        return pipeline.transformer(state, steps, class_labels=null).sample[:, :4]

    wanted = original(predict, pipeline.scheduler, state, steps)
    for labels in (None, torch.full((10,), -1)):
        assert_alike(denoiser(x, sigma, labels), wanted, sigma)
    with pytest.raises(UserError, match="Label 5"):
        denoiser(x, sigma, null)
    assert set(generate(denoiser, range(30), SamplerConfig(steps=1)).labels.tolist()) == {0, 1, 2, 3, 4}


def test_a_transformer_under_its_old_name_is_read_as_the_library_does(tmp_path, transformed):
    pipeline, folder = transformed
    config = dict(pipeline.transformer.config)
    old = diffusers.Transformer2DModel(**{key: value for key, value in config.items() if key[0] != "_"})
    old.load_state_dict(pipeline.transformer.state_dict())
    shutil.copytree(folder, tmp_path / "model")
    old.save_pretrained(tmp_path / "model/transformer")
    index = json.loads((folder / "model_index.json").read_text())
    index["transformer"] = ["diffusers", "Transformer2DModel"]
    (tmp_path / "model/model_index.json").write_text(json.dumps(index))
    assert "only_cross_attention" in (tmp_path / "model/transformer/config.json").read_text()
    x, labels = noisy(3, 4), torch.tensor([0, 1, 2])
    assert torch.equal(
        open_diffusers(tmp_path / "model")(x, 2.0, labels), open_diffusers(folder)(x, 2.0, labels)
    )
    path = tmp_path / "model/transformer/config.json"
    path.write_text(path.read_text().replace('"only_cross_attention": false', '"only_cross_attention": true'))
    assert "only_cross_attention" in refused(tmp_path / "model")


@pytest.mark.parametrize("kind", these(AUTOENCODERS, "AutoencoderKL"))
@pytest.mark.parametrize("layout", ["DDPMPipeline", "in it", "beside it"])
def test_an_autoencoder_in_a_folder_of_another_layout_is_found(tmp_path, layout, kind):
    autoencoder, scheduler = tiny_autoencoder(kind), scheduler_of(clip_sample=False)
    unet = unet_for(autoencoder)
    home = tmp_path / "unet" if layout == "beside it" else tmp_path
    if layout == "DDPMPipeline":
        diffusers.DDPMPipeline(unet=unet, scheduler=scheduler).save_pretrained(home)
    else:
        unet.save_pretrained(home)
        scheduler.save_pretrained(home)
    autoencoder.save_pretrained(tmp_path / "vae")
    denoiser = open_diffusers(home)
    assert_it_agrees(denoiser, lambda *given: unet(*given).sample, scheduler)
    z = noisy(2, denoiser.image_shape[0])
    assert torch.allclose(denoiser.decode(z), autoencoder.decode(z / 0.18215).sample, atol=1e-6)


@pytest.mark.parametrize("scaling_factor", [0.18215, 1.0])
@pytest.mark.parametrize("kind", AUTOENCODERS)
def test_images_are_those_that_the_librarys_pipeline_decodes(tmp_path, kind, scaling_factor):
    autoencoder = tiny_autoencoder(kind, scaling_factor=scaling_factor)
    unet_for(autoencoder).save_pretrained(tmp_path)
    scheduler_of().save_pretrained(tmp_path)
    autoencoder.save_pretrained(tmp_path / "vae")
    denoiser = open_diffusers(tmp_path)
    z = noisy(9, denoiser.image_shape[0])
    found = denoiser.decode(z.double())
    assert found.shape == (9, *PIXELS)
    assert found.dtype == torch.float32
    assert torch.allclose(found, autoencoder.decode(z / scaling_factor).sample, rtol=1e-5, atol=1e-6)
    assert float((denoiser.decode(z * 1.5) - found).abs().max()) > 1e-3
    if kind == "VQModel":  # what was not quantized would be another image
        raw = autoencoder.decode(z / scaling_factor, force_not_quantize=True).sample
        assert float((found - raw).abs().max()) > 1e-2
    x = torch.rand(9, *PIXELS) * 2 - 1
    said = autoencoder.encode(x)
    code = said.latents if kind == "VQModel" else said.latent_dist.mean
    assert torch.allclose(denoiser.encode(x.double()), code * scaling_factor, rtol=1e-5, atol=1e-6)
    assert torch.equal(denoiser.encode(x), denoiser.encode(x))


def test_a_shift_is_taken_before_scaling_and_added_after(tmp_path):
    autoencoder = tiny_autoencoder(shift_factor=0.3, scaling_factor=1.5)
    unet_for(autoencoder).save_pretrained(tmp_path)
    scheduler_of().save_pretrained(tmp_path)
    autoencoder.save_pretrained(tmp_path / "vae")
    denoiser = open_diffusers(tmp_path)
    z, x = noisy(3, 4), torch.rand(3, *PIXELS) * 2 - 1
    assert torch.allclose(denoiser.decode(z), autoencoder.decode(z / 1.5 + 0.3).sample, atol=1e-6)
    assert torch.allclose(denoiser.encode(x), (autoencoder.encode(x).latent_dist.mean - 0.3) * 1.5, atol=1e-6)


def euler(denoiser, scheduler, state, steps, labels=None):
    """An Euler pass at the levels of timesteps, from a state in the scaling of the library; images from 0 to 1, (B, H, W, C)."""
    scheduler.set_timesteps(steps)
    times = scheduler.timesteps.tolist()
    x = in_sigma(scheduler, state, times[:1])[0]
    for sigma, after in pairwise([*denoiser.inner.levels[times].tolist(), 0.0]):
        x = x + (after - sigma) * (x - denoiser(x, sigma, labels)) / sigma
    return (denoiser.decode(x) / 2 + 0.5).clamp(0, 1).permute(0, 2, 3, 1).numpy()


@pytest.mark.parametrize("kind", AUTOENCODERS)
def test_a_whole_run_of_the_ldm_pipeline_ends_at_the_same_images(tmp_path, kind):
    pipeline = ldm(tmp_path, kind)
    denoiser = open_diffusers(tmp_path)
    wanted = pipeline(4, torch.Generator().manual_seed(7), num_inference_steps=10, output_type="np").images
    state = torch.randn(4, *denoiser.image_shape, generator=torch.Generator().manual_seed(7))
    found = euler(denoiser, pipeline.scheduler, state, 10)
    assert wanted.shape == found.shape
    assert np.std(wanted) > 0.01
    # A code between two entries of the book may be rounded the other way.
    assert np.mean(np.abs(found - wanted) > 1e-3) <= (0.01 if kind == "VQModel" else 0)


def test_a_whole_run_of_the_dit_pipeline_ends_at_the_same_images(transformed):
    pipeline, folder = transformed
    denoiser = open_diffusers(folder)
    labels = torch.tensor([0, 3, 4])
    wanted = pipeline(
        labels.tolist(),
        guidance_scale=1,
        generator=torch.Generator().manual_seed(8),
        num_inference_steps=10,
        output_type="np",
    ).images
    state = torch.randn(3, *denoiser.image_shape, generator=torch.Generator().manual_seed(8))
    found = euler(denoiser, pipeline.scheduler, state, 10, labels)
    assert np.std(wanted) > 0.01
    assert np.abs(found - wanted).max() < 1e-3


@pytest.mark.parametrize("made", ["quantized", "transformed"])
def test_generated_images_are_pixels_and_do_not_depend_on_the_batch(request, made):
    denoiser = open_diffusers(request.getfixturevalue(made)[1])
    config = SamplerConfig(steps=4)
    together = generate(denoiser, range(7), config, batch_size=7)
    assert together.images.shape == (7, *PIXELS)
    assert together.images.std() > 1
    apart = generate(denoiser, range(7), config, batch_size=2)
    # Up to the rounding of networks, which may carry a value over the edge between two grey levels.
    difference = np.abs(together.images.astype(int) - apart.images.astype(int))
    assert np.mean(difference > 0) < 0.01
    assert np.abs(together.images[0].astype(int) - together.images[1].astype(int)).mean() > 1


def test_it_is_ready_to_evaluate(quantized):
    before = torch.random.get_rng_state()
    denoiser = open_diffusers(quantized[1])
    assert torch.equal(torch.random.get_rng_state(), before)
    assert not denoiser.decode(noisy(1)).requires_grad
    z = noisy(1).requires_grad_()
    assert denoiser.decode(z).requires_grad


def test_an_allowed_pickle_holds_the_same_autoencoder(tmp_path, quantized):
    pipeline, folder = quantized
    shutil.copytree(folder, tmp_path / "model")
    shutil.rmtree(tmp_path / "model/vqvae")
    pipeline.vqvae.save_pretrained(tmp_path / "model/vqvae", safe_serialization=False)
    assert "allow_pickle" in refused(tmp_path / "model")
    z = noisy(2)
    assert torch.equal(
        open_diffusers(tmp_path / "model", allow_pickle=True).decode(z), open_diffusers(folder).decode(z)
    )


def test_old_names_of_attention_in_an_autoencoder_are_read(tmp_path, quantized):
    _, folder = quantized
    shutil.copytree(folder, tmp_path / "model")
    old = {"to_q": "query", "to_k": "key", "to_v": "value", "to_out.0": "proj_attn"}
    tensors = {}
    for name, tensor in load_file(folder / "vqvae" / WEIGHTS).items():
        for new, word in old.items():
            name = name.replace(f".{new}.", f".{word}.")
        tensors[name] = tensor
    assert any(".proj_attn." in name for name in tensors)
    save_file(tensors, tmp_path / "model/vqvae" / WEIGHTS)
    z = noisy(2)
    assert torch.equal(open_diffusers(tmp_path / "model").decode(z), open_diffusers(folder).decode(z))
