"""Tar archives, read forwards and never unpacked: which members there are, and the bytes of each.

Format: POSIX.1-2017, "pax Interchange Format" and "ustar Interchange Format"; long names by the GNU tar manual, "Basic
Tar Format". An archive ends with a block of zeros, so that one that was cut short between two members is noticed.
"""

from __future__ import annotations

import gzip
import os
from collections.abc import Iterator
from pathlib import Path
from types import TracebackType
from typing import BinaryIO, NamedTuple, Self, cast

from diffmem.data.formats.guards import check_member_name, check_ratio
from diffmem.errors import UserError

__all__ = ["Member", "TarStream", "is_tar"]

BLOCK = 512
_PLAIN, _FOLDER = (b"0", b"\0", b"7"), b"5"
_LONG_NAME, _LONG_LINK, _EXTENDED, _GLOBAL = b"L", b"K", b"x", b"g"
_LINKS = (b"1", b"2")
_MAX_HEADER_BYTES = 2**16
_PART = 2**20


class Member(NamedTuple):
    """A plain file in a tar.

    Attributes:
        name: Its path, without ./ before it.
        offset: Where its bytes begin.
        size: Number of its bytes.
    """

    name: str
    offset: int
    size: int


def is_tar(head: bytes) -> bool:
    """Whether a file is a tar, by its first 512 bytes."""
    return len(head) >= BLOCK and any(head[:100]) and _has_checksum(head[:BLOCK])


class TarStream:
    """A tar, gzipped or not, that is read forwards.

    Args:
        path: The file.

    Attributes:
        position: Bytes that were read, of the tar within a gzip.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._file = path.open("rb")
        self.packed = self._file.read(2) == b"\x1f\x8b"
        self._file.seek(0)
        self._stream = cast(BinaryIO, gzip.GzipFile(fileobj=self._file)) if self.packed else self._file
        self._size = os.fstat(self._file.fileno()).st_size
        self.position = 0

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Close the file."""
        self._stream.close()
        self._file.close()

    def read(self, count: int) -> bytes:
        """Return exactly so many bytes.

        Raises:
            EOFError: The tar ends before.
            UserError: It unpacks to more than its size lets expect.
        """
        content = self._stream.read(count)
        self.position += len(content)
        if self.packed:
            check_ratio(self.position, self._size, str(self._path))
        if len(content) < count:
            raise EOFError("it is cut short")
        return content

    def skip_to(self, position: int) -> None:
        """Go forwards to a position.

        Raises:
            EOFError: The tar ends before.
        """
        if self.packed:
            while self.position < position:
                self.read(min(_PART, position - self.position))
        elif position > self._size:
            raise EOFError("it is cut short")
        elif position != self.position:
            self._stream.seek(position)
            self.position = position

    def members(self) -> Iterator[Member]:
        """Yield the plain files of the archive in its order; each may be read, from its beginning, before the next is asked for.

        Raises:
            EOFError: The archive ends before its end.
            ValueError: It is damaged.
            UserError: A member is a link, a device or of an unknown kind, or its name points outside of the archive.
        """
        name, size = None, None  # as an extended header tells them
        while True:
            block = self.read(BLOCK)
            if not any(block):
                break
            if not _has_checksum(block):
                raise ValueError("the checksum of a header is wrong")
            kind, length = block[156:157], _number(block[124:136])
            if kind in (_LONG_NAME, _LONG_LINK, _EXTENDED, _GLOBAL):
                if length > _MAX_HEADER_BYTES:
                    raise ValueError(f"a header has {length:,} bytes")
                content = self.read(length)
                self.skip_to(_whole(self.position))
                if kind == _LONG_NAME:
                    name = _text(content)
                elif kind == _EXTENDED:
                    name, size = _extended(content, name, size)
                continue
            path = _name(block) if name is None else name
            length = length if size is None else size
            name, size = None, None
            check_member_name(path, str(self._path))
            if kind == _FOLDER or (kind in _PLAIN and path.endswith("/")):
                continue
            if kind not in _PLAIN:
                of = "a link" if kind in _LINKS else f"of the kind {kind!r}"
                raise UserError(
                    f"{self._path} is refused: its member {path[:100]!r} is {of}. Store the file itself."
                )
            start = self.position
            yield Member(path.removeprefix("./"), start, length)
            self.skip_to(_whole(start + length))
        self._finish()

    def _finish(self) -> None:
        """Read a gzip to its end, where its checksum is."""
        while self.packed:
            content = self._stream.read(_PART)
            self.position += len(content)
            check_ratio(self.position, self._size, str(self._path))
            if not content:
                break


def _whole(position: int) -> int:
    """Return where the block ends that a position lies in."""
    return -(-position // BLOCK) * BLOCK


def _text(field: bytes) -> str:
    return field.split(b"\0", 1)[0].decode("utf-8", "replace")


def _name(block: bytes) -> str:
    prefix = _text(block[345:500]) if block[257:263] == b"ustar\0" else ""
    return f"{prefix}/{_text(block[:100])}" if prefix else _text(block[:100])


def _number(field: bytes) -> int:
    """Return a number as headers have it: octal digits, or base 256 where its first bit is set."""
    if field[0] & 0x80:
        return int.from_bytes(bytes([field[0] & 0x7F]) + field[1:], "big")
    digits = field.split(b"\0", 1)[0].strip()
    if not digits.isdigit() and digits:
        raise ValueError(f"a header has the number {digits!r}")
    return int(digits or b"0", 8)


def _has_checksum(block: bytes) -> bool:
    """Whether the sum of a header's bytes is the one that it tells; its own field counts as spaces."""
    try:
        return _number(block[148:156]) == sum(block) - sum(block[148:156]) + 8 * ord(" ")
    except ValueError:
        return False


def _extended(content: bytes, name: str | None, size: int | None) -> tuple[str | None, int | None]:
    """Return the name and the size that the records of an extended header tell: b'25 path=folder/a.png\\n'."""
    at = 0
    while at < len(content):
        space = content.index(b" ", at)
        end = at + int(content[at:space])
        key, equals, value = content[space + 1 : end - 1].partition(b"=")
        if not space < end <= len(content) or not equals:
            raise ValueError("a record of an extended header is damaged")
        if key == b"path":
            name = _text(value)
        elif key == b"size":
            size = int(value)
            if size < 0:
                raise ValueError(f"a member has {size:,} bytes")
        elif key.startswith(b"GNU.sparse"):
            raise ValueError("it holds a sparse file, which is not read")
        at = end
    return name, size
