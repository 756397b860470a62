"""Mistakes that programs make with the values of images when they write them, and whether undoing one fits the samples better."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

__all__ = [
    "Fit",
    "Reading",
    "best_reading",
    "chance_distances",
    "distances",
    "features",
    "readings",
    "scale_of",
]

_LEVELS = np.linspace(0.0, 1.0, 21)
_QUANTILES = (0.0, 0.05, 0.25, 0.5, 0.75, 0.95, 1.0)
_LARGEST = 400
_CHANGED = 0.15
CLEARLY = 2.6
SOFTLY = 4.0
_FEW = 10
_BEYOND = 2.0
_PIXELS = 1000
_TIE = 0.02  # of readings that write nearly the same values, the plainer is named, which comes first


Change = Callable[[NDArray[np.uint8]], NDArray[np.uint8]]

_VALUES = np.arange(256, dtype=np.float64)


@dataclass(frozen=True)
class Reading:
    """Another way to read the samples' values.

    Attributes:
        title: What the reading does to the samples, in plain words: "values doubled".
        mistake: What the writer of the samples would have done, in plain words.
        spoil: Makes of right images what that writer would have written, uint8 (N, C, H, W) -> the same.
        mend: Undoes it as far as it can be undone, uint8 (N, C, H, W) -> the same.
        soft: Whether a dark or bright part of the images looks much like this mistake, which then takes more to be shown.
    """

    title: str
    mistake: str
    spoil: Change
    mend: Change
    soft: bool = False


def readings(channels: int, layouts: bool = True) -> Iterator[Reading]:
    """Yield the readings that are tried, for images of this many channels; `layouts`: also where bytes are other pixels."""
    yield from _scales()
    yield _tabled(
        "values doubled, less 255", "(x + 1) / 2 applied twice", _VALUES / 2 + 127.5, 2 * _VALUES - 255
    )
    yield _tabled(
        "values halved, plus 127.5", "(x + 1) / 2 forgotten", 2 * _VALUES - 255, _VALUES / 2 + 127.5
    )
    yield _tabled("values inverted", "255 - v written", 255 - _VALUES, 255 - _VALUES)
    yield _tabled("values shifted by 128, modulo 256", "127.5 not added before the values were cast to bytes",
                  (_VALUES + 128) % 256, (_VALUES + 128) % 256)  # fmt: skip
    yield _tabled("values halved, plus 127.5, or 0.5 less than half, whichever is smoother",
                  "values of -1 to 1 multiplied by 255, which wrapped modulo 256", (2 * _VALUES - 255) % 256, None)  # fmt: skip
    for power in (2.2, 1 / 2.2):
        spoil, mend = (_tabled("", "", 255 * (_VALUES / 255) ** p, None).spoil for p in (power, 1 / power))
        yield Reading(
            f"values to the power of {1 / power:.2g}",
            f"values to the power of {power:.2g} written",
            spoil,
            mend,
            soft=True,
        )
    if channels == 3:
        yield Reading("red and blue exchanged", "channels written in the order blue, green, red", _bgr, _bgr)
    if channels > 1 and layouts:
        yield Reading("bytes read as rows, columns, channels", "channels last taken for channels first", _flattened,
                      _lifted)  # fmt: skip


def _scales() -> Iterator[Reading]:
    # 12- and 10-bit values in 16-bit files end as 0 to 16 and 0 to 4; 0 to 1 and 0 to 2 are floats cast to bytes.
    for factor, large, word, inverse in (
        (2, 255 / 127.5, "doubled", "halved"),
        (4, 255 / 64, "times 4", "divided by 4"),
        (16, 255 / 15.94, "times 16", "divided by 16"),
        (64, 255 / 4, "times 64", "divided by 64"),
    ):
        smaller, larger = _VALUES / large, _VALUES * large
        yield _tabled(f"values {word}", f"values divided by {factor}", smaller, larger)
        yield _tabled(f"values {inverse}", f"values multiplied by {factor}", larger, smaller)
    for largest in (1.0, 2.0):
        written = _VALUES / 255 * largest
        for cast in (np.rint(written), np.floor(written)):
            yield _tabled(
                f"values times {255 / largest:g}", f"values of 0 to {largest:g} cast to bytes", cast, _VALUES * 255 / largest
            )  # fmt: skip
    yield _tabled("values divided by 255", "values of 0 to 1 multiplied by 255", _VALUES * 255, _VALUES / 255)


def _tabled(
    title: str, mistake: str, spoil: NDArray[np.float64], mend: NDArray[np.float64] | None
) -> Reading:
    spoiled = _bytes(spoil)
    if mend is None:
        return Reading(title, mistake, lambda images: spoiled[images], _unwrapped)
    mended = _bytes(mend)
    return Reading(title, mistake, lambda images: spoiled[images], lambda images: mended[images])


def _bytes(values: NDArray[np.float64]) -> NDArray[np.uint8]:
    return np.clip(np.rint(values), 0, 255).astype(np.uint8)


def _bgr(images: NDArray[np.uint8]) -> NDArray[np.uint8]:
    return np.ascontiguousarray(images[:, ::-1])


def _flattened(images: NDArray[np.uint8]) -> NDArray[np.uint8]:
    return np.ascontiguousarray(images.transpose(0, 2, 3, 1)).reshape(images.shape)


def _lifted(images: NDArray[np.uint8]) -> NDArray[np.uint8]:
    count, channels, height, width = images.shape
    return np.ascontiguousarray(images.reshape(count, height, width, channels).transpose(0, 3, 1, 2))


def _unwrapped(images: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Undo a doubling modulo 256: each value has two origins, 128 apart; follow the rows and columns smoothly."""
    mended = np.empty_like(images)
    period = 2 * np.pi / 256
    for start in range(0, len(images), 500):
        phase = images[start : start + 500].astype(np.float32) * period
        # First down the left edge, then along each row from it.
        phase[..., :1] = np.unwrap(phase[..., :1], axis=2)
        turns = np.unwrap(phase, axis=3) / period
        value = (turns + 255) / 2
        # The origin of the whole image is open by multiples of 128: the one that keeps most of it inside 0 to 255.
        middle = np.median(value, axis=(2, 3), keepdims=True)
        value += 128 * np.rint((127.5 - middle) / 128)
        mended[start : start + 500] = np.clip(np.rint(value), 0, 255)
    return mended


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
    positions = np.rint(np.array(_QUANTILES) * (ordered.shape[1] - 1)).astype(np.int64)
    halves = [np.array_split(pixels, 2, axis=2)[side] for side in (0, 1)]
    quarters = [
        np.array_split(half, 2, axis=3)[side].mean(axis=(2, 3))
        for half in halves
        for side in (0, 1)
        if half.size and np.array_split(half, 2, axis=3)[side].size
    ]
    means = np.stack(quarters, axis=2)
    parts = [ordered[:, positions], means.reshape(count, -1)]
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
            if changed.any() and (best is None or found.mean() < best[0] - _TIE):
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
