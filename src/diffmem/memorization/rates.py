"""A share or a mean over samples with its interval."""

from __future__ import annotations

import math
from numbers import Integral
from typing import Any, Literal, NamedTuple, get_args

import numpy as np
from numpy.typing import ArrayLike, NDArray
from pydantic import Field

from diffmem.errors import UserError
from diffmem.memorization.records import Record

__all__ = ["USUAL", "Z95", "Intervals", "MeanRecord", "Method", "Rate", "check_confidence", "mean_record"]

Method = Literal["clopper-pearson", "wilson"]


class Rate(Record):
    """`count` of `total` independent trials, with a two-sided confidence interval of the underlying probability.

    `Rate(count, total)` computes the interval; a record that is read keeps the one that it holds.

    Attributes:
        count: Successes, 0..total.
        total: Trials, at least 1.
        value: The share, in [0, 1].
        low: Lower end of the interval.
        high: Upper end of the interval.
        confidence: Coverage of the interval, in (0, 1).
        method: 'clopper-pearson' covers at least `confidence` whatever the probability is (Clopper and
            Pearson 1934); 'wilson' is shorter and covers it on average (Wilson 1927). Records may hold others.

    Raises:
        UserError: A number is out of its range, or the method is none of the two.
    """

    count: int
    total: int
    value: float
    low: float
    high: float
    confidence: float = 0.95
    method: str = Field(description="How the interval was computed, for example 'clopper-pearson'.")

    def __init__(
        self,
        count: int,
        total: int,
        confidence: float = 0.95,
        method: str = "clopper-pearson",
        **stored: float,
    ) -> None:
        if not stored and isinstance(count, Integral) and isinstance(total, Integral):
            count, total = int(count), int(total)
            low, high = _interval(count, total, confidence, method)
            stored = {"value": count / total, "low": low, "high": high}
        values: dict[str, Any] = {"count": count, "total": total, "confidence": confidence, "method": method}
        super().__init__(**values, **stored)

    def __str__(self) -> str:
        return f"{self.value:.1%} [{100 * self.low:.1f}, {100 * self.high:.1f}] ({self.count}/{self.total})"


class Intervals(NamedTuple):
    """How the intervals of rates are computed; see `Rate`."""

    confidence: float = 0.95
    method: Method = "clopper-pearson"

    def rate(self, flags: NDArray[np.bool_]) -> Rate:
        """Return the share of true flags, bool (N,)."""
        return Rate(int(flags.sum()), len(flags), *self)


USUAL = Intervals()


def check_confidence(confidence: float) -> None:
    """Refuse a coverage of intervals that is not between 0 and 1.

    Raises:
        UserError: It is not.
    """
    if not 0 < confidence < 1:
        raise UserError(f"The confidence {confidence} is not between 0 and 1; the usual value is 0.95.")


def _interval(count: int, total: int, confidence: float, method: str) -> tuple[float, float]:
    # The general test of scipy.stats takes 9 ms for 10,000 trials, and a run has thousands of rates.
    from scipy.special import betaincinv, ndtri

    if total < 1:
        raise UserError("A rate of 0 images is not defined; give at least one image.")
    if not 0 <= count <= total:
        raise UserError(f"A rate needs a count in 0..{total}, not {count}.")
    check_confidence(confidence)
    if method not in get_args(Method):
        raise UserError(f"Unknown interval method {method!r}; choose 'clopper-pearson' or 'wilson'.")
    tail = (1 - confidence) / 2
    if method == "wilson":
        z2 = float(ndtri(tail)) ** 2
        centre, width = count + z2 / 2, math.sqrt(z2 * (count * (total - count) / total + z2 / 4))
        low, high = (centre - width) / (total + z2), (centre + width) / (total + z2)
    else:
        low = float(betaincinv(count, total - count + 1, tail)) if count else 0.0
        high = float(betaincinv(count + 1, total - count, 1 - tail)) if count < total else 1.0
    return max(0.0, min(low, count / total)), min(1.0, max(high, count / total))


Z95 = 1.959964
"""Half the width of a 95% interval in standard errors."""


class MeanRecord(Record):
    """A mean over independent samples; `low` to `high` is its 95% interval, 1.96 standard errors to each side."""

    value: float
    se: float = Field(
        description="Standard error: standard deviation of the samples by the root of their number."
    )
    low: float
    high: float


def mean_record(values: ArrayLike, low: float = -math.inf, high: float = math.inf) -> MeanRecord:
    """Return the mean of independent samples.

    Args:
        values: The samples, at least one; the standard error of a single one is 0.
        low: The least possible mean, at which the interval ends.
        high: The largest possible mean.
    """
    array = np.asarray(values, dtype=np.float64).reshape(-1)
    value = float(array.mean())
    error = float(array.std(ddof=1) / math.sqrt(len(array))) if len(array) > 1 else 0.0
    return MeanRecord(
        value=value,
        se=error,
        low=min(max(value - Z95 * error, low), value),
        high=max(min(value + Z95 * error, high), value),
    )
