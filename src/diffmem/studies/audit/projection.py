"""How long an audit will take, from small pieces of its own work, told before it starts."""

from __future__ import annotations

import time

import numpy as np
import torch
from numpy.typing import NDArray

from diffmem.data import duplicate_groups
from diffmem.memorization import NeighbourIndex, nearest_neighbours
from diffmem.models import Denoiser
from diffmem.sampling import SamplerConfig
from diffmem.studies.audit.instrument import NEIGHBOURS

__all__ = ["WORTH_TELLING", "project_comparison", "project_sampling"]

WORTH_TELLING = 30.0
"""Seconds from which on a projection is told."""

_QUERIES = 256
_REFERENCES = 16_384
_VALUES = 2**26  # of the trial, at most


def project_comparison(training: NDArray[np.uint8], queries: int, searches: int, device: str) -> float:
    """Return about how many seconds it takes to hold images against a training set.

    A part of the set is prepared and searched, and its time is scaled by the number of images and of queries. Large sets take less
    than that where the index leaves out more of them.

    Args:
        training: The training images, (N, C, H, W).
        queries: Samples, null images and planted copies together.
        searches: How often each is searched for: once, and once more for each transformation.
        device: Where distances are computed.
    """
    values = int(np.prod(training.shape[1:]))
    count = min(len(training), _REFERENCES, max(2 * NEIGHBOURS, _VALUES // values))
    some = np.ascontiguousarray(training[:count])
    k = min(NEIGHBOURS, count)
    asked = np.ascontiguousarray(training[:: max(1, len(training) // _QUERIES)][:_QUERIES])
    if count * len(asked) * values < 2**26:
        return 0.0  # so small that it is done before it is told
    start = time.monotonic()
    duplicate_groups(some)
    on_cpu = torch.device(device).type == "cpu"
    index = NeighbourIndex.build(some) if on_cpu else None
    prepared = time.monotonic() - start
    start = time.monotonic()
    nearest_neighbours(asked, some, k, index=index, device=device)
    searched = time.monotonic() - start
    return (prepared + searched * searches * queries / len(asked)) * len(training) / count


def project_sampling(denoiser: Denoiser, config: SamplerConfig, number: int, batch_size: int) -> float:
    """Return about how many seconds it takes to generate images, from two calls of the model."""
    size = min(number, batch_size)
    x = torch.zeros(size, *denoiser.image_shape, device=denoiser.device)
    sigma = min(max(1.0, denoiser.sigma_min), denoiser.sigma_max)
    labels = torch.zeros(size, dtype=torch.int64, device=denoiser.device) if denoiser.num_labels else None
    with torch.no_grad():
        denoiser(x, sigma, labels).sum().item()  # the first call prepares much
        start = time.monotonic()
        denoiser(x, sigma, labels).sum().item()
        one = time.monotonic() - start
    return one * config.evaluations * number / size
