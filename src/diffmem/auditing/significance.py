"""Whether chance explains copies: how many events are of samples, beside those of images that were never copied.

An *event* is a group of near-copies that some criterion flags at some strictness, counted once however many images it holds, and
of the kind of its nearest pair: a sample beside a training image, a held-out image beside a training image, or two training images
beside each other. Without copying, the samples, the held-out and the training images are draws of one distribution, so which of the
images of a group are samples is a matter of the draw: of two images at least one of which is a training image, one is a sample with the
probability of `share_of_samples`. That is all that is assumed; how many groups there are, and how large they are, is left open.

docs/explanation/audit-criteria.md derives the shares and has the simulations.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import lru_cache
from typing import Literal

import numpy as np

from diffmem.auditing.criteria import Criterion

__all__ = [
    "DOUBT",
    "FALSE_ALARM",
    "TESTS",
    "TestKey",
    "event_p_value",
    "format_p",
    "heldout_needed",
    "level_of",
    "rung_weights",
    "share_of_samples",
    "upper_bound",
]

_RISK = 0.05
_CONDITIONAL_FROM = 150  # events; above, the bound over all rates of events gains nothing
_MOST = 100_000_000
_LIKELY = 0.5  # a binomial tail above which nothing can count, and the sums would be long


def upper_bound(count: int, total: int, risk: float = _RISK) -> float:
    """Return the one-sided upper bound of a share (Clopper and Pearson 1934): about 3 / total for 0 at 95%.

    Args:
        count: Successes.
        total: Independent trials, at least 1.
        risk: Chance that the share is above the bound.
    """
    from scipy.special import betaincinv

    return float(betaincinv(count + 1, total - count, 1 - risk)) if count < total else 1.0


def share_of_samples(samples: int, heldout: int, training: int = 0, drawn: int = 0) -> float:
    """Return the largest probability that an event without copying is one of samples, in (0, 1].

    With shares s, h and t of all images, the nearest pair of a group that holds a training image is one of a sample with probability
    2st, of a held-out image with 2ht, of two training images with t^2. If only a share f of the training images are compared with the
    others, the last is seen with probability 1 - (1 - f)^2 = f (2 - f). In a group of three images and more, a nearer pair without
    any training image, probability (1 - t)^2, may hide it; the group is then taken to be one of samples. Held-out images alone need
    nothing of this: s / (s + h) is exact. The smaller of both bounds is returned; it depends on the sizes alone.

    Args:
        samples: Samples, at least 1.
        training: Distinct training images.
        drawn: How many of these are compared with all others; 0 for a test that does without.
    """
    alone = samples / (samples + heldout)
    if not drawn or not training:
        return alone
    total = samples + heldout + training
    s, h, t, f = samples / total, heldout / total, training / total, drawn / training
    seen = 2 * s * t + 2 * h * t + t * t * f * (2 - f)
    hidden = (1 - t) ** 2 / ((1 - t) ** 2 + seen)
    return min(alone, hidden + (1 - hidden) * 2 * s * t / seen)


FALSE_ALARM = 0.01
"""Chance that any test of any deciding criterion finds copies where there are none."""

DOUBT = 2.5
"""Up to so many times its level, a p-value leaves the audit in doubt."""

TestKey = Literal["fresh", "split", "groups"]
TESTS: dict[TestKey, float] = {"fresh": 0.80, "split": 0.15, "groups": 0.05}
"""The tests with their parts of the error.

'fresh': samples beside training images, against held-out and training images beside training images. 'split': samples beside training
images, against samples beside held-out images. 'groups': how many samples lie beside the same training images.
"""

_RUNGS = (0.2, 0.35, 0.25, 0.2)
"""Parts of the steps of strictness, loosest first."""


def rung_weights(count: int) -> tuple[float, ...]:
    """Return the parts of the error of a ladder of so many steps, 1 to 4; they sum to 1."""
    some = _RUNGS[:count]
    return tuple(one / sum(some) for one in some)


def level_of(criteria: Sequence[Criterion], criterion: Criterion, rung: int, test: TestKey) -> float:
    """Return the largest p-value at which a test of one criterion at one strictness finds copies.

    Args:
        criteria: All that are applied.
        criterion: One of those that decide.
        rung: Which of its steps of strictness.
        test: Which test.
    """
    total = sum(one.weight for one in criteria if one.role == "deciding")
    part = criterion.weight / total * rung_weights(len(criterion.strictness))[rung]
    return FALSE_ALARM * TESTS[test] * part


@lru_cache(maxsize=4096)
def event_p_value(events: int, others: int, share: float) -> float:
    """Return the chance of so many events of samples, or of a rarer outcome, where nothing is copied.

    Events of samples and others are independent Poisson numbers with means in the ratio share : 1 - share, of unknown size (events are
    rare and independent). Outcomes are ordered by the binomial tail, in which n other events count as n + sqrt(n): a fixed rule, chosen
    because a strictness at which no other image is ever flagged says most. The chance is the largest over all means (Barnard 1945), so
    it holds whatever the rate of natural near-copies. From 150 events on it is the binomial tail itself, which holds for every number
    of events.

    Args:
        events: Of samples, 0 or more.
        others: Of held-out and training images, 0 or more.
        share: Probability that an event is one of samples, in (0, 1].
    """
    from scipy.special import bdtrc, betainc, gammaln, pdtrc

    if not events or share >= 1:
        return 1.0
    if events + others >= _CONDITIONAL_FROM:
        return float(bdtrc(events - 1, events + others, share))
    # No mean beyond four times the events that were seen has a larger chance: the square root outweighs more and more.
    means = np.geomspace(0.02, 4.0 * (events + others) + 60, 400)
    number = np.arange(int(means[-1] + 8 * math.sqrt(means[-1])))
    weight = number + np.sqrt(number)
    observed = float(betainc(events, others + math.sqrt(others) + 1, share)) * (1 + 1e-9)
    if observed > _LIKELY:
        return 1.0
    # For each number of others, the fewest events of samples that are at least as rare as what was seen: it grows with their number.
    fewest = np.zeros(len(number), np.int64)
    at = 1
    for other, heavy in enumerate(weight):
        while betainc(at, heavy + 1, share) > observed:
            at += 1
        fewest[other] = at
    # scipy.stats.poisson computes the same and takes twice as long.
    rest = means[:, None] * (1 - share)
    so_many = np.exp(number * np.log(rest) - rest - gammaln(number + 1.0))
    chance = pdtrc(fewest - 1.0, means[:, None] * share) * so_many
    return float(min(1.0, chance.sum(1).max()))


def heldout_needed(
    events: int, samples: int, heldout: int, training: int, drawn: int, level: float
) -> int | None:
    """Return how many held-out images, none of them flagged, would make events of samples significant; none if no number does.

    Args:
        events: Of samples, at least 1, with no others.
        heldout: Held-out images that there are.
        training: Distinct training images.
        drawn: How many of them are compared with the others.
        level: Largest p-value that counts.
    """

    def enough(number: int) -> bool:
        return event_p_value(events, 0, share_of_samples(samples, number, training, drawn)) <= level

    low, high = heldout, max(1, 2 * heldout)
    while not enough(high):
        low, high = high, high * 2
        if high > _MOST:
            return None
    while high - low > max(1, high // 100):  # to two digits
        middle = (low + high) // 2
        low, high = (low, middle) if enough(middle) else (middle, high)
    return high


def format_p(p_value: float) -> str:
    """Return a p-value as text: 'p = 0.031', or 'p < 1e-300' where it is too small for a number."""
    return f"p = {p_value:.2g}" if p_value >= 1e-300 else "p < 1e-300"
