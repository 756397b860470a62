"""Frechet distances of a run's snapshots to its training images, computed once and kept beside the evaluations."""

from __future__ import annotations

from collections.abc import Callable

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
    here = world()

    def read() -> FrechetRecord | None:
        try:
            return store.frechet(seen, features.key)
        except DiffmemError:
            return None

    return here.broadcast(read() if here.is_main else None)


def store_frechet(
    store: EvaluationStore,
    seen: int,
    features: Features,
    training: NDArray[np.uint8],
    moments: Callable[[], Moments],
    warn: Callable[[str], None] = print,
) -> FrechetRecord:
    """Compute the Frechet distance of an evaluation's stored images to the training images, and store it.

    Under torchrun all processes call it, and the first computes.

    Args:
        store: Has the evaluation with its images.
        seen: Images seen at its snapshot.
        features: What the distance is of.
        training: The training images, uint8 (N, C, H, W).
        moments: Gives the moments of their features, where the numbers of images allow a distance.
        warn: Told of numbers of images that are too small for the features.

    Raises:
        DiffmemError: The images are missing, or the features cannot be computed.
    """
    here = world()
    found = here.broadcast(_computed(store, seen, features, training, moments) if here.is_main else None)
    if found is None:  # what the first process shares is never none
        raise DiffmemError(f"The Frechet distance of {store.path(seen)} was not shared.")
    if found.note is not None:
        warn(f"{store.path(seen)}: no Frechet distance. {found.note}")
    return found


def _computed(
    store: EvaluationStore,
    seen: int,
    features: Features,
    training: NDArray[np.uint8],
    moments: Callable[[], Moments],
) -> FrechetRecord:
    images = store.read(seen).images
    count = features.compute(training[:1]).shape[1]  # before all images go through a network
    problem = too_few_images(min(len(images), len(training)), count)
    value = None
    if problem is None:
        value = frechet_of_moments(feature_moments(images, features.compute), moments())
    found = FrechetRecord(features.key, value, problem)
    store.write_frechet(seen, found)
    return found
