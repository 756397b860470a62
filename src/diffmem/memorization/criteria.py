"""Rules that say, from its neighbours alone, whether an image is a copy of a training image."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import numpy as np
from numpy.typing import NDArray

from diffmem.errors import UserError
from diffmem.memorization.neighbours.neighbours import Neighbours

__all__ = ["AbsoluteRule", "Criterion", "RatioRule"]


@runtime_checkable
class Criterion(Protocol):
    """A rule: the neighbours of Q images -> bool (Q,), true where the image counts as memorized."""

    @property
    def name(self) -> str:
        """The rule with its constants, as it stands in a protocol id, for example 'ratio<0.3333'."""
        ...

    def __call__(self, neighbours: Neighbours) -> NDArray[np.bool_]:
        """Apply the rule."""
        ...


@dataclass(frozen=True)
class RatioRule:
    """An image is memorized if its nearest training image is far nearer than the second: d1 < threshold * d2.

    The rule of Gu et al. (2025, "On Memorization in Diffusion Models", section 2), after Yoon et al. (2023),
    with 1/3. The inequality is strict, and written without a division: for d1 = d2 = 0 it is false. So the
    bare rule misses every copy of an image that the training set holds twice, exactly where memorization is
    most likely; collapse duplicates before searching, as `diffmem.memorization.measure` does.

    Attributes:
        threshold: In (0, 1].
    """

    threshold: float = 1 / 3

    def __post_init__(self) -> None:
        if not 0 < self.threshold <= 1:
            raise UserError(f"The ratio threshold {self.threshold} is not in (0, 1]; the usual value is 1/3.")

    @property
    def name(self) -> str:
        """The rule with its threshold."""
        return f"ratio<{self.threshold:.4f}"

    def __call__(self, neighbours: Neighbours) -> NDArray[np.bool_]:
        """Return which images are memorized, bool (Q,).

        Raises:
            UserError: Only one neighbour of each image is known.
        """
        nearest, second = _two(neighbours)
        return nearest < self.threshold * second

    def ratio(self, neighbours: Neighbours) -> NDArray[np.float64]:
        """Return d1 / d2 of each image, float64 (Q,), in [0, 1]; 1 where both are zero, in accord with the
        rule.

        Raises:
            UserError: Only one neighbour of each image is known.
        """
        nearest, second = _two(neighbours)
        return np.divide(nearest, second, out=np.ones_like(nearest), where=second > 0)


@dataclass(frozen=True)
class AbsoluteRule:
    """An image is memorized if its nearest training image is within a distance: d1 <= radius.

    Attributes:
        radius: In the units of the neighbours: grey levels over all pixels, that is RMS grey levels times the
            square root of C * H * W. 0 finds exact copies.
    """

    radius: float

    def __post_init__(self) -> None:
        if not (math.isfinite(self.radius) and self.radius >= 0):
            raise UserError(f"The radius {self.radius} must be a finite number, 0 or above.")

    @property
    def name(self) -> str:
        """The rule with its radius."""
        return f"distance<={self.radius:g}"

    def __call__(self, neighbours: Neighbours) -> NDArray[np.bool_]:
        """Return which images are memorized, bool (Q,)."""
        return neighbours.distances[:, 0] <= self.radius


def _two(neighbours: Neighbours) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    if neighbours.k < 2:
        raise UserError(
            "The ratio rule needs the two nearest training images of each image; search with k = 2 or more."
        )
    return neighbours.distances[:, 0], neighbours.distances[:, 1]
