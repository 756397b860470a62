"""Encoded images at the level of their segments: what is quick to write and slow to read is counted beforehand.

Formats: ITU-T Recommendation T.81, annex B (JPEG: segments of a marker, a length and a content; the pixels follow
their segment and write each byte 255 as 255, 0) and GIF89a, sections 12 to 26 (blocks of parts of up to 255 bytes).
"""

from __future__ import annotations

import io
import re
import struct

__all__ = [
    "GIF_SIGNATURES",
    "JPEG_SIGNATURE",
    "TIFF_SIGNATURES",
    "CountedStream",
    "check_gif",
    "check_jpeg",
    "without_exif",
]

JPEG_SIGNATURE = b"\xff\xd8"
GIF_SIGNATURES = (b"GIF87a", b"GIF89a")
TIFF_SIGNATURES = (b"II", b"MM")

_MAX_JPEG_SCANS = 100  # encoders make about ten; each takes as long as the whole image
_MAX_JPEG_SEGMENTS = 10_000
_SMALL = 4 * _MAX_JPEG_SEGMENTS
_MAX_JPEG_HEADER = 16 * 2**20
_MAX_GIF_HEADER = 2**20  # a reader joins the parts of a comment one by one

# Any marker but bytes 255 of pixels and the restart markers between them.
_MARKER = re.compile(rb"\xff[^\x00\xff\xd0-\xd7]")
_START_OF_SCAN, _END, _START = 0xDA, 0xD9, 0xD8
_SCAN = bytes([255, _START_OF_SCAN])
_EXIF, _HIDDEN = b"Exif\0\0", b"EXIF\0\0"


class CountedStream(io.BytesIO):
    """A file in memory that is read a few times over at most: parts of it may claim the same bytes again and again.

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
            raise ValueError("its parts claim the same bytes again and again")
        return content


def check_jpeg(content: bytes) -> None:
    """Check that a JPEG has believable numbers of segments and scans, and bytes before its pixels.

    Raises:
        ValueError: It has too many. Whether the file is whole is left to its decoder.
    """
    if len(content) < _SMALL and content.count(_SCAN) <= _MAX_JPEG_SCANS:
        return  # it cannot have too many of anything
    place, segments, scans = len(JPEG_SIGNATURE), 0, 0
    while found := _MARKER.search(content, place):
        place = found.end()
        marker = content[place - 1]
        segments += 1
        scans += marker == _START_OF_SCAN
        if segments > _MAX_JPEG_SEGMENTS or scans > _MAX_JPEG_SCANS:
            raise ValueError(
                f"it has more than {_MAX_JPEG_SCANS} scans or {_MAX_JPEG_SEGMENTS:,} segments, which no encoder makes"
            )
        if not scans and place > _MAX_JPEG_HEADER:
            break
        if marker == _END and scans:
            return
        if marker not in (_START, _END) and place + 2 <= len(content):
            place += struct.unpack_from(">H", content, place)[0]
    if not scans and len(content) > _MAX_JPEG_HEADER:
        raise ValueError(f"more than {_MAX_JPEG_HEADER:,} bytes come before its pixels")


def without_exif(content: bytes) -> bytes:
    """Return a JPEG whose EXIF data no reader finds.

    They say nothing about its pixels as they are stored; but Pillow reads them on opening, and a table of tags that all
    claim the same bytes makes gigabytes of a file of one megabyte.
    """
    return content.replace(_EXIF, _HIDDEN)


def check_gif(content: bytes) -> None:
    """Check that a GIF has a believable number of bytes before its first image.

    Raises:
        ValueError: It has too many. Whether the file is whole is left to its decoder.
    """
    size = len(content)
    start = 13 + (3 * 2 ** ((content[10] & 7) + 1) if size > 10 and content[10] & 0x80 else 0)
    place = start
    while place < size and place - start <= _MAX_GIF_HEADER:
        if content[place] in b",;":  # the first image, or the end
            return
        if content[place] != 0x21:  # readers pass over what is no block
            place += 1
            continue
        place += 2
        while place < size and content[place]:
            place += 1 + content[place]
        place += 1
    if place - start > _MAX_GIF_HEADER:
        raise ValueError(f"more than {_MAX_GIF_HEADER:,} bytes come before its first image")
