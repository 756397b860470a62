"""Generated images with their neighbours, for a gallery."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from diffmem.errors import UserError
from diffmem.memorization import Neighbours, RatioRule

__all__ = ["Example"]

Images = NDArray[np.uint8]


@dataclass(frozen=True, eq=False)
class Example:
    """Generated images beside their nearest training images.

    Attributes:
        title: What made the images, for example '64 training images, epoch 5,000'.
        generated: uint8 (n, C, H, W) with n >= 1 and C = 1 or 3.
        nearest: The training image nearest to each, same shape.
        second: The second nearest distinct one, same shape.
        ratios: (n,) distance to the nearest over distance to the second nearest; NaN where there is none.
        threshold: A ratio below it is a copy.
        selection: How they were chosen, for example 'Those of smallest ratio'; empty for the first seeds, not selected.

    Raises:
        UserError: The shapes, types or counts do not fit.
    """

    title: str
    generated: Images
    nearest: Images
    second: Images
    ratios: NDArray[np.float64]
    threshold: float
    selection: str = ""

    def __post_init__(self) -> None:
        shape = self.generated.shape
        if len(shape) != 4 or shape[0] < 1 or shape[1] not in (1, 3):
            raise UserError(f"Gallery images must have the shape (n, 1 or 3, H, W), not {shape}.")
        for name in ("generated", "nearest", "second"):
            images: Images = getattr(self, name)
            if images.dtype != np.uint8:
                raise UserError(f"Gallery images ({name}) must be uint8, not {images.dtype}.")
            if images.shape != shape:
                raise UserError(
                    f"Gallery images differ in shape: {name} has {images.shape}, generated has {shape}."
                )
        if len(self.ratios) != shape[0]:
            raise UserError(f"The gallery has {shape[0]} images but {len(self.ratios)} ratios.")

    @classmethod
    def of(
        cls, title: str, images: Images, neighbours: Neighbours, training: Images, rule: RatioRule
    ) -> Example:
        """Return generated images with their neighbours.

        Args:
            images: The first images of an evaluation.
            neighbours: Those of all its images.
        """
        shown = neighbours.slice(0, len(images))
        nearest, second = training[shown.indices[:, 0]], training[shown.indices[:, 1]]
        return cls(title, images, nearest, second, rule.ratio(shown), rule.threshold)

    def titled(self, title: str) -> Example:
        """Return the example with a title before its own."""
        return replace(self, title=f"{title}: {self.title}")

    @property
    def copies(self) -> list[bool]:
        """Which of the generated images are copies."""
        return [bool(ratio < self.threshold) for ratio in self.ratios]
