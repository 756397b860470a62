"""The ratio with near-copies in the training set skipped."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import ClassVar

from diffmem.auditing.criteria.base import SURROUNDINGS, Batch, Criterion, Scores
from diffmem.auditing.criteria.ratio import SAME_PICTURE, ratio_strictness
from diffmem.memorization import RepeatAwareRule

__all__ = ["Repeats"]


@dataclass(frozen=True, eq=False)
class Repeats(Criterion):
    """The distance to the nearest training image over that to the nearest one that shows another picture.

    See `diffmem.memorization.RepeatAwareRule`. What is skipped is decided at the threshold, whatever the strictness.

    Attributes:
        threshold: Below which an image is a copy, in (0, 1].
        count: Neighbours that are looked at, at least 2.
    """

    threshold: float = 1 / 3
    count: int = 50

    key: ClassVar[str] = "repeats"
    weight: ClassVar[float] = 3.0
    space: ClassVar[str] = SURROUNDINGS

    def __post_init__(self) -> None:
        object.__setattr__(self, "strictness", ratio_strictness(self.threshold))

    @cached_property
    def _decide(self) -> RepeatAwareRule:
        return RepeatAwareRule(self.references, self.threshold, self.count)

    @property
    def all_but_identical(self) -> float:
        """Score below which an image that is near in grey levels, too, is taken for the same picture."""
        return min(self.threshold, SAME_PICTURE)

    @property
    def title(self) -> str:
        """Name for people."""
        return "Ratio, near-copies in the training set skipped"

    @property
    def rule(self) -> str:
        """The rule with its constants."""
        return f"{self._decide.name}/exact-dups-collapsed/v1"

    @property
    def neighbours_needed(self) -> int:
        """How many neighbours it looks at."""
        return self.count

    def __call__(self, batch: Batch) -> Scores:
        """Score the images of a batch."""
        copied, distance = self._nearest(batch)
        return Scores(self._decide.ratio(batch.neighbours[self.space]), copied, distance)
