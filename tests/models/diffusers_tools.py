"""Tiny networks of the diffusers library and the folders it writes; tests that import this are skipped where it is not installed."""

from __future__ import annotations

import socket

import pytest
import torch

from diffmem.errors import UserError
from diffmem.models.diffusers_folder import open_diffusers

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


def noisy(count=STEPS):
    return torch.randn(count, 3, SIDE, SIDE, generator=torch.Generator().manual_seed(1))


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
