"""The base of all records: what was found, as typed values."""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict

__all__ = ["Record"]


class Record(BaseModel):
    """What was found, as typed values: it does not change, and holds nothing but its fields."""

    model_config = ConfigDict(frozen=True, extra="forbid")
