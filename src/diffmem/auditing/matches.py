"""Who copies whom: the flagged samples with their training images."""

from __future__ import annotations

import hashlib
import math
from collections import Counter

import numpy as np
from numpy.typing import NDArray

from diffmem.auditing.detector import Instrument, Sight
from diffmem.auditing.records import CopiedRecord, CopiesRecord, MatchRecord
from diffmem.data import ImageSet

__all__ = ["copies_of", "digest", "matches_of"]

_SHOWN = 50


def matches_of(
    instrument: Instrument,
    training: ImageSet,
    samples: ImageSet,
    sight: Sight,
    used: list[str],
    first_seed: int,
    private: bool,
) -> list[MatchRecord]:
    """Return every sample that one of some criteria flags, nearest first.

    Args:
        instrument: Of the training images.
        training: For their names.
        samples: For theirs.
        sight: Of the samples.
        used: Keys of the criteria that count, in the order in which they name the training image.
        first_seed: Number of the first sample.
        private: Whether names are left out.
    """
    flagged: list[int] = []
    if used:
        flagged = np.flatnonzero(np.any([sight.flags[key] for key in used], axis=0)).tolist()
    names = not private
    found = []
    for at in flagged:
        keys = [key for key in used if sight.flags[key][at]]
        copied = int(sight.copied[keys[0]][at])
        near, variant = sight.neighbours.slice(at, at + 1), "as is"
        rms = float(near.distances[0, 0]) / math.sqrt(math.prod(samples.shape))
        if keys[0] == "transforms" and sight.changed is not None and instrument.transforms is not None:
            near, variant = sight.changed.slice(at, at + 1), sight.variants[at]
            window = instrument.transforms.window(samples.images[:1]).size
            rms = float(near.distances[0, 0]) / math.sqrt(window)
        elif copied != near.indices[0, 0]:
            gap = samples.images[at].astype(np.float64) - training.images[copied]
            rms = float(np.sqrt(np.square(gap).mean()))
        second = float(near.distances[0, 1])
        found.append(
            MatchRecord(
                sample=first_seed + at,
                sample_hash=digest(samples.images[at]),
                sample_name=samples.names[at] if names else None,
                training=copied,
                training_hash=digest(training.images[copied]),
                training_name=training.names[copied] if names else None,
                rms=rms,
                ratio=float(near.distances[0, 0]) / second if second else 1.0,
                variant=variant,
                criteria=keys,
            )
        )
    return sorted(found, key=lambda one: (one.rms, one.sample))


def copies_of(
    instrument: Instrument, training: ImageSet, matches: list[MatchRecord], private: bool
) -> CopiesRecord:
    """Return all matches in numbers; the arguments are those of `matches_of`."""
    times = Counter(match.training for match in matches)
    order = sorted(times.items(), key=lambda item: (-item[1], item[0]))
    return CopiesRecord(
        samples=len(matches),
        distinct=len(times),
        most_copied=[
            CopiedRecord(
                training=index,
                training_hash=digest(training.images[index]),
                training_name=None if private else training.names[index],
                times=count,
                occurrences=int(instrument.occurrences[index]),
            )
            for index, count in order[:_SHOWN]
        ],
        worst=matches[:_SHOWN],
    )


def digest(pixels: NDArray[np.uint8]) -> str:
    """Return the hash of an image's pixels by which reports name it: BLAKE2b of 128 bits, in hexadecimal."""
    return hashlib.blake2b(np.ascontiguousarray(pixels).tobytes(), digest_size=16).hexdigest()
