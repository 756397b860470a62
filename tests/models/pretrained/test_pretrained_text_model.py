import gc
import weakref

import pytest
import torch
from diffusers_tools import cut_network
from text_pipelines import (
    LONG,
    PROMPTS,
    SIDE,
    diffusers,
    saved,
    scheduler,
    stable_diffusion,
    stable_diffusion_xl,
)

from diffmem.models.pretrained import text_encoders, text_model
from diffmem.models.pretrained.text_model import open_text_model

STEPS = (0, 20, 250, 500, 900, 999)


@pytest.fixture(scope="module", params=["sd1", "sd2", "sdxl"])
def made(request, tmp_path_factory):
    pipeline = {
        "sd1": stable_diffusion,
        "sd2": lambda: stable_diffusion("v_prediction", "!"),
        "sdxl": stable_diffusion_xl,
    }[request.param]()
    folder = saved(pipeline, tmp_path_factory.mktemp(request.param) / "model")
    return pipeline, folder, open_text_model(folder, [*PROMPTS, LONG], device="cpu")


def embeddings(pipeline, prompt):
    """What the pipeline makes of a prompt, and of none: (states, pooled) each."""
    if isinstance(pipeline, diffusers.StableDiffusionPipeline):
        states, null = pipeline.encode_prompt(prompt, "cpu", 1, True)
        return (states, None), (null, None)
    states, null, pooled, null_pooled = pipeline.encode_prompt(prompt, device="cpu")
    return (states, pooled), (null, null_pooled)


def predicted(pipeline, state, step, states, pooled):
    """The pipeline's network and its trainer's scheduler: the clean latents of a noisy state at a timestep."""
    more = {}
    if pooled is not None:
        sizes = torch.tensor([[16.0, 16, 0, 0, 16, 16]])
        more = {"added_cond_kwargs": {"text_embeds": pooled, "time_ids": sizes}}
    with torch.no_grad():
        raw = pipeline.unet(state, step, encoder_hidden_states=states, **more).sample
    steps = scheduler(prediction_type=pipeline.scheduler.config.prediction_type, clip_sample=False)
    steps.set_timesteps(1000)
    return steps.step(raw, step, state).pred_original_sample


def test_prompts_are_encoded_as_the_pipeline_does(made):
    pipeline, _, model = made
    table = model.prompts
    for row, prompt in enumerate(table.prompts):
        (states, pooled), (null, null_pooled) = embeddings(pipeline, prompt)
        torch.testing.assert_close(table.states[row], states[0], atol=1e-6, rtol=1e-6)
        torch.testing.assert_close(table.states[-1], null[0], atol=1e-6, rtol=1e-6)
        if pooled is not None:
            torch.testing.assert_close(table.pooled[row], pooled[0], atol=1e-6, rtol=1e-6)
            torch.testing.assert_close(table.pooled[-1], null_pooled[0], atol=1e-6, rtol=1e-6)


@pytest.mark.parametrize("label", [0, 1, 2, -1])
def test_d_is_that_of_the_network_and_the_scheduler_of_the_pipeline(made, label):
    pipeline, _, model = made
    prompt, null = embeddings(pipeline, PROMPTS[label])
    state = torch.randn(1, 4, SIDE, SIDE, generator=torch.Generator().manual_seed(1))
    for step in STEPS:
        wanted = predicted(pipeline, state, step, *(null if label < 0 else prompt))
        kept = pipeline.scheduler.alphas_cumprod[step].double()
        sigma = ((1 - kept) / kept).sqrt()
        found = model.denoiser(state.double() / kept.sqrt(), float(sigma), torch.tensor([label]))
        error = float((found - wanted).abs().max() / (1 + sigma))
        assert error < 1e-5, (step, error)


def test_prompts_decide_the_answer_and_equal_prompts_give_the_same(made):
    model = made[2].denoiser
    x = torch.randn(1, 4, SIDE, SIDE, generator=torch.Generator().manual_seed(2)).expand(5, -1, -1, -1)
    found = model(3 * x, 3.0, torch.tensor([0, 1, 2, 3, -1]))
    assert torch.allclose(found[0], found[3], atol=1e-5)
    for one in range(3):
        for other in range(one):
            assert float((found[one] - found[other]).abs().max()) > 1e-3


def test_an_answer_does_not_depend_on_the_other_prompts_and_images_of_a_batch(made):
    _, folder, model = made
    alone = open_text_model(folder, ["two cats!"], device="cpu").denoiser
    x = 3 * torch.randn(4, 4, SIDE, SIDE, generator=torch.Generator().manual_seed(3))
    batch = model.denoiser(x, 3.0, torch.tensor([0, 1, 2, -1]))
    torch.testing.assert_close(alone(x[1:2], 3.0, torch.tensor([0])), batch[1:2], atol=2e-5, rtol=1e-5)


def test_the_autoencoder_is_that_of_the_library(made):
    pipeline, _, model = made
    images = torch.rand(2, 3, 16, 16, generator=torch.Generator().manual_seed(4)) * 2 - 1
    with torch.no_grad():
        codes = pipeline.vae.encode(images).latent_dist.mean * pipeline.vae.config.scaling_factor
        drawn = pipeline.vae.decode(codes / pipeline.vae.config.scaling_factor).sample
        found = model.denoiser.encode(images)
        torch.testing.assert_close(found, codes, atol=1e-5, rtol=1e-5)
        torch.testing.assert_close(model.denoiser.decode(found), drawn, atol=1e-5, rtol=1e-5)


def test_prompts_that_are_too_long_are_listed(made):
    assert made[2].prompts.truncated == (4,)
    assert "1 prompt(s) are longer" in " ".join(made[2].denoiser.origin.notes)


def test_only_the_network_computes_in_bfloat16(made):
    _, folder, model = made
    half = open_text_model(folder, [*PROMPTS, LONG], device="cpu", dtype="bfloat16")
    assert half.prompts.states.dtype == torch.float32
    assert {weight.dtype for weight in half.denoiser.inner._network._network.parameters()} == {torch.bfloat16}
    found = half.denoiser.inner._network._network.state_dict()
    for name, weight in model.denoiser.inner._network._network.state_dict().items():
        assert torch.equal(found[name], weight.bfloat16())
    x = 3 * torch.randn(1, 4, SIDE, SIDE, generator=torch.Generator().manual_seed(6))
    assert half.denoiser(x, 3.0, torch.tensor([0])).isfinite().all()
    images = torch.rand(1, 3, 16, 16, generator=torch.Generator().manual_seed(7)) * 2 - 1
    assert torch.equal(half.denoiser.encode(images), model.denoiser.encode(images))


def test_text_encoders_are_gone_before_anything_else_is_loaded(made, monkeypatch):
    loaded, there = [], []

    def living():
        gc.collect()
        return sum(network() is not None for network in loaded)

    def load(encoder, root):
        there.append(living())
        network = load_encoder(encoder, root)
        loaded.append(weakref.ref(network))
        return network

    def build(*arguments, **options):
        there.append(living())
        return built(*arguments, **options)

    load_encoder, built = text_encoders.Encoder.loaded, text_model.built
    monkeypatch.setattr(text_encoders.Encoder, "loaded", load)
    monkeypatch.setattr(text_model, "built", build)
    pipeline, folder, _ = made
    open_text_model(folder, ["a"], device="cpu")
    assert there == [0] * (3 if hasattr(pipeline, "text_encoder_2") else 2)


def test_no_network_is_used(made, monkeypatch):
    cut_network(monkeypatch)
    open_text_model(made[1], ["a"], device="cpu")


def test_no_prompt_of_sdxl_is_zeros_and_the_empty_prompt_is_not(tmp_path):
    zeros = open_text_model(saved(stable_diffusion_xl(), tmp_path / "a"), [""], device="cpu").prompts
    assert not zeros.states[-1].any()
    assert not zeros.pooled[-1].any()
    assert zeros.states[0].norm() > 1
    encoded = stable_diffusion_xl(force_zeros_for_empty_prompt=False)
    told = open_text_model(saved(encoded, tmp_path / "b"), [""], device="cpu").prompts
    assert torch.equal(told.states[0], told.states[-1])
    assert torch.equal(told.pooled[0], told.pooled[-1])


def test_another_size_of_images_is_told_to_sdxl(tmp_path):
    pipeline = stable_diffusion_xl()
    folder = saved(pipeline, tmp_path / "model")
    model = open_text_model(folder, ["a"], size=(24, 16), device="cpu").denoiser
    assert (model.pixel_shape, model.image_shape) == ((3, 24, 16), (4, 12, 8))
    (states, pooled), _ = embeddings(pipeline, "a")
    x = torch.randn(1, 4, 12, 8, generator=torch.Generator().manual_seed(5))
    sizes = torch.tensor([[24.0, 16, 0, 0, 24, 16]])
    with torch.no_grad():
        raw = pipeline.unet(
            x, 500, states, added_cond_kwargs={"text_embeds": pooled, "time_ids": sizes}
        ).sample
    level = model.inner.levels[500]
    state = x.double() * (1 + level**2).sqrt()
    torch.testing.assert_close(
        model(state, float(level), torch.tensor([0])).double(), state - level * raw, atol=1e-5, rtol=1e-5
    )
