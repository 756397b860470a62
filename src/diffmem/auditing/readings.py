"""Samples compared with the training images once more, under another reading: copies must not hide behind a loader's convention."""

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
from diffmem.auditing.request import AuditOptions
from diffmem.auditing.spaces import align
from diffmem.data import ImageSet
from diffmem.progress import NO_PROGRESS, Progress, Stages

__all__ = ["OtherReading", "compare_reading"]

STRICTER = 10.0
"""An audit compares under several readings; each finds copies at the usual levels divided by this."""

CLEARLY_NEARER = 0.8
"""Part of the median distance to the nearest training image below which another reading fits clearly better."""


@dataclass(frozen=True, eq=False)
class OtherReading:
    """Samples and training images under another reading.

    Attributes:
        text: The reading, for people.
        remedy: How to choose it.
        training: The training images so read.
        samples: The samples so read.
        times: As for `diffmem.auditing.compare.judge`.
        stricter: Part of the usual levels at which copies are found: one in so many.
        fits: Whether the samples may be taken to be so read where that brings them clearly nearer to the training images.
    """

    text: str
    remedy: str
    training: ImageSet
    samples: ImageSet
    times: NDArray[np.int64]
    stricter: float = STRICTER
    fits: bool = True


def compare_reading(
    reading: OtherReading,
    usual: Detections,
    detector: CopyDetector,
    options: AuditOptions,
    progress: Progress = NO_PROGRESS,
) -> tuple[Comparison, ReadingRecord]:
    """Search copies under another reading, and say whether it fits the samples better than the usual one.

    The null is that of training images, each against all others, one for each sample at most; where they are none, only a better fit
    can be seen.

    Args:
        usual: What the criteria make of the samples under the usual reading.
        detector: Of the usual reading: its threshold and device are used.

    Returns:
        The comparison with the matches beyond chance, each of which names the reading; and the record.
    """
    stages = Stages(progress, null=1, judge=1)
    aligned = align({"training": reading.training, "samples": reading.samples})
    training, samples = aligned.sets["training"], aligned.sets["samples"]
    other = CopyDetector(training.images, aligned.protocol, detector.threshold, device=detector.device)
    deduplicated = bool(options.deduplicated)
    null = null_images(
        other,
        None,
        len(samples),
        searches=1,
        deduplicated=deduplicated,
        seed=options.seed,
        progress=stages.null,
    )
    found = judge(other, training, samples, null, options, times=reading.times, progress=stages.judge)
    surely = [
        (test, key)
        for key, tests in found.evidence.tests.items()
        for test in tests
        if test.p_value <= test.level / reading.stricter
    ]
    best = max(surely, key=lambda pair: (pair[0].beyond_chance, -pair[0].strictness), default=None)
    distances = [
        float(np.median(one.batch.neighbours[PIXELS].distances[one.trials, 0]))
        / np.sqrt(np.prod(one.batch.images.shape[1:]))
        if one.trials.any()
        else 0.0
        for one in (found.found, usual)
    ]
    record = ReadingRecord(
        text=reading.text,
        remedy=reading.remedy,
        copies=0 if best is None else len(found.matches),  # of criteria that name single copies
        samples=int(found.found.trials.sum()),
        criterion=None if best is None else best[1],
        same_pictures=len(found.evidence.same),
        median_distance=distances[0],
        usual_distance=distances[1],
        fits_better=reading.fits and distances[0] < CLEARLY_NEARER * distances[1],
    )
    matches = [one.model_copy(update={"variant": reading.text}) for one in found.matches]
    copies = copies_of(other, training, matches, options.private)
    return replace(found, matches=matches, copies=copies), record
