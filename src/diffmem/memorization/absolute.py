"""Fixed thresholds in the units of the literature: RMS of values 0 to 1, and cosine similarity of features."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from diffmem.errors import UserError
from diffmem.memorization.neighbours.neighbours import Neighbours

__all__ = ["NormalizedRule", "SimilarityRule"]

_ROUNDING = 1e-12


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
