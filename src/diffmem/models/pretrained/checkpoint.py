"""Files of pickled tensors as records, read without executing anything in them.

Every size that the file claims is checked against what it holds before memory is spent on it.
"""

from __future__ import annotations

import io
import zipfile
from pathlib import Path
from typing import IO, cast

from diffmem.data.formats.guards import checked_zip, read_member
from diffmem.data.formats.pickle_machine import Budget
from diffmem.models.pretrained.pickle_reader import LEGACY_MAGIC, ModulePickle, PickledTensor, read_legacy
from diffmem.models.weights import check_file

__all__ = ["read_checkpoint", "with_tensors"]

_MAX_VALUE_BYTES = 512 * 2**20  # the largest tensor of EDM's networks has 38 million
_MAX_OPCODES = 1_000_000
_MAX_LEVELS = 4
_LONGEST_WORD = 60
_SLACK = 2**20


def read_checkpoint(path: Path) -> object:
    """Return what a file of pickled tensors holds, as records: a plain pickle of protocol 0 to 5, or a file of `torch.save`, old or new.

    Nothing that the file names is imported or called. It may be a plain pickle or hold its storages beside it.

    Raises:
        UserError: It is missing, too large, or asks for anything that a checkpoint never needs.
        Exception: Any other, for a damaged file; see `reading`.
    """
    size = check_file(path)
    # Each byte may be made twice at most: where old protocols encode it, and where its storage is read.
    machine = ModulePickle(str(path), Budget(str(path), _MAX_OPCODES, size=2 * size + _SLACK))
    with path.open("rb") as file:
        if file.read(4) == b"PK\x03\x04":
            return _read_zip(path, machine)
        file.seek(0)
        stream = cast(IO[bytes], _Bounded(file, size))
        value = machine.run(stream)
        if type(value) is int and value == LEGACY_MAGIC:
            value = read_legacy(stream, ModulePickle(str(path), machine.budget))
        return value


def _read_zip(path: Path, machine: ModulePickle) -> object:
    """The value in a file of `torch.save`: a zip with the pickle and, uncompressed, each storage."""
    with checked_zip(path) as archive:
        members = {info.filename: info for info in archive.infolist()}
        roots = [name.removesuffix("data.pkl") for name in members if name.endswith("/data.pkl")]
        if len(roots) != 1:
            raise ValueError("it is a zip, but not one that PyTorch wrote")
        (root,) = roots

        def content(name: str) -> bytes:
            info = members.get(root + name)
            if info is None:
                raise ValueError(f"it lacks {name[:_LONGEST_WORD]!r}")
            if info.compress_type != zipfile.ZIP_STORED:
                raise ValueError("its members are compressed; PyTorch stores them as they are")
            return read_member(archive, info)

        if root + "byteorder" in members and content("byteorder") != b"little":
            raise ValueError("it was written on a big-endian machine")
        value = machine.run(io.BytesIO(content("data.pkl")))
        for key, storage in machine.storages.items():
            storage.fill(content(f"data/{key}"))
        return value


class _Bounded:
    """A file whose reads never ask for more than is left of it, nor for more than a value can have.

    So neither a claimed length nor a file that is mostly holes reserves memory.
    """

    def __init__(self, file: IO[bytes], size: int) -> None:
        self._file, self._size = file, size

    def read(self, size: int = -1) -> bytes:
        left = max(0, self._size - self._file.tell())
        wanted = left if size < 0 else min(size, left)
        if wanted > _MAX_VALUE_BYTES:
            raise ValueError(f"one of its values has {wanted:,} bytes; the limit is {_MAX_VALUE_BYTES:,}")
        return self._file.read(wanted)

    def readline(self) -> bytes:
        content = self._file.readline(_MAX_VALUE_BYTES + 1)
        if len(content) > _MAX_VALUE_BYTES:
            raise ValueError(f"one of its values has more than {_MAX_VALUE_BYTES:,} bytes")
        return content

    def tell(self) -> int:
        return self._file.tell()


def with_tensors(value: object, level: int = 0) -> object:
    """Return nested dictionaries and lists of a checkpoint, at most four deep, with tensors in the place of their records."""
    if isinstance(value, PickledTensor):
        return value.value()
    if level < _MAX_LEVELS and isinstance(value, dict):
        return {key: with_tensors(each, level + 1) for key, each in value.items()}
    if level < _MAX_LEVELS and isinstance(value, list):
        return [with_tensors(each, level + 1) for each in value]
    return value
