"""Images of 16 bits: their values as they are stored, and what becomes of them with 8 bits.

Pillow reads grey values of 16 bits whole, of colours only the upper byte; the lower one is had by reading the same bytes
in the other order.
"""

from __future__ import annotations

import io
import math
import re
import sys
from functools import lru_cache
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from diffmem.data.conversions import Tally
from diffmem.data.reading import Reading
from diffmem.errors import UserError

__all__ = ["Deep", "deep_pnm", "deep_values", "eight_bits"]

_GREY = ("I", "I;16", "I;16B", "I;16L", "I;16N")
_HIGHEST = 65_535
# Tags of a TIFF: bits of each value, and whether colours are stored one after the other.
_BITS, _PLANES = 258, 284
_SWAPPED = {"B": "L", "L": "B", "N": "B" if sys.byteorder == "little" else "L"}
_PNM = re.compile(
    rb"P([56])(?:\s|#[^\n\r]*[\n\r])+(\d+)(?:\s|#[^\n\r]*[\n\r])+(\d+)(?:\s|#[^\n\r]*[\n\r])+(\d+)\s"
)


class Deep(NamedTuple):
    """Values of 16 bits.

    Attributes:
        values: Whole numbers (H, W) or (H, W, 3).
        alpha: From 0 to 65,535 (H, W), or none where there is no transparency.
        white: The value that the format declares as white, or none where it leaves that open.
    """

    values: NDArray[Any]
    alpha: NDArray[Any] | None = None
    white: int | None = None


def deep_values(
    image: Image.Image, content: bytes, kind: str, page: int, name: str, tally: Tally
) -> Deep | None:
    """Return the values of a PNG or TIFF of 16 bits that is open; none if it has 8, or a kind that Pillow alone reads.

    Args:
        image: As Pillow opened it, at its page.
        content: Its file.
        kind: The format.
        page: Which page is meant.
        name: What to call the image in errors.
        tally: Where to count what Pillow alone reads.

    Raises:
        UserError: It is of a layout that Pillow misreads.
    """
    if image.mode in _GREY:
        declared = getattr(image, "tag_v2", {}).get(_BITS)
        return _with_key(Deep(np.asarray(image), None, 4095 if declared == (12,) else None), image)
    if kind not in ("PNG", "TIFF"):
        return None
    tags = getattr(image, "tag_v2", {})
    if tags.get(_PLANES) == 2 and max(tags.get(_BITS, (8,))) > 8:
        raise UserError(
            f"Cannot read {name}: it has more than 8 bits and stores its colours one after the other, which Pillow misreads;"
            " save it with the colours of each pixel together."
        )
    rawmode = _rawmode(image)
    if ";16" not in rawmode:
        return None
    if rawmode == "LA;16B":
        four = _read_as(content, kind, page, "RGBA", "RGBA")
        return Deep(_joined(four[..., 0], four[..., 1]), _joined(four[..., 2], four[..., 3]))
    if not re.fullmatch(r"(RGB|RGBX|RGBA);16[BLN]", rawmode):
        tally.colours["16 bits to 8 by the upper byte alone"] += 1
        return None
    low = _read_as(content, kind, page, image.mode, rawmode[:-1] + _SWAPPED[rawmode[-1]])
    values = _joined(np.asarray(image), low)
    if values.shape[2] == 4:
        return Deep(values[..., :3], values[..., 3])
    return _with_key(Deep(values), image)


def _rawmode(image: Image.Image) -> str:
    tiles = getattr(image, "tile", ())
    args = tiles[0][3] if tiles else ""
    return str(args[0] if isinstance(args, tuple) and args else args)


def _read_as(content: bytes, kind: str, page: int, mode: str, rawmode: str) -> NDArray[np.uint8]:
    """Return the bytes of an image that is read in another order."""
    image = Image.open(io.BytesIO(content), formats=(kind,))
    if page:
        image.seek(page)
    image._mode = mode
    tiles = []
    for codec, extents, offset, args in image.tile:
        changed = (rawmode, *args[1:]) if isinstance(args, tuple) else rawmode
        tiles.append(type(image.tile[0])(codec, extents, offset, changed))
    image.tile = tiles
    return np.asarray(image)


def _joined(high: NDArray[np.uint8], low: NDArray[np.uint8]) -> NDArray[np.uint16]:
    joined: NDArray[np.uint16] = np.left_shift(high, 8, dtype=np.uint16) | low
    return joined


def _with_key(deep: Deep, image: Image.Image) -> Deep:
    """Add the transparency of the one value, or colour, that a PNG declares as transparent."""
    key = image.info.get("transparency")
    if isinstance(key, int):
        return deep._replace(alpha=np.where(deep.values == key, 0, _HIGHEST))
    if isinstance(key, tuple) and deep.values.ndim == 3 and len(key) == 3:
        return deep._replace(alpha=np.where((deep.values == key).all(axis=-1), 0, _HIGHEST))
    return deep


def deep_pnm(content: bytes) -> Deep | None:
    """Return the values of a binary PGM or PPM of more than 8 bits; none if it is no such image.

    Raises:
        EOFError: It is cut short.
    """
    found = _PNM.match(content[: 2**16])
    if not found or not 255 < int(found[4]) <= _HIGHEST:
        return None
    width, height, white = int(found[2]), int(found[3]), int(found[4])
    shape = (height, width) if found[1] == b"5" else (height, width, 3)
    count = math.prod(shape)
    if len(content) < found.end() + 2 * count:
        raise EOFError("the file is cut short")
    values = np.frombuffer(content, ">u2", count, found.end()).reshape(shape)
    return Deep(values, None, None if white == _HIGHEST else white)


def eight_bits(deep: Deep, name: str, reading: Reading, tally: Tally) -> NDArray[np.uint8]:
    """Return values of 16 bits as 8 bits, rounded: 255 v / white, and 255 for what lies above.

    Args:
        deep: The values.
        name: What to call the image in errors.
        reading: Its `white` becomes 255; if none, the declared one, else 65,535. Transparent pixels are composited on its `alpha`.
        tally: Where to count it.

    Returns:
        uint8 (H, W) or (H, W, 3).

    Raises:
        UserError: A value is outside of 16 bits.
    """
    lowest, largest = int(deep.values.min()), int(deep.values.max())
    if lowest < 0 or largest > _HIGHEST:
        raise UserError(
            f"Cannot read {name}: its values run from {lowest} to {largest}, outside of 16 bits; bring them to 0 to {_HIGHEST}."
        )
    level = reading.white or deep.white or _HIGHEST
    tally.deep += 1
    tally.whites[level] += 1
    tally.largest = max(tally.largest, largest)
    tally.clipped += largest > level
    # Multiples of 257 alone are 8 bits that somebody widened, of which 65,535 is the white.
    if reading.white is None and deep.white is None and bool((deep.values % 257).any()):
        tally.undeclared += 1
        tally.undeclared_largest = max(tally.undeclared_largest, largest)
        tally.undeclared_below = max(tally.undeclared_below, _HIGHEST - lowest)
    result: NDArray[np.uint8] = _table(level)[deep.values]
    if deep.alpha is None:
        return result
    tally.alpha += 1
    if int(deep.alpha.min()) == _HIGHEST:
        return result
    tally.transparent += 1
    if reading.alpha == "drop":
        return result
    ground = 255 if reading.alpha == "white" else 0
    alpha = deep.alpha.astype(np.int64)
    alpha = alpha[..., None] if result.ndim == 3 else alpha
    laid: NDArray[np.uint8] = (
        (result * alpha + ground * (_HIGHEST - alpha) + _HIGHEST // 2) // _HIGHEST
    ).astype(np.uint8)
    return laid


@lru_cache(maxsize=4)
def _table(white: int) -> NDArray[np.uint8]:
    values = np.arange(_HIGHEST + 1, dtype=np.int64)
    return np.minimum(255, (values * 255 + white // 2) // white).astype(np.uint8)
