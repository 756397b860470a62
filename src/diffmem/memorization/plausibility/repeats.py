"""Constant images and repeats among samples: what is no trial."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from diffmem.data.duplicates import duplicate_groups
from diffmem.data.storage import parts
from diffmem.memorization.plausibility.statistics import std_of

__all__ = ["Clusters", "clusters", "constant_images", "near_constant", "repeats"]

_BLOCK_BYTES = 8 << 20
SAME_RMS = 2.5
SAME_SHARE = 0.1
NEAR_LEVELS = 2


@dataclass(frozen=True)
class Clusters:
    """How many different images a draw shows, where images that differ by noise of a grey level are one.

    Attributes:
        images: Images that were compared.
        distinct: Different images among them.
        largest: Images that are all but equal to the most frequent one, itself included.
    """

    images: int
    distinct: int
    largest: int

    @property
    def largest_share(self) -> float:
        """The share of the most frequent image, in [0, 1]."""
        return self.largest / max(self.images, 1)

    @property
    def distinct_share(self) -> float:
        """Different images as a share of all, in [0, 1]."""
        return self.distinct / max(self.images, 1)


def constant_images(images: NDArray[np.uint8], levels: int = 0) -> NDArray[np.bool_]:
    """Return which images have one colour: in each channel the values differ by at most `levels`, bool (N,)."""
    found = np.zeros(len(images), bool)
    for part in parts(len(images), math.prod(images.shape[1:]), _BLOCK_BYTES):
        block = np.asarray(images[part]).reshape(-1, images.shape[1], math.prod(images.shape[2:]))
        found[part] = np.ptp(block, axis=2).max(axis=1) <= levels
    return found


def near_constant(images: NDArray[np.uint8], levels: int = NEAR_LEVELS) -> NDArray[np.bool_]:
    """Return which images have one colour but for `levels` grey levels, within a border of one colour or none, bool (N,)."""
    found = constant_images(images, levels)
    side = min(images.shape[2:])
    widths = [width for width in range(1, side // 4 + 1) if side - 2 * width >= 2]
    if not widths:
        return found
    # The middle of a framed constant image is constant; only such images are compared more closely.
    deep = widths[-1]
    middle = constant_images(images[:, :, deep:-deep, deep:-deep], levels)
    for index in np.flatnonzero(middle & ~found):
        found[index] = any(_framed(np.asarray(images[index]), width, levels) for width in widths)
    return found


def repeats(images: NDArray[np.uint8], among: NDArray[np.bool_]) -> tuple[NDArray[np.bool_], int]:
    """Return which images equal an earlier one, bool (Q,), and how often the most frequent occurs; 0 if there are no images.

    Args:
        images: uint8 (Q, C, H, W).
        among: The images that count, bool (Q,); the others are no repeats.
    """
    known = np.flatnonzero(among)
    repeated = np.zeros(len(images), bool)
    if len(known) == 0:
        return repeated, 0
    first = duplicate_groups(images if len(known) == len(images) else images[known])
    repeated[known] = first != np.arange(len(first))
    return repeated, int(np.bincount(first).max())


def clusters(images: NDArray[np.uint8]) -> Clusters:
    """Count the different images of a draw of at most some hundred.

    Two images are one if their RMS distance is below 2.5 grey levels and below a tenth of the images' own contrast. An image
    joins the first that it equals, so that chains do not grow.

    Args:
        images: uint8 (n, C, H, W).
    """
    flat = images.reshape(len(images), -1).astype(np.float32)
    flat -= flat.mean(axis=0)
    limit = min(SAME_RMS, SAME_SHARE * float(np.median(std_of(images)))) ** 2 * flat.shape[1]
    squares = np.einsum("nd,nd->n", flat, flat)
    # Rounding of the expanded square must not make equal images differ: 0.01% of the norms is allowed for.
    gaps = squares[:, None] + squares[None, :] - 2 * (flat @ flat.T)
    same = gaps <= limit + 1e-5 * (squares[:, None] + squares[None, :])
    free = np.ones(len(images), bool)
    distinct = 0
    while free.any():
        leader = int(np.flatnonzero(free)[0])
        free &= ~same[leader]
        free[leader] = False
        distinct += 1
    return Clusters(len(images), distinct, int(same.sum(axis=1).max(initial=0)))


def _framed(image: NDArray[np.uint8], width: int, levels: int) -> bool:
    inner = image[:, width:-width, width:-width].reshape(1, len(image), -1)
    edge = np.concatenate(
        [
            image[:, :width].reshape(len(image), -1),
            image[:, -width:].reshape(len(image), -1),
            image[:, width:-width, :width].reshape(len(image), -1),
            image[:, width:-width, -width:].reshape(len(image), -1),
        ],
        axis=1,
    )[None]
    return bool(np.ptp(inner, axis=2).max() <= levels and np.ptp(edge, axis=2).max() <= levels)
