"""Image sets for the tests of the sample check."""

from __future__ import annotations

import numpy as np
from scipy.ndimage import gaussian_filter

from diffmem.data import open_images


def digits() -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return 800 training, 300 held-out and 697 fresh digits."""
    images = open_images("digits").images
    images = images[np.random.default_rng(0).permutation(len(images))]
    return images[:800], images[800:1100], images[1100:]


def scenes(count: int, seed: int, side: int = 32) -> np.ndarray:
    """Return colour images of smooth shapes, bright above and blue below, as unlike noise as photographs are."""
    random = np.random.default_rng(seed)
    shapes = gaussian_filter(random.normal(0, 1, (count, 3, side, side)), (0, 0, side / 12, side / 12))
    shared = gaussian_filter(random.normal(0, 1, (count, 1, side, side)), (0, 0, side / 16, side / 16))
    mixed = 0.5 * shapes / shapes.std() + shared / shared.std()
    slope = np.linspace(30, -30, side)[:, None] * np.array([1.0, 0.3, -0.5])[:, None, None]
    return bytes_of(110 + 35 * mixed + slope)


def bytes_of(values: np.ndarray) -> np.ndarray:
    return np.clip(np.rint(values), 0, 255).astype(np.uint8)


def noised(images: np.ndarray, levels: float) -> np.ndarray:
    return bytes_of(images + np.random.default_rng(1).normal(0, levels, images.shape))


def contrast(images: np.ndarray, factor: float) -> np.ndarray:
    middle = images.mean(axis=(2, 3), keepdims=True)
    return bytes_of(middle + factor * (images - middle))


def blurred(images: np.ndarray, sigma: float) -> np.ndarray:
    return bytes_of(gaussian_filter(images.astype(np.float32), (0, 0, sigma, sigma)))


def white_noise(like: np.ndarray, seed: int = 2) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, like.shape).astype(np.uint8)


def sheets(images: np.ndarray, rows: int, columns: int, padding: int) -> np.ndarray:
    """Return as many sheets of rows x columns images as there are images for, black between them."""
    count, channels, height, width = images.shape
    number = count // (rows * columns)
    shape = (number, channels, rows * (height + padding) + padding, columns * (width + padding) + padding)
    found = np.zeros(shape, np.uint8)
    for place in range(rows * columns):
        top = padding + place // columns * (height + padding)
        left = padding + place % columns * (width + padding)
        found[:, :, top : top + height, left : left + width] = images[place :: rows * columns][:number]
    return found
