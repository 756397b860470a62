"""The nearest training image against the mean of the nearest fifty."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np
from numpy.typing import NDArray

from diffmem.auditing.criteria.base import SURROUNDINGS, Batch, Criterion
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
    # The rule flags up to 1 and with it: the next number above says the same strictly.
    strictness: ClassVar[tuple[float, ...]] = (1.0 + 2**-52, 0.7, 0.4, 0.2)

    @property
    def title(self) -> str:
        """Name for people."""
        return f"Nearest against the mean of {self.count}"

    @property
    def rule(self) -> str:
        """The rule with its constants."""
        return f"{self._decide.name}/exact-dups-collapsed/v1"

    @property
    def neighbours_needed(self) -> int:
        """How many neighbours it uses."""
        return self.count

    @property
    def _decide(self) -> AdaptiveRule:
        return AdaptiveRule(count=self.count)

    def _score(self, batch: Batch) -> NDArray[np.float64]:
        return self._decide.ratio(batch.neighbours[self.space])
