"""The same images at another resolution or with other channels."""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from diffmem.data.images import ImageSet, frozen
from diffmem.data.reading import check_resolution
from diffmem.data.storage import contiguous, new_images, parts
from diffmem.progress import NO_PROGRESS, Progress

__all__ = ["centre_square", "grayscale", "lanczos", "resize", "rgb", "to_pil"]


def to_pil(pixels: NDArray[np.uint8]) -> Image.Image:
    """Return one image, uint8 (C, H, W), as a Pillow image of mode L or RGB."""
    return Image.fromarray(np.ascontiguousarray(pixels[0] if len(pixels) == 1 else pixels.transpose(1, 2, 0)))


def centre_square(pixels: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Return a view of the middle square of images (..., H, W): the longer sides lose equal parts."""
    height, width = pixels.shape[-2:]
    side = min(height, width)
    top, left = (height - side) // 2, (width - side) // 2
    return pixels[..., top : top + side, left : left + side]


def lanczos(pixels: NDArray[np.uint8], resolution: int) -> NDArray[np.uint8]:
    """Return one image, uint8 (C, H, W), resampled to (C, resolution, resolution) by Pillow's LANCZOS filter."""
    small = to_pil(pixels).resize((resolution, resolution), Image.Resampling.LANCZOS)
    return np.asarray(small).reshape(resolution, resolution, -1).transpose(2, 0, 1)


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
    cropped = centre_square(images.images)
    steps = [f"centre crop from {width} x {height} to {side} x {side}"] if height != width else []
    if side == resolution:
        return images.with_images(contiguous(cropped), steps[0])
    result = new_images((len(images), images.shape[0], resolution, resolution))
    for index, pixels in enumerate(cropped):
        result[index] = lanczos(pixels, resolution)
        if index % 1024 == 1023:
            progress(index + 1, len(images), "resizing images")
    steps.append(f"resized from {side} x {side} to {resolution} x {resolution} (LANCZOS)")
    return images.with_images(frozen(result), "; ".join(steps))


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
