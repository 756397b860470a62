"""What a text-to-image network predicts is checked against captioned images by the existing check of readings, and twins are equal."""

import json

import numpy as np
import pytest
import torch
from cli_builders import caller
from text_pipelines import SIDE, edited, saved, stable_diffusion

from diffmem.auditing.model import check_reading
from diffmem.auditing.request import AuditOptions
from diffmem.data import ImageSet, write_images
from diffmem.models.pretrained.text_model import open_text_model, prompts_of

COLOURS = ("red", "green", "blue")


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    """The same folder with either prediction type in its scheduler's settings."""
    home = tmp_path_factory.mktemp("folders")
    plain = saved(stable_diffusion(), home / "epsilon")
    other = edited(plain, home / "v", "scheduler/scheduler_config.json", prediction_type="v_prediction")
    return {"epsilon": plain, "v_prediction": other}


@pytest.fixture(scope="module")
def images():
    """Images of a colour, with noise; their captions name it."""
    rng = np.random.default_rng(0)
    pixels = rng.integers(0, 60, (60, 3, 16, 16))
    captions = tuple(COLOURS[index % 3] for index in range(60))
    for index in range(60):
        pixels[index, index % 3] += 150
    return ImageSet(
        pixels.astype(np.uint8), None, tuple(f"{index}" for index in range(60)), captions=captions
    )


class Optimum:
    """The best network for these latents, each caption with its own, in a prediction type: of DiscreteDenoiser's formulas, inverted."""

    def __init__(self, latents, labels, levels, prediction):
        self.latents, self.labels = latents.double(), labels
        self.levels, self.prediction = levels, prediction
        self.seen = []

    def __call__(self, x, t, rows):
        self.seen += rows.tolist()
        sigma = self.levels[t.round().long()][:, None, None, None]
        state = x.double() * (1 + sigma**2).sqrt()
        clean = []
        for one, level, row in zip(state, sigma.flatten(), rows, strict=True):
            known = self.latents if row == 3 else self.latents[self.labels == row]
            weights = torch.softmax(-(known - one).square().flatten(1).sum(1) / (2 * level**2), 0)
            clean.append(torch.einsum("n,nchw->chw", weights, known))
        noise = (state - torch.stack(clean)) / sigma
        if self.prediction == "epsilon":
            return noise
        return (1 + sigma**2).rsqrt() * (noise - sigma * torch.stack(clean))


def with_optimum(folder, images, prediction):
    shown, prompts = prompts_of(images)
    assert prompts == COLOURS
    model = open_text_model(folder, prompts, device="cpu").denoiser
    latents = model.encode(torch.tensor(shown.images, dtype=torch.float32) / 127.5 - 1)
    inner = model.inner
    inner._network = Optimum(latents, torch.tensor(shown.labels), inner.levels, prediction)
    inner.timesteps = "nearest"
    inner._grid = inner._on_grid(inner.levels)
    return model, shown


def test_twins_that_predict_the_noise_and_the_velocity_have_one_d(folders, images):
    noise, _ = with_optimum(folders["epsilon"], images, "epsilon")
    velocity, _ = with_optimum(folders["v_prediction"], images, "v_prediction")
    generator = torch.Generator().manual_seed(1)
    for step in (0, 100, 500, 999):
        level = float(noise.inner.levels[step])
        x = (1 + level) * torch.randn(4, 4, SIDE, SIDE, generator=generator)
        labels = torch.tensor([0, 1, 2, -1])
        torch.testing.assert_close(noise(x, level, labels), velocity(x, level, labels), atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("written", ["epsilon", "v_prediction"])
@pytest.mark.parametrize("predicted", ["epsilon", "v_prediction"])
def test_a_prediction_type_that_the_images_contradict_is_refused(folders, images, written, predicted):
    model, shown = with_optimum(folders[written], images, predicted)
    found = check_reading(model, shown, AuditOptions())
    assert found.labels == "of the images"
    assert found.latent
    assert set(model.inner._network.seen) == {0, 1, 2}
    assert len({reading.text for reading in found.readings}) == len(found.readings) == 2
    if written == predicted:
        assert found.problem is None
        assert all(point.model.value < 0.1 * point.nothing.value for point in found.points if point.middle)
    else:
        assert {"epsilon": "the noise", "v_prediction": "the velocity v"}[predicted] in found.problem
        assert "as prediction_type into" in found.problem
        assert "scheduler_config.json" in found.problem


def test_images_without_captions_are_left_out_and_without_any_have_none(images):
    some = ImageSet(images.images[:3], None, images.names[:3], captions=("b", None, "a"))
    shown, prompts = prompts_of(some)
    assert (prompts, shown.labels.tolist(), shown.names) == (("b", "a"), [0, 1], ("0", "2"))
    none, prompts = prompts_of(ImageSet(images.images[:2], np.array([4, 5]), images.names[:2]))
    assert (prompts, none.labels, len(none)) == (("",), None, 2)


@pytest.fixture
def call(capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return caller(capsys)


def test_the_command_says_what_was_read(folders, images, call, tmp_path):
    done = call("model", "info", folders["v_prediction"])
    assert (done.code, done.err) == (0, "")
    for part in (
        "text-to-image folder of diffusers: StableDiffusionPipeline v.",
        "UNet2DConditionModel, ",
        "v_prediction at 1,000 timesteps",
        "Images of 16x16x3, by latents of (4, 8, 8); 1 classes.",
        "encoded by CLIPTextModel, of 14 pieces at most; no label is the null prompt, the encoded empty prompt",
        "encoders and autoencoder in float32",
    ):
        assert part in done.out, part
    assert "24x24" in call("model", "info", folders["epsilon"], "--resolution", 24).out
    refused = call("model", "info", folders["epsilon"], "--weights", "raw")
    assert (refused.code, "--weights is for a model" in refused.err) == (2, True)


def test_the_command_checks_captioned_images(folders, images, call, tmp_path):
    write_images(images, tmp_path / "set.zip")
    done = call("model", "info", folders["epsilon"], "--check", tmp_path / "set.zip")
    assert "Its classes are prompts (3 given)" in done.out
    assert "Denoising error on 60 training images" in done.out.replace("\n", " ")


def test_the_command_merges_a_lora_and_refuses_what_is_none(folders, call, tmp_path):
    from safetensors.torch import save_file

    name = "lora_unet_mid_block_attentions_0_transformer_blocks_0_attn1_to_q"
    ones = {f"{name}.lora_down.weight": torch.ones(4, 32), f"{name}.lora_up.weight": torch.ones(32, 4)}
    save_file(ones, tmp_path / "my.safetensors")
    done = call("model", "info", folders["epsilon"], "--lora", "my.safetensors:0.5")
    assert done.code == 0
    assert "epsilon + my.safetensors." in done.out
    assert "A LoRA of rank 4, merged at weight 0.5: all 2 tensors used, layers changed: unet 1." in done.out
    origin = open_text_model(folders["epsilon"], [""], lora=tmp_path / "my.safetensors").denoiser.origin
    for text in (*origin.notes, *(reading.remedy for reading in origin.readings)):  # as in private reports
        assert "my.safetensors" not in text
        assert folders["epsilon"].as_posix() not in text
    save_file(ones | {"x.lora_down.weight": torch.ones(4, 4)}, tmp_path / "my.safetensors")
    done = call("model", "info", folders["epsilon"], "--lora", "my.safetensors")
    assert (done.code, "1 of its 3 tensors fit no layer" in done.err.replace("\n", " ")) == (2, True)
    (tmp_path / "bare").mkdir()
    (tmp_path / "bare" / "config.json").write_text(json.dumps({"_class_name": "UNet2DModel"}))
    done = call("model", "info", "bare", "--lora", "my.safetensors")
    assert (done.code, "lacks model_index.json" in done.err.replace("\n", " ")) == (2, True)
