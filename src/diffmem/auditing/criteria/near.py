"""Near in absolute terms."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np
from numpy.typing import NDArray

from diffmem.auditing.criteria.base import Batch, Criterion, CriterionRole
from diffmem.memorization import NormalizedRule

__all__ = ["NEAR_RMS", "Near"]

NEAR_RMS = 0.05
"""RMS of values 0 to 1 up to which an image is near; see `NormalizedRule` on why it decides nothing."""

_COMPARABLE = 3


@dataclass(frozen=True, eq=False)
class Near(Criterion):
    """The RMS difference from the nearest training image, of values 0 to 1."""

    key: ClassVar[str] = "near"
    role: ClassVar[CriterionRole] = "supporting"
    strictness: ClassVar[tuple[float, ...]] = (NEAR_RMS * (1 + 2**-40),)  # up to the cut and with it
    title: ClassVar[str] = "Near in absolute terms"

    @property
    def all_but_identical(self) -> float | None:
        """Where there is no second reference to compare with, nearness alone has to say it."""
        return NEAR_RMS if len(self.references) < _COMPARABLE else None

    @property
    def rule(self) -> str:
        """The rule with its constants."""
        return f"{self._decide.name}/v1"

    @property
    def _decide(self) -> NormalizedRule:
        return NormalizedRule(NEAR_RMS, self.references.shape[1:])

    def _score(self, batch: Batch) -> NDArray[np.float64]:
        return self._decide.rms(batch.neighbours[self.space])
