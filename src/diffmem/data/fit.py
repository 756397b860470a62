"""Images of unequal shapes as squares of one size."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from diffmem.data.images import ImageSet, frozen
from diffmem.data.reading import Fit
from diffmem.data.storage import new_images
from diffmem.data.transforms import centre_square
from diffmem.progress import NO_PROGRESS, Progress

__all__ = ["fit_images", "fitted"]


def fitted(pixels: NDArray[np.uint8], fit: Fit, side: int) -> NDArray[np.uint8]:
    """Return an image, uint8 (H, W) or (H, W, 3), as a square; the same array if it is one of that size already.

    Args:
        pixels: Of any size.
        fit: 'crop' keeps the square in the middle, 'stretch' changes the proportions, 'pad' adds black at both sides.
        side: Of the square, in pixels; resampled by Pillow's LANCZOS filter.
    """
    if pixels.shape[:2] == (side, side):
        return pixels
    if fit == "crop":
        pixels = (
            centre_square(pixels.transpose(2, 0, 1)).transpose(1, 2, 0)
            if pixels.ndim == 3
            else centre_square(pixels)
        )
    if fit != "pad" or pixels.shape[0] == pixels.shape[1]:
        return _resampled(pixels, side, side)
    height, width = pixels.shape[:2]
    longest = max(height, width)
    small = _resampled(pixels, max(1, round(height * side / longest)), max(1, round(width * side / longest)))
    result = np.zeros((side, side, *pixels.shape[2:]), np.uint8)
    top, left = (side - small.shape[0]) // 2, (side - small.shape[1]) // 2
    result[top : top + small.shape[0], left : left + small.shape[1]] = small
    return result


def _resampled(pixels: NDArray[np.uint8], height: int, width: int) -> NDArray[np.uint8]:
    if pixels.shape[:2] == (height, width):
        return pixels
    image = Image.fromarray(np.ascontiguousarray(pixels))
    return np.asarray(image.resize((width, height), Image.Resampling.LANCZOS))


def fit_images(images: ImageSet, fit: Fit, side: int, progress: Progress = NO_PROGRESS) -> ImageSet:
    """Return a set of one shape as squares of one size; a set that has it already is returned as it is.

    Args:
        images: Any set.
        fit: See `fitted`.
        side: Of the squares, in pixels.
        progress: Called now and then.
    """
    channels, height, width = images.shape
    if height == width == side:
        return images
    result = new_images((len(images), channels, side, side))
    for index, pixels in enumerate(images.images):
        square = fitted(pixels[0] if channels == 1 else pixels.transpose(1, 2, 0), fit, side)
        result[index] = square if channels == 1 else square.transpose(2, 0, 1)
        if index % 1024 == 1023:
            progress(index + 1, len(images), "resizing images")
    done = {"crop": "centre-cropped to a square", "stretch": "stretched", "pad": "padded with black"}[fit]
    return images.with_images(
        frozen(result),
        f"brought from {width} x {height} to {side} x {side}: {done} where not square, resampled (LANCZOS)",
    )
