from __future__ import annotations

import pytest
import torch
from checkpoint_builders import guided_diffusion
from cli_builders import caller
from lucidrains_tools import checkpoint

from diffmem.models import ModelConfig, build_denoiser, save_denoiser

TINY = ModelConfig(architecture="ddpmpp", channels=4, multipliers=(1,), blocks=1, attention=(), dropout=0.0)


@pytest.fixture
def call(capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return caller(capsys)


def test_what_was_read_from_a_model_is_said_in_one_paragraph(tmp_path, call):
    path = tmp_path / "model.safetensors"
    save_denoiser(build_denoiser(TINY, (1, 8, 8), 3, 0), TINY, path, {"epoch": "20"})
    done = call("model", "info", path)
    assert (done.code, done.err) == (0, "")
    assert done.out.count("\n") == 1
    for word in (
        "diffmem snapshot: model.safetensors at epoch 20.",
        " parameters, VP preconditioning.",
        "Images of 8x8x1; 3 classes.",
        "Noise levels ",
    ):
        assert word in done.out


@pytest.fixture
def checkpoint_of_lucidrains(tmp_path):
    torch.save(checkpoint(), tmp_path / "model-1.pt")
    return tmp_path / "model-1.pt"


def test_the_size_and_the_weights_of_a_checkpoint_are_options(checkpoint_of_lucidrains, call):
    path = checkpoint_of_lucidrains
    done = call("model", "info", path)
    assert (done.code, "--resolution 64" in done.err) == (2, True)
    done = call("model", "info", path, "--resolution", 8)
    assert done.code == 0
    for part in (
        "LucidrainsUNet, ",
        "v_prediction at ",
        "Images of 8x8x3; no classes.",
        "the moving average of the weights (EMA)",
    ):
        assert part in done.out
    assert (
        "the raw weights as trained" in call("model", "info", path, "--resolution=8x8", "--weights=raw").out
    )
    assert (
        "weights must be 'ema' or 'raw', not 'net'"
        in call("model", "info", path, "--resolution=8", "--weights=net").err
    )


@pytest.mark.parametrize("text", ["8x8x8", "0", "-1", "a", "8x", "8.5"])
def test_a_resolution_that_is_none_is_refused(checkpoint_of_lucidrains, call, text):
    done = call("model", "info", checkpoint_of_lucidrains, f"--resolution={text}")
    assert (done.code, f"--resolution '{text}' must be SIDE or HxW" in done.err) == (2, True)


def test_generated_images_are_of_the_same_model_by_the_same_options(checkpoint_of_lucidrains, call, tmp_path):
    out = tmp_path / "out.npz"
    done = call(
        "generate", checkpoint_of_lucidrains, out, "--seeds=0-1", "--resolution=8", "--weights=raw",
        "--set=steps=2",
    )  # fmt: skip
    assert done.code == 0
    assert "the raw weights as trained" in done.err
    assert done.out.startswith(f"{out}: 2 images of 8x8x3")


def test_what_does_not_open_is_named_with_the_way_on(tmp_path, call):
    path = tmp_path / "checkpoint.pt"
    torch.save(
        {"net_model": {"a": torch.ones(1)}, "ema_model": {"a": torch.ones(1)}, "x_T": torch.ones(1)}, path
    )
    done = call("model", "info", path)
    assert done.code == 2
    assert "is a checkpoint of pytorch-ddpm, whose network is none that is read" in done.err
    assert "--samples" in done.err


def test_a_model_that_is_no_denoiser_of_the_images_is_refused_with_the_figures(tmp_path, call):
    path = tmp_path / "ema_0.999_000001.pt"
    tensors = guided_diffusion(outputs=1, inputs=1, attention=False)
    tensors["out.2.bias"] += 10  # a noise that is never there
    torch.save(tensors, path)
    settings = [
        word
        for pair in ("noise_schedule=linear", "diffusion_steps=1000", "predict_xstart=False")
        for word in ("--model-set", pair)
    ]
    assert call("data", "build", "digits", "few.npz", "--size", "40").code == 0
    done = call("model", "info", path, "--resolution", "8", *settings, "--check", "few.npz")
    assert done.code == 2
    assert "sigma" in done.out
    assert "doing nothing" in done.out
    assert "Denoising error on 40 training images" in done.out
    assert "no denoiser of the training images" in done.err
