"""Images that were never copied: held-out ones, and training images against each other."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from diffmem.auditing.criteria import PIXELS, SURROUNDINGS, Criterion
from diffmem.auditing.detector import CopyDetector, Detections
from diffmem.memorization.neighbours.contents import taken
from diffmem.progress import NO_PROGRESS, Progress, part_of

__all__ = ["SEARCHES", "SLOW_SPACES_MOST", "SURROUNDINGS_MOST", "Null", "null_images"]

SEARCHES = 5
"""Training images that are compared with all others, for each sample: the search takes at most so many times that of the samples."""

SLOW_SPACES_MOST = 5_000
"""Most training images that are compared with all others under transformations and in features."""

SURROUNDINGS_MOST = 10_000
"""Most training images whose surroundings are searched: fifty neighbours take seven times as long as the nearest few."""

_LEAST = 1_000
_DONE = {PIXELS: 0.0, SURROUNDINGS: 0.4}  # of the work, before each
_MOST = {PIXELS: 10**12, SURROUNDINGS: SURROUNDINGS_MOST}
_MOST_BYTES = 2**30  # of them, unless that is fewer than a thousand

Pixels = NDArray[np.uint8]


@dataclass(frozen=True, eq=False)
class Null:
    """What the criteria make of images that were never copied.

    Attributes:
        heldout: Held-out images that are no training images; none if there are none.
        overlap: Which of all held-out images are identical to a training image, bool (M,); empty without any.
        training: Training images, each against all others, by space; empty where they are no null.
        distinct: Distinct training images.
        exchangeable: Whether training images are a null: not where near-copies were removed from the training set.
    """

    heldout: Detections | None
    overlap: NDArray[np.bool_]
    training: dict[str, Detections]
    distinct: int
    exchangeable: bool

    @property
    def fresh(self) -> int:
        """Number of held-out images that are no training images."""
        return 0 if self.heldout is None else len(self.heldout)

    def drawn(self, space: str) -> int:
        """Return how many training images are compared with all others in a space."""
        return len(self.training[space]) if space in self.training else 0

    def parts(self, space: str) -> list[Detections]:
        """Return what is made of held-out images, and of training images in a space, as far as there are any."""
        return [one for one in (self.heldout, self.training.get(space)) if one is not None]

    def of_heldout(self, criterion: Criterion, rung: int = 0) -> NDArray[np.bool_]:
        """Return which held-out images a criterion flags; empty without any."""
        return np.zeros(0, bool) if self.heldout is None else self.heldout.flags(criterion, rung)

    def of_training(self, criterion: Criterion, rung: int = 0) -> NDArray[np.bool_]:
        """Return which training images a criterion flags beside the others; empty where they are no null."""
        found = self.training.get(criterion.space)
        return np.zeros(0, bool) if found is None else found.flags(criterion, rung)

    def flags(self, criterion: Criterion, rung: int = 0, *, heldout_alone: bool = False) -> NDArray[np.bool_]:
        """Return which held-out images, then which training images a criterion flags."""
        training = self.of_training(criterion, rung)
        return np.concatenate([self.of_heldout(criterion, rung), training[:0] if heldout_alone else training])


def null_images(
    detector: CopyDetector,
    heldout: Pixels | None,
    samples: int,
    *,
    searches: int = SEARCHES,
    deduplicated: bool = False,
    seed: int = 0,
    progress: Progress = NO_PROGRESS,
) -> Null:
    """Compare held-out images, and training images with all others, with the training set.

    Of training images, some for each sample are compared with the others, and at most 10,000 with their
    surroundings and 5,000 where that is slow (under transformations, in features); they are drawn by the seed.

    Args:
        heldout: Images of the same source that were not trained on; none if there are none.
        samples: How many samples there are.
        searches: Most training images that are compared with the others, for each sample.
        deduplicated: Whether near-copies were removed from the training set, so that its images say nothing of fresh ones.
        seed: Which training images are drawn.
    """
    distinct = len(detector.distinct)
    found: dict[str, Detections] = {}
    if not deduplicated and distinct > 1:
        rng = np.random.default_rng([seed, 0x6E756C6C])
        order = rng.permutation(distinct)
        size = max(_LEAST, _MOST_BYTES // int(np.prod(detector.training.shape[1:])))
        most = min(distinct, size, max(_LEAST, searches * samples))
        for space in detector.spaces:
            count = min(most, _MOST.get(space, SLOW_SPACES_MOST))
            own = np.sort(order[:count])
            part = part_of(progress, _DONE.get(space, 0.8), 0.4 if space in _DONE else 0.0)
            batch = detector.search(taken(detector.references, own), own=own, spaces=[space], progress=part)
            found[space] = detector.judge(batch)
    seen, overlap = None, np.zeros(0, bool)
    if heldout is not None:
        seen = detector.detect(heldout, part_of(progress, 0.8, 0.2))
        identical = next(one for one in detector.criteria if one.exact_only)
        overlap = seen.flags(identical)
        fresh = np.flatnonzero(~overlap)
        seen = seen.take(fresh) if len(fresh) else None
    return Null(seen, overlap, found, distinct, exchangeable=not deduplicated)
