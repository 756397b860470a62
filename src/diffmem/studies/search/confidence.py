"""Whether a rate is above a target, however often one looks: confidence sequences for a Bernoulli rate.

Sampling goes on until the answer is known, so the number of samples depends on what was seen, and a fixed-sample interval
(Clopper-Pearson) would be wrong far more often than it says. Here each candidate rate p0 is bet against by a mixture:

    E_n(p0) = integral over p > p0 of p^s (1 - p)^f du(p)  /  (p0^s (1 - p0)^f),        u uniform on (p0, 1),

after s successes and f failures. While the true rate is p0 or less, E_n is a nonnegative supermartingale that starts at 1, so by
Ville's inequality it ever reaches 1 / alpha with probability at most alpha, whatever rule ends the sampling (Ville 1939; the
mixture is that of Robbins 1970, "Statistical methods related to the law of the iterated logarithm", cut off at p0 so that it
bets on one side). The other side mirrors it. Inverting both tests gives an interval that holds at all sample sizes at once.
"""

from __future__ import annotations

import math

from diffmem.errors import UserError
from diffmem.memorization.rates import check_confidence

__all__ = ["anytime_interval", "log_evidence_above", "log_evidence_below"]

_PRECISION = 1e-6


def log_evidence_above(count: int, total: int, target_rate: float) -> float:
    """Return ln E_n against "the rate is `target_rate` or less".

    Args:
        count: Successes, 0..total.
        total: Trials, 0 or more.
        target_rate: p0, in (0, 1).

    Returns:
        The logarithm of the evidence; at least ln(1 / alpha) rejects at level alpha at any time. 0 without trials.

    Raises:
        UserError: A number is out of its range.
    """
    _check(count, total, target_rate)
    return _log_evidence(count, total - count, target_rate)


def log_evidence_below(count: int, total: int, target_rate: float) -> float:
    """Return the same against "the rate is `target_rate` or more"; arguments and errors are those of `log_evidence_above`."""
    _check(count, total, target_rate)
    return _log_evidence(total - count, count, 1 - target_rate)


def anytime_interval(count: int, total: int, confidence: float = 0.95) -> tuple[float, float]:
    """Return the interval of a rate that holds at all sample sizes at once.

    Args:
        count: Successes, 0..total.
        total: Trials, 0 or more.
        confidence: The probability that the interval never misses the true rate, in (0, 1).

    Returns:
        Its ends, in [0, 1], around count / total; (0, 1) without trials.

    Raises:
        UserError: A number is out of its range.
    """
    _check(count, total, 0.5)
    check_confidence(confidence)
    bar = math.log(2 / (1 - confidence))
    low = _lower_end(count, total, bar)
    return low, 1 - _lower_end(total - count, total, bar)


def _lower_end(count: int, total: int, bar: float) -> float:
    """Return the largest rate, at most the one seen, that the evidence rejects from below."""
    if not count:
        return 0.0
    # Rejected at 0, as one success refutes it; not rejected at the rate that was seen.
    low, high = 0.0, count / total
    while high - low > _PRECISION:
        middle = (low + high) / 2
        if _log_evidence(count, total - count, middle) >= bar:
            low = middle
        else:
            high = middle
    return low


def _log_evidence(hits: int, misses: int, target_rate: float) -> float:
    from scipy.special import betaincc, betaln

    log_hit, log_miss = math.log(target_rate), math.log1p(-target_rate)
    # The share of Beta(hits + 1, misses + 1) above the target.
    tail = float(betaincc(hits + 1, misses + 1, target_rate))
    if tail > 0:
        return (
            float(betaln(hits + 1, misses + 1)) + math.log(tail) - (hits * log_hit + (misses + 1) * log_miss)
        )
    # Far below the target the share underflows; there the integrand falls from its value at the target, which bounds it.
    fall = misses / (1 - target_rate) - hits / target_rate
    return -math.log(max(fall * (1 - target_rate), 1.0))


def _check(count: int, total: int, target_rate: float) -> None:
    if not 0 <= count <= total:
        raise UserError(f"A rate needs a count in 0..total, not {count} of {total}.")
    if not 0 < target_rate < 1:
        raise UserError(f"The target rate {target_rate} is not between 0 and 1.")
