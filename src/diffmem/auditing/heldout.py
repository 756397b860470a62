"""Whether the held-out images are what they are taken for: not trained on, and no near-copies of training images."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from diffmem.auditing.criteria import NEIGHBOURS, PIXELS, Criterion, choose_criteria
from diffmem.auditing.detector import CopyDetector, Detections, joined
from diffmem.auditing.evidence import Split, same_pictures
from diffmem.auditing.nulls import Null
from diffmem.memorization.contents import taken
from diffmem.progress import NO_PROGRESS, Progress

__all__ = ["MOST_NEAR", "HeldoutCheck", "check_heldout", "near_share"]

MOST_NEAR = 0.2
"""Share of images that may have a near-copy in the training set; with more, the sets were split within clips, patients or bursts."""

_SURELY = 0.001
_MOST_BYTES = 2**30  # of training images; both sets together are held in memory, and of more the test says next to nothing


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
    heldout: NDArray[np.uint8],
    null: Null,
    times: NDArray[np.int64],
    progress: Progress = NO_PROGRESS,
) -> HeldoutCheck:
    """Compare the samples with the held-out images, too.

    Args:
        detector: Of the training images.
        samples: What its criteria make of the samples.
        heldout: Held-out images, uint8 (M, C, H, W).
        null: What the criteria make of them, and of training images.
        times: How often the samples hold each image, at its first place, int64 (Q,); 0 for those that are no trials.
        progress: Told the share of the work that is done.
    """
    fresh = np.flatnonzero(~null.overlap)
    if not len(fresh):
        return HeldoutCheck(0, 0, False, None)
    other = CopyDetector(
        taken(heldout, fresh), detector.space, detector.threshold, detector.transforms, detector.features, detector.device
    )  # fmt: skip
    beside = other.detect(samples.batch.images, progress)
    same, exact = _same(other.criteria, beside)
    same &= ~_same(detector.criteria, samples)[0]
    count, identical = int(times[same].sum()), int(times[same & exact].sum())
    return HeldoutCheck(
        copied=count,
        identical=identical,
        seen=bool(identical) or _beyond(int((times[same] > 0).sum()), len(samples), len(other.kept), detector, null),
        split=None
        if detector.references.nbytes > _MOST_BYTES
        else _joined(detector, other, samples, beside, null, fresh),
    )


def near_share(null: Null, criteria: Sequence[Criterion]) -> tuple[float | None, float | None]:
    """Return the largest share of held-out and of training images that a criterion of near-copies flags; none where there are none."""
    shares: list[float | None] = []
    for flags in (null.of_heldout, null.of_training):
        found = [flags(one) for one in criteria if one.all_but_identical is not None and not one.exact_only]
        shares.append(max((float(one.mean()) for one in found if len(one)), default=None))
    return shares[0], shares[1]


def _same(
    criteria: Sequence[Criterion], found: Detections
) -> tuple[NDArray[np.bool_], NDArray[np.bool_]]:
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

    compared = [found for found in (null.heldout, null.training.get(PIXELS)) if found is not None]
    pairs = sum(float(len(found)) * null.distinct for found in compared)
    near = sum(int(_same(detector.criteria, found)[0].sum()) for found in compared)
    if not count or not pairs:
        return False
    expected = (near + 1) / pairs * samples * heldout
    return bool(poisson.sf(count - 1, expected) < _SURELY)


def _joined(
    detector: CopyDetector,
    other: CopyDetector,
    samples: Detections,
    beside: Detections,
    null: Null,
    fresh: NDArray[np.int64],
) -> Split:
    training, heldout = len(detector.kept), len(other.kept)
    references = np.concatenate([detector.references, other.references])

    def no_gaps(chosen: NDArray[np.int64], own: NDArray[np.int64] | None) -> NDArray[np.float64]:
        return np.zeros(len(chosen))  # a supporting criterion, which is not asked

    batch = joined(samples.batch, beside.batch, training)
    count = min(NEIGHBOURS, batch.neighbours[PIXELS].k)
    chosen = choose_criteria(references, no_gaps, detector.threshold, detector.transforms, detector.features, count)
    known = [
        one
        for one in chosen
        if one.role == "deciding" and batch.neighbours[one.space].k >= one.neighbours_needed
    ]
    scores = Detections(batch, {one.key: one(batch) for one in known})
    near = [np.zeros((0, 2), np.int64)]
    place = np.full(len(null.overlap), -1)
    place[fresh[other.kept]] = training + np.arange(heldout)
    for one in detector.criteria:
        if one.all_but_identical is None:
            continue
        found = null.training.get(one.space)
        if found is not None and found.batch.own is not None:
            flags = found.flags(one)
            near.append(np.stack([found.batch.own[flags], found.scores[one.key].copied[flags]], axis=1))
        if null.heldout is not None:
            flags = null.heldout.flags(one) & (place[fresh] >= 0)
            near.append(np.stack([place[fresh][flags], null.heldout.scores[one.key].copied[flags]], axis=1))
    return Split(tuple(known), scores, training, heldout, np.concatenate(near))
