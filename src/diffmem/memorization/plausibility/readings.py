"""Mistakes that programs make with the values of images when they write them, and how each is undone."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

__all__ = ["Reading", "readings"]

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
    for factor, word in ((2.0, "doubled"), (4.0, "times 4"), (16.0, "times 16"), (64.0, "times 64")):
        large = 255.0 / {2.0: 127.5, 4.0: 64.0, 16.0: 15.94, 64.0: 4.0}[factor]
        yield _tabled(f"values {word}", f"values divided by {factor:g}", _VALUES / large, _VALUES * large)
        inverse = "halved" if factor == 2 else f"divided by {factor:g}"
        yield _tabled(
            f"values {inverse}", f"values multiplied by {factor:g}", _VALUES * large, _VALUES / large
        )
    for largest in (1.0, 2.0):
        for rounded in (True, False):
            written = _VALUES / 255 * largest
            yield _tabled(f"values times {255 / largest:g}", f"values of 0 to {largest:g} cast to bytes",
                          np.rint(written) if rounded else np.floor(written), _VALUES * 255 / largest)  # fmt: skip
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
