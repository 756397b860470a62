"""STL-10 in its binary layout: `stl10_binary.tar.gz`, or its folder `stl10_binary`.

Format: https://cs.stanford.edu/~acoates/stl10/ (Coates, Lee and Ng 2011): an image has 3 x 96 x 96 bytes, its red, green and blue
plane one after the other and each in column-major order; labels are bytes from 1 to 10; class_names.txt has a name a line.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO

import numpy as np
from numpy.typing import NDArray

from diffmem.data.conversions import Conversion
from diffmem.data.formats.arrays import column_major, exactly, naming
from diffmem.data.formats.guards import reading, stays_inside
from diffmem.data.formats.published import of_archive
from diffmem.data.images import ImageSet, frozen
from diffmem.data.names import NumberedNames
from diffmem.data.reading import NO_LABELS
from diffmem.errors import UserError

__all__ = ["FOLDER", "SPLITS", "read_stl10", "stl10_folder"]

FOLDER = "stl10_binary"
SPLITS = ("train", "test", "unlabeled")
"""Its splits; folds of the training images are not read."""

_SHAPE = (3, 96, 96)
_IMAGE_BYTES = math.prod(_SHAPE)
_CLASS_NAMES = "class_names.txt"
_PUBLISHED = {"train": 5_000, "test": 8_000, "unlabeled": 100_000}
_MAX_ARCHIVE_BYTES = 8 * 2**30
_MAX_SMALL_BYTES = 2**20  # of labels and of class names


def stl10_folder(path: Path) -> Path | None:
    """Return the unpacked folder that `path` is or holds, if it is one."""
    return next(
        (one for one in (path, path / FOLDER) if any((one / f"{split}_X.bin").is_file() for split in SPLITS)),
        None,
    )


def read_stl10(path: Path, split: str, labels_key: str | None = None) -> ImageSet:
    """Read one split of STL-10.

    Args:
        path: The archive (.tar, .tar.gz, .tgz) or the unpacked folder.
        split: 'train', 'test' or 'unlabeled'.
        labels_key: 'none' for no labels.

    Returns:
        Images (N, 3, 96, 96); labels 0 to 9 for 1 to 10 of the file.

    Raises:
        UserError: A file is missing or damaged; the images are not whole, or their number is not that of the labels.
    """
    pixels, labelled = f"{split}_X.bin", split != "unlabeled"
    found: dict[str, bytes] = {}
    images: NDArray[np.uint8] | None = None
    with _files(path) as files:
        for name, size, stream in files:
            if name == pixels:
                images = _images(stream, size, f"{path}: {name}")
            elif labelled and name in (_CLASS_NAMES, f"{split}_y.bin"):
                if size > _MAX_SMALL_BYTES:
                    raise UserError(
                        f"{path}: {name} is refused: it has {size:,} bytes; the limit is {_MAX_SMALL_BYTES:,}."
                    )
                found[name] = exactly(stream, size)
                if len(found[name]) != size:
                    raise EOFError(f"{name} is cut short")
    wanted = (_CLASS_NAMES, f"{split}_y.bin") if labelled else ()
    missing = [pixels] * (images is None) + [name for name in wanted if name not in found]
    if missing or images is None:
        raise UserError(f"{path} is no whole STL-10: {FOLDER}/{missing[0]} is missing; download it again.")
    labels, class_names = _labels(found, split, len(images), path) if labelled else (None, None)
    conversions: tuple[Conversion, ...] = ()
    if len(images) != _PUBLISHED[split]:
        text = f"{len(images):,} images, not the {_PUBLISHED[split]:,} that STL-10 publishes as this split"
        conversions = (Conversion("split", split, len(images), _PUBLISHED[split], text, False),)
    if labels_key == NO_LABELS:
        labels, class_names = None, None
    step = f"STL-10 {split} split from {path.name}: {len(images)} images"
    history = (step, *(one.sentence for one in conversions))
    with naming(path):
        names = NumberedNames(f"{split}_X", range(len(images)))
        return ImageSet(images, labels, names, class_names, history, conversions)


@contextmanager
def _files(path: Path) -> Iterator[Iterator[tuple[str, int, IO[bytes]]]]:
    if not path.is_dir():
        with of_archive(path, FOLDER, "STL-10", _MAX_ARCHIVE_BYTES) as members:
            yield members
        return
    with reading(str(path)):
        yield _in_folder(stl10_folder(path) or path)


def _in_folder(folder: Path) -> Iterator[tuple[str, int, IO[bytes]]]:
    for file in sorted(folder.iterdir()):
        if not file.is_file():
            continue
        if not stays_inside(file, folder.resolve()):
            raise UserError(f"{file} is refused: it is a link that leads out of its folder.")
        with file.open("rb") as stream:
            yield file.name, file.stat().st_size, stream


def _images(stream: IO[bytes], size: int, what: str) -> NDArray[np.uint8]:
    count, rest = divmod(size, _IMAGE_BYTES)
    if rest or not count:
        raise UserError(
            f"{what} has {size:,} bytes, which is not a whole number of images of {_IMAGE_BYTES:,} bytes. It is cut short;"
            " download it again."
        )
    return column_major(stream, count, _SHAPE, what)


def _labels(
    found: dict[str, bytes], split: str, count: int, path: Path
) -> tuple[NDArray[np.int64], tuple[str, ...]]:
    class_names = tuple(found[_CLASS_NAMES].decode("utf-8", "replace").split())
    labels = np.frombuffer(found[f"{split}_y.bin"], np.uint8).astype(np.int64) - 1
    if len(labels) != count:
        raise UserError(
            f"{path}: {split}_y.bin has {len(labels):,} labels for the {count:,} images of {split}_X.bin. One of them is cut"
            " short; download both again."
        )
    if labels.min() < 0 or labels.max() >= len(class_names):
        raise UserError(
            f"{path}: {split}_y.bin holds the label {int(labels[(labels < 0) | (labels >= len(class_names))][0]) + 1}; there are"
            f" 1 to {len(class_names)}, a line of {_CLASS_NAMES} each."
        )
    return frozen(labels), class_names
