"""Rates over prompts: the samples of a prompt are one cluster, so prompts are the trials."""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike, NDArray

from diffmem.auditing.prompts.records import ShareRecord

__all__ = ["fisher_p_value", "mean_share", "share_interval", "sign_p_value"]

_TAIL = 0.025


def mean_share(shares: NDArray[np.float64]) -> ShareRecord:
    """Return the mean of shares in [0, 1], one of each prompt, (n,), n at least 1, with its 95% interval; see `share_interval`."""
    value = float(shares.mean())
    low, high = share_interval(shares.sum(), len(shares))
    return ShareRecord(
        value=value, low=min(float(low), value), high=max(float(high), value), prompts=len(shares)
    )


def share_interval(count: ArrayLike, total: int) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return the ends of 95% intervals of a mean share over `total` prompts.

    They are those of Clopper and Pearson (1934) for as many trials, at a number of successes that need not be whole. Among variables in
    [0, 1] of one mean, single trials of 0 or 1 vary most, so the samples of a prompt may depend on each other in any way. Coverage is
    simulated in `benchmarks/prompt_intervals.py`: at least 95% everywhere, where an interval that counts samples covers as little as 0%.

    Args:
        count: Sums of the shares, any shape, 0 to `total`.
        total: Number of prompts, at least 1.
    """
    from scipy.special import betaincinv

    sums = np.asarray(count, np.float64)
    inner = np.clip(sums, 1e-12, total - 1e-12)
    low = np.where(sums > 0, betaincinv(inner, total - inner + 1, _TAIL), 0.0)
    high = np.where(sums < total, betaincinv(inner + 1, total - inner, 1 - _TAIL), 1.0)
    return low, high


def sign_p_value(more: int, fewer: int) -> float:
    """Return the probability of at least `more` of `more + fewer` fair coins: McNemar's test, exact and one-sided."""
    from scipy.stats import binom

    return float(binom.sf(more - 1, more + fewer, 0.5)) if more else 1.0


def fisher_p_value(count: int, total: int, others: int, of_others: int) -> float:
    """Return the probability that so many of all successes fall into the first sample if both have one rate (Fisher 1922, one-sided).

    Args:
        count: Successes of the first sample.
        total: Its size.
        others: Successes of the second sample.
        of_others: Its size.
    """
    from scipy.stats import hypergeom

    return float(hypergeom.sf(count - 1, total + of_others, count + others, total)) if count else 1.0
