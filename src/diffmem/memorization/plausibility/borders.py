"""Borders of one colour that samples have and training images lack: margins, letterboxes, images that are written in part."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

__all__ = ["Border", "find_border"]

_LEVELS = 4  # what JPEG leaves of one colour
_LEAST_SHARE = 32  # a border is at least a 32nd of the shorter side wide
_MOST = 0.5
_TIMES = 3
_FEWEST = 20
_SIDES = ("above", "below", "left", "right")


class Border(NamedTuple):
    """A border that most samples have.

    Attributes:
        share: Samples that have it, on the side where most do, in [0, 1].
        widths: Its width above, below, left and right, in pixels of the samples; 0 where there is none.
    """

    share: float
    widths: tuple[int, int, int, int]

    def __str__(self) -> str:
        return ", ".join(
            f"{width} {'pixel' if width == 1 else 'pixels'} {side}"
            for width, side in zip(self.widths, _SIDES, strict=True)
            if width
        )

    def without(self, images: NDArray[np.uint8]) -> NDArray[np.uint8]:
        """Return what lies within the border, uint8 (N, C, h, w)."""
        above, below, left, right = self.widths
        height, width = images.shape[2:]
        return np.ascontiguousarray(images[:, :, above : height - below, left : width - right])


def find_border(samples: NDArray[np.uint8], training: NDArray[np.uint8]) -> Border | None:
    """Return the border of the samples; none unless half of them have one, of one width, where training images have it thrice as seldom.

    Args:
        samples: uint8 (n, C, H, W).
        training: uint8 (m, C, h, w); of fewer than twenty images nothing is concluded.
    """
    if min(len(samples), len(training)) < _FEWEST:
        return None
    mine, theirs = _widths(samples), _widths(training)
    have = mine >= _least(samples)
    share = have.mean(axis=0)
    usual = ((theirs >= _least(training)).sum(axis=0) + 1) / (len(training) + 2)
    sides = (share >= _MOST) & (share >= _TIMES * usual)
    if not sides.any():
        return None
    found = [int(np.median(mine[have[:, side], side])) if sides[side] else 0 for side in range(4)]
    # Edges that are black or white because values were clipped are of every width.
    alike = np.abs(mine - found) <= np.maximum(1, np.array(found) // 4)
    if (alike[:, sides].mean(axis=0) < _MOST).any():
        return None
    return Border(float(share[sides].max()), (found[0], found[1], found[2], found[3]))


def _least(images: NDArray[np.uint8]) -> int:
    return max(1, int(min(images.shape[2:])) // _LEAST_SHARE)


def _widths(images: NDArray[np.uint8]) -> NDArray[np.int64]:
    """Return how wide the border of one colour is above, below, left and right, int64 (n, 4); 0 for images of one colour."""
    found = []
    for turned in (images, images.swapaxes(2, 3)):
        lowest, highest = turned.min(axis=3).astype(np.int16), turned.max(axis=3).astype(np.int16)
        for step in (1, -1):
            top = np.maximum.accumulate(highest[:, :, ::step], axis=2)
            gap = top - np.minimum.accumulate(lowest[:, :, ::step], axis=2)
            found.append((gap.max(axis=1) <= _LEVELS).sum(axis=1))
    widths: NDArray[np.int64] = np.stack(found, axis=1).astype(np.int64)
    widths[widths[:, 0] == images.shape[2]] = 0
    return widths
