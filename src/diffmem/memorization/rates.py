"""A share with its interval, and what the share would be by chance."""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Literal

from diffmem.errors import UserError

__all__ = ["Method", "Rate", "null_rate_uniform"]

Method = Literal["clopper-pearson", "wilson"]


@dataclass(frozen=True)
class Rate:
    """`count` of `total` independent trials, with a two-sided confidence interval of the underlying
    probability.

    Attributes:
        count: Successes, 0..total.
        total: Trials, at least 1.
        confidence: Coverage of the interval, in (0, 1).
        method: 'clopper-pearson' covers at least `confidence` whatever the probability is (Clopper and
            Pearson 1934); 'wilson' is shorter and covers it on average (Wilson 1927).
    """

    count: int
    total: int
    confidence: float = 0.95
    method: Method = "clopper-pearson"

    def __post_init__(self) -> None:
        if self.total < 1:
            raise UserError("A rate of 0 images is not defined; give at least one image.")
        if not 0 <= self.count <= self.total:
            raise UserError(f"A rate needs a count in 0..{self.total}, not {self.count}.")
        if not 0 < self.confidence < 1:
            raise UserError(
                f"The confidence {self.confidence} is not between 0 and 1; the usual value is 0.95."
            )
        if self.method not in ("clopper-pearson", "wilson"):
            raise UserError(f"Unknown interval method {self.method!r}; choose 'clopper-pearson' or 'wilson'.")

    @property
    def value(self) -> float:
        """The share, in [0, 1]."""
        return self.count / self.total

    @property
    def low(self) -> float:
        """Lower end of the interval."""
        return self._interval[0]

    @property
    def high(self) -> float:
        """Upper end of the interval."""
        return self._interval[1]

    @cached_property
    def _interval(self) -> tuple[float, float]:
        # The general test of scipy.stats takes 9 ms for 10,000 trials, and a run has thousands of rates.
        from scipy.special import betaincinv, ndtri

        count, total, tail = self.count, self.total, (1 - self.confidence) / 2
        if self.method == "wilson":
            z2 = float(ndtri(tail)) ** 2
            centre, width = count + z2 / 2, math.sqrt(z2 * (count * (total - count) / total + z2 / 4))
            low, high = (centre - width) / (total + z2), (centre + width) / (total + z2)
        else:
            low = float(betaincinv(count, total - count + 1, tail)) if count else 0.0
            high = float(betaincinv(count + 1, total - count, 1 - tail)) if count < total else 1.0
        return max(0.0, min(low, self.value)), min(1.0, max(high, self.value))

    def __str__(self) -> str:
        return f"{self.value:.1%} [{100 * self.low:.1f}, {100 * self.high:.1f}] ({self.count}/{self.total})"

    def to_json(self) -> dict[str, Any]:
        """Return the numbers for a JSON file."""
        return {
            "count": self.count,
            "total": self.total,
            "value": self.value,
            "low": self.low,
            "high": self.high,
            "confidence": self.confidence,
            "method": self.method,
        }


def null_rate_uniform(threshold: float, dimension: float) -> float:
    """Return the share of fresh, never copied points that the ratio rule flags: threshold ** dimension.

    For data that are locally uniform in `dimension` dimensions, the number of points within a distance r
    grows as r ** dimension, so given the second neighbour at d2 the nearest lies within threshold * d2 with
    this probability. It is a rule of thumb for real images; held-out images give the null rate of the data at
    hand.

    Args:
        threshold: Of d1 / d2, in [0, 1].
        dimension: Local intrinsic dimension of the data, positive.
    """
    if not 0 <= threshold <= 1 or not dimension > 0:
        raise UserError(
            f"The null rate needs a threshold in [0, 1] and a positive dimension, "
            f"not {threshold} and {dimension}."
        )
    return float(threshold**dimension)
