"""The same source read by the other rules that loaders have, where they give other pixels."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

from diffmem.data.conversions import Conversion
from diffmem.data.images import ImageSet
from diffmem.data.reading import ALPHA_TEXT, FIT_TEXT, Reading
from diffmem.data.sources import open_images
from diffmem.progress import Progress

__all__ = ["OtherReading", "other_readings"]

_HIGHEST = 65_535
_TEXT: dict[str, dict[Any, str]] = {
    "alpha": {**ALPHA_TEXT},
    "exif": {"apply": "EXIF orientation applied", "ignore": "EXIF orientation ignored"},
    "pages": {"all": "all pages and frames"},
    "fit": {**FIT_TEXT, "stretch": "stretched to a square", "pad": "padded to a square"},
}


@dataclass(frozen=True)
class OtherReading:
    """A source as it would be by another rule.

    Attributes:
        text: The rule in words.
        reading: The reading that follows it; all else is as it was.
        open: Reads the source so.
    """

    text: str
    reading: Reading
    open: Callable[[Progress], ImageSet]


def other_readings(images: ImageSet, source: str | Path, reading: Reading) -> list[OtherReading]:
    """Return the other readings of a source that can give other pixels, one for each rule that was a choice.

    Args:
        images: The set as it was read, or one that was made of it.
        source: What `open_images` was given.
        reading: How it was read; its split stays.
    """

    def opened(other: Reading, progress: Progress) -> ImageSet:
        return open_images(source, progress=progress, reading=other)

    return [
        OtherReading(text, other, partial(opened, other))
        for conversion in images.conversions
        if conversion.changes_pixels
        for text, other in _others(conversion, reading)
    ]


def _others(conversion: Conversion, reading: Reading) -> Iterator[tuple[str, Reading]]:
    for value, text in _TEXT.get(conversion.key, {}).items():
        if value != getattr(reading, conversion.key):
            yield text, replace(reading, **{conversion.key: value})
    if conversion.key == "white" and conversion.largest:
        largest = conversion.largest
        for white in dict.fromkeys((_HIGHEST, largest, 2 ** largest.bit_length() - 1)):
            if str(white) != conversion.choice:
                yield f"white level {white:,} of 16-bit files", replace(reading, white=white)
