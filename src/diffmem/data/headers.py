"""What encoded images tell of their size and their frames before anything is decoded, and the limits for it.

Formats: WebP (Google, "WebP Container Specification"), TIFF 6.0 and BigTIFF; others in modules of their own.
"""

from __future__ import annotations

import struct
from typing import NamedTuple

from diffmem.data.av1 import read_avif
from diffmem.data.exif import orientation_of
from diffmem.data.guards import MAX_PIXELS
from diffmem.data.markers import check_gif, check_jpeg, exif_of_jpeg
from diffmem.data.png import check_png
from diffmem.data.signatures import HEAD_BYTES, pnm_size
from diffmem.errors import UserError

__all__ = ["MAX_FRAME_PIXELS", "MAX_SIDE", "Header", "check_size", "read_header_of"]

MAX_SIDE = 65_535
"""Longest side of an image in pixels."""

MAX_FRAME_PIXELS = 1_000_000_000
"""Most pixels of all frames or pages of one file."""

_MAX_PARTS = 100_000  # chunks, boxes or pages of one file
_SMALL = 16 * 2**20
_SIZES = {
    3: 2,
    4: 4,
    5: 8,
    8: 2,
    9: 4,
    10: 8,
    11: 4,
    12: 8,
    13: 4,
    16: 8,
    17: 8,
    18: 8,
}  # of types of tags, else 1


class Header(NamedTuple):
    """What an encoded image tells of itself.

    Attributes:
        width: In pixels, the largest of all frames; 0 if only the decoder knows.
        height: In pixels, likewise.
        frames: Frames or pages.
        orientation: Of EXIF data, 0 to 8; see `orientation_of`. Of a TIFF, that of its first page.
        bits: Of a value, where that is an AVIF's.
        hidden: Places of the EXIF items of an AVIF, which Pillow is not to read.
    """

    width: int = 0
    height: int = 0
    frames: int = 1
    orientation: int = 0
    bits: int = 8
    hidden: tuple[int, ...] = ()


def check_size(width: int, height: int, frames: int, name: str) -> None:
    """Refuse an image that is larger than images to train on are.

    Raises:
        UserError: It has a side of more than 65,535 pixels, more than 64 million pixels, or more than a thousand million
            pixels in all frames together.
    """
    if width * height > MAX_PIXELS or max(width, height) > MAX_SIDE:
        raise UserError(
            f"{name} is refused: it has {width} x {height} pixels; the limit is {MAX_PIXELS:,} in all and {MAX_SIDE:,} a side."
            " Resize it first."
        )
    if width * height * frames > MAX_FRAME_PIXELS:
        raise UserError(
            f"{name} is refused: it has {frames:,} pages or frames of {width} x {height} pixels; the limit is"
            f" {MAX_FRAME_PIXELS:,} pixels in all of them. Save those that you need as files of their own."
        )


def read_header_of(content: bytes, kind: str) -> Header:
    """Return what an image tells of itself; nothing is decoded.

    Args:
        content: All of it.
        kind: One of `KINDS`.

    Raises:
        EOFError: It is cut short.
        ValueError: It is damaged, or made of more parts than encoders make.
    """
    if kind == "PNG":
        png = check_png(content)  # Pillow skips the CRC of the pixels
        return Header(png.width, png.height, png.frames, orientation_of(png.exif))
    if kind == "JPEG":
        check_jpeg(content)
        return Header(orientation=orientation_of(exif_of_jpeg(content)))
    if kind == "GIF":
        return Header(*check_gif(content))
    if kind == "WEBP":
        return _webp(content)
    if kind == "AVIF":
        avif = read_avif(content)
        return Header(avif.width, avif.height, avif.frames, bits=avif.bits, hidden=tuple(avif.exif))
    if kind == "PPM":
        return Header(*pnm_size(content[:HEAD_BYTES]))
    return _tiff(content) if kind == "TIFF" else Header()


def _webp(content: bytes) -> Header:
    width = height = frames = 0
    orientation, place = 0, 12
    for _ in range(_MAX_PARTS):
        if place + 8 > len(content):
            return Header(width, height, max(1, frames), orientation)
        kind, length = struct.unpack_from("<4sI", content, place)
        part = content[place + 8 : place + 8 + (length if kind == b"EXIF" else min(length, 16))]
        size = (0, 0)
        if kind == b"VP8X" and len(part) >= 10:
            size = _three_bytes(part, 4), _three_bytes(part, 7)
        elif kind == b"ANMF" and len(part) >= 12:
            frames += 1
            size = _three_bytes(part, 6), _three_bytes(part, 9)
        elif kind == b"VP8 " and len(part) >= 10:
            size = tuple(side & 0x3FFF for side in struct.unpack_from("<HH", part, 6))
        elif kind == b"VP8L" and len(part) >= 5:
            (bits,) = struct.unpack_from("<I", part, 1)
            size = (bits & 0x3FFF) + 1, (bits >> 14 & 0x3FFF) + 1
        elif kind == b"EXIF":
            orientation = orientation_of(part)
        width, height = max(width, size[0]), max(height, size[1])
        place += 8 + length + (length & 1)
    raise ValueError(f"it has more than {_MAX_PARTS:,} chunks")


def _three_bytes(part: bytes, place: int) -> int:
    return int.from_bytes(part[place : place + 3], "little") + 1


def _tiff(content: bytes) -> Header:
    order = "<" if content.startswith(b"II") else ">"
    big = 43 in content[2:4]
    number, entry = (f"{order}Q", 20) if big else (f"{order}H", 12)
    pointer, step = (f"{order}Q", 8) if big else (f"{order}I", 4)
    width = height = pages = orientation = claimed = 0
    place = _number(content, pointer, 8 if big else 4)
    seen: set[int] = set()
    left = len(content) // entry + _MAX_PARTS  # entries
    while place and place not in seen and place + 2 <= len(content):
        seen.add(place)
        if len(seen) > _MAX_PARTS:
            raise ValueError(f"it has more than {_MAX_PARTS:,} pages")
        count = _number(content, number, place)
        start = place + struct.calcsize(number)
        left -= count
        if left < 0:
            raise ValueError("its parts claim the same bytes repeatedly")
        tags = {}
        for at in range(start, min(start + entry * count, len(content) - entry + 1), entry):
            tag, kind = struct.unpack_from(f"{order}HH", content, at)
            claimed += _SIZES.get(kind, 1) * _number(content, pointer, at + 4)
            if tag in (256, 257, 274) and kind in (3, 4):
                tags[tag] = _number(content, f"{order}{'H' if kind == 3 else 'I'}", at + 4 + step)
        if claimed > 16 * len(content) + _SMALL:  # a profile may be of several pages
            raise ValueError("its parts claim the same bytes repeatedly")
        if not pages:
            orientation = tags.get(274, 0)
        pages += 1
        width, height = max(width, tags.get(256, 0)), max(height, tags.get(257, 0))
        place = _number(content, pointer, start + entry * count)
    return Header(width, height, max(1, pages), orientation)


def _number(content: bytes, layout: str, place: int) -> int:
    """Return the number at a place, 0 if the file ends before."""
    if place + struct.calcsize(layout) > len(content):
        return 0
    value: int = struct.unpack_from(layout, content, place)[0]
    return value
