"""The nearest training image against the mean of the nearest fifty."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from diffmem.auditing.criteria.base import SURROUNDINGS, Batch, Criterion, Scores
from diffmem.memorization import AdaptiveRule

__all__ = ["Adaptive"]


@dataclass(frozen=True, eq=False)
class Adaptive(Criterion):
    """The distance to the nearest training image over half of the mean of the nearest (Carlini et al. 2023).

    Attributes:
        count: Neighbours that are averaged.
    """

    count: int = 50

    key: ClassVar[str] = "adaptive"
    space: ClassVar[str] = SURROUNDINGS

    def __post_init__(self) -> None:
        # The rule flags up to 1 and with it: the next number above says the same strictly.
        object.__setattr__(self, "strictness", (1.0 + 2**-52, 0.7, 0.4, 0.2))

    @property
    def title(self) -> str:
        """Name for people."""
        return f"Nearest against the mean of {self.count}"

    @property
    def rule(self) -> str:
        """The rule with its constants."""
        return f"{AdaptiveRule(count=self.count).name}/exact-dups-collapsed/v1"

    @property
    def neighbours_needed(self) -> int:
        """How many neighbours it looks at."""
        return self.count

    def __call__(self, batch: Batch) -> Scores:
        """Score the images of a batch."""
        copied, distance = self._nearest(batch)
        return Scores(AdaptiveRule(count=self.count).ratio(batch.neighbours[self.space]), copied, distance)
