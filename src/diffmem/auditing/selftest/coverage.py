"""How often the interval of a rate covers the truth, computed exactly."""

from __future__ import annotations

import numpy as np
from pydantic import Field

from diffmem.memorization import Rate
from diffmem.memorization.rates import Method
from diffmem.memorization.records import Record

__all__ = ["CoverageRecord", "coverage_of_rates"]

_GRID = 2001


class CoverageRecord(Record):
    """How often intervals cover the true share, for a number of independent trials."""

    trials: int
    method: str
    confidence: float = Field(description="What the intervals promise.")
    smallest: float = Field(description="Smallest probability to cover, over all true shares from 0 to 1.")
    at: float = Field(description="The true share at which, or beside which, it is smallest.")
    mean: float = Field(description="Mean over true shares from 0 to 1.")


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
