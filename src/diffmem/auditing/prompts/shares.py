"""Rates over prompts: the samples of a prompt are one cluster, so prompts are the trials."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from diffmem.auditing.prompts.records import ShareRecord

__all__ = ["fisher_p_value", "mean_share", "sign_p_value"]

_TAIL = 0.025


def mean_share(shares: NDArray[np.float64]) -> ShareRecord:
    """Return the mean of shares in [0, 1], one of each prompt, (n,), n at least 1, with its 95% interval.

    The ends are those of Clopper and Pearson (1934) for n trials, at the mean share also where n times it is no whole number. With equal
    samples in each cluster it is exactly that interval. Its coverage is simulated in `benchmarks/prompt_intervals.py`.
    """
    from scipy.special import betaincinv

    total, count = len(shares), float(shares.sum())
    value = float(shares.mean())
    low = float(betaincinv(count, total - count + 1, _TAIL)) if count > 0 else 0.0
    high = float(betaincinv(count + 1, total - count, 1 - _TAIL)) if count < total else 1.0
    return ShareRecord(value=value, low=min(low, value), high=max(high, value), prompts=total)


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
