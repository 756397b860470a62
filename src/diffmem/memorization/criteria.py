"""Rules that say, from its neighbours alone, whether an image is a copy of a training image."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar, Protocol, runtime_checkable

import numpy as np
from numpy.typing import NDArray

from diffmem.errors import UserError
from diffmem.memorization.neighbours.neighbours import Neighbours

__all__ = [
    "AdaptiveRule",
    "Criterion",
    "NormalizedRule",
    "RatioRule",
    "SimilarityRule",
    "ratio_of",
]

_ROUNDING = 1e-12


@runtime_checkable
class Criterion(Protocol):
    """A rule: the neighbours of Q images -> bool (Q,), true where the image counts as memorized."""

    @property
    def name(self) -> str:
        """The rule with its constants, as it stands in a protocol id, for example 'ratio<0.3333'."""
        ...

    @property
    def count(self) -> int:
        """How many neighbours of each image it needs."""
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

    count: ClassVar[int] = 2
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
        distances = neighbours.nearest(2)
        return distances[:, 0] < self.threshold * distances[:, 1]

    def ratio(self, neighbours: Neighbours) -> NDArray[np.float64]:
        """Return d1 / d2 of each image, float64 (Q,), in [0, 1]; 1 where both are zero, in accord with the
        rule.

        Raises:
            UserError: Only one neighbour of each image is known.
        """
        distances = neighbours.nearest(2)
        return ratio_of(distances[:, 0], distances[:, 1], 1.0)


@dataclass(frozen=True)
class NormalizedRule:
    """An image is memorized if its nearest training image is within an RMS difference: d1 / (255 sqrt(CHW)) <= threshold.

    The units of (l, delta)-extraction of Carlini et al. (2023): the Euclidean distance of images with values 0 to 1,
    divided by the square root of the number of values. 1/255 is one grey level in every value; between images with
    values -1 to 1 the number is twice as large. Their delta for Stable Diffusion is 0.15 (38 grey levels), of the tile that
    differs most; this rule takes the image as one tile.

    Where it lies. Small or plain images are this near to each other without any copying: of 1,000 held-out CIFAR-10 images
    (a JPEG copy), 30% lie within 0.15 of one of 20,000 training images, 4% within 0.1, none within 0.05. Choose the
    threshold by the null rate.

    Attributes:
        threshold: Largest RMS difference, 0 to 1; 0 finds exact copies.
        shape: Of the images that were compared, (C, H, W) or another shape.
    """

    count: ClassVar[int] = 1
    threshold: float
    shape: tuple[int, ...]

    def __post_init__(self) -> None:
        if not 0 <= self.threshold <= 1:
            raise UserError(
                f"The threshold {self.threshold} is not in 0..1, the RMS difference of images with values 0 to 1; divide "
                "grey levels by 255."
            )
        if not self.shape or min(self.shape) < 1:
            raise UserError(f"The shape {self.shape} holds no values; give that of the images, (C, H, W).")

    @property
    def name(self) -> str:
        """The rule with its threshold; the shape changes no unit and is left out."""
        return f"rms01<={self.threshold:g}"

    @property
    def radius(self) -> float:
        """The same threshold in the units of neighbours: grey levels over all values."""
        return self.threshold * 255 * math.sqrt(math.prod(self.shape))

    def __call__(self, neighbours: Neighbours) -> NDArray[np.bool_]:
        """Return which images are memorized, bool (Q,), from the neighbours of uint8 images of this shape."""
        return neighbours.distances[:, 0] <= self.radius * (1 + _ROUNDING)

    def rms(self, neighbours: Neighbours) -> NDArray[np.float64]:
        """Return the RMS difference of each image from its nearest training image, float64 (Q,), in [0, 1]."""
        return neighbours.distances[:, 0] / (255 * math.sqrt(math.prod(self.shape)))


@dataclass(frozen=True)
class SimilarityRule:
    """An image is memorized if its most similar training image is above a cosine similarity in a feature space.

    For the descriptors of a copy-detection network, such as SSCD. In use are 0.5 (Somepalli et al. 2023, with their
    preprocessing), 0.7 (Wen et al. 2024), and 0.75, at which SSCD's authors (Pizzi et al. 2022) find 90% of matches to be
    right on a benchmark of photographs. The network and the preprocessing belong to the number.

    Attributes:
        threshold: In (-1, 1). The inequality is strict.
    """

    count: ClassVar[int] = 1
    threshold: float = 0.5

    def __post_init__(self) -> None:
        if not -1 < self.threshold < 1:
            raise UserError(
                f"The similarity {self.threshold} is not between -1 and 1; values in use are 0.5 to 0.75."
            )

    @property
    def name(self) -> str:
        """The rule with its threshold."""
        return f"cosine>{self.threshold:g}"

    def __call__(self, neighbours: Neighbours) -> NDArray[np.bool_]:
        """Return which images are memorized, bool (Q,), from neighbours found with metric='cosine'."""
        return self.similarity(neighbours) > self.threshold

    def similarity(self, neighbours: Neighbours) -> NDArray[np.float64]:
        """Return the cosine similarity of each image with its most similar training image, float64 (Q,).

        Raises:
            UserError: A distance is above 2, so it is not 1 - cos.
        """
        nearest = neighbours.distances[:, 0]
        if (nearest > 2 + _ROUNDING).any():
            raise UserError(
                f"A distance of {nearest.max():g} is no 1 - cos; search with metric='cosine' for this rule."
            )
        return 1 - nearest


@dataclass(frozen=True)
class AdaptiveRule:
    """An image is memorized if its nearest training image is near beside the others: d1 <= threshold * alpha * mean(d1..dn).

    The distance of Carlini et al. (2023, "Extracting Training Data from Diffusion Models"): d1 / (alpha * mean), with
    alpha = 0.5 and the n = 50 training images nearest to the sample, the nearest one among them. The cut
    at 1, "nearer than half of the mean", is a choice of this package. Other programs
    square the distances or leave alpha out: their numbers differ, so the name of the rule holds all three constants.

    Where it lies. A mean of 50 hardly notices a second copy, so unlike the ratio of two neighbours the rule survives
    training images that occur a few times; one that occurs 50 times escapes it (the ratio is then 1 / alpha, its
    largest value), so exact copies must be collapsed all the same. It has 50 chances to be wrong where the ratio rule has
    one: on data of few dimensions its null rate is far higher: for locally uniform data of d
    dimensions about 1 - (1 - c^d)^(n - 1) with c = threshold * alpha * d / (d + 1), while that of a ratio rule is its threshold to
    the power of d.

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
        return ratio_of(nearest, self.alpha * mean, 0.0)

    def _parts(self, neighbours: Neighbours) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        known = neighbours.nearest(self.count)
        # Row by row in one order: the mean of an image does not depend on the images beside it.
        return known[:, 0], np.add.reduce(np.ascontiguousarray(known), axis=1) / self.count


def ratio_of(nearest: NDArray[np.float64], other: NDArray[np.float64], if_zero: float) -> NDArray[np.float64]:
    """Return nearest / other, float64 (Q,); `if_zero` where the latter is 0."""
    return np.divide(nearest, other, out=np.full_like(nearest, if_zero), where=other > 0)
