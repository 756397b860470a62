"""Identical pixels."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from diffmem.auditing.criteria.base import Criterion

__all__ = ["IDENTICAL", "Identical"]

IDENTICAL = 0.5
"""Images of whole grey levels that are nearer than this are equal."""


@dataclass(frozen=True, eq=False)
class Identical(Criterion):
    """All pixels are those of the nearest training image. The score is the distance to it, in grey levels over all values."""

    key: ClassVar[str] = "identical"
    exact_only: ClassVar[bool] = True
    strictness: ClassVar[tuple[float, ...]] = (IDENTICAL,)
    all_but_identical: ClassVar[float] = IDENTICAL
    title: ClassVar[str] = "Identical pixels"
    rule: ClassVar[str] = "identical/v1"
