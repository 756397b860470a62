"""The archives of published sets: a few files in a folder of a tar, gzipped or not, which is read forwards once."""

from __future__ import annotations

import tarfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Self, cast

from diffmem.data.formats.guards import check_member_name, check_ratio, reading, unpacked
from diffmem.errors import UserError

__all__ = ["first_folder", "of_archive"]

_MAX_MEMBERS = 1_000
_MAX_HEADER_BYTES = 2**16
_MEMBERS = (tarfile.REGTYPE, tarfile.AREGTYPE, tarfile.DIRTYPE)
_NAME_BYTES = 100  # of a member, at the beginning of its header


class _Member(tarfile.TarInfo):
    """A member whose long name or further attributes, which are read whole, have a believable size."""

    @classmethod
    def frombuf(cls, buf: bytes | bytearray, encoding: str, errors: str) -> Self:
        info = super().frombuf(buf, encoding, errors)
        if info.type not in _MEMBERS and info.size > _MAX_HEADER_BYTES:
            raise ValueError(f"a member of type {info.type!r} has {info.size:,} bytes")
        return info


def first_folder(head: bytes) -> str:
    """Return the folder that the first member of a tar is in, from the first bytes of the tar."""
    name = head[:_NAME_BYTES].partition(b"\0")[0].decode("utf-8", "replace")
    return name.removeprefix("./").partition("/")[0]


@contextmanager
def of_archive(
    path: Path, folder: str, what: str, limit: int
) -> Iterator[Iterator[tuple[str, int, IO[bytes]]]]:
    """Open an archive, whose members are then gone through in their order; none is ever written to a disk.

    Args:
        path: The archive.
        folder: Where the files of the set are in it.
        what: The set's name, for errors.
        limit: Most bytes that it unpacks to.

    Yields:
        The files right in the folder: name, size in bytes, and a stream of each, to be read before the next one.

    Raises:
        UserError: The archive is damaged, cut short or too large; or a member is a link or points outside.
    """
    with reading(str(path)), unpacked(path, limit) as (stream, _):
        # A stream is read forwards once, so that members and headers cannot make the reader jump about.
        with tarfile.open(fileobj=cast(IO[bytes], stream), mode="r|", tarinfo=_Member) as archive:
            yield _files(archive, path, folder, what)
        while stream.read(2**20):  # to the end, so that gzip compares its checksum
            pass
        check_ratio(stream.count, path.stat().st_size, str(path))


def _files(
    archive: tarfile.TarFile, path: Path, folder: str, what: str
) -> Iterator[tuple[str, int, IO[bytes]]]:
    for number, info in enumerate(archive):
        if number >= _MAX_MEMBERS:
            raise UserError(
                f"{path} is refused: it has more than {_MAX_MEMBERS:,} members; {what} has about ten."
            )
        check_member_name(info.name, str(path))
        if not info.isdir() and info.type not in (tarfile.REGTYPE, tarfile.AREGTYPE):
            raise UserError(f"{path} is refused: its member {info.name[:100]!r} is a link or no plain file.")
        within, _, name = info.name.removeprefix("./").rpartition("/")
        member = archive.extractfile(info) if within == folder else None
        if member is not None:
            yield name, info.size, member
