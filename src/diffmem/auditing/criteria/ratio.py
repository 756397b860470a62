"""The ratio of the two nearest: the criterion of R_mem."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import ClassVar

import numpy as np
from numpy.typing import NDArray

from diffmem.auditing.criteria.base import Batch, Criterion
from diffmem.memorization import RatioRule, RepeatAwareRule

__all__ = ["RATIO_LADDER", "SAME_PICTURE", "Ratio"]

SAME_PICTURE = 1 / 4
"""Ratio below which an image that is within a few grey levels of another is taken for the same picture."""

RATIO_LADDER = (1 / 4, 1 / 6, 1 / 10)
"""Ratios below the threshold of the rule at which it is applied, too."""


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
        RatioRule(self.threshold)  # refuses one that is out of range

    @cached_property
    def _decide(self) -> RatioRule | RepeatAwareRule:
        return RatioRule(self.threshold)

    @property
    def strictness(self) -> tuple[float, ...]:
        """The threshold, and all of `RATIO_LADDER` below it."""
        return (self.threshold, *(rung for rung in RATIO_LADDER if rung < self.threshold))

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
        return f"{self._decide.name}/exact-dups-collapsed/v1"

    @property
    def neighbours_needed(self) -> int:
        """How many neighbours it uses."""
        return 2

    def _score(self, batch: Batch) -> NDArray[np.float64]:
        return self._decide.ratio(batch.neighbours[self.space])
