"""Plain statistics of a set of images, from a seeded draw of it."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from pydantic import Field

from diffmem.memorization.records import Record

__all__ = ["SetStatisticsRecord", "conform", "draw", "gradient_of", "set_statistics", "std_of"]

DRAWN = 2000
_DRAW_BYTES = 24 << 20
_FEWEST = 64


class SetStatisticsRecord(Record):
    """Plain statistics of one set of images, from a seeded draw of it; values are grey levels, 0 to 255."""

    images: int = Field(description="Images in the set.")
    drawn: int = Field(description="Images that were drawn for the statistics.")
    channels: int
    height: int
    width: int
    minimum: int
    maximum: int
    grey_levels: int = Field(description="Different values that occur in the draw, 1 to 256.")
    mean: float
    contrast: float = Field(
        description="Median over images of the standard deviation of an image's pixels about its channel means."
    )
    gradient: float = Field(description="Median over images of the RMS difference of neighbouring pixels.")
    neighbour_correlation: float = Field(
        description="Median over images of the correlation of neighbouring pixels: 1 smooth, 0 white noise."
    )


def draw(
    images: NDArray[np.uint8], seed: int, among: NDArray[np.int64] | None = None, largest: int = DRAWN
) -> NDArray[np.uint8]:
    """Return at most `largest` images, fewer if they are large; their order is that of the set.

    Args:
        images: uint8 (N, C, H, W); may be memory-mapped.
        seed: Of the draw.
        among: Indices that may be drawn; all if None.
        largest: Images to draw at most.

    Returns:
        uint8 (n, C, H, W), in memory.
    """
    known = np.arange(len(images)) if among is None else among
    size = max(1, int(np.prod(images.shape[1:])))
    most = min(largest, max(_FEWEST, _DRAW_BYTES // size))
    if len(known) > most:
        known = np.sort(np.random.default_rng(seed).choice(known, most, replace=False))
    return np.ascontiguousarray(images[known])


def conform(images: NDArray[np.uint8], shape: tuple[int, ...]) -> NDArray[np.uint8]:
    """Bring images to the channels and size of others, so that their statistics can be compared.

    Grey becomes colour by repeating, colour grey by its mean, a fourth channel is left out; sizes change by averaging areas.

    Args:
        images: uint8 (N, C, H, W).
        shape: (C, H, W) to bring them to.

    Returns:
        uint8 (N, *shape).
    """
    channels, height, width = shape
    if images.shape[1] in (2, 4) and channels != images.shape[1]:
        images = images[:, :-1]
    if images.shape[1] != channels:
        grey = np.rint(images.mean(axis=1, keepdims=True, dtype=np.float32)).astype(np.uint8)
        images = np.repeat(grey, channels, axis=1)
    if images.shape[2:] != (height, width):
        resized = np.empty((len(images), *shape), np.uint8)
        for index, image in enumerate(images):
            for channel, plane in enumerate(image):
                small = Image.fromarray(plane).resize((width, height), Image.Resampling.BOX)
                resized[index, channel] = np.asarray(small)
        images = resized
    return images


def std_of(images: NDArray[np.uint8]) -> NDArray[np.float64]:
    """Return the standard deviation of each image's pixels about its channel means, (N,), in grey levels."""
    spread = [
        np.var(block, axis=(2, 3), dtype=np.float32).mean(axis=1, dtype=np.float64)
        for block in _blocks(images)
    ]
    return np.sqrt(np.concatenate(spread)) if spread else np.zeros(0)


def gradient_of(images: NDArray[np.uint8]) -> NDArray[np.float64]:
    """Return the RMS difference of neighbouring pixels of each image, (N,), in grey levels."""
    found = []
    for block in _blocks(images):
        pixels = block.astype(np.float32)
        squares, count = np.zeros(len(block)), 0
        for axis in (2, 3):
            if pixels.shape[axis] > 1:
                steps = np.diff(pixels, axis=axis)
                squares += np.square(steps).sum(axis=(1, 2, 3), dtype=np.float64)
                count += steps[0].size
        found.append(np.sqrt(squares / max(count, 1)))
    return np.concatenate(found) if found else np.zeros(0)


def set_statistics(images: NDArray[np.uint8], drawn: NDArray[np.uint8]) -> SetStatisticsRecord:
    """Return the statistics of a set from its draw, which has at least one image."""
    spread, steps = std_of(drawn), gradient_of(drawn)
    varied = spread > 0
    correlation = 1 - np.square(steps[varied]) / (2 * np.square(spread[varied]))
    values = np.flatnonzero(np.bincount(drawn.reshape(-1), minlength=256))
    return SetStatisticsRecord(
        images=len(images),
        drawn=len(drawn),
        channels=images.shape[1],
        height=images.shape[2],
        width=images.shape[3],
        minimum=int(values[0]),
        maximum=int(values[-1]),
        grey_levels=len(values),
        mean=float(drawn.mean(dtype=np.float64)),
        contrast=float(np.median(spread)),
        gradient=float(np.median(steps)),
        neighbour_correlation=float(np.median(correlation)) if varied.any() else 1.0,
    )


def _blocks(images: NDArray[np.uint8], size: int = 500) -> list[NDArray[np.uint8]]:
    return [images[start : start + size] for start in range(0, len(images), size)]
