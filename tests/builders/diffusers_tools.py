"""Tiny networks of the diffusers library and the folders it writes; tests that import this are skipped where it is not installed."""

from __future__ import annotations

import socket

import pytest
import torch

from diffmem.errors import UserError
from diffmem.models.pretrained.diffusers_folder import open_diffusers

diffusers = pytest.importorskip(
    "diffusers", reason="diffusers is not installed: pip install 'diffmem[diffusers]'"
)

WEIGHTS = "diffusion_pytorch_model.safetensors"
STEPS = 1000
SIDE = 8


def cut_network(monkeypatch):
    """Let every attempt to reach another machine fail the test."""

    def refuse(*args, **kwargs):
        raise AssertionError("the network was used")

    monkeypatch.setattr(socket.socket, "connect", refuse)
    monkeypatch.setattr(socket, "getaddrinfo", refuse)


def tiny_unet(**options):
    settings = {
        "sample_size": SIDE,
        "in_channels": 3,
        "out_channels": 3,
        "block_out_channels": (8, 8),
        "down_block_types": ("DownBlock2D", "AttnDownBlock2D"),
        "up_block_types": ("AttnUpBlock2D", "UpBlock2D"),
        "layers_per_block": 1,
        "norm_num_groups": 4,
        "attention_head_dim": 4,
    }
    with torch.random.fork_rng():
        torch.manual_seed(0)
        unet = diffusers.UNet2DModel(**(settings | options)).eval().requires_grad_(False)
        # As initialized, the network hardly looks at its timestep.
        for layer in (unet.time_embedding.linear_1, unet.time_embedding.linear_2):
            layer.weight.mul_(8)
    return unet


def tiny_autoencoder(kind="AutoencoderKL", **options):
    """Of images twice as large as its codes, which have 4 channels (AutoencoderKL) or 3 (VQModel, with a coarse book of 7)."""
    settings = {
        "down_block_types": ("DownEncoderBlock2D", "DownEncoderBlock2D"),
        "up_block_types": ("UpDecoderBlock2D", "UpDecoderBlock2D"),
        "block_out_channels": (8, 8),
        "norm_num_groups": 4,
        **({"num_vq_embeddings": 7} if kind == "VQModel" else {}),
    }
    with torch.random.fork_rng():
        torch.manual_seed(2)
        network = getattr(diffusers, kind)(**(settings | options)).eval().requires_grad_(False)
        if kind == "VQModel":
            network.quantize.embedding.weight.normal_()
    return network


def tiny_transformer(**options):
    settings = {
        "num_attention_heads": 2,
        "attention_head_dim": 4,
        "in_channels": 4,
        "out_channels": 8,
        "num_layers": 2,
        "sample_size": SIDE,
        "num_embeds_ada_norm": 5,
    }
    with torch.random.fork_rng():
        torch.manual_seed(3)
        network = diffusers.DiTTransformer2DModel(**(settings | options)).eval().requires_grad_(False)
        # As initialized, the network hardly looks at its timestep and classes.
        for block in network.transformer_blocks:
            block.norm1.emb.timestep_embedder.linear_2.weight.mul_(20)
            block.norm1.emb.class_embedder.embedding_table.weight.mul_(20)
    return network


def scheduler_of(name="DDPMScheduler", **options):
    return getattr(diffusers, name)(**({"num_train_timesteps": STEPS} | options))


def saved(folder, unet, scheduler, kind=None):
    """Write a pipeline of a kind, or a bare network with its scheduler."""
    if kind is not None:
        getattr(diffusers, kind)(unet=unet, scheduler=scheduler).save_pretrained(folder)
    else:
        unet.save_pretrained(folder)
        scheduler.save_pretrained(folder)
    return folder


def noisy(count=STEPS, channels=3):
    return torch.randn(count, channels, SIDE, SIDE, generator=torch.Generator().manual_seed(1))


def stepped(scheduler, raw, state, t, **options):
    """The library's step; returns its clean image and its next state."""
    out = scheduler.step(raw[None], t, state[None], **options)
    return out.pred_original_sample[0], out.prev_sample[0]


def original(predict, scheduler, state, steps, *labels):
    """What the library itself predicts as clean images at each of these timesteps, for images in its own scaling."""
    raw = predict(state, steps, *labels)
    return torch.stack([stepped(scheduler, raw[i], state[i], int(t))[0] for i, t in enumerate(steps)])


def in_sigma(scheduler, state, steps):
    """The same images as y + sigma n, and sigma."""
    kept = scheduler.alphas_cumprod.double()[steps]
    return state.double() / kept.sqrt()[:, None, None, None], ((1 - kept) / kept).sqrt()


def assert_alike(found, wanted, sigma):
    """Equal up to float32: predicted noise is multiplied by sigma."""
    error = (found.double() - wanted.double()).abs().amax((1, 2, 3))
    allowed = 2e-6 * wanted.double().abs().amax((1, 2, 3)) + 2e-6 * (1 + sigma)
    worst = int((error / allowed).argmax())
    assert bool((error <= allowed).all()), (worst, float(error[worst]), float(allowed[worst]))


def copy_of(folder, target):
    target.mkdir(exist_ok=True)
    for path in folder.iterdir():
        (target / path.name).write_bytes(path.read_bytes())
    return target


def answer(denoiser):
    return denoiser(noisy(2).double(), torch.tensor([0.05, 3.0]))


def refused(folder, **options):
    with pytest.raises(UserError) as error:
        open_diffusers(folder, **options)
    assert "\n" not in str(error.value)
    return str(error.value)
