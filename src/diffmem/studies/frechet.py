"""Frechet distances of a run's snapshots to its training images, computed once and kept beside the evaluations."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

import torch

from diffmem.distributed import world
from diffmem.errors import DiffmemError
from diffmem.memorization.features import Features
from diffmem.memorization.frechet import feature_moments, frechet_of_moments, too_few_images
from diffmem.sampling import SamplerConfig
from diffmem.studies.evaluations import FrechetRecord
from diffmem.studies.trained import agreed

if TYPE_CHECKING:
    from diffmem.studies.run import Run

__all__ = ["frechet_for"]


def frechet_for(
    run: Run,
    sampling: SamplerConfig,
    samples: int,
    seen: int,
    features: Features,
    *,
    device: torch.device | str = "cpu",
    warn: Callable[[str], None] = print,
) -> FrechetRecord:
    """Return the Frechet distance of an evaluation's images to the training images, computing it if it is not stored.

    If the images are missing or damaged, the whole evaluation is made anew, so that all its numbers are of the same images.
    Under torchrun all processes call it, and the first computes.

    Args:
        run: The run; the evaluation must be stored.
        sampling: The sampler of the evaluation.
        samples: Its number of images.
        seen: Images seen at its snapshot.
        features: What the distance is of.
        device: Where images are generated, if they have to be.
        warn: Told of damaged files, and of numbers of images that are too small for the features.

    Raises:
        DiffmemError: The evaluation or the snapshot is missing, or the features cannot be computed.
    """
    here, store = world(), run.evaluation_store(sampling, samples)

    def stored() -> FrechetRecord | None:
        try:
            return store.frechet(seen, features.key)
        except DiffmemError:
            return None

    known = here.share(stored() if here.is_first else None)
    if known is not None:
        return known
    if not agreed(lambda: store.is_whole(seen, warn, images=True)):
        run.generate(seen, sampling, samples, device=device)
    found = here.share(_computed(run, sampling, samples, seen, features) if here.is_first else None)
    if found is None:  # what the first process shares is never none
        raise DiffmemError(f"The Frechet distance of {store.path(seen)} was not shared.")
    if found.note is not None:
        warn(f"{store.path(seen)}: no Frechet distance. {found.note}")
    return found


def _computed(
    run: Run, sampling: SamplerConfig, samples: int, seen: int, features: Features
) -> FrechetRecord:
    store = run.evaluation_store(sampling, samples)
    smaller = min(samples, len(run.training_set))
    count = features.compute(run.training_set.images[:1]).shape[1]  # before all images go through a network
    problem = too_few_images(smaller, count)
    value = None
    if problem is None:
        made = feature_moments(store.read(seen).images, features.compute)
        value = frechet_of_moments(made, run.training_moments(features))
    found = FrechetRecord(features.key, value, problem)
    store.write_frechet(seen, found)
    return found
