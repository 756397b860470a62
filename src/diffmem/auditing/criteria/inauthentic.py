"""Nearer to a training image than that one's own neighbour."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
from numpy.typing import NDArray

from diffmem.auditing.criteria.base import Batch, Criterion, CriterionRole

__all__ = ["Gaps", "Inauthentic"]

Gaps = Callable[[NDArray[np.int64], NDArray[np.int64] | None], NDArray[np.float64]]
"""References, and for each one that does not count -> the distance of each to its nearest other one."""


@dataclass(frozen=True, eq=False)
class Inauthentic(Criterion):
    """The distance to the nearest training image over that image's distance to its own nearest one (Alaa et al. 2022, AuthPct).

    Attributes:
        gaps: Gives the latter.
    """

    gaps: Gaps

    key: ClassVar[str] = "inauthentic"
    role: ClassVar[CriterionRole] = "supporting"
    strictness: ClassVar[tuple[float, ...]] = (1.0 + 2**-52,)  # no farther, so up to 1 and with it
    title: ClassVar[str] = "Nearer than the training image's own neighbour (AuthPct)"
    rule: ClassVar[str] = "authpct/exact-dups-collapsed/v1"

    def _score(self, batch: Batch) -> NDArray[np.float64]:
        found = batch.neighbours[self.space]
        distance, gap = found.distances[:, 0], self.gaps(found.indices[:, 0], batch.own)
        score = np.divide(distance, gap, out=np.zeros_like(distance), where=gap > 0)
        return np.where((gap == 0) & (distance > 0), np.inf, score)
