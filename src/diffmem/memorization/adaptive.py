"""The adaptive ratio: the nearest training image against the mean of the sample's 50 nearest."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from diffmem.errors import UserError
from diffmem.memorization.neighbours.neighbours import Neighbours

__all__ = ["AdaptiveRule"]


@dataclass(frozen=True)
class AdaptiveRule:
    """An image is memorized if its nearest training image is near for the place: d1 <= threshold * alpha * mean(d1..dn).

    The distance of Carlini et al. (2023, "Extracting Training Data from Diffusion Models"): d1 / (alpha * mean), with
    alpha = 0.5 and the n = 50 training images nearest to the sample, the nearest one among them. The cut
    at 1, "nearer than half of the mean", is a choice of this package. Other programs
    square the distances or leave alpha out: their numbers differ, so the name of the rule holds all three constants.

    Where it lies. A mean of 50 hardly notices a second copy, so unlike the ratio of two neighbours the rule survives
    training images that occur a few times; one that occurs 50 times escapes it (the ratio is then 1 / alpha, its
    largest value), so exact copies must be collapsed all the same. It has 50 chances to be wrong where the ratio rule has
    one: on data of few dimensions its null rate is far higher, see `null_rate`.

    Attributes:
        alpha: Factor of the mean, in (0, 1].
        count: Number n of nearest training images that are averaged, at least 2.
        threshold: Largest d1 / (alpha * mean) that counts as memorized, in (0, 1 / alpha).
    """

    alpha: float = 0.5
    count: int = 50
    threshold: float = 1.0

    def __post_init__(self) -> None:
        if not 0 < self.alpha <= 1:
            raise UserError(f"alpha = {self.alpha} is not in (0, 1]; the published value is 0.5.")
        if self.count < 2:
            raise UserError(
                f"A mean over {self.count} neighbours compares nothing; the published count is 50."
            )
        if not 0 < self.threshold * self.alpha < 1:
            raise UserError(
                f"The threshold {self.threshold} is not in (0, {1 / self.alpha:g}), where it can part images from each "
                "other; the default is 1."
            )

    @property
    def name(self) -> str:
        """The rule with its constants."""
        return f"adaptive<={self.threshold:g}/alpha={self.alpha:g}/n={self.count}"

    def __call__(self, neighbours: Neighbours) -> NDArray[np.bool_]:
        """Return which images are memorized, bool (Q,). An image all of whose n neighbours are exact copies is.

        Raises:
            UserError: Fewer than `count` neighbours of each image are known.
        """
        nearest, mean = self._parts(neighbours)
        return nearest <= self.threshold * self.alpha * mean

    def ratio(self, neighbours: Neighbours) -> NDArray[np.float64]:
        """Return d1 / (alpha * mean) of each image, float64 (Q,), in [0, 1 / alpha]; 0 where all distances are.

        Raises:
            UserError: Fewer than `count` neighbours of each image are known.
        """
        nearest, mean = self._parts(neighbours)
        return np.divide(nearest, self.alpha * mean, out=np.zeros_like(nearest), where=mean > 0)

    def null_rate(self, dimension: float) -> float:
        """Return about the share of fresh, never copied points that the rule flags, for locally uniform data.

        Given the n-th neighbour at distance R, the others lie as independent points in its ball, and the mean of the n is
        near R * d / (d + 1). So the nearest one is below the cut with probability 1 - (1 - c^d)^(n - 1), where c is
        threshold * alpha * d / (d + 1): about n - 1 times as often as a ratio rule with the threshold c. A rule of thumb,
        within a tenth for points in such a ball; held-out images give the null rate of the data at hand.

        Args:
            dimension: Local intrinsic dimension d of the data, positive.
        """
        if not (math.isfinite(dimension) and dimension > 0):
            raise UserError(f"The null rate needs a positive dimension, not {dimension}.")
        cut = self.threshold * self.alpha * dimension / (dimension + 1)
        return float(-math.expm1((self.count - 1) * math.log1p(-(cut**dimension))))

    def _parts(self, neighbours: Neighbours) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        if neighbours.k < self.count:
            raise UserError(
                f"The adaptive rule averages the {self.count} nearest training images of each image, and "
                f"{neighbours.k} are known; search with k = {self.count} or more, among at least {self.count} distinct "
                "training images."
            )
        known = neighbours.distances[:, : self.count]
        # Row by row in one order: the mean of an image does not depend on the images beside it.
        return known[:, 0], np.add.reduce(np.ascontiguousarray(known), axis=1) / self.count
