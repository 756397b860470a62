"""A zip of stored members, written with its directory as bytes: `zipfile` keeps an object of a kilobyte for each member.

Format: see `zip_directory`. The bytes are those that `zipfile` writes for the same members, so that a set gives the same file by any
version.
"""

from __future__ import annotations

import struct
import zlib
from typing import BinaryIO

__all__ = ["StoredZip"]

_LIMIT = 2**31 - 1  # zipfile takes records of 64 bits from here on, not from 2^32
_MOST_FILES = 2**16 - 1
_DATE, _TIME = (
    1 << 5 | 1,
    0,
)  # 1980-01-01, the earliest that zip knows: the same set gives the same bytes at any time
_UNIX, _MODE = 3, 0o644 << 16
_UTF8 = 0x800


class StoredZip:
    """Writes members one after the other; `finish` writes the directory.

    Args:
        stream: An empty file.
    """

    def __init__(self, stream: BinaryIO) -> None:
        self._stream, self._directory, self._count = stream, bytearray(), 0

    def add(self, name: str, content: bytes | bytearray) -> None:
        """Write a member of less than 2 GiB.

        Raises:
            ValueError: It is larger.
        """
        if len(content) > _LIMIT:
            raise ValueError(f"a member has {len(content):,} bytes")
        offset = self._stream.tell()
        raw, flags = name.encode(), 0 if name.isascii() else _UTF8
        size, checksum = len(content), zlib.crc32(content)
        extra, version = (struct.pack("<HHQ", 1, 8, offset), 45) if offset > _LIMIT else (b"", 20)
        facts = struct.pack("<HHHHIII", flags, 0, _TIME, _DATE, checksum, size, size)
        self._stream.write(b"PK\3\4" + struct.pack("<H", 20) + facts + struct.pack("<HH", len(raw), 0) + raw)
        self._stream.write(content)
        self._directory += b"PK\1\2" + struct.pack("<BBH", version, _UNIX, version) + facts
        place = 0xFFFFFFFF if extra else offset
        self._directory += struct.pack("<HHHHHII", len(raw), len(extra), 0, 0, 0, _MODE, place) + raw + extra
        self._count += 1

    def finish(self) -> None:
        """Write the directory; nothing can be added then."""
        start, length, count = self._stream.tell(), len(self._directory), self._count
        self._stream.write(self._directory)
        if count > _MOST_FILES or start > _LIMIT or length > _LIMIT:
            end = start + length
            record = struct.pack("<QHHIIQQQQ", 44, 45, 45, 0, 0, count, count, length, start)
            self._stream.write(b"PK\6\6" + record + b"PK\6\7" + struct.pack("<IQI", 0, end, 1))
        count, length, start = min(count, 0xFFFF), min(length, 0xFFFFFFFF), min(start, 0xFFFFFFFF)
        self._stream.write(b"PK\5\6" + struct.pack("<HHHHIIH", 0, 0, count, count, length, start, 0))
