"""Whether the held-out images are what they are taken for: not trained on, and no near-copies of training images."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import cast

import numpy as np
from numpy.typing import NDArray

from diffmem.auditing.criteria import NEIGHBOURS, PIXELS, Criterion, choose_criteria
from diffmem.auditing.detector import CopyDetector, Detections, joined
from diffmem.auditing.evidence import Split, same_pictures
from diffmem.auditing.nulls import Null
from diffmem.memorization.plausibility import check_samples
from diffmem.progress import NO_PROGRESS, Progress
from diffmem.text import count_text

__all__ = ["MOST_NEAR", "BothSides", "HeldoutCheck", "check_heldout", "near_share", "unlike_training"]

MOST_NEAR = 0.2
"""Share of images that may have a near-copy in the training set; with more, the sets were split within clips, patients or bursts."""

_FEWEST = 20  # held-out images, of which statistics say something
_SURELY = 0.001
_MOST_BYTES = (
    2**30
)  # of training images; both sets together are held in memory, and of more the test says next to nothing


@dataclass(frozen=True, eq=False)
class HeldoutCheck:
    """Samples beside held-out images.

    Attributes:
        copied: Samples that are all but identical to a held-out image and to no training image.
        identical: How many of these are so pixel for pixel.
        seen: Whether they are more than chance explains: the model has seen the held-out images.
        split: Samples among both sets together; none where the training images take more than a gigabyte.
    """

    copied: int
    identical: int
    seen: bool
    split: Split | None


def check_heldout(
    detector: CopyDetector,
    samples: Detections,
    null: Null,
    progress: Progress = NO_PROGRESS,
) -> HeldoutCheck:
    """Compare the samples with the held-out images, too.

    Args:
        samples: What its criteria make of the samples.
        null: What the criteria make of held-out and of training images.
    """
    if null.heldout is None:
        return HeldoutCheck(0, 0, False, None)
    both = BothSides(detector, null)
    beside = both.heldout.detect(samples.batch.images, progress)
    same, exact = _same(both.heldout.criteria, beside)
    same &= ~_same(detector.criteria, samples)[0]
    count, identical = int(samples.times[same].sum()), int(samples.times[same & exact].sum())
    return HeldoutCheck(
        copied=count,
        identical=identical,
        seen=bool(identical)
        or _beyond(
            int((same & samples.trials).sum()), len(samples), len(both.heldout.distinct), detector, null
        ),
        split=both.split(samples, beside),
    )


def unlike_training(
    heldout: NDArray[np.uint8], training: NDArray[np.uint8], sampled: tuple[int, ...], seed: int
) -> str | None:
    """Return why held-out images cannot stand for fresh ones, in a sentence; none if they can.

    They cannot if they are constant, one image, noise or in other values than the training images, or if they are smaller, or of fewer
    channels, than both training images and samples, which would then be compared at less than they have in common.

    Args:
        heldout: uint8 (M, C, H, W), as they are read.
        training: uint8 (N, C, H, W), likewise.
        sampled: (C, H, W) of the samples.
        seed: Of the draws.
    """
    mine = heldout.shape[1:]
    common = [min(pair) for pair in zip(training.shape[1:], sampled, strict=True)]
    if mine[0] < common[0] or min(mine[1:]) < min(common[1:]):
        return (
            f"The held-out images have {_form(mine)} but training images and samples have {_form(tuple(common))} or more. They are not"
            " used: give them in the form of the training images."
        )
    if len(heldout) < _FEWEST:
        return None
    found = check_samples(heldout, training, seed=seed, called="held-out images").record
    if found.problem is None:
        return None
    either = " Or the training images are read wrongly." if found.kind == "value range" else ""
    return f"{found.problem}{either} They are not used: the null needs images like the training images."


def _form(shape: tuple[int, ...]) -> str:
    return f"{shape[1]} x {shape[2]} pixels and {count_text(shape[0], 'channel')}"


@dataclass(eq=False)
class BothSides:
    """Training and held-out images together, as what samples might copy.

    Args:
        null: With held-out images.

    Attributes:
        heldout: A detector of the held-out images that are no training images.
    """

    detector: CopyDetector
    null: Null

    def __post_init__(self) -> None:
        assert self.null.heldout is not None
        self.heldout = CopyDetector(
            self.null.heldout.batch.images, self.detector.space, self.detector.threshold, self.detector.transforms,
            self.detector.features, self.detector.device,
        )  # fmt: skip

    def split(self, samples: Detections, beside: Detections) -> Split | None:
        """Return the samples among both; none where the training images take more than a gigabyte.

        Args:
            samples: What the criteria make of them beside training images.
            beside: The same beside held-out images.
        """
        training = len(self.detector.distinct)
        if self.detector.references.nbytes > _MOST_BYTES:
            return None
        batch = joined(samples.batch, beside.batch, training)
        known = [
            one
            for one in self._criteria(min(NEIGHBOURS, max(one.k for one in batch.neighbours.values())))
            if one.space in batch.neighbours
        ]
        found = {
            one.key: one(batch) for one in known if batch.neighbours[one.space].k >= one.neighbours_needed
        }
        return Split(
            known, Detections(batch, found, samples.times), training, len(self.heldout.distinct), self._near
        )

    @cached_property
    def _references(self) -> NDArray[np.uint8]:
        parts = (self.detector.references, self.heldout.references)
        if self.detector.transforms is not None:
            return np.concatenate(parts)  # windows are cut out of all of them
        return cast("NDArray[np.uint8]", _Stacked(parts))

    def _criteria(self, count: int) -> tuple[Criterion, ...]:

        def no_gaps(chosen: NDArray[np.int64], own: NDArray[np.int64] | None) -> NDArray[np.float64]:
            return np.zeros(len(chosen))  # of a supporting criterion, which is not asked

        d = self.detector
        found = choose_criteria(self._references, no_gaps, d.threshold, d.transforms, d.features, count)
        return tuple(one for one in found if one.role == "deciding")

    @cached_property
    def _near(self) -> NDArray[np.int64]:
        """Pairs of a held-out and a training image that are near-copies of each other."""
        assert self.null.heldout is not None
        position = np.full(len(self.heldout.training), -1)
        position[self.heldout.distinct] = len(self.detector.distinct) + np.arange(len(self.heldout.distinct))
        pairs = [np.zeros((0, 2), np.int64)]
        for one in self.detector.criteria:
            if one.all_but_identical is None:
                continue
            flags = self.null.heldout.flags(one) & (position >= 0)
            pairs.append(np.stack([position[flags], self.null.heldout.scores[one.key].copied[flags]], axis=1))
        return np.concatenate(pairs)


class _Stacked:
    """Images of two arrays in one, without a copy of them: what the criteria ask of references, and no more."""

    def __init__(self, parts: tuple[NDArray[np.uint8], NDArray[np.uint8]]) -> None:
        self._parts = parts
        self.shape = (sum(len(one) for one in parts), *parts[0].shape[1:])

    def __len__(self) -> int:
        return sum(len(one) for one in self._parts)

    def __getitem__(self, chosen: NDArray[np.int64]) -> NDArray[np.uint8]:
        first, second = self._parts
        made = np.empty((len(chosen), *self.shape[1:]), np.uint8)
        inside = chosen < len(first)
        made[inside], made[~inside] = first[chosen[inside]], second[chosen[~inside] - len(first)]
        return made


def near_share(null: Null, criteria: Sequence[Criterion]) -> tuple[float | None, float | None]:
    """Return the largest share of held-out and of training images that a criterion of near-copies flags; none where there are none."""
    shares: list[float | None] = []
    for flags in (null.of_heldout, null.of_training):
        found = [flags(one) for one in criteria if one.all_but_identical is not None and not one.exact_only]
        shares.append(max((float(one.mean()) for one in found if len(one)), default=None))
    return shares[0], shares[1]


def _same(criteria: Sequence[Criterion], found: Detections) -> tuple[NDArray[np.bool_], NDArray[np.bool_]]:
    """Return which images are all but identical to a reference, and which are so pixel for pixel."""
    same, exact = np.zeros(len(found), bool), np.zeros(len(found), bool)
    for one in criteria:
        if one.key in found.scores:
            here = same_pictures(one, found)[0]
            same |= here
            if one.exact_only:
                exact |= here
    return same, exact


def _beyond(count: int, samples: int, heldout: int, detector: CopyDetector, null: Null) -> bool:
    """Return whether so many samples beside held-out images are more than images beside training images make expect."""
    from scipy.stats import poisson

    compared = null.parts(PIXELS)
    pairs = sum(float(len(found)) * null.distinct for found in compared)
    near = sum(int(_same(detector.criteria, found)[0].sum()) for found in compared)
    if not count or not pairs:
        return False
    expected = (near + 1) / pairs * samples * heldout
    return bool(poisson.sf(count - 1, expected) < _SURELY)
