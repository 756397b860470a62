"""Shared by the tests of `models`: small denoisers with random parameters of sensible scale."""

from __future__ import annotations

import math

import torch

from diffmem.models.config import ModelConfig, build_denoiser


def random_value(name, shape, generator):
    """A tensor of the scale that a trained one has, so that every part of the network matters."""
    noise = torch.randn(shape, generator=generator)
    if name.endswith("freqs"):
        return 16 * noise
    if len(shape) == 1:
        centre = 1.0 if "norm" in name and name.endswith("weight") else 0.0
        return centre + 0.3 * noise
    return noise / math.sqrt(math.prod(shape[1:]))


def random_state(module, seed=0):
    """The module's state dict with random numbers; the constant filters stay."""
    generator = torch.Generator().manual_seed(seed)
    return {
        name: value if name.endswith("resample_filter") else random_value(name, value.shape, generator)
        for name, value in module.state_dict().items()
    }


def tiny(architecture="ddpmpp", size=8, num_labels=0, seed=0, **fields):
    """A small denoiser in evaluation mode, all of whose parameters are random (no branch starts at zero)."""
    settings = {"channels": 8, "multipliers": (1, 2), "blocks": 1, "attention": (4,), **fields}
    config = ModelConfig(architecture=architecture, **settings)
    denoiser = build_denoiser(config, (3, size, size), num_labels=num_labels, seed=seed)
    denoiser.load_state_dict(random_state(denoiser, seed))
    return denoiser.eval()


def images(count, size=8, seed=0, channels=3):
    """Standard normal images (count, channels, size, size)."""
    return torch.randn(count, channels, size, size, generator=torch.Generator().manual_seed(seed))
