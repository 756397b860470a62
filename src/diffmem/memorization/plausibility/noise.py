"""How much of an image is noise, by the training images' own patches."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from diffmem.memorization.plausibility.statistics import std_of

__all__ = ["NoiseGauge"]

_SIDE = 4
_PLACES = 10
_ENERGY = 0.9
_BLOCK = 250
_TELLING = 0.25
MOSTLY = 0.45
NOISY = 0.25
STRONG = 20.0


@dataclass(frozen=True, eq=False)
class NoiseGauge:
    """Tells how much of an image's variance lies where the training images have next to none.

    Patches of 4 x 4 pixels of the training images have most of their energy in a few directions; the rest of the directions
    hold little of an image and most of white noise. An image's share of noise is where its energy outside of the few
    directions lies between the training images' median (0) and white noise (1). It does not depend on contrast, and a blurred
    image has less of it than a sharp one.

    Attributes:
        few: The directions that hold 90% of the training images' energy, float32 (d, k).
        usual: Median over the training images of the energy outside of them, as a share.
        white: The same of white noise.
        limit: Share of noise that 99% of the training images are below.
    """

    few: NDArray[np.float32]
    usual: float
    white: float
    limit: float

    @property
    def tells(self) -> bool:
        """Whether noise can be told from the training images at all: it cannot where they are like noise themselves."""
        return self.white - self.usual >= _TELLING

    @classmethod
    def fit(cls, training: NDArray[np.uint8]) -> NoiseGauge:
        """Fit the gauge to training images, uint8 (n, C, H, W), of which at least one is not constant."""
        total: NDArray[np.float64] | None = None
        for start in range(0, len(training), _BLOCK):
            flat = _patches(training[start : start + _BLOCK])
            # Each image counts alike: a few of strong contrast must not be all that is learned.
            energy = np.maximum(np.square(flat).sum(axis=(1, 2), keepdims=True), 1e-6)
            flat = flat / np.sqrt(energy)
            joint = np.einsum("npd,npe->de", flat, flat, optimize=True).astype(np.float64)
            total = joint if total is None else total + joint
        assert total is not None
        values, directions = np.linalg.eigh(total)
        values, directions = np.maximum(values[::-1], 0), directions[:, ::-1]
        cut = int(np.searchsorted(np.cumsum(values) / max(values.sum(), 1e-12), _ENERGY)) + 1
        few = np.ascontiguousarray(directions[:, :cut].astype(np.float32))
        outside = _outside(training, few)
        usual, white = float(np.median(outside)), 1 - cut / len(values)
        gauge = cls(few, usual, white, 0.0)
        return cls(few, usual, white, float(np.quantile(gauge.shares(training), 0.99)))

    def shares(self, images: NDArray[np.uint8]) -> NDArray[np.float64]:
        """Return the share of noise of each image, float64 (n,): 0 as the training images, 1 white noise; constant images 0."""
        return (_outside(images, self.few) - self.usual) / max(self.white - self.usual, 1e-6)

    def noisy(self, images: NDArray[np.uint8]) -> NDArray[np.bool_]:
        """Return which images are noise, bool (n,): nearly half of their variance, or a quarter and more than 20 grey levels."""
        if not self.tells:
            return np.zeros(len(images), bool)
        shares = self.shares(images)
        levels = std_of(images) * np.sqrt(np.maximum(shares, 0))
        return (shares > self.limit) & ((shares > MOSTLY) | ((shares > NOISY) & (levels > STRONG)))


def _outside(images: NDArray[np.uint8], few: NDArray[np.float32]) -> NDArray[np.float64]:
    found = []
    for start in range(0, len(images), _BLOCK):
        flat = _patches(images[start : start + _BLOCK])
        energy = np.square(flat).sum(axis=(1, 2), dtype=np.float64)
        inside = np.square(flat @ few).sum(axis=(1, 2), dtype=np.float64)
        found.append(np.where(energy > 0, 1 - inside / np.maximum(energy, 1e-12), 0.0))
    return np.concatenate(found) if found else np.zeros(0)


def _patches(images: NDArray[np.uint8]) -> NDArray[np.float32]:
    """Return patches about the image's channel means, float32 (n, places, C * side * side)."""
    pixels = images.astype(np.float32)
    pixels -= pixels.mean(axis=(2, 3), keepdims=True)
    height, width = (min(_SIDE, side) for side in images.shape[2:])
    rows, columns = _places(images.shape[2], height), _places(images.shape[3], width)
    windows = np.lib.stride_tricks.sliding_window_view(pixels, (height, width), axis=(2, 3))
    chosen = windows[:, :, rows][:, :, :, columns]
    return np.ascontiguousarray(chosen.transpose(0, 2, 3, 1, 4, 5)).reshape(
        len(images), len(rows) * len(columns), -1
    )


def _places(side: int, patch: int) -> NDArray[np.int64]:
    last = side - patch
    return np.unique(np.rint(np.linspace(0, last, min(last + 1, _PLACES))).astype(np.int64))
