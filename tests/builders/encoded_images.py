"""Builds encoded images that Pillow does not write: 16 bits of every kind, stored turned, of several pages."""

from __future__ import annotations

import struct
import zlib

import numpy as np
from data_builders import encoded
from hostile_files import chunk
from PIL import Image

from diffmem.data.conversions import Tally
from diffmem.data.formats.decode import decode_pages
from diffmem.data.reading import AS_USUAL

RNG = np.random.default_rng(7)
PHOTO = RNG.integers(0, 256, (6, 9, 3), dtype=np.uint8)


def decode_image(content, name, reading=AS_USUAL):
    """The first image of a file."""
    return decode_pages(content, name, reading, Tally())[0]


def png16(values, *chunks):
    """A PNG of 16 bits with values (H, W, C): C is 1 (grey), 2 (grey and alpha), 3 (RGB) or 4 (RGB and alpha)."""
    height, width, channels = values.shape
    rows = np.ascontiguousarray(values.astype(">u2").reshape(height, -1)).view(np.uint8)
    pixels = b"".join(b"\0" + row.tobytes() for row in rows)
    colour = {1: 0, 2: 4, 3: 2, 4: 6}[channels]
    header = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 16, colour, 0, 0, 0))
    parts = header, *chunks, chunk(b"IDAT", zlib.compress(pixels)), chunk(b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + b"".join(parts)


def tiff16(values, order="<", packed=False):
    """A TIFF of 16 bits with values (H, W, C), C is 3 or 4, in one strip; packed ones are read by libtiff."""
    height, width, channels = values.shape
    content = values.astype(f"{order}u2").tobytes()
    content = zlib.compress(content) if packed else content
    tags = [
        (256, 4, 1, width), (257, 4, 1, height), (258, 3, channels, 0), (259, 4, 1, 8 if packed else 1), (262, 4, 1, 2),
        (273, 4, 1, 0), (277, 4, 1, channels), (278, 4, 1, height), (279, 4, 1, len(content)), (284, 4, 1, 1),
    ]  # fmt: skip
    tags += [(338, 4, 1, 2)] if channels == 4 else []
    bits = 8 + 2 + 12 * len(tags) + 4
    places = {258: bits, 273: bits + 2 * channels}
    table = b"".join(
        struct.pack(f"{order}HHII", tag, kind, count, places.get(tag, value))
        for tag, kind, count, value in tags
    )
    head = (b"II" if order == "<" else b"MM") + struct.pack(f"{order}HI", 42, 8)
    depth = struct.pack(f"{order}{channels}H", *[16] * channels)
    return head + struct.pack(f"{order}H", len(tags)) + table + bytes(4) + depth + content


def turned(orientation, kind="JPEG", pixels=PHOTO, **options):
    """An image with an orientation in its EXIF data."""
    exif = Image.Exif()
    exif[0x0112] = orientation
    return encoded(pixels, kind, exif=exif, **options)


def frames(count, shape=(6, 9, 3)):
    """That many unlike images."""
    return [RNG.integers(0, 256, shape, dtype=np.uint8) for _ in range(count)]


def several(kind, images, **options):
    """A file of several pages or frames."""
    first, *rest = map(Image.fromarray, images)
    return encoded(first, kind, save_all=True, append_images=rest, **options)


def see_through(alpha=0):
    """A PNG whose left column has this alpha."""
    pixels = np.dstack([PHOTO, np.full(PHOTO.shape[:2], 255, np.uint8)])
    pixels[:, 0, 3] = alpha
    return encoded(pixels)
