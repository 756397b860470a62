"""The ratio of the two nearest: the criterion of R_mem."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from diffmem.auditing.criteria.base import Batch, Criterion, Scores
from diffmem.memorization import RatioRule

__all__ = ["RATIO_LADDER", "SAME_PICTURE", "Ratio", "ratio_strictness"]

SAME_PICTURE = 1 / 4
"""Ratio below which an image that is within a few grey levels of another is taken for the same picture."""

RATIO_LADDER = (1 / 4, 1 / 6, 1 / 10)
"""Ratios below the threshold of the rule at which it is applied, too."""


def ratio_strictness(threshold: float) -> tuple[float, ...]:
    """Return the ladder of a ratio rule: its threshold, and all of `RATIO_LADDER` below it."""
    return (threshold, *(rung for rung in RATIO_LADDER if rung < threshold))


@dataclass(frozen=True, eq=False)
class Ratio(Criterion):
    """The distance to the nearest training image over that to the second nearest (Gu et al. 2025, section 2).

    Attributes:
        threshold: Below which an image is a copy, in (0, 1].
    """

    threshold: float = 1 / 3

    key: ClassVar[str] = "ratio"
    weight: ClassVar[float] = 5.0

    def __post_init__(self) -> None:
        object.__setattr__(self, "strictness", ratio_strictness(RatioRule(self.threshold).threshold))

    @property
    def all_but_identical(self) -> float:
        """Score below which an image that is near in grey levels, too, is taken for the same picture."""
        return min(self.threshold, SAME_PICTURE)

    @property
    def title(self) -> str:
        """Name for people."""
        return "Ratio of the two nearest (R_mem)"

    @property
    def rule(self) -> str:
        """The rule with its constants."""
        return f"{RatioRule(self.threshold).name}/exact-dups-collapsed/v1"

    @property
    def neighbours_needed(self) -> int:
        """How many neighbours it looks at."""
        return 2

    def __call__(self, batch: Batch) -> Scores:
        """Score the images of a batch."""
        copied, distance = self._nearest(batch)
        return Scores(RatioRule(self.threshold).ratio(batch.neighbours[self.space]), copied, distance)
