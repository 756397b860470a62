"""The ratio with near-copies in the training set skipped."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import ClassVar

from diffmem.auditing.criteria.base import SURROUNDINGS
from diffmem.auditing.criteria.ratio import Ratio
from diffmem.memorization import RepeatAwareRule

__all__ = ["Repeats"]


@dataclass(frozen=True, eq=False)
class Repeats(Ratio):
    """The distance to the nearest training image over that to the nearest one that shows another picture.

    See `diffmem.memorization.RepeatAwareRule`. What is skipped is decided at the threshold, whatever the strictness.

    Attributes:
        count: Neighbours that are used, at least 2.
    """

    count: int = 50

    key: ClassVar[str] = "repeats"
    weight: ClassVar[float] = 3.0
    space: ClassVar[str] = SURROUNDINGS

    @cached_property
    def _decide(self) -> RepeatAwareRule:
        return RepeatAwareRule(self.references, self.threshold, self.count)

    @property
    def title(self) -> str:
        """Name for people."""
        return "Ratio, near-copies in the training set skipped"

    @property
    def neighbours_needed(self) -> int:
        """How many neighbours it uses."""
        return self.count
