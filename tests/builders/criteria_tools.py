"""A training set of digits and samples of all kinds, with what lies near them."""

import itertools

import numpy as np
from audit_tools import digits, noisy

from diffmem.auditing.criteria import PIXELS, SURROUNDINGS, Batch
from diffmem.memorization import nearest_neighbours

__all__ = ["COPIES", "FRESH", "SAMPLES", "TRAINING", "batch", "check_ladder", "digits", "noisy"]

TRAINING, FRESH = digits(300, 200)
SAMPLES = np.concatenate([TRAINING[:20], noisy(TRAINING[20:60], 8), noisy(TRAINING[60:90], 30), FRESH])
COPIES = 60  # of the first samples: exact, and with little noise


def batch(samples=SAMPLES, training=TRAINING, count=51):
    found = nearest_neighbours(samples, training, min(count, len(training)))
    return Batch(samples, {PIXELS: found, SURROUNDINGS: found})


def check_ladder(criterion):
    """Strictness falls, and what is flagged at a stricter step is flagged at every looser one."""
    assert list(criterion.strictness) == sorted(set(criterion.strictness), reverse=True)
    scores = criterion(batch())
    flags = [criterion.flags(scores, rung) for rung in range(len(criterion.strictness))]
    for loose, strict in itertools.pairwise(flags):
        assert not (strict & ~loose).any()
    assert len(scores) == len(SAMPLES)
    assert scores.copied[:COPIES].tolist() == list(range(COPIES))
