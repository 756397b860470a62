"""What encoded images tell of their size, frames and orientation before anything is decoded, and the limits for it.

Formats: Exif 2.32 (CIPA DC-008), which is a TIFF: a table of entries of 12 bytes each, of which one has tag 274; WebP
(Google, "WebP Container Specification"), TIFF 6.0 and BigTIFF; others in modules of their own.
"""

from __future__ import annotations

import re
import struct
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from diffmem.data.formats.av1 import read_avif
from diffmem.data.formats.guards import MAX_PIXELS
from diffmem.data.formats.markers import check_gif, check_jpeg, exif_of_jpeg
from diffmem.data.formats.png import check_png
from diffmem.data.formats.signatures import HEAD_BYTES, pnm_size
from diffmem.errors import UserError

__all__ = [
    "MAX_FRAME_PIXELS",
    "MAX_SIDE",
    "Header",
    "check_size",
    "orientation_of",
    "quarter_turned",
    "read_header_of",
    "upright",
    "xmp_orientation",
]

MAX_SIDE = 65_535
"""Longest side of an image in pixels."""

MAX_FRAME_PIXELS = 1_000_000_000
"""Most pixels of all frames or pages of one file."""

_TAG, _SHORT, _LONG = 0x112, 3, 4
_XMP = re.compile(rb"tiff:Orientation(?:=\"|>)([1-8])")
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
        UserError: It has a side of more than 65,535 pixels, more than 64 million pixels, or more than 10^9
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
    orientation, offset = 0, 12
    for _ in range(_MAX_PARTS):
        if offset + 8 > len(content):
            return Header(width, height, max(1, frames), orientation)
        kind, length = struct.unpack_from("<4sI", content, offset)
        part = content[offset + 8 : offset + 8 + (length if kind == b"EXIF" else min(length, 16))]
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
        offset += 8 + length + (length & 1)
    raise ValueError(f"it has more than {_MAX_PARTS:,} chunks")


def _three_bytes(part: bytes, offset: int) -> int:
    return int.from_bytes(part[offset : offset + 3], "little") + 1


def _tiff(content: bytes) -> Header:
    order = "<" if content.startswith(b"II") else ">"
    big = 43 in content[2:4]
    number, entry = (f"{order}Q", 20) if big else (f"{order}H", 12)
    pointer, step = (f"{order}Q", 8) if big else (f"{order}I", 4)
    width = height = pages = orientation = claimed = 0
    offset = _number(content, pointer, 8 if big else 4)
    seen: set[int] = set()
    left = len(content) // entry + _MAX_PARTS  # entries
    while offset and offset not in seen and offset + 2 <= len(content):
        seen.add(offset)
        if len(seen) > _MAX_PARTS:
            raise ValueError(f"it has more than {_MAX_PARTS:,} pages")
        count = _number(content, number, offset)
        start = offset + struct.calcsize(number)
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
        offset = _number(content, pointer, start + entry * count)
    return Header(width, height, max(1, pages), orientation)


def _number(content: bytes, layout: str, offset: int) -> int:
    """Return the number at an offset, 0 if the file ends before."""
    if offset + struct.calcsize(layout) > len(content):
        return 0
    value: int = struct.unpack_from(layout, content, offset)[0]
    return value


def orientation_of(exif: bytes) -> int:
    """Return the orientation in EXIF data, 1 (as it is stored) to 8; 0 if there is none.

    Only the entries of the first table are looked at: tags that claim the same bytes repeatedly cost nothing.
    """
    exif = exif.removeprefix(b"Exif\0\0")
    order = {b"II": "<", b"MM": ">"}.get(exif[:2])
    if order is None or len(exif) < 10:
        return 0
    (offset,) = struct.unpack_from(f"{order}I", exif, 4)
    if offset + 2 > len(exif):
        return 0
    (count,) = struct.unpack_from(f"{order}H", exif, offset)
    for at in range(offset + 2, min(offset + 2 + 12 * count, len(exif) - 11), 12):
        tag, kind = struct.unpack_from(f"{order}HH", exif, at)
        if tag == _TAG and kind in (_SHORT, _LONG):
            value: int = struct.unpack_from(f"{order}{'H' if kind == _SHORT else 'I'}", exif, at + 8)[0]
            return value if 1 <= value <= 8 else 0
    return 0


def xmp_orientation(xmp: bytes) -> int:
    """Return the orientation in an XMP packet, where Pillow looks if there is none in EXIF data; 0 if there is none."""
    found = _XMP.search(xmp)
    return int(found[1]) if found else 0


def quarter_turned(orientation: int) -> bool:
    """Whether an orientation exchanges width and height."""
    return orientation >= 5


def upright(pixels: NDArray[Any], orientation: int) -> NDArray[Any]:
    """Return an image (H, W) or (H, W, C) as it is meant to be seen, as a view.

    Args:
        pixels: As they are stored.
        orientation: 0 to 8, see `orientation_of`.
    """
    if orientation >= 5:
        pixels = np.swapaxes(pixels, 0, 1)
    if orientation in (3, 4, 7, 8):
        pixels = pixels[::-1]
    if orientation in (2, 3, 6, 7):
        pixels = pixels[:, ::-1]
    return pixels
