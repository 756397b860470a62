"""How long an audit will take, from small pieces of its own work, before it starts."""

from __future__ import annotations

import math
import time

import numpy as np
import torch
from numpy.typing import NDArray

from diffmem.auditing.criteria import NEIGHBOURS
from diffmem.auditing.nulls import SEARCHES, SLOW_SPACES_MOST, SURROUNDINGS_MOST
from diffmem.auditing.other_readings import turned_searches
from diffmem.data import duplicate_groups
from diffmem.memorization import NeighbourIndex, index_helps, nearest_neighbours
from diffmem.models import Denoiser
from diffmem.sampling import SamplerConfig

__all__ = ["WORTH_TELLING", "estimate_comparison", "estimate_sampling"]

WORTH_TELLING = 30.0
"""Seconds from which on an estimate is reported."""

_QUERIES = 512
_REFERENCES = 16_384
_VALUES = 2**28  # of the trial, at most
_WORK = 2**42  # values that are compared
_REST = 1.6  # measured: with all else that is done with the images
_FEW = 0.15  # measured: the nearest few take such a part of the time of fifty


def estimate_comparison(
    training: NDArray[np.uint8],
    samples: int,
    heldout: int,
    planted: int,
    *,
    leave_one_out: bool = True,
    changes: int = 0,
    readings: int = 0,
    device: str = "cpu",
) -> float:
    """Return about how many seconds it takes to compare images with a training set.

    A part of the set is prepared and searched. Preparing takes time in proportion to the set. Searching takes less, as neighbours are
    nearer in a larger set and more is left out: how much less, a second search in a quarter of the part shows.

    Args:
        training: The training images, (N, C, H, W).
        planted: Copies that are planted.
        leave_one_out: Whether training images are compared with each other, too: at most five for each sample.
        changes: Transformations, each of which takes a search of its own.
        readings: Other readings of the training images, under which samples are compared again.
    """
    own = min(len(training), SEARCHES * samples) if leave_one_out else 0
    once = samples + heldout + planted
    queries = (
        once
        + min(own, SURROUNDINGS_MOST)
        + _FEW * own
        + changes * (once + min(own, SLOW_SPACES_MOST))
        + readings * 2 * samples
        + turned_searches(samples)
    )
    values = int(np.prod(training.shape[1:]))
    if queries * len(training) * values < _WORK:
        return 0.0  # about half a minute, less than is worth a trial
    count = min(len(training), _REFERENCES, max(2 * NEIGHBOURS, _VALUES // values))
    some = np.ascontiguousarray(training[:count])
    asked = np.ascontiguousarray(training[:: max(1, len(training) // _QUERIES)][:_QUERIES])
    prepared, searched = _timed(some, asked, device)
    growth = len(training) / count
    exponent = 1.0
    if growth > 1:
        quarter = _timed(some[: count // 4], asked, device)[1]
        exponent = min(1.0, max(0.0, math.log(searched / quarter) / math.log(4)))
    seconds: float = _REST * (prepared * growth + searched * growth**exponent * queries / len(asked))
    return seconds


def _timed(references: NDArray[np.uint8], asked: NDArray[np.uint8], device: str) -> tuple[float, float]:
    """Return the seconds that it takes to prepare references, and to search for some images."""
    start = time.monotonic()
    duplicate_groups(references)
    index = NeighbourIndex.build(references) if index_helps(references, device) else None
    middle = time.monotonic()
    nearest_neighbours(asked, references, min(NEIGHBOURS, len(references)), index=index, device=device)
    return middle - start, time.monotonic() - middle


def estimate_sampling(denoiser: Denoiser, config: SamplerConfig, number: int, batch_size: int) -> float:
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
