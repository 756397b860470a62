"""CIFAR-10 as its authors publish it: `cifar-10-python.tar.gz`, or its folder `cifar-10-batches-py`.

Format: https://www.cs.toronto.edu/~kriz/cifar.html (Krizhevsky 2009). Training images are in the order of the
files data_batch_1 to 5 and of the rows within each. The batches are pickled dictionaries: of NumPy arrays, lists, byte strings
and numbers. They are read without running code: the reader knows the five callables that they name (see `pickle_machine`),
and nothing is imported.
"""

from __future__ import annotations

import io
import tarfile
from collections.abc import Mapping
from enum import Enum
from pathlib import Path
from typing import IO, ClassVar, Self, cast

import numpy as np

from diffmem.data.formats.arrays import naming
from diffmem.data.formats.guards import (
    check_member_name,
    check_ratio,
    read_plain,
    reading,
    stays_inside,
    unpacked,
)
from diffmem.data.formats.pickle_arrays import ARRAY_NAMES, PickledArray, build_array, call_numpy, text
from diffmem.data.formats.pickle_machine import Budget, PickleMachine
from diffmem.data.images import ImageSet, frozen
from diffmem.errors import UserError

__all__ = ["FOLDER", "MAX_PICKLE_BYTES", "is_cifar10_folder", "load_dictionary", "read_cifar10"]

FOLDER = "cifar-10-batches-py"
_FILES = {"train": tuple(f"data_batch_{number}" for number in range(1, 6)), "test": ("test_batch",)}
_META = "batches.meta"
_MAX_ARCHIVE_BYTES = 512 * 2**20
_MAX_MEMBERS = 1_000
_MAX_HEADER_BYTES = 2**16
_MEMBERS = (tarfile.REGTYPE, tarfile.AREGTYPE, tarfile.DIRTYPE)

MAX_PICKLE_BYTES = 128 * 2**20
"""Most bytes of one pickle; a CIFAR-10 batch has 31 million."""

_MAX_OPCODES = 1_000_000  # a batch of 10,000 images has 100,000 at most
_CODES = frozenset({"u1", "i8"})
_DIMENSIONS = range(1, 3)


def is_cifar10_folder(path: Path) -> bool:
    """Whether `path` is an unpacked `cifar-10-batches-py`, or holds it."""
    return any((folder / _META).is_file() for folder in (path, path / FOLDER))


def read_cifar10(path: Path, split: str) -> ImageSet:
    """Read one split of CIFAR-10.

    Args:
        path: The archive (.tar, .tar.gz, .tgz) or the unpacked folder.
        split: 'train' (five batches) or 'test'.

    Returns:
        Images (N, 3, 32, 32) with the labels, file names and class names of the archive.

    Raises:
        UserError: A batch is missing, damaged, or asks to run code; or a member points outside of the
            archive.
    """
    wanted = (_META, *_FILES[split])
    contents = _from_folder(path, wanted) if path.is_dir() else _from_archive(path, wanted)
    missing = [name for name in wanted if name not in contents]
    if missing:
        raise UserError(f"{path} is no whole CIFAR-10: {FOLDER}/{missing[0]} is missing; download it again.")
    class_names = _text(
        load_dictionary(contents[_META], f"{path}: {_META}").get("label_names"), f"{path}: {_META}"
    )
    images, labels = [], []
    names: list[str] = []
    for name in _FILES[split]:
        pixels, classes, files = _batch(contents.pop(name), name, len(class_names), f"{path}: {name}")
        images.append(pixels)
        labels.append(classes)
        names.extend(files)
    stack = np.concatenate(images).reshape(-1, 3, 32, 32)
    words = {"train": "training", "test": "test"}[split]
    step = f"CIFAR-10 {words} split from {path.name}: {len(stack)} images"
    with naming(path):
        return ImageSet(frozen(stack), frozen(np.concatenate(labels)), tuple(names), class_names, (step,))


def _from_folder(path: Path, wanted: tuple[str, ...]) -> dict[str, bytes]:
    folder = path if (path / _META).is_file() else path / FOLDER
    contents = {}
    for name in wanted:
        file = folder / name
        if not file.is_file():
            continue
        if not stays_inside(file, folder.resolve()):
            raise UserError(f"{file} is refused: it is a link that leads out of its folder.")
        contents[name] = read_plain(file, MAX_PICKLE_BYTES, str(file))
    return contents


class _Member(tarfile.TarInfo):
    """A member whose long name or further attributes, which are read whole, have a believable size."""

    @classmethod
    def frombuf(cls, buf: bytes | bytearray, encoding: str, errors: str) -> Self:
        info = super().frombuf(buf, encoding, errors)
        if info.type not in _MEMBERS and info.size > _MAX_HEADER_BYTES:
            raise ValueError(f"a member of type {info.type!r} has {info.size:,} bytes")
        return info


def _from_archive(path: Path, wanted: tuple[str, ...]) -> dict[str, bytes]:
    contents: dict[str, bytes] = {}
    with reading(str(path)), unpacked(path, _MAX_ARCHIVE_BYTES) as (stream, _):
        # A stream is read forwards once, so that members and headers cannot make the reader jump about.
        with tarfile.open(fileobj=cast(IO[bytes], stream), mode="r|", tarinfo=_Member) as archive:
            for number, info in enumerate(archive):
                if number >= _MAX_MEMBERS:
                    raise UserError(
                        f"{path} is refused: it has more than {_MAX_MEMBERS:,} members; CIFAR-10 has nine."
                    )
                check_member_name(info.name, str(path))
                if not info.isdir() and info.type not in (tarfile.REGTYPE, tarfile.AREGTYPE):
                    raise UserError(
                        f"{path} is refused: its member {info.name[:100]!r} is a link or no plain file."
                    )
                folder, _, name = info.name.removeprefix("./").rpartition("/")
                if folder != FOLDER or name not in wanted:
                    continue
                if info.size > MAX_PICKLE_BYTES:
                    raise UserError(
                        f"{path}: {name} is refused: it has {info.size:,} bytes; the limit is "
                        f"{MAX_PICKLE_BYTES:,}."
                    )
                member = archive.extractfile(info)
                content = member.read() if member is not None else b""
                if len(content) != info.size:
                    raise EOFError(f"{name} is cut short")
                contents[name] = content
        while stream.read(2**20):  # to the end, so that gzip compares its checksum
            pass
        check_ratio(stream.count, path.stat().st_size, str(path))
    return contents


def _batch(
    content: bytes, name: str, classes: int, what: str
) -> tuple[np.ndarray, np.ndarray, tuple[str, ...]]:
    batch = load_dictionary(content, what)
    data, labels = batch.get("data"), batch.get("labels")
    if not isinstance(data, np.ndarray) or data.dtype != np.uint8 or data.ndim != 2 or data.shape[1] != 3072:
        raise UserError(f"{what} is no CIFAR-10 batch: its 'data' is not a uint8 array (n, 3072).")
    if isinstance(labels, np.ndarray):
        labels = labels.tolist()
    if not isinstance(labels, list) or len(labels) != len(data):
        raise UserError(f"{what} is no CIFAR-10 batch: its 'labels' is not a list of {len(data)} numbers.")
    if not all(type(label) is int and 0 <= label < classes for label in labels):
        raise UserError(
            f"{what} is no CIFAR-10 batch: a label is not a whole number from 0 to {classes - 1}."
        )
    if "filenames" in batch:
        names = _text(batch["filenames"], what)
    else:
        names = tuple(f"{name}/{row:05d}" for row in range(len(data)))
    if len(names) != len(data):
        raise UserError(f"{what} is no CIFAR-10 batch: {len(names)} file names for {len(data)} images.")
    return data, np.array(labels, np.int64), names


def _text(words: object, what: str) -> tuple[str, ...]:
    if not isinstance(words, list) or not words or not all(isinstance(word, (str, bytes)) for word in words):
        raise UserError(f"{what} is no part of CIFAR-10: it lacks its list of names.")
    return tuple(word if isinstance(word, str) else word.decode("utf-8", "replace") for word in words)


class _Call(Enum):
    ENCODE = "encode"
    BYTES = "bytes"


def load_dictionary(content: bytes, name: str) -> dict[str, object]:
    """Return the dictionary that a pickle holds, without running anything that it asks for.

    Args:
        content: The pickle, of any protocol up to 5.
        name: What to call it in errors.

    Returns:
        The dictionary with its keys as text. Values are None, bool, int, str, bytes, list, tuple, dict, or
        arrays of uint8 or int64. Python 2 strings are bytes.

    Raises:
        UserError: The pickle is damaged, too large, no dictionary, or asks for anything else.
    """
    if len(content) > MAX_PICKLE_BYTES:
        raise UserError(
            f"{name} is refused: the pickle has {len(content):,} bytes; the limit is {MAX_PICKLE_BYTES:,}."
        )
    with reading(name):
        # Each byte of a batch is encoded once at most; a pickle that encodes one text again and again is not one.
        budget = Budget(name, _MAX_OPCODES, size=len(content))
        result = _Batch(name, budget).run(io.BytesIO(content))
        if not isinstance(result, dict):
            raise TypeError(f"the pickle holds a {type(result).__name__}, not a dictionary")
        return {text(key): _finished(value) for key, value in result.items()}


class _Batch(PickleMachine):
    kind: ClassVar[str] = "a CIFAR-10 batch"
    remedy: ClassVar[str] = "Get the archive from its official place."
    names: Mapping[str, object] = {
        **ARRAY_NAMES,
        "_codecs encode": _Call.ENCODE,
        "__builtin__ bytes": _Call.BYTES,  # how Python 3 writes an empty byte string for Python 2
    }

    def call(self, called: object, arguments: object) -> object:
        match called, arguments:
            case _Call.ENCODE, (str(word), "latin1" | "latin-1"):
                self.budget.spend_bytes(len(word))
                return word.encode("latin-1")
            case _Call.BYTES, ():
                return b""
        made = call_numpy(called, arguments, _CODES, _DIMENSIONS)
        if made is None:
            raise ValueError(
                "the pickle makes something other than byte strings and arrays of uint8 or int64"
            )
        return made

    def build(self, target: object, state: object) -> None:
        if not build_array(target, state, _DIMENSIONS):
            raise ValueError("the pickle fills an object in a way that arrays are never filled")


def _finished(value: object) -> object:
    if not isinstance(value, PickledArray):
        return value
    if value.value is None:
        raise ValueError("the pickle holds an array without content")
    return value.value
