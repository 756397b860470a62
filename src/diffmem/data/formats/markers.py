"""Encoded images at the level of their segments: what is quick to write and slow to read is counted beforehand.

Formats: ITU-T Recommendation T.81, annex B (JPEG: segments of a marker, a length and a content; the pixels follow
their segment and write each byte 255 as 255, 0) and GIF89a, sections 12 to 26 (blocks of parts of up to 255 bytes).
"""

from __future__ import annotations

import io
import re
import struct

__all__ = [
    "CountedStream",
    "check_gif",
    "check_jpeg",
    "exif_of_jpeg",
    "without_exif",
]

_SIGNATURE = b"\xff\xd8"

_MAX_JPEG_SCANS = 100  # encoders make about ten; each takes as long as the whole image
_MAX_JPEG_SEGMENTS = 10_000
_SMALL = 4 * _MAX_JPEG_SEGMENTS
_MAX_JPEG_HEADER = 16 * 2**20
_MAX_GIF_HEADER = 2**20  # a reader joins the parts of a comment one by one

# Any marker but bytes 255 of pixels and the restart markers between them.
_MARKER = re.compile(rb"\xff[^\x00\xff\xd0-\xd7]")
_START_OF_SCAN, _END, _START = 0xDA, 0xD9, 0xD8
_GIF_END, _GIF_FRAME, _GIF_EXTENSION = b";,!"
_SCAN = bytes([255, _START_OF_SCAN])
_EXIF, _HIDDEN = b"Exif\0\0", b"EXIF\0\0"


class CountedStream(io.BytesIO):
    """A file in memory that is read a few times over at most: parts of it may claim the same bytes repeatedly.

    Args:
        content: The file.
    """

    def __init__(self, content: bytes) -> None:
        super().__init__(content)
        self._left = 4 * len(content) + 2**20

    def read(self, size: int | None = -1, /) -> bytes:
        """Return bytes like any stream.

        Raises:
            ValueError: All reads together come to more than four times the file and 1 MiB.
        """
        content = super().read(size)
        self._left -= len(content)
        if self._left < 0:
            raise ValueError("its parts claim the same bytes repeatedly")
        return content


def check_jpeg(content: bytes) -> None:
    """Check that a JPEG has believable numbers of segments and scans, and bytes before its pixels.

    Raises:
        ValueError: It has too many. Whether the file is whole is left to its decoder.
    """
    if len(content) < _SMALL and content.count(_SCAN) <= _MAX_JPEG_SCANS:
        return  # it cannot have too many of anything
    offset, segments, scans = len(_SIGNATURE), 0, 0
    while found := _MARKER.search(content, offset):
        offset = found.end()
        marker = content[offset - 1]
        segments += 1
        scans += marker == _START_OF_SCAN
        if segments > _MAX_JPEG_SEGMENTS or scans > _MAX_JPEG_SCANS:
            raise ValueError(
                f"it has more than {_MAX_JPEG_SCANS} scans or {_MAX_JPEG_SEGMENTS:,} segments, which no encoder makes"
            )
        if not scans and offset > _MAX_JPEG_HEADER:
            break
        if marker == _END and scans:
            return
        if marker not in (_START, _END) and offset + 2 <= len(content):
            offset += struct.unpack_from(">H", content, offset)[0]
    if not scans and len(content) > _MAX_JPEG_HEADER:
        raise ValueError(f"more than {_MAX_JPEG_HEADER:,} bytes come before its pixels")


def without_exif(content: bytes) -> bytes:
    """Return a JPEG whose EXIF data no reader finds.

    They say nothing about its pixels as they are stored; but Pillow reads them on opening, and a table of tags that all
    claim the same bytes makes gigabytes of a file of one megabyte.
    """
    return content.replace(_EXIF, _HIDDEN)


def check_gif(content: bytes) -> tuple[int, int, int]:
    """Check that a GIF has a believable number of bytes before its first image, and count its frames.

    Returns:
        Width and height of its canvas, of the size that its screen and its frames need, and the number of frames.

    Raises:
        ValueError: It has too many bytes. Whether the file is whole is left to its decoder.
    """
    size = len(content)
    if size < 13:
        return 0, 0, 1
    width, height, flags = struct.unpack_from("<HHB", content, 6)
    offset = start = 13 + _colours(flags)
    frames = 0
    while offset < size:
        if not frames and offset - start > _MAX_GIF_HEADER:
            raise ValueError(f"more than {_MAX_GIF_HEADER:,} bytes come before its first image")
        block = content[offset]
        if block == _GIF_END:
            break
        if block == _GIF_FRAME and offset + 10 <= size:
            left, top, wide, high, flags = struct.unpack_from("<HHHHB", content, offset + 1)
            width, height, frames = max(width, left + wide), max(height, top + high), frames + 1
            offset += 10 + _colours(flags) + 1  # behind the colours, the size of a code
        elif block == _GIF_EXTENSION:
            offset += 2
        else:  # readers pass over what is no block
            offset += 1
            continue
        while offset < size and content[offset]:
            offset += 1 + content[offset]
        offset += 1
    if not frames and offset - start > _MAX_GIF_HEADER:
        raise ValueError(f"more than {_MAX_GIF_HEADER:,} bytes come before its first image")
    return width, height, max(1, frames)


def _colours(flags: int) -> int:
    """Return the bytes of the table of colours that the flags tell of."""
    return 3 * 2 ** ((flags & 7) + 1) if flags & 0x80 else 0


def exif_of_jpeg(content: bytes) -> bytes:
    """Return the EXIF data of a JPEG, or nothing."""
    offset = content.find(_EXIF)
    if offset < 4 or content[offset - 4 : offset - 2] != b"\xff\xe1":
        return b""
    length: int = struct.unpack_from(">H", content, offset - 2)[0]
    return content[offset + len(_EXIF) : offset - 2 + length]
