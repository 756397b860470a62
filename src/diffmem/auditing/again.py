"""Samples held against the training images once more, under another reading: copies must not hide behind a loader's convention."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from diffmem.auditing.compare import Comparison, judge
from diffmem.auditing.criteria import PIXELS
from diffmem.auditing.detector import CopyDetector, Detections
from diffmem.auditing.matches import copies_of
from diffmem.auditing.nulls import null_images
from diffmem.auditing.records import ReadingRecord
from diffmem.auditing.spaces import align
from diffmem.data import ImageSet
from diffmem.progress import NO_PROGRESS, Progress, part_of

__all__ = ["Looked", "Reread", "Shown", "look_again"]

CLEARLY_NEARER = 0.8
"""Part of the median distance to the nearest training image below which another reading fits clearly better."""

_STRICTER = 10.0  # an audit looks under several readings; each finds copies at a tenth of the usual levels


@dataclass(frozen=True, eq=False)
class Reread:
    """Samples and training images under another reading.

    Attributes:
        text: The reading, for people.
        remedy: How to choose it.
        training: The training images so read.
        samples: The samples so read.
        times: As for `diffmem.auditing.compare.judge`.
    """

    text: str
    remedy: str
    training: ImageSet
    samples: ImageSet
    times: NDArray[np.int64]


@dataclass(frozen=True, eq=False)
class Shown:
    """A reading of the samples and the training images, and what came of it: what matches and pictures are of.

    Attributes:
        detector: Of the training images so read.
        training: These, in the common space of both.
        samples: The samples in it.
        found: What the criteria make of them.
    """

    detector: CopyDetector
    training: ImageSet
    samples: ImageSet
    found: Comparison


@dataclass(frozen=True, eq=False)
class Looked(Shown):
    """Another reading, whose matches say it.

    Attributes:
        record: Whether it holds copies, and whether it fits better.
    """

    record: ReadingRecord


def look_again(
    reread: Reread,
    usual: Detections,
    *,
    deduplicated: bool = False,
    threshold: float = 1 / 3,
    first_seed: int = 0,
    private: bool = False,
    seed: int = 0,
    device: str = "cpu",
    progress: Progress = NO_PROGRESS,
) -> Looked:
    """Look for copies under another reading, and say whether it fits the samples better than the usual one.

    The null is that of training images, each against all others, one for each sample at most; where they are none, only a better fit
    can be told.

    Args:
        reread: What to compare.
        usual: What the criteria make of the samples under the usual reading.
        deduplicated: Whether near-copies were removed from the training set.
        threshold: Of the ratio rules.
        first_seed: Number of the first sample.
        private: Whether names are left out.
        seed: Of all that is drawn.
        device: Where distances are computed.
        progress: Told the share of the work that is done.
    """
    aligned = align({"training": reread.training, "samples": reread.samples})
    training, samples = aligned.sets["training"], aligned.sets["samples"]
    detector = CopyDetector(training.images, aligned.protocol, threshold, device=device)
    null = null_images(
        detector,
        None,
        len(samples),
        searches=1,
        deduplicated=deduplicated,
        seed=seed,
        progress=part_of(progress, 0, 0.5),
    )
    found = judge(
        detector, training, samples, null, times=reread.times, first_seed=first_seed, private=private,
        progress=part_of(progress, 0.5, 0.5),
    )  # fmt: skip
    surely = [
        (test, key)
        for key, tests in found.evidence.tests.items()
        for test in tests
        if test.p_value <= test.level / _STRICTER
    ]
    best = max(surely, key=lambda pair: (pair[0].beyond_chance, -pair[0].strictness), default=None)
    judged = reread.times > 0
    distances = [
        float(np.median(one.batch.neighbours[PIXELS].distances[judged, 0]))
        / np.sqrt(np.prod(one.batch.images.shape[1:]))
        if judged.any()
        else 0.0
        for one in (found.found, usual)
    ]
    record = ReadingRecord(
        text=reread.text,
        remedy=reread.remedy,
        copies=0 if best is None else len(found.matches),  # of criteria that name single copies
        samples=int(judged.sum()),
        criterion=None if best is None else best[1],
        same_pictures=len(found.evidence.same),
        median_distance=distances[0],
        usual_distance=distances[1],
        fits_better=distances[0] < CLEARLY_NEARER * distances[1],
    )
    matches = [one.model_copy(update={"variant": reread.text}) for one in found.matches]
    shown = replace(found, matches=matches, copies=copies_of(detector, training, matches, private))
    return Looked(detector, training, samples, shown, record)
