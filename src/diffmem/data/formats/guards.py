"""Limits and checks for files that nobody vouches for: sizes, names, and errors told in words."""

from __future__ import annotations

import errno
import gzip
import math
import os
import re
import stat
import struct
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from types import TracebackType
from typing import BinaryIO, cast

from diffmem.errors import DiffmemError, UserError

__all__ = [
    "MAX_DIRECTORY_BYTES",
    "MAX_FILE_BYTES",
    "MAX_IMAGES",
    "MAX_PIXELS",
    "MAX_TOTAL_BYTES",
    "BoundedStream",
    "check_bulk",
    "check_member_name",
    "check_ratio",
    "check_total",
    "check_zip_member",
    "checked_zip",
    "in_one_line",
    "is_folder",
    "is_plain_file",
    "printable",
    "read_member",
    "read_plain",
    "reading",
    "stays_inside",
    "unpacked",
]

MAX_PIXELS = 64_000_000
"""Most pixels of one image, checked in its header before it is decoded."""

MAX_FILE_BYTES = 256 * 2**20
"""Most bytes of one encoded image, label file or CIFAR batch."""

MAX_TOTAL_BYTES = 32 * 2**30
"""Most bytes of all decoded images together."""

MAX_IMAGES = 100_000_000
"""Most images of one set that is read into memory: their labels alone take 8 bytes each."""

MAX_DIRECTORY_BYTES = 128 * 2**20
"""Most bytes of a zip's directory: two million members with ordinary names."""

_LONGEST_LINE = 1500
_PART = 16 * 2**20
_ZIP_TAIL = 2**16 + 22 + 76  # where a zip's last records lie
_BULK_APPLIES_ABOVE = 2 * 2**30
_RATIO = 200
_RATIO_APPLIES_ABOVE = 16 * 2**20


class reading:  # noqa: N801 - used as a function; a generator would cost more than many a small file takes to decode
    """A context that turns whatever a decoder raises on broken bytes into one line that names the file.

    Args:
        what: The file's name.

    Raises:
        UserError: The block raised anything but a `DiffmemError`, which passes unchanged.
    """

    __slots__ = ("_what",)

    def __init__(self, what: str) -> None:
        self._what = what

    def __enter__(self) -> None:
        """Begin the block."""

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Raise the error in words, if there is one."""
        if not isinstance(error, Exception) or isinstance(error, DiffmemError):
            return
        what = self._what
        if isinstance(error, PermissionError):
            raise UserError(f"Cannot read {what}: {error.strerror}. Allow this user to read it.") from error
        # Decoders of foreign formats raise nearly every kind on broken bytes.
        if isinstance(error, MemoryError) or getattr(error, "errno", None) == errno.ENOMEM:
            raise UserError(f"Cannot read {what}: it needs more memory than there is.") from error
        text = getattr(error, "strerror", None) or str(error)
        reason = " ".join(text.split())[:200].rstrip(".") or type(error).__name__
        raise UserError(
            f"Cannot read {what}: {reason}. It is damaged or incomplete; make or download it again."
        ) from error


@contextmanager
def in_one_line() -> Iterator[None]:
    """Keep the words of an error on one line that a terminal can show: names in foreign files may hold anything.

    Unprintable letters are written as their escapes, and the middle of an endless text is left out. It stands around
    each function that opens a foreign file, so that the readers may name whatever they find.

    Raises:
        DiffmemError: What the block raised, with its words changed where they had to be.
    """
    try:
        yield
    except DiffmemError as error:
        text = str(error)
        if len(text) > _LONGEST_LINE:
            text = f"{text[: _LONGEST_LINE // 2]} ... {text[-_LONGEST_LINE // 2 :]}"
        error.args = (printable(text),)
        raise


def printable(text: str) -> str:
    """Return a text whose unprintable letters are written as their escapes."""
    return "".join(
        letter if letter.isprintable() else letter.encode("unicode_escape").decode() for letter in text
    )


def check_member_name(name: str, archive: str) -> None:
    """Refuse an archive member whose name points outside the archive's own folder."""
    if name.startswith(("/", "\\")) or re.match("[A-Za-z]:", name) or ".." in re.split(r"[/\\]", name):
        raise UserError(f"{archive} is refused: its member {name[:100]!r} points outside of the archive.")


def check_ratio(unpacked: int, packed: int, what: str) -> None:
    """Refuse what unpacks to more than 200 times its packed size (and to more than 16 MiB)."""
    if unpacked > _RATIO_APPLIES_ABOVE and unpacked > _RATIO * max(1, packed):
        raise UserError(
            f"{what} is refused: {packed:,} bytes unpack to {unpacked:,}, more than {_RATIO} times as many; "
            "it looks like a decompression bomb. Store it with less compression if it is genuine."
        )


def check_total(count: int, shape: tuple[int, ...], what: str) -> None:
    """Refuse a set of more than `MAX_IMAGES`, or whose pixels would not fit into `MAX_TOTAL_BYTES`."""
    total = count * math.prod(shape)
    if total > MAX_TOTAL_BYTES:
        raise UserError(
            f"{what} is refused: {count:,} images of shape {shape} take {total / 2**30:,.0f} GiB; "
            f"the limit is {MAX_TOTAL_BYTES // 2**30} GiB. Make a smaller set or resize the images first."
        )
    if count > MAX_IMAGES:
        raise UserError(f"{what} is refused: it has {count:,} images; the limit is {MAX_IMAGES:,}.")


def check_bulk(total: int, held: int, what: str) -> None:
    """Refuse a set of encoded images that would fill the memory although it is small as it is stored.

    Args:
        total: Bytes of all pixels.
        held: Bytes of all encoded images.
        what: The set's name.
    """
    if total > _BULK_APPLIES_ABOVE and total > _RATIO * max(1, held):
        raise UserError(
            f"{what} is refused: {held:,} bytes of images decode to {total:,}, more than {_RATIO} times as many; it looks "
            "like a decompression bomb. Resize the images first if they are genuine."
        )


def is_plain_file(path: Path) -> bool:
    """Whether there is a plain file, or a link to one; not if the name is one that no file can have."""
    try:
        return path.is_file()
    except (OSError, ValueError):
        return False


def is_folder(path: Path) -> bool:
    """Whether there is a folder, or a link to one; not if the name is one that none can have."""
    try:
        return path.is_dir()
    except (OSError, ValueError):
        return False


def stays_inside(file: Path, root: Path) -> bool:
    """Whether a file, or what it links to, lies in a folder, whose own links are resolved.

    Raises:
        UserError: It is a link in a circle.
    """
    found = None
    with suppress(OSError, RuntimeError):  # of a circle, before Python 3.13
        found = file.resolve()
    if found is None or found.is_symlink():
        raise UserError(f"{file} is refused: it is a link that leads in a circle; remove it.")
    return found.is_relative_to(root)


def read_plain(path: str | Path, limit: int, what: str) -> bytes:
    """Return the bytes of a plain file of at most `limit` bytes; a pipe or a device is never waited for.

    Raises:
        UserError: It is no plain file, cannot be read, or is too large.
    """
    with reading(what):
        handle = os.open(path, os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0))
        try:
            facts = os.fstat(handle)
            if not stat.S_ISREG(facts.st_mode):
                raise UserError(f"{what} is no plain file; remove it.")
            size = facts.st_size
            if size > limit:
                raise UserError(f"{what} is refused: it has {size:,} bytes; the limit is {limit:,}.")
            content = os.read(handle, size + 1)
            while len(content) != size:  # it is changing, or the system reads in parts
                part = os.read(handle, min(_PART, limit + 1 - len(content)))
                if not part:
                    break
                content += part
                if len(content) > limit:
                    raise UserError(f"{what} is refused: it has more than {limit:,} bytes.")
            return content
        finally:
            os.close(handle)


def check_zip_member(
    name: str, mode: int, flags: int, method: int, sizes: tuple[int, int], archive: Path
) -> None:
    """Refuse a member of a zip by what its directory says: its name, its kind of file, its encoding, its bytes unpacked and packed."""
    if not name:
        raise UserError(f"{archive} is refused: one of its members has no name.")
    check_member_name(name, str(archive))
    member = f"{archive}: {name[:100]}"
    if stat.S_ISLNK(mode):
        raise UserError(f"{member} is refused: it is a link. Store the file itself.")
    if flags & 0x1:
        raise UserError(f"{member} is encrypted; store it without a password.")
    if method not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
        raise UserError(f"{member} uses compression type {method}; store or deflate it.")
    check_ratio(*sizes, member)


@contextmanager
def checked_zip(path: Path) -> Iterator[zipfile.ZipFile]:
    """Open a zip whose members all have safe names, plain kinds, unique names and believable sizes.

    Raises:
        UserError: The file is no whole zip, or a member is refused.
    """
    with reading(str(path)):
        _check_directory(path)
        archive = zipfile.ZipFile(path)
    with archive:
        seen: set[str] = set()
        packed = 0
        for info in archive.infolist():
            sizes = info.file_size, info.compress_size
            check_zip_member(
                info.filename, info.external_attr >> 16, info.flag_bits, info.compress_type, sizes, path
            )
            if info.filename in seen:
                raise UserError(f"{path} is refused: it holds {info.filename[:100]!r} twice.")
            seen.add(info.filename)
            packed += info.compress_size
        if packed > path.stat().st_size:
            raise UserError(f"{path} is refused: its members overlap; it is damaged or a decompression bomb.")
        yield archive


def _check_directory(path: Path) -> None:
    """Refuse a zip whose directory of members alone would fill the memory."""
    size = path.stat().st_size
    with path.open("rb") as stream:
        stream.seek(max(0, size - _ZIP_TAIL))
        tail = stream.read(_ZIP_TAIL)
    for found in re.finditer(rb"PK", tail):
        offset = found.start()
        claimed = [*struct.unpack_from("<I", tail, offset + 12)] if offset + 16 <= len(tail) else []
        if offset >= 76 and tail[offset - 20 : offset - 16] == b"PK":
            claimed += struct.unpack_from("<Q", tail, offset - 36)
        if any(MAX_DIRECTORY_BYTES < length <= size for length in claimed):
            raise UserError(
                f"{path} is refused: its directory has more than {MAX_DIRECTORY_BYTES:,} bytes. Make several smaller archives."
            )


def read_member(archive: zipfile.ZipFile, info: zipfile.ZipInfo) -> bytes:
    """Return the bytes of a zip member of at most `MAX_FILE_BYTES`; its CRC is checked.

    Raises:
        UserError: It is too large, cut short, or its CRC is wrong.
    """
    what = f"{archive.filename}: {info.filename}"
    if info.file_size > MAX_FILE_BYTES:
        raise UserError(
            f"{what} is refused: it has {info.file_size:,} bytes; the limit is {MAX_FILE_BYTES:,}."
        )
    with reading(what):
        content = archive.read(info)  # zipfile unpacks no more than the declared size
        if len(content) != info.file_size:
            raise EOFError(f"{len(content):,} of {info.file_size:,} bytes are there")
    return content


class BoundedStream:
    """A readable stream that refuses to yield more than `limit` bytes in all.

    Args:
        stream: Where the bytes come from, for example a decompressor.
        limit: Most bytes.
        what: The file's name, for the error.
    """

    def __init__(self, stream: BinaryIO, limit: int, what: str) -> None:
        self._stream = stream
        self._limit = limit
        self._what = what
        self.count = 0

    def read(self, size: int = -1) -> bytes:
        """Return up to `size` bytes (all that are left, if negative).

        Raises:
            UserError: More than `limit` bytes have come.
        """
        left = self._limit - self.count
        content = self._stream.read(left + 1 if size < 0 else min(size, left + 1))
        self.count += len(content)
        if self.count > self._limit:
            raise UserError(f"{self._what} is refused: it unpacks to more than {self._limit:,} bytes.")
        return content


@contextmanager
def unpacked(path: Path, limit: int) -> Iterator[tuple[BoundedStream, bool]]:
    """Open a file that may be gzipped, to be read forwards.

    Args:
        path: The file.
        limit: Most bytes that it unpacks to.

    Yields:
        What it holds, and whether it is gzipped.
    """
    with path.open("rb") as file:
        packed = file.read(2) == b"\x1f\x8b"
        file.seek(0)
        plain = gzip.GzipFile(fileobj=file) if packed else file
        yield BoundedStream(cast(BinaryIO, plain), limit, str(path)), packed
