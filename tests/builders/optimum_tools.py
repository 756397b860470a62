"""Image sets on which optima are tested, and the formula in extended precision."""

from __future__ import annotations

import numpy as np
import torch

from diffmem.data.images import ImageSet

SHAPE = (3, 6, 5)


def image_set(pixels, labels=None):
    return ImageSet(pixels, labels, tuple(f"image {i}" for i in range(len(pixels))))


def random_pixels(count, shape=SHAPE, seed=0):
    return np.random.default_rng(seed).integers(0, 256, (count, *shape), dtype=np.uint8)


def smooth_pixels(count, shape=SHAPE, seed=0):
    """Images whose energy lies in few directions, as that of photographs does."""
    rng = np.random.default_rng(seed)
    dim = int(np.prod(shape))
    basis = np.linalg.qr(rng.normal(size=(dim, dim)))[0]
    spread = 120 * np.arange(1, dim + 1) ** -1.0
    rows = 128 + (rng.normal(size=(count, dim)) * spread) @ basis.T * np.sqrt(dim) / 4
    return rows.clip(0, 255).astype(np.uint8).reshape(count, *shape)


def formula(x, sigma, pixels):
    """The weights p (B, N) and the mean, from differences in extended precision."""
    y = pixels.reshape(len(pixels), -1).astype(np.longdouble) / np.longdouble(127.5) - 1
    rows = x.numpy().reshape(len(x), -1).astype(np.longdouble)
    levels = np.broadcast_to(np.asarray(sigma, np.longdouble), len(rows))
    weights = []
    for row, level in zip(rows, levels, strict=True):
        half = np.square(row - y).sum(1) / (2 * level**2)
        weight = np.exp(half.min() - half)
        weights.append(weight / weight.sum())
    weights = np.array(weights)
    return weights.astype(np.float64), torch.from_numpy((weights @ y).astype(np.float64)).reshape(x.shape)


def noisy(pixels, sigma, count=6, seed=1):
    """Images of the set plus noise: what a sampler asks about."""
    generator = torch.Generator().manual_seed(seed)
    clean = torch.from_numpy(pixels[np.arange(count) % len(pixels)] / 127.5 - 1)
    return clean + sigma * torch.randn(clean.shape, generator=generator, dtype=torch.float64)


def halfway(pixels):
    """Points at equal distance from pairs of images, where float32 distances choose at random."""
    y = torch.from_numpy(pixels / 127.5 - 1)
    return (y + y.roll(1, 0))[:8] / 2


def nearly_equal(count):
    rng = np.random.default_rng(3)
    return (random_pixels(1, seed=4) // 2 + 60 + rng.integers(-1, 2, (count, *SHAPE))).astype(np.uint8)


DATA = {
    "one image": random_pixels(1),
    "two images": random_pixels(2),
    "distinct images": random_pixels(600),
    "copies": np.repeat(random_pixels(30), 5, axis=0),
    "images that differ by one grey level": nearly_equal(200),
    "dark images": (np.random.default_rng(0).random((100, *SHAPE)) < 0.05).astype(np.uint8) * 255,
    "black images": np.zeros((4, *SHAPE), dtype=np.uint8),
}
