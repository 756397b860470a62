"""Identical pixels."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from diffmem.auditing.criteria.base import Batch, Criterion, Scores

__all__ = ["IDENTICAL", "Identical"]

IDENTICAL = 0.5
"""Images of whole grey levels that are nearer than this are equal."""


@dataclass(frozen=True, eq=False)
class Identical(Criterion):
    """All pixels are those of the nearest training image. The score is the distance to it, in grey levels over all values."""

    key: ClassVar[str] = "identical"
    exact_only: ClassVar[bool] = True

    def __post_init__(self) -> None:
        object.__setattr__(self, "strictness", (IDENTICAL,))

    @property
    def all_but_identical(self) -> float:
        """Score below which an image is taken for the same picture."""
        return IDENTICAL

    @property
    def title(self) -> str:
        """Name for people."""
        return "Identical pixels"

    @property
    def rule(self) -> str:
        """The rule with its constants."""
        return "identical/v1"

    def __call__(self, batch: Batch) -> Scores:
        """Score the images of a batch."""
        copied, distance = self._nearest(batch)
        return Scores(distance, copied, distance)
