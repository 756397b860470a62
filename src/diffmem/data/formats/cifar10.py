"""CIFAR-10 and CIFAR-100 as their authors publish them: `cifar-10-python.tar.gz` and `cifar-100-python.tar.gz`, or their folders.

Format: https://www.cs.toronto.edu/~kriz/cifar.html (Krizhevsky 2009). Training images are in the order of the
files (data_batch_1 to 5, or train) and of the rows within each. The files are pickled dictionaries: of NumPy arrays, lists, byte strings
and numbers. They are read without running code: the reader knows the five callables that they name (see `pickle_machine`),
and nothing is imported.
"""

from __future__ import annotations

import io
from collections.abc import Mapping
from enum import Enum
from pathlib import Path
from typing import ClassVar, NamedTuple

import numpy as np

from diffmem.data.conversions import Conversion
from diffmem.data.formats.arrays import naming
from diffmem.data.formats.guards import read_plain, reading, stays_inside
from diffmem.data.formats.pickle_arrays import ARRAY_NAMES, PickledArray, build_array, call_numpy, text
from diffmem.data.formats.pickle_machine import Budget, PickleMachine
from diffmem.data.formats.published import of_archive
from diffmem.data.images import ImageSet, frozen
from diffmem.data.reading import NO_LABELS
from diffmem.errors import UserError

__all__ = [
    "CIFAR10",
    "CIFAR100",
    "MAX_PICKLE_BYTES",
    "Cifar",
    "load_dictionary",
    "read_cifar",
]

_MAX_ARCHIVE_BYTES = 512 * 2**20

MAX_PICKLE_BYTES = 192 * 2**20
"""Most bytes of one pickle; a CIFAR-10 batch has 31 million, the training images of CIFAR-100 have 155 million."""

_MAX_OPCODES = 1_000_000  # a batch of 10,000 images has 100,000 at most
_CODES = frozenset({"u1", "i8"})
_DIMENSIONS = range(1, 3)


class Cifar(NamedTuple):
    """How one of the two sets is laid out.

    Attributes:
        name: What it is called.
        folder: In its archive.
        files: Of each split.
        meta: The file of the class names.
        labels: Keys of labels, the usual one first, and the key of the class names of each.
    """

    name: str
    folder: str
    files: dict[str, tuple[str, ...]]
    meta: str
    labels: dict[str, str]

    def folder_at(self, path: Path) -> Path | None:
        """Return the unpacked folder that `path` is or holds, if it is one."""
        kept = [name for names in self.files.values() for name in names]
        for folder in (path, path / self.folder):
            if (folder / self.meta).is_file() and (
                folder.name == self.folder or any((folder / name).is_file() for name in kept)
            ):
                return folder
        return None


CIFAR10 = Cifar(
    "CIFAR-10",
    "cifar-10-batches-py",
    {"train": tuple(f"data_batch_{number}" for number in range(1, 6)), "test": ("test_batch",)},
    "batches.meta",
    {"labels": "label_names"},
)
CIFAR100 = Cifar(
    "CIFAR-100",
    "cifar-100-python",
    {"train": ("train",), "test": ("test",)},
    "meta",
    {"fine_labels": "fine_label_names", "coarse_labels": "coarse_label_names"},
)


def read_cifar(path: Path, split: str, of: Cifar, labels_key: str | None = None) -> ImageSet:
    """Read one split of CIFAR-10 or CIFAR-100.

    Args:
        path: The archive (.tar, .tar.gz, .tgz) or the unpacked folder.
        split: 'train' or 'test'.
        of: Which of the two.
        labels_key: Which labels; those of the 100 fine classes of CIFAR-100 if none, without labels if 'none'.

    Returns:
        Images (N, 3, 32, 32) with the labels, file names and class names of the archive.

    Raises:
        UserError: A file is missing, damaged, or asks to run code; or a member points outside of the
            archive; or there are no such labels.
    """
    usual = next(iter(of.labels))
    key = labels_key or usual
    if key not in (*of.labels, NO_LABELS):
        raise UserError(
            f"{path}: {of.name} has no labels {key!r}; choose {', '.join(of.labels)} or {NO_LABELS} (--key labels=...)."
        )
    wanted = (of.meta, *of.files[split])
    contents = _from_folder(path, wanted, of) if path.is_dir() else _from_archive(path, wanted, of)
    missing = [name for name in wanted if name not in contents]
    if missing:
        raise UserError(
            f"{path} is no whole {of.name}: {of.folder}/{missing[0]} is missing; download it again."
        )
    meta = f"{path}: {of.meta}"
    class_names = _text(
        load_dictionary(contents[of.meta], meta).get(of.labels.get(key, of.labels[usual])), meta, of
    )
    images, labels = [], []
    names: list[str] = []
    for name in of.files[split]:
        checked = usual if key == NO_LABELS else key
        pixels, classes, files = _batch(
            contents.pop(name), name, len(class_names), f"{path}: {name}", of, checked
        )
        images.append(pixels)
        labels.append(classes)
        names.extend(files)
    stack = (images[0] if len(images) == 1 else np.concatenate(images)).reshape(-1, 3, 32, 32)
    words = {"train": "training", "test": "test"}[split]
    step = f"{of.name} {words} split from {path.name}: {len(stack)} images"
    conversions = _choice(of, key, len(stack), len(class_names))
    history = (step, *(one.sentence for one in conversions))
    with naming(path):
        if key == NO_LABELS:
            return ImageSet(frozen(stack), None, tuple(names), None, history, conversions)
        return ImageSet(
            frozen(stack), frozen(np.concatenate(labels)), tuple(names), class_names, history, conversions
        )


def _choice(of: Cifar, key: str, count: int, classes: int) -> tuple[Conversion, ...]:
    """Return what is said of labels that were a choice."""
    if len(of.labels) == 1 and key != NO_LABELS:
        return ()
    others = " or ".join(other for other in (*of.labels, NO_LABELS) if other != key)
    text = f"labels: {key} ({classes} classes)" if key in of.labels else "labels not read"
    text += f" (--key labels={others})" if len(of.labels) > 1 else ""
    return (Conversion("labels", key, count, count, text, False),)


def _from_folder(path: Path, wanted: tuple[str, ...], of: Cifar) -> dict[str, bytes]:
    folder = of.folder_at(path) or path
    contents = {}
    for name in wanted:
        file = folder / name
        if not file.is_file():
            continue
        if not stays_inside(file, folder.resolve()):
            raise UserError(f"{file} is refused: it is a link that leads out of its folder.")
        contents[name] = read_plain(file, MAX_PICKLE_BYTES, str(file))
    return contents


def _from_archive(path: Path, wanted: tuple[str, ...], of: Cifar) -> dict[str, bytes]:
    contents: dict[str, bytes] = {}
    with of_archive(path, of.folder, of.name, _MAX_ARCHIVE_BYTES) as members:
        for name, size, stream in members:
            if name not in wanted:
                continue
            if size > MAX_PICKLE_BYTES:
                raise UserError(
                    f"{path}: {name} is refused: it has {size:,} bytes; the limit is {MAX_PICKLE_BYTES:,}."
                )
            content = stream.read()
            if len(content) != size:
                raise EOFError(f"{name} is cut short")
            contents[name] = content
    return contents


def _batch(
    content: bytes, name: str, classes: int, what: str, of: Cifar, key: str
) -> tuple[np.ndarray, np.ndarray, tuple[str, ...]]:
    batch = load_dictionary(content, what)
    data, labels = batch.get("data"), batch.get(key)
    if not isinstance(data, np.ndarray) or data.dtype != np.uint8 or data.ndim != 2 or data.shape[1] != 3072:
        raise UserError(f"{what} is no {of.name} batch: its 'data' is not a uint8 array (n, 3072).")
    if isinstance(labels, np.ndarray):
        labels = labels.tolist()
    if not isinstance(labels, list) or len(labels) != len(data):
        raise UserError(f"{what} is no {of.name} batch: its {key!r} is not a list of {len(data)} numbers.")
    if not all(type(label) is int and 0 <= label < classes for label in labels):
        raise UserError(
            f"{what} is no {of.name} batch: a label is not a whole number from 0 to {classes - 1}."
        )
    if "filenames" in batch:
        names = _text(batch["filenames"], what, of)
    else:
        names = tuple(f"{name}/{row:05d}" for row in range(len(data)))
    if len(names) != len(data):
        raise UserError(f"{what} is no {of.name} batch: {len(names)} file names for {len(data)} images.")
    return data, np.array(labels, np.int64), names


def _text(words: object, what: str, of: Cifar) -> tuple[str, ...]:
    if not isinstance(words, list) or not words or not all(isinstance(word, (str, bytes)) for word in words):
        raise UserError(f"{what} is no part of {of.name}: it lacks its list of names.")
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
