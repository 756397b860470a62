"""Float images as uint8: by the range that the user tells, part by part."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from numpy.typing import NDArray

from diffmem.data.conversions import Conversion
from diffmem.data.reading import ValueRange
from diffmem.errors import UserError

__all__ = ["ScaledPixels"]

_LOWEST: dict[ValueRange, float] = {"0..1": 0.0, "-1..1": -1.0}


class ScaledPixels:
    """Turns the values of a range into 0 to 255, and keeps account of them.

    A value v becomes round((v - low) * 255 / (1 - low)), halves to the even neighbour, where low is 0 or -1.

    Args:
        scale: The range.
        what: The array's name, for errors.
    """

    def __init__(self, scale: ValueRange, what: str) -> None:
        self._scale, self._what, self._low = scale, what, _LOWEST[scale]
        self._least, self._most, self._moved = math.inf, -math.inf, 0.0

    def convert(self, values: NDArray[Any]) -> NDArray[np.uint8]:
        """Return the pixels of some values, in the same shape.

        Raises:
            UserError: A value is outside of the range, or no number.
        """
        exact = values.astype(np.float64)
        least, most = float(exact.min()), float(exact.max())
        if not (self._low <= least and most <= 1):
            other = (
                "a value is not a number (NaN)"
                if math.isnan(least + most)
                else f"values from {least:g} to {most:g}"
            )
            raise UserError(
                f"{self._what} is refused: the range is {self._scale} but it holds {other}. Give the range that the values"
                " have, clip them to it, or save values of 0 to 255 as uint8."
            )
        exact -= self._low
        exact *= 255 / (1 - self._low)
        levels = np.rint(exact)
        exact -= levels
        self._least, self._most = min(self._least, least), max(self._most, most)
        self._moved = max(self._moved, float(exact.max()), -float(exact.min()))
        return levels.astype(np.uint8)

    def conversion(self, dtype: np.dtype[Any], count: int) -> Conversion:
        """Return what was done to `count` images, for the history."""
        text = (
            f"{dtype.name} values {self._scale} became 0 to 255, rounded to the nearest (halves to even), by"
            f" {self._moved:.2g} of a grey level at most; smallest value {self._least:g}, largest {self._most:g}"
        )
        # Values of -1..1 that never go below 0 leave half of the levels unused: 0..1 may be meant.
        dark = self._low < 0 <= self._least
        text += ": no pixel is darker than grey 128, 0..1 may be meant" if dark else ""
        return Conversion("range", self._scale, count, count, text, dark)
