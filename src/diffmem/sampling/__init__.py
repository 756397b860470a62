"""How images come out of a denoiser: noise schedules, ODE and SDE samplers, one seed per image."""

from __future__ import annotations

from diffmem.sampling.config import SamplerConfig
from diffmem.sampling.generate import (
    BrokenModelError,
    GeneratedImages,
    generate,
    iter_generated,
    parse_seeds,
    to_uint8,
)
from diffmem.sampling.samplers import sample_latents
from diffmem.sampling.schedules import noise_levels
from diffmem.sampling.seeds import SeededNoise, latents_for_seeds, random_labels
from diffmem.sampling.shards import discard_shards, generate_resumable

__all__ = [
    "BrokenModelError",
    "GeneratedImages",
    "SamplerConfig",
    "SeededNoise",
    "discard_shards",
    "generate",
    "generate_resumable",
    "iter_generated",
    "latents_for_seeds",
    "noise_levels",
    "parse_seeds",
    "random_labels",
    "sample_latents",
    "to_uint8",
]
