"""Whether another reading of the samples' values fits the training images clearly better."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from diffmem.memorization.plausibility.readings import Reading, readings

__all__ = ["Fit", "best_reading", "chance_distances", "distances", "features", "scale_of"]

_LEVELS = np.linspace(0.0, 1.0, 21)
_QUANTILES = (0.0, 0.05, 0.25, 0.5, 0.75, 0.95, 1.0)
_LARGEST = 400
_CHANGED = 0.15
CLEARLY = 2.6
SOFTLY = 4.0
_FEW = 10
_BEYOND = 2.0
_PIXELS = 1000


class Fit(NamedTuple):
    """A reading of the samples that fits better than the plain one.

    Attributes:
        reading: The reading.
        ratio: How many times nearer the samples are under it, in the features that it changes.
    """

    reading: Reading
    ratio: float


def features(images: NDArray[np.uint8]) -> NDArray[np.float32]:
    """Return what is compared of each image, float32 (n, features): quantiles of its values, means of its quarters, colour."""
    count, channels = images.shape[:2]
    pixels = images.astype(np.float32)
    flat = images.reshape(count, -1)
    ordered = np.sort(flat[:, :: max(1, flat.shape[1] // _PIXELS)], axis=1).astype(np.float32)
    places = np.rint(np.array(_QUANTILES) * (ordered.shape[1] - 1)).astype(np.int64)
    halves = [np.array_split(pixels, 2, axis=2)[side] for side in (0, 1)]
    quarters = [
        np.array_split(half, 2, axis=3)[side].mean(axis=(2, 3))
        for half in halves
        for side in (0, 1)
        if half.size and np.array_split(half, 2, axis=3)[side].size
    ]
    means = np.stack(quarters, axis=2)
    parts = [ordered[:, places], means.reshape(count, -1)]
    if channels > 1:
        parts.append(np.diff(means, axis=1).reshape(count, -1))
    steps = [
        np.abs(np.diff(pixels, axis=axis)).mean(axis=(1, 2, 3)) for axis in (2, 3) if pixels.shape[axis] > 1
    ]
    if steps:
        parts.append(np.stack(steps, axis=1))
    return np.concatenate(parts, axis=1)


def best_reading(
    samples: NDArray[np.uint8],
    training: NDArray[np.uint8],
    heldout: NDArray[np.uint8] | None = None,
    layouts: bool = True,
) -> Fit | None:
    """Look for a reading of the samples under which they fit the training images clearly better.

    Args:
        samples: uint8 (n, C, H, W).
        training: uint8 (m, C, H, W), of the same shape.
        heldout: uint8 (l, C, H, W), fresh images, for the distance that is chance; what theory expects if None.
        layouts: Whether readings that take bytes for other pixels are tried: no if the samples were resized.

    Returns:
        The fit; none unless the plain distance is far beyond chance and the reading's a third of it or less.
    """
    samples, training = samples[:_LARGEST], training[:_LARGEST]
    known = features(training)
    scale = scale_of(known, training)
    seen, count = features(samples), len(samples)
    fresh = None if heldout is None else features(heldout[:_LARGEST])
    apart = distances(seen, known, scale)
    usual = chance_distances(known, fresh, scale, count)
    plain, chance = float(apart.mean()), float(usual.mean())
    best: tuple[float, float, Fit] | None = None
    if plain > 1.5 * chance:
        for reading in readings(samples.shape[1], layouts):
            # Compared as written, not as mended: what a mistake destroys is destroyed in both.
            written = reading.spoil(training)
            expected = features(written)
            found = distances(seen, expected, scale_of(expected, written))
            # A mistake that leaves most features as they are is judged by those that it changes.
            changed = distances(expected, known, scale) > np.maximum(_CHANGED, usual)
            if changed.any() and (best is None or found.mean() < best[0]):
                before = apart[changed].mean()
                close = np.maximum(found[changed].mean(), usual[changed].mean() / 2)
                best = found.mean(), before / usual[changed].mean(), Fit(reading, float(before / close))
    if best is None:
        return None
    left, beyond, fit = best
    # Ten training images know little of what all images are like: a bright subset may fit a mistake better.
    needed = (SOFTLY if fit.reading.soft else CLEARLY) * (1 + _FEW / len(known))
    return fit if fit.ratio >= needed and beyond >= _BEYOND and left <= plain / 1.5 else None


def scale_of(known: NDArray[np.float32], images: NDArray[np.uint8]) -> NDArray[np.float32]:
    """Return the standard deviation of each feature over images, at least a tenth of that of their pixels, (features,)."""
    scale: NDArray[np.float32] = np.maximum(known.std(axis=0), max(0.1 * float(images.std()), 0.25))
    return scale


def chance_distances(
    known: NDArray[np.float32], fresh: NDArray[np.float32] | None, scale: NDArray[np.float32], count: int
) -> NDArray[np.float64]:
    """Return the distance of each feature that fresh images have, of as many as there are samples."""
    # The expected distance of two draws of one distribution, in its standard deviations.
    expected: NDArray[np.float64] = np.full(
        known.shape[1], 0.6 * np.sqrt(1 / max(len(known), 1) + 1 / max(count, 1))
    )
    if fresh is not None and len(fresh) > 1:
        expected = np.maximum(distances(fresh, known, scale), expected)
    return expected


def distances(
    left: NDArray[np.float32], right: NDArray[np.float32], scale: NDArray[np.float32]
) -> NDArray[np.float64]:
    """Return for each feature the distance of two distributions (Wasserstein), in units of `scale`."""
    one, two = (np.quantile(side, _LEVELS, axis=0) for side in (left, right))
    gaps: NDArray[np.float64] = np.abs(one - two).mean(axis=0) / scale
    return gaps
