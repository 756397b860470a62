"""Generated images with their neighbours, for a gallery."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from diffmem.memorization import Neighbours, RatioRule

__all__ = ["Example"]


@dataclass(frozen=True)
class Example:
    """Images for a gallery: the first seeds of one snapshot with their neighbours, not selected.

    Attributes:
        title: What is shown.
        generated: uint8 (n, C, H, W).
        nearest: Their nearest training images.
        second: Their second nearest distinct training images.
        ratios: d1 / d2 of each.
    """

    title: str
    generated: NDArray[np.uint8]
    nearest: NDArray[np.uint8]
    second: NDArray[np.uint8]
    ratios: NDArray[np.float64]

    @classmethod
    def of(
        cls,
        title: str,
        images: NDArray[np.uint8],
        neighbours: Neighbours,
        training: NDArray[np.uint8],
        rule: RatioRule,
    ) -> Example:
        """Return generated images with their neighbours.

        Args:
            title: What is shown.
            images: The first images of an evaluation.
            neighbours: Those of all its images.
            training: The training images.
            rule: Has the ratios.
        """
        shown = neighbours.slice(0, len(images))
        nearest, second = training[shown.indices[:, 0]], training[shown.indices[:, 1]]
        return cls(title, images, nearest, second, rule.ratio(shown))
