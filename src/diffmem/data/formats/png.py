"""PNG files at the level of their chunks: check that one is whole, write one without compression.

Format: W3C Recommendation "Portable Network Graphics (PNG) Specification", section 5: after 8 fixed bytes
come chunks of length (4 bytes, big-endian), kind (4), content, and the CRC-32 of kind and content.
"""

from __future__ import annotations

import struct
import zlib
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

__all__ = ["PNG_SIGNATURE", "PngHeader", "check_png", "encode_png"]

PNG_SIGNATURE = b"\x89PNG\r\n\x1a\n"

_MAX_CHUNKS = 100_000  # of 8 KiB, the usual size, three times as many as the largest file that is read has


class PngHeader(NamedTuple):
    """What a PNG tells of itself.

    Attributes:
        width: In pixels, the largest if it tells several.
        height: In pixels.
        frames: Of an animation, else 1.
        exif: Its EXIF data, or nothing.
    """

    width: int = 0
    height: int = 0
    frames: int = 1
    exif: bytes = b""


def check_png(content: bytes) -> PngHeader:
    """Check that all chunks up to the end are there and that their CRCs are right; return what the file tells of itself.

    The size is the largest that any header tells: Pillow may reserve memory for it before it compares it with a limit of
    its own.

    Raises:
        EOFError: The file is cut short.
        ValueError: A CRC is wrong, or there are more than 100,000 chunks.
    """
    offset = len(PNG_SIGNATURE)
    kind, chunks, header = b"", 0, PngHeader()
    while kind != b"IEND":
        chunks += 1
        if chunks > _MAX_CHUNKS:
            raise ValueError(f"it has more than {_MAX_CHUNKS:,} chunks")
        if offset + 12 > len(content):
            raise EOFError("the file is cut short")
        length, kind = struct.unpack_from(">I4s", content, offset)
        end = offset + 8 + length
        if end + 4 > len(content):
            raise EOFError("the file is cut short")
        if zlib.crc32(memoryview(content)[offset + 4 : end]) != struct.unpack_from(">I", content, end)[0]:
            raise ValueError(f"the CRC of its {kind.decode('latin-1')!r} chunk is wrong")
        if kind in (b"IHDR", b"acTL", b"eXIf"):
            header = _with_chunk(header, kind, content[offset + 8 : end])
        offset = end + 4
    return header


def _with_chunk(header: PngHeader, kind: bytes, content: bytes) -> PngHeader:
    if kind == b"IHDR" and len(content) >= 8:
        width, height = struct.unpack_from(">II", content)
        if width * height > header.width * header.height:
            return header._replace(width=width, height=height)
    elif kind == b"acTL" and len(content) >= 4:
        return header._replace(frames=max(1, struct.unpack_from(">I", content)[0]))
    elif kind == b"eXIf":
        return header._replace(exif=content)
    return header


def encode_png(pixels: NDArray[np.uint8]) -> bytes:
    """Return an 8-bit PNG without compression: quick, and the same bytes whatever libraries are installed.

    Args:
        pixels: uint8 (C, H, W), C is 1 (grey) or 3 (RGB).
    """
    channels, height, width = pixels.shape
    rows = np.zeros((height, 1 + width * channels), np.uint8)  # each row starts with its filter: 0, none
    rows[:, 1:] = pixels.transpose(1, 2, 0).reshape(height, -1)
    header = struct.pack(">IIBBBBB", width, height, 8, 0 if channels == 1 else 2, 0, 0, 0)
    parts = (b"IHDR", header), (b"IDAT", _stored(rows.tobytes())), (b"IEND", b"")
    return PNG_SIGNATURE + b"".join(_chunk(kind, content) for kind, content in parts)


def _stored(content: bytes) -> bytes:
    """Return a zlib stream (RFC 1950) of stored blocks (RFC 1951, section 3.2.4)."""
    blocks = [b"\x78\x01"]
    for start in range(0, len(content), 65535):
        block = content[start : start + 65535]
        last = start + 65535 >= len(content)
        blocks += [struct.pack("<BHH", last, len(block), 65535 - len(block)), block]
    blocks.append(struct.pack(">I", zlib.adler32(content)))
    return b"".join(blocks)


def _chunk(kind: bytes, content: bytes) -> bytes:
    return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))
