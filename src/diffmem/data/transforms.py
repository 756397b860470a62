"""The same images at another resolution, in another shape, or with other channels."""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from diffmem.data.images import ImageSet, frozen
from diffmem.data.reading import FIT_TEXT, Fit, check_resolution
from diffmem.data.storage import new_images, parts
from diffmem.progress import NO_PROGRESS, Progress

__all__ = ["fit_images", "fitted", "grayscale", "resize", "rgb", "to_pil"]


def to_pil(pixels: NDArray[np.uint8]) -> Image.Image:
    """Return one image, uint8 (C, H, W), as a Pillow image of mode L or RGB."""
    return Image.fromarray(np.ascontiguousarray(pixels[0] if len(pixels) == 1 else pixels.transpose(1, 2, 0)))


def resize(images: ImageSet, resolution: int, progress: Progress = NO_PROGRESS) -> ImageSet:
    """Return square images of `resolution` pixels, resampled with Pillow's LANCZOS filter.

    Images that are not square lose the longer sides in equal parts first (centre crop). A set that has the
    resolution already is returned as it is.

    Raises:
        UserError: `resolution` is not between 1 and 4096.
    """
    check_resolution(resolution)
    _, height, width = images.shape
    if height == width == resolution:
        return images
    side = min(height, width)
    steps = [f"centre crop from {width} x {height} to {side} x {side}"] if height != width else []
    if side != resolution:
        steps.append(f"resized from {side} x {side} to {resolution} x {resolution} (LANCZOS)")
    return images.with_images(_squares(images, "crop", resolution, progress), "; ".join(steps))


def grayscale(images: ImageSet) -> ImageSet:
    """Return grey images (C = 1) by the luma of ITU-R BT.601, 0.299 R + 0.587 G + 0.114 B.

    Rounded as Pillow's mode 'L' is.

    A grey set is returned as it is.
    """
    if images.shape[0] == 1:
        return images
    result = new_images((len(images), 1, *images.shape[1:]))
    for part in parts(len(images), math.prod(images.shape)):
        red, green, blue = images.images[part].astype(np.uint32).transpose(1, 0, 2, 3)
        # Pillow's 16-bit fixed-point weights: 0.299, 0.587 and 0.114 times 2**16.
        luma = (19595 * red + 38470 * green + 7471 * blue + 0x8000) >> 16
        result[part, 0] = luma
    return images.with_images(frozen(result), "turned grey (ITU-R BT.601 luma)")


def rgb(images: ImageSet) -> ImageSet:
    """Return RGB images (C = 3); grey becomes three equal channels. An RGB set is returned as it is."""
    if images.shape[0] == 3:
        return images
    result = new_images((len(images), 3, *images.shape[1:]))
    for part in parts(len(images), math.prod(images.shape)):
        result[part] = images.images[part]
    return images.with_images(frozen(result), "grey turned into RGB")


def fitted(pixels: NDArray[np.uint8], fit: Fit, side: int) -> NDArray[np.uint8]:
    """Return an image, uint8 (H, W) or (H, W, 3), as a square; the same array if it is one of that size already.

    Args:
        pixels: Of any size.
        fit: 'crop' keeps the square in the middle, 'stretch' changes the proportions, 'pad' adds black at both sides.
        side: Of the square, in pixels; resampled by Pillow's LANCZOS filter.
    """
    if pixels.shape[:2] == (side, side):
        return pixels
    height, width = pixels.shape[:2]
    if fit == "crop":
        middle = min(height, width)
        top, left = (height - middle) // 2, (width - middle) // 2
        pixels = pixels[top : top + middle, left : left + middle]
    if fit != "pad" or height == width:
        return _resampled(pixels, side, side)
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
    _, height, width = images.shape
    if height == width == side:
        return images
    return images.with_images(
        _squares(images, fit, side, progress),
        f"brought from {width} x {height} to {side} x {side}: {FIT_TEXT[fit]} where not square, resampled (LANCZOS)",
    )


def _squares(images: ImageSet, fit: Fit, side: int, progress: Progress) -> NDArray[np.uint8]:
    channels = images.shape[0]
    result = new_images((len(images), channels, side, side))
    for index, pixels in enumerate(images.images):
        square = fitted(pixels[0] if channels == 1 else pixels.transpose(1, 2, 0), fit, side)
        result[index] = square if channels == 1 else square.transpose(2, 0, 1)
        if index % 1024 == 1023:
            progress(index + 1, len(images), "resizing images")
    return frozen(result)
