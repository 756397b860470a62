"""The same source read by the other rules that loaders have, where they give other pixels."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import get_args

from diffmem.data.conversions import Conversion
from diffmem.data.images import ImageSet
from diffmem.data.reading import Alpha, Fit, Reading
from diffmem.data.sources import open_images
from diffmem.progress import Progress

__all__ = ["OtherReading", "other_readings"]

_HIGHEST = 65_535


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
    found = []
    for conversion in images.conversions:
        if not conversion.changes_pixels:
            continue
        for text, other in _others(conversion, reading):
            opened = partial(_open, source, other)
            found.append(OtherReading(text, other, opened))
    return found


def _open(source: str | Path, reading: Reading, progress: Progress) -> ImageSet:
    return open_images(source, progress=progress, reading=reading)


def _others(conversion: Conversion, reading: Reading) -> Iterator[tuple[str, Reading]]:
    if conversion.key == "alpha":
        told = {
            "white": "transparent pixels composited on white",
            "black": "transparent pixels composited on black",
            "drop": "transparency dropped",
        }
        for ground in get_args(Alpha):
            if ground != reading.alpha:
                yield told[ground], replace(reading, alpha=ground)
    elif conversion.key == "exif":
        if reading.exif == "ignore":
            yield "EXIF orientation applied", replace(reading, exif="apply")
        else:
            yield "EXIF orientation ignored", replace(reading, exif="ignore")
    elif conversion.key == "white" and conversion.largest:
        largest = conversion.largest
        levels = dict.fromkeys((_HIGHEST, largest, 2 ** largest.bit_length() - 1))
        for white in levels:
            if str(white) != conversion.choice:
                yield f"white level {white:,} of 16-bit files", replace(reading, white=white)
    elif conversion.key == "pages" and reading.pages != "all":
        yield "all pages and frames", replace(reading, pages="all")
    elif conversion.key == "fit" and reading.fit is not None:
        told = {
            "crop": "centre-cropped to a square",
            "stretch": "stretched to a square",
            "pad": "padded to a square",
        }
        for fit in get_args(Fit):
            if fit != reading.fit:
                yield told[fit], replace(reading, fit=fit)
