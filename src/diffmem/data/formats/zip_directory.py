"""The members of a zip in packed arrays, for archives of a million: `zipfile` keeps an object of a kilobyte for each.

Format: PKWARE, "APPNOTE.TXT - .ZIP File Format Specification", version 6.3.10, sections 4.3 (records), 4.4 (fields) and 4.5.3
(sizes of 64 bits).
"""

from __future__ import annotations

import struct
import zlib
from array import array
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import pairwise
from pathlib import Path
from typing import BinaryIO

import numpy as np
from numpy.typing import NDArray

from diffmem.data.formats.guards import MAX_DIRECTORY_BYTES, MAX_FILE_BYTES, MAX_IMAGES, check_zip_member
from diffmem.data.formats.guards import reading as as_text
from diffmem.data.names import LazyNames, PackedNames
from diffmem.errors import UserError

__all__ = ["ZipDirectory", "open_directory"]

_END, _WIDE_END, _LOCATOR = b"PK\5\6", b"PK\6\6", b"PK\6\7"
_RECORD = struct.Struct("<4s4xHH4xIIIHHH4xII")
_LOCAL = struct.Struct("<4s2xH18xHH")
_LONGEST_COMMENT = 2**16 - 1
_WIDE = 0xFFFFFFFF
_UTF8, _ENCRYPTED, _DEFLATED = 0x800, 0x1, 8
_HEAD_BYTES = 2**16


class ZipDirectory:
    """What a zip says of its members, folders left out, in its order. Open it by `open_directory`.

    Attributes:
        path: The file.
        names: Of the members.
        sizes: Their bytes when they are unpacked, int64 (N,).
        packed: Their bytes as they are stored, int64 (N,).
    """

    def __init__(self, path: Path, stream: BinaryIO) -> None:
        self.path, self._stream = path, stream
        directory, count, shift = _directory(stream, path)
        ends, packed, sizes, offsets, methods = (array("q") for _ in range(5))
        checksums, content, place, total = array("L"), bytearray(), 0, 0
        for _ in range(count):
            if directory[place : place + 4] != b"PK\1\2":
                raise ValueError("its directory of members is cut short")
            _, flags, method, checksum, small, size, length, extra, comment, mode, offset = (
                _RECORD.unpack_from(directory, place)
            )
            place += _RECORD.size
            raw = directory[place : place + length]
            name = _name(raw, flags)
            more = directory[place + length : place + length + extra]
            place += length + extra + comment
            if _WIDE in (size, small, offset):
                size, small, offset = _wide(more, size, small, offset)
            check_zip_member(name, mode >> 16, flags, method, (size, small), path)
            total += small
            if name.endswith("/"):
                continue
            content += name.encode()
            for values, value in zip(
                (ends, packed, sizes, offsets, methods, checksums),
                (len(content), small, size, offset + shift, method, checksum),
                strict=True,
            ):
                values.append(value)
        if total > path.stat().st_size:
            raise UserError(f"{path} is refused: its members overlap; it is damaged or a decompression bomb.")
        self.names = PackedNames(bytes(content), np.array(ends, np.int64)) if ends else ()
        self.packed, self.sizes = np.array(packed, np.int64), np.array(sizes, np.int64)
        self._offsets, self._methods, self._checksums = offsets, methods, checksums

    def __len__(self) -> int:
        return len(self.names)

    def names_at(self, places: NDArray[np.int64]) -> LazyNames:
        """Return the names of at least one member."""
        assert isinstance(self.names, PackedNames)
        return self.names.take(places)

    def order(self) -> NDArray[np.int64]:
        """Return the members sorted by name.

        Raises:
            UserError: Two have one name.
        """
        names = list(self.names)
        order = sorted(range(len(names)), key=names.__getitem__)
        for one, two in pairwise(order):
            if names[one] == names[two]:
                raise UserError(f"{self.path} is refused: it holds {names[one][:100]!r} twice.")
        return np.array(order, np.int64)

    def read(self, index: int, limit: int = MAX_FILE_BYTES) -> bytes:
        """Return the bytes of a member of at most `limit` bytes; its CRC is checked.

        Raises:
            UserError: It is too large, cut short, or its CRC is wrong.
        """
        size, packed, what = (
            int(self.sizes[index]),
            int(self.packed[index]),
            f"{self.path}: {self.names[index]}",
        )
        if size > limit:
            raise UserError(f"{what} is refused: it has {size:,} bytes; the limit is {limit:,}.")
        with as_text(what):
            content = self._stored(index, packed)
            if self._methods[index] == _DEFLATED:
                content = zlib.decompressobj(-zlib.MAX_WBITS).decompress(content, size) if size else b""
            if len(content) != size:
                raise EOFError(f"{len(content):,} of {size:,} bytes are there")
            if zlib.crc32(content) != self._checksums[index]:
                raise ValueError("its CRC is wrong")
        return content

    def head(self, index: int, count: int) -> bytes:
        """Return the first bytes of a member, `count` or all; its CRC is not checked."""
        with as_text(f"{self.path}: {self.names[index]}"):
            content = self._stored(index, min(int(self.packed[index]), max(count, _HEAD_BYTES)))
            if self._methods[index] == _DEFLATED:
                return zlib.decompressobj(-zlib.MAX_WBITS).decompress(content, count)
            return content[:count]

    def _stored(self, index: int, count: int) -> bytes:
        """Return the first bytes of a member as they are stored; at its place, its name stands once more."""
        self._stream.seek(self._offsets[index])
        magic, flags, length, extra = _LOCAL.unpack(self._stream.read(_LOCAL.size))
        name = self._stream.read(length)
        if magic != b"PK\3\4" or flags & _ENCRYPTED or _name(name, flags) != self.names[index]:
            raise ValueError("another member is at its place")
        self._stream.seek(extra, 1)
        return self._stream.read(count)


@contextmanager
def open_directory(path: Path) -> Iterator[ZipDirectory]:
    """Open a zip of members with safe names, plain kinds and believable sizes; that names differ, `order` checks.

    Raises:
        UserError: The file is no whole zip, or a member is refused.
    """
    with as_text(str(path)):
        stream = path.open("rb")
    with stream:
        with as_text(str(path)):
            directory = ZipDirectory(path, stream)
        yield directory


def _directory(stream: BinaryIO, path: Path) -> tuple[bytes, int, int]:
    """Return the records of the members, their number, and how many bytes stand before the zip."""
    size = stream.seek(0, 2)
    start = max(0, size - _LONGEST_COMMENT - 22 - 76)
    stream.seek(start)
    tail = stream.read()
    at = tail.rfind(_END)
    if at < 0 or at + 22 > len(tail):
        raise ValueError("its end is missing")
    count, length, offset = struct.unpack_from("<HII", tail, at + 10)
    end = start + at
    if tail[max(0, at - 20) : at][:4] == _LOCATOR:
        wide = at - 20 - 56
        if wide >= 0 and tail[wide : wide + 4] == _WIDE_END:
            count, length, offset = struct.unpack_from("<QQQ", tail, wide + 32)
            end = start + wide
    if length > MAX_DIRECTORY_BYTES:
        raise UserError(
            f"{path} is refused: its directory has more than {MAX_DIRECTORY_BYTES:,} bytes. Make several smaller archives."
        )
    shift = end - length - offset
    if shift < 0 or count > MAX_IMAGES:
        raise ValueError("its directory of members is not where its end says")
    stream.seek(offset + shift)
    return stream.read(length), count, shift


def _name(raw: bytes, flags: int) -> str:
    return raw.decode("utf-8" if flags & _UTF8 else "cp437").split("\0", 1)[0]


def _wide(extra: bytes, size: int, packed: int, offset: int) -> tuple[int, int, int]:
    """Return the numbers of a member, those of 64 bits from its extra field 1."""
    at = 0
    while at + 4 <= len(extra):
        kind, length = struct.unpack_from("<HH", extra, at)
        if kind == 1:
            fields = extra[at + 4 : at + 4 + length]
            given = iter(struct.unpack_from(f"<{len(fields) // 8}Q", fields))
            return tuple(next(given) if value == _WIDE else value for value in (size, packed, offset))  # type: ignore[return-value]
        at += 4 + length
    return size, packed, offset
