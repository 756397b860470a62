"""The orientation that a camera noted in EXIF data: read without the rest of them, and applied to pixels.

Format: Exif 2.32 (CIPA DC-008), which is a TIFF: a table of entries of 12 bytes each, of which one has tag 274.
"""

from __future__ import annotations

import re
import struct
from typing import Any

import numpy as np
from numpy.typing import NDArray

__all__ = ["orientation_of", "quarter_turned", "upright", "xmp_orientation"]

_TAG, _SHORT, _LONG = 0x112, 3, 4
_XMP = re.compile(rb"tiff:Orientation(?:=\"|>)([1-8])")


def orientation_of(exif: bytes) -> int:
    """Return the orientation in EXIF data, 1 (as it is stored) to 8; 0 if there is none.

    Only the entries of the first table are looked at: tags that claim the same bytes again and again cost nothing.
    """
    exif = exif.removeprefix(b"Exif\0\0")
    order = {b"II": "<", b"MM": ">"}.get(exif[:2])
    if order is None or len(exif) < 10:
        return 0
    (place,) = struct.unpack_from(f"{order}I", exif, 4)
    if place + 2 > len(exif):
        return 0
    (count,) = struct.unpack_from(f"{order}H", exif, place)
    for at in range(place + 2, min(place + 2 + 12 * count, len(exif) - 11), 12):
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
