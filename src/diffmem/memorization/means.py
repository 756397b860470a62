"""A mean over samples with its standard error and its interval."""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import ArrayLike
from pydantic import Field

from diffmem.memorization.records import Record

__all__ = ["Z95", "MeanRecord", "mean_record"]

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
