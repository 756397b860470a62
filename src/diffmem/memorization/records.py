"""Rates as typed records: what a result's JSON holds of a `Rate`."""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict, Field

from diffmem.memorization.rates import Rate

__all__ = ["RateRecord", "Record", "rate_record"]


class Record(BaseModel):
    """What was found, as typed values: it does not change, and holds nothing but its fields."""

    model_config = ConfigDict(frozen=True, extra="forbid")


class RateRecord(Record):
    """A share with its 95% interval: `count` of `total` in `low` to `high`; all shares are in [0, 1]."""

    count: int
    total: int
    value: float
    low: float
    high: float
    method: str = Field(description="How the interval was computed, for example 'clopper-pearson'.")

    @classmethod
    def of(cls, count: int, total: int) -> RateRecord:
        """Return the record of `count` of `total`, 1 or more."""
        return rate_record(Rate(count, total))


def rate_record(rate: Rate) -> RateRecord:
    """Turn a rate into its record."""
    return RateRecord(
        count=rate.count, total=rate.total, value=rate.value, low=rate.low, high=rate.high, method=rate.method
    )
