"""What a self-test must have found, for the audit to count as working."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from diffmem.auditing.records import Verdict
from diffmem.auditing.selftest.records import CoverageRecord, SelfTestCriterion, SelfTestPart, SelfTestShare
from diffmem.auditing.significance import FALSE_ALARM
from diffmem.auditing.verdict import EXACT
from diffmem.memorization import Rate
from diffmem.memorization.rates import Method

__all__ = ["LEAST_DETECTED", "SURELY", "checked", "coverage_of_rates"]

LEAST_DETECTED = 0.95
"""Share of planted exact copies that must be detected."""

SURELY = 0.5
"""Share of planted copies from which on the verdict must be that copies are found."""

_ROUNDING = 1e-9
_GRID = 2001


def checked(
    parts: Sequence[SelfTestPart], coverage: Sequence[CoverageRecord], target: float
) -> tuple[list[str], list[str]]:
    """Return what is wrong, and what is worth knowing, a sentence each.

    Args:
        parts: One for each training set.
        coverage: Of the intervals.
        target: Most images that were never copied and that a usable criterion may flag.
    """
    failures: list[str] = []
    notes: list[str] = []
    for part in parts:
        where = "Training set " + (
            "without copies" if part.duplication == "none" else f"with {part.duplication}"
        )
        used = [one for one in part.criteria if one.deciding and one.usable]
        failures += [f"{where}: {text}" for text in _criteria(part, used, target)]
        for row in part.shares:
            prefix = f"{where}, {row.planted} of {row.samples} samples are copies ({row.kind}): "
            failed, noted = _verdict(row, used)
            failures += [prefix + text for text in failed]
            notes += [prefix + text for text in noted]
        unusable = [one for one in part.criteria if one.deciding and not one.usable]
        notes += [
            f"{where}: {one.title!r} flags {one.null.value:.1%} of the held-out images, more than {target:.0%}; it is not used"
            " for the verdict unless its tests find copies."
            for one in unusable
        ]
    failures += [
        f"Intervals of {one.trials} trials cover a true share of {one.at:.3g} with {one.smallest:.2%} only."
        for one in coverage
        if one.smallest < one.confidence - _ROUNDING
    ]
    return failures, notes


def _criteria(part: SelfTestPart, used: Sequence[SelfTestCriterion], target: float) -> list[str]:
    found = []
    by_distance = [one for one in used if not one.exact_only]
    best = max((_exact(one) for one in by_distance), default=0.0)
    if best < LEAST_DETECTED:
        found.append(
            f"no usable deciding criterion, beside identity, finds {LEAST_DETECTED:.0%} of exact copies; the best finds {best:.1%}."
        )
    found += [
        f"{one.title!r} flags {one.false_alarms.value:.2%} of fresh images, surely more than {target:.0%}, and"
        f" {one.null.value:.2%} of held-out ones."
        for one in used
        if one.false_alarms.low > target
    ]
    if part.false_verdicts.low > FALSE_ALARM:
        found.append(
            f"copies are found among fresh images in {part.false_verdicts.value:.2%} of shuffles, more than {FALSE_ALARM:.0%}."
        )
    return found


def _verdict(row: SelfTestShare, used: Sequence[SelfTestCriterion]) -> tuple[list[str], list[str]]:
    failures: list[str] = []
    notes: list[str] = []
    sure = [one.key for one in used if _exact(one) == 1]
    if row.kind == EXACT and not any(row.covers[key] for key in sure):
        failures.append("no criterion's interval contains the true share.")
    expected: Verdict | None = None
    if not row.planted:
        expected = "none found"
    elif row.planted >= SURELY * row.samples:
        expected = "copies found"
    if row.verdict in (None, expected) or expected is None:
        return failures, notes
    alarms = [f"{one.title!r} {row.measured[one.key].count}" for one in used if row.measured[one.key].count]
    if expected == "none found" and row.verdict == "cannot tell" and alarms:
        notes.append(
            f"the verdict is 'cannot tell'. Fresh images are flagged by chance: {', '.join(alarms)}."
        )
    else:
        failures.append(f"the verdict is {row.verdict!r} and must be {expected!r}.")
    return failures, notes


def _exact(one: SelfTestCriterion) -> float:
    return next(power.detected.value for power in one.power if power.key == EXACT)


def coverage_of_rates(
    trials: int, confidence: float = 0.95, method: Method = "clopper-pearson"
) -> CoverageRecord:
    """Return how often the interval of `Rate` covers the true share, by summing binomial probabilities.

    Between two ends of intervals the same counts cover, and their probability is a function of the share with one peak; so it is
    smallest beside an end. All ends are tried, with the next number on either side.

    Args:
        trials: Of each rate, at least 1.
    """
    from scipy.special import bdtr

    rates = [Rate(count, trials, confidence, method) for count in range(trials + 1)]
    low, high = np.array([rate.low for rate in rates]), np.array([rate.high for rate in rates])

    def covered(share: np.ndarray) -> np.ndarray:
        last = np.searchsorted(low, share, "right") - 1
        first = np.searchsorted(high, share, "left")
        below = np.where(first > 0, bdtr(np.maximum(first - 1, 0), trials, share), 0.0)
        return np.where(last >= first, bdtr(last, trials, share) - below, 0.0)

    ends = np.concatenate([low, high])
    shares = np.unique(np.concatenate([ends, np.nextafter(ends, 0), np.nextafter(ends, 1)]))
    found = covered(shares)
    worst = int(found.argmin())
    return CoverageRecord(
        trials=trials,
        method=method,
        confidence=confidence,
        smallest=float(found[worst]),
        at=float(shares[worst]),
        mean=float(covered(np.linspace(0, 1, _GRID)).mean()),
    )
