"""How much of an image is noise, by where the training images have their variance."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import gaussian_filter

from diffmem.memorization.plausibility.statistics import conform, std_of

__all__ = ["NoiseGauge", "NoiseGauges"]

View = Callable[[NDArray[np.uint8]], NDArray[np.float32]]

_SIDE = 4
_POSITIONS = 10
_SMALL = 8
_ENERGY = 0.9
_BLOCK = 250
_APART = 0.25
_ORDINARY = 0.95
_ENOUGH = 8
_MANY = 200
_HALVED = 16
_BLURS = (1.0, 2.0, 3.0)
MOSTLY = 0.45
NOISY = 0.3
STRONG = 20.0
UNSHARED = 0.6
WHOLLY = 0.75


@dataclass(frozen=True, eq=False)
class NoiseGauge:
    """Measures how much of an image's variance lies where the training images have next to none.

    Seen as vectors (patches, or whole small pictures), training images have 90% of their energy in few directions; the others
    hold little of an image and most of white noise. An image's share of noise is where its energy outside of the few
    directions lies between the training images' median (0) and white noise (1). It does not depend on contrast.

    Attributes:
        view: Turns images into vectors, uint8 (n, C, H, W) -> float32 (n, vectors, d).
        few: The directions that hold 90% of the training images' energy, float32 (d, k).
        usual: Median over the training images of the energy outside of them, as a share (of one half, by the other's directions).
        white: The same of white noise.
        limit: Share of noise that 95% of the training images are below.
    """

    view: View
    few: NDArray[np.float32]
    usual: float
    white: float
    limit: float

    @property
    def separates(self) -> bool:
        """Whether noise can be distinguished from the training images at all: it cannot where they are like noise themselves."""
        return self.white - self.usual >= _APART

    @classmethod
    def fit(cls, view: View, training: Sequence[NDArray[np.uint8]]) -> NoiseGauge:
        """Fit the gauge to training images, uint8 (n, C, H, W): as they are, and further versions that are no noise either."""
        plain = view(training[0])
        half = len(plain) // 2 if len(plain) >= _HALVED else 0
        directions = _directions([view(images) for images in training])
        # Fresh images lie outside of what was fitted more than the fitted ones do: one half is seen by the other's fit.
        judge = directions if half == 0 else _directions([view(images[:half]) for images in training])
        outside = _outside(plain[half:], judge)
        usual, white = float(np.median(outside)), 1 - directions.shape[1] / len(directions)
        limit = (float(np.quantile(outside, _ORDINARY)) - usual) / max(white - usual, 1e-6)
        return cls(view, directions, usual, white, limit)

    def shares(self, images: NDArray[np.uint8]) -> NDArray[np.float64]:
        """Return the share of noise of each image, float64 (n,): 0 as the training images, 1 white noise; constant images below 0."""
        return (_outside(self.view(images), self.few) - self.usual) / max(self.white - self.usual, 1e-6)


@dataclass(frozen=True, eq=False)
class NoiseGauges:
    """Noise seen at three scales: in patches, in patches of what the images of a set do not share, and in the whole picture.

    Attributes:
        patches: Of patches of 4 x 4 pixels.
        unshared: The same of images less their set's mean: noise upon one picture is noise, whatever the picture.
        whole: Of pictures shrunk to 8 x 8 at most, less their mean; None if there are too few training images to know them.
            Blurred versions of the training images count as training images, so that only structure that is none counts.
    """

    patches: NoiseGauge
    unshared: NoiseGauge
    whole: NoiseGauge | None

    @classmethod
    def fit(cls, training: NDArray[np.uint8]) -> NoiseGauges:
        """Fit the gauges to training images, uint8 (n, C, H, W)."""
        whole = None
        if len(training) >= _MANY and min(training.shape[2:]) > _SIDE:
            blurred = [
                gaussian_filter(training[: 2 * _MANY].astype(np.float32), (0, 0, s, s)).astype(np.uint8)
                for s in _BLURS
            ]
            whole = NoiseGauge.fit(_whole, [training, *blurred])
        return cls(NoiseGauge.fit(_patches, [training]), NoiseGauge.fit(_unshared, [training]), whole)

    def shares(self, images: NDArray[np.uint8]) -> NDArray[np.float64]:
        """Return the largest share of noise that a gauge finds in each image, float64 (n,)."""
        found = np.stack([gauge.shares(images) for gauge in self._separating()] or [np.zeros(len(images))])
        largest: NDArray[np.float64] = found.max(axis=0)
        return largest

    def noisy(self, images: NDArray[np.uint8]) -> NDArray[np.bool_]:
        """Return which images are noise, bool (n,).

        In patches: nearly half of the variance, or 30% and more than 20 grey levels. In what is not shared 60%, in the whole
        picture 75%: poor models misplace structure long before what they make is noise.
        """
        found = np.zeros(len(images), bool)
        spread = std_of(images)
        for gauge in self._separating():
            shares = gauge.shares(images)
            if gauge is self.whole:
                noisy = shares > max(WHOLLY, gauge.limit)
            elif gauge is self.unshared:
                noisy = shares > max(UNSHARED, gauge.limit)
            else:
                strong = spread * np.sqrt(np.maximum(shares, 0)) > STRONG
                noisy = (shares > gauge.limit) & ((shares > MOSTLY) | ((shares > NOISY) & strong))
            # One gauge decides: what several see in a part of the images each would add up.
            found = noisy if noisy.sum() > found.sum() else found
        return found

    def _separating(self) -> list[NoiseGauge]:
        gauges = [self.patches, self.unshared, *([] if self.whole is None else [self.whole])]
        return [gauge for gauge in gauges if gauge.separates]


def _directions(versions: Sequence[NDArray[np.float32]]) -> NDArray[np.float32]:
    """Return the fewest orthogonal directions that hold 90% of the energy of images seen as vectors, (d, k)."""
    values, directions = np.linalg.eigh(np.sum([_moments(vectors) for vectors in versions], axis=0))
    values, directions = np.maximum(values[::-1], 0), directions[:, ::-1]
    cut = int(np.searchsorted(np.cumsum(values) / max(values.sum(), 1e-12), _ENERGY)) + 1
    return np.ascontiguousarray(directions[:, :cut].astype(np.float32))


def _moments(vectors: NDArray[np.float32]) -> NDArray[np.float64]:
    """Return the sum of the vectors' outer products, each image counted alike, (d, d)."""
    total = np.zeros((vectors.shape[2], vectors.shape[2]))
    for start in range(0, len(vectors), _BLOCK):
        part = vectors[start : start + _BLOCK]
        energy = np.maximum(np.square(part).sum(axis=(1, 2), keepdims=True), 1e-6)
        flat = (part / np.sqrt(energy)).reshape(-1, part.shape[2])
        total += flat.T @ flat
    return total


def _outside(vectors: NDArray[np.float32], few: NDArray[np.float32]) -> NDArray[np.float64]:
    energy = np.einsum("npd,npd->n", vectors, vectors).astype(np.float64)
    inside = np.square(vectors.reshape(-1, vectors.shape[2]) @ few).sum(axis=1)
    held = inside.reshape(len(vectors), -1).sum(axis=1, dtype=np.float64)
    return np.where(energy > 0, 1 - held / np.maximum(energy, 1e-12), 0.0)


def _patches(images: NDArray[np.uint8]) -> NDArray[np.float32]:
    return _cut(images.astype(np.float32))


def _unshared(images: NDArray[np.uint8]) -> NDArray[np.float32]:
    pixels = images.astype(np.float32)
    return _cut(pixels - pixels.mean(axis=0) if len(images) >= _ENOUGH else pixels)


def _whole(images: NDArray[np.uint8]) -> NDArray[np.float32]:
    small = conform(images, (1, min(images.shape[2], _SMALL), min(images.shape[3], _SMALL)))
    flat = small.reshape(len(images), 1, -1).astype(np.float32)
    flat -= flat.mean(axis=2, keepdims=True)
    return flat - flat.mean(axis=0) if len(images) >= _ENOUGH else flat


def _cut(pixels: NDArray[np.float32]) -> NDArray[np.float32]:
    """Return patches about the image's channel means, float32 (n, positions, C * side * side)."""
    pixels = pixels - pixels.mean(axis=(2, 3), keepdims=True)
    height, width = (min(_SIDE, side) for side in pixels.shape[2:])
    rows, columns = _positions(pixels.shape[2], height), _positions(pixels.shape[3], width)
    windows = np.lib.stride_tricks.sliding_window_view(pixels, (height, width), axis=(2, 3))
    chosen = windows[:, :, rows][:, :, :, columns]
    return np.ascontiguousarray(chosen.transpose(0, 2, 3, 1, 4, 5)).reshape(
        len(pixels), len(rows) * len(columns), -1
    )


def _positions(side: int, patch: int) -> NDArray[np.int64]:
    last = side - patch
    return np.unique(np.rint(np.linspace(0, last, min(last + 1, _POSITIONS))).astype(np.int64))
