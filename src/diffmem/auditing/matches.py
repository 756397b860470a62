"""Who copies whom: the flagged samples with their training images."""

from __future__ import annotations

import hashlib
import math
from collections import Counter
from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray

from diffmem.auditing.criteria.base import PIXELS
from diffmem.auditing.criteria.changed import CHANGED
from diffmem.auditing.detector import CopyDetector, Detections
from diffmem.auditing.records import CopiedRecord, CopiesRecord, MatchRecord
from diffmem.auditing.request import AuditOptions
from diffmem.data import ImageSet

__all__ = ["copies_of", "digest", "matches_of"]

_SHOWN = 50


def matches_of(
    detector: CopyDetector,
    training: ImageSet,
    samples: ImageSet,
    found: Detections,
    used: Mapping[str, int],
    options: AuditOptions,
) -> list[MatchRecord]:
    """Return every sample that one of some criteria flags, nearest first.

    Args:
        samples: For their names.
        found: What the criteria make of the samples.
        used: How strict each criterion that counts is, by key: its step of strictness.
        options: Have the number of the first sample, and whether names are left out.
    """
    flags = {one.key: found.flags(one, used[one.key]) for one in detector.criteria if one.key in used}
    flagged = np.flatnonzero(np.any(list(flags.values()), axis=0)).tolist() if flags else []
    pixels, changed = found.batch.neighbours[PIXELS], found.batch.neighbours.get(CHANGED)
    names = not options.private
    matches = []
    for at in flagged:
        keys = [key for key, flags_ in flags.items() if flags_[at]]
        first = next(one for one in detector.criteria if one.key == keys[0])
        copied = int(detector.distinct[found.scores[keys[0]].copied[at]])
        near, variant = pixels, "as is"
        if first.space == CHANGED and changed is not None:
            near, variant = changed, found.batch.variants[at]
        if first.values is not None:
            rms = float(near.distances[at, 0]) / math.sqrt(first.values)
        else:
            gap = samples.images[at].astype(np.float64) - training.images[copied]
            rms = float(np.sqrt(np.square(gap).mean()))
        second = float(near.distances[at, 1]) if near.k > 1 else 0.0
        matches.append(
            MatchRecord(
                sample=options.first_seed + at,
                sample_hash=digest(samples.images[at]),
                sample_name=samples.names[at] if names else None,
                training=copied,
                training_hash=digest(training.images[copied]),
                training_name=training.names[copied] if names else None,
                rms=rms,
                ratio=float(near.distances[at, 0]) / second if second else 1.0,
                variant=variant,
                criteria=keys,
                times=int(found.times[at]),
            )
        )
    return sorted(matches, key=lambda one: (one.rms, one.sample))


def copies_of(
    detector: CopyDetector, training: ImageSet, matches: list[MatchRecord], private: bool
) -> CopiesRecord:
    """Return all matches in numbers; the arguments are those of `matches_of`."""
    times: Counter[int] = Counter()
    for match in matches:
        times[match.training] += match.times
    order = sorted(times.items(), key=lambda item: (-item[1], item[0]))
    return CopiesRecord(
        samples=sum(match.times for match in matches),
        distinct=len(times),
        most_copied=[
            CopiedRecord(
                training=index,
                training_hash=digest(training.images[index]),
                training_name=None if private else training.names[index],
                times=count,
                occurrences=int(detector.occurrences[index]),
            )
            for index, count in order[:_SHOWN]
        ],
        worst=matches[:_SHOWN],
    )


def digest(pixels: NDArray[np.uint8]) -> str:
    """Return the hash of an image's pixels by which reports name it: BLAKE2b of 128 bits, in hexadecimal."""
    return hashlib.blake2b(np.ascontiguousarray(pixels).tobytes(), digest_size=16).hexdigest()
