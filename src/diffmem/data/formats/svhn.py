"""SVHN with cropped digits: `train_32x32.mat`, `test_32x32.mat`, `extra_32x32.mat`.

Format: http://ufldl.stanford.edu/housenumbers/ (Netzer et al. 2011): MATLAB files (level 5) of X, uint8 (H, W, 3, N), and y (N, 1),
the digits 1 to 9, and 10 for the digit 0. See `mat5`.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from diffmem.data.conversions import Conversion
from diffmem.data.formats.arrays import column_major, exactly, naming
from diffmem.data.formats.guards import reading, stays_inside
from diffmem.data.formats.mat5 import LEVEL_5, MatArray, mat_arrays
from diffmem.data.images import ImageSet, frozen
from diffmem.data.names import NumberedNames
from diffmem.data.reading import NO_LABELS
from diffmem.errors import UserError

__all__ = ["MAGIC", "SPLITS", "read_svhn", "svhn_files"]

MAGIC = b"MATLAB "
"""How .mat files of level 5 and of version 7.3 begin."""

SPLITS = ("train", "test", "extra")
_ZERO = 10


def svhn_files(folder: Path) -> list[Path]:
    """Return the files of the cropped digits in a folder."""
    files = [folder / f"{split}_32x32.mat" for split in SPLITS]
    return [file for file in files if file.is_file()]


def read_svhn(path: Path, split: str | None, labels_key: str | None = None) -> ImageSet:
    """Read one split of SVHN.

    Args:
        path: A .mat file, or the folder of several.
        split: 'train', 'test' or 'extra': of a folder, 'train' if none; of a file, the file of that name beside it, the file
            itself if none.
        labels_key: 'none' for no labels.

    Returns:
        Images (N, 3, H, W) with the digits as labels, the label 10 as 0.

    Raises:
        UserError: A file is missing, damaged, of version 7.3, or holds something else.
    """
    file = _of(path, split)
    images, labels = _read(file)
    tens = int(np.count_nonzero(labels == _ZERO))
    if tens and (labels == 0).any():
        raise UserError(f"{file}: y holds 0 and 10, which both stand for the digit 0; it is no file of SVHN.")
    text = f"labels: the digit 0 is stored as 10 in {tens:,} of {len(images):,} images"
    conversions = (Conversion("labels", "digits", tens, len(images), text, False),) if tens else ()
    step = f"SVHN {file.name}: {len(images)} images"
    names = NumberedNames(file.name, range(len(images)))
    with naming(file):
        if labels_key == NO_LABELS:
            return ImageSet(images, None, names, None, (step,))
        history = (step, *(one.sentence for one in conversions))
        return ImageSet(images, frozen(labels % _ZERO), names, tuple("0123456789"), history, conversions)


def _of(path: Path, split: str | None) -> Path:
    if not path.is_dir() and (split is None or split in path.name):
        return path
    folder = path if path.is_dir() else path.parent
    file = folder / f"{split or SPLITS[0]}_32x32.mat"
    if not file.is_file():
        raise UserError(
            f"The {split or SPLITS[0]} split of {path} is missing: there is no {file.name} in {folder}."
        )
    if not stays_inside(file, folder.resolve()):
        raise UserError(f"{file} is refused: it is a link that leads out of {folder}. Copy the file instead.")
    return file


def _read(file: Path) -> tuple[NDArray[np.uint8], NDArray[np.int64]]:
    """Return images (N, 3, H, W) and labels (N,) as they are stored."""
    with file.open("rb") as stream:
        if stream.read(len(LEVEL_5)) != LEVEL_5:
            raise UserError(
                f"{file} is a .mat file of version 7.3 (HDF5), which is not read; the files of SVHN are of level 5. Save it by"
                " MATLAB's save(..., '-v7'), or its arrays as an .npz: images and labels."
            )
    images: NDArray[np.uint8] | None = None
    labels: NDArray[Any] | None = None
    held: list[str] = []
    with reading(str(file)):
        for array in mat_arrays(file):
            held.append(f"{array.name} {array.kind} {array.shape}")
            if array.name == "X" and _is_images(array):
                height, width, channels, count = array.shape
                images = column_major(array.values, count, (channels, height, width), str(file))
            elif array.name == "y" and array.kind != "other" and sorted(array.shape)[:-1] == [1]:
                content = exactly(array.values, max(array.shape) * array.dtype.itemsize)
                labels = np.frombuffer(content, array.dtype)
    if images is None or labels is None:
        raise UserError(
            f"{file} is no whole file of SVHN: those hold X, uint8 (H, W, 3, N), and y (N, 1); it has"
            f" {', '.join(held)[:200] or 'nothing'}. If it is cut short, download it again; save other arrays as an .npz: images and"
            " labels."
        )
    if len(labels) != len(images):
        raise UserError(f"{file} has {len(labels)} labels for {len(images)} images; download it again.")
    if not ((labels >= 0) & (labels <= _ZERO) & (labels == np.floor(labels))).all():
        raise UserError(
            f"{file}: y holds labels that are not whole numbers from 0 to 10; it is no file of SVHN."
        )
    return images, labels.astype(np.int64)


def _is_images(array: MatArray) -> bool:
    shape = array.shape
    return (
        len(shape) == 4
        and shape[2] == 3
        and 0 not in shape
        and array.kind == "uint8"
        and array.dtype == np.uint8
    )
