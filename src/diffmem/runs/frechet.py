"""Frechet distances of a run's snapshots to its training images, computed once and kept beside the evaluations."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress

import numpy as np
from numpy.typing import NDArray

from diffmem.distributed import world
from diffmem.errors import DiffmemError
from diffmem.memorization.features import Features
from diffmem.memorization.frechet import Moments, feature_moments, frechet_of_moments, too_few_images
from diffmem.runs.evaluations import EvaluationStore, FrechetRecord

__all__ = ["store_frechet", "stored_frechet"]


def stored_frechet(store: EvaluationStore, seen: int, features: Features) -> FrechetRecord | None:
    """Return the Frechet distance of an evaluation's images, if it is stored; under torchrun the first process reads it."""

    def read() -> FrechetRecord | None:
        with suppress(DiffmemError):
            return store.frechet(seen, features.key)
        return None

    return world().from_main(read)


def store_frechet(
    store: EvaluationStore,
    seen: int,
    features: Features,
    training: NDArray[np.uint8],
    moments: Callable[[], Moments],
    warn: Callable[[str], None] = print,
) -> None:
    """Compute the Frechet distance of an evaluation's stored images to the training images, and store it.

    Under torchrun all processes call it, and the first computes.

    Args:
        store: Has the evaluation with its images.
        seen: Images seen at its snapshot.
        features: What the distance is of.
        training: The training images, uint8 (N, C, H, W).
        moments: Gives the moments of their features, where the numbers of images allow a distance.
        warn: Warned of numbers of images that are too small for the features.

    Raises:
        DiffmemError: The images are missing, or the features cannot be computed.
    """

    def compute() -> FrechetRecord:
        images = store.read(seen).images
        count = features.compute(training[:1]).shape[1]  # before all images go through a network
        problem = too_few_images(min(len(images), len(training)), count)
        value = None
        if problem is None:
            value = frechet_of_moments(feature_moments(images, features.compute), moments())
        found = FrechetRecord(features.key, value, problem)
        store.write_frechet(seen, found)
        return found

    found = world().from_main(compute)
    if found.note is not None:
        warn(f"{store.path(seen)}: no Frechet distance. {found.note}")
