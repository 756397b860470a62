"""SVHN with cropped digits: `train_32x32.mat`, `test_32x32.mat`, `extra_32x32.mat`.

Format: http://ufldl.stanford.edu/housenumbers/ (Netzer et al. 2011): MATLAB files (level 5) of X, uint8 (H, W, 3, N), and y (N, 1),
the digits 1 to 9, and 10 for the digit 0. They are read by `scipy.io`, which runs nothing that a file holds.
"""

from __future__ import annotations

import math
import warnings
from pathlib import Path

import numpy as np

from diffmem.data.conversions import Conversion
from diffmem.data.formats.arrays import naming
from diffmem.data.formats.guards import check_ratio, check_total, reading, stays_inside
from diffmem.data.images import ImageSet, frozen
from diffmem.data.names import NumberedNames
from diffmem.data.reading import NO_LABELS
from diffmem.data.storage import new_images, parts
from diffmem.errors import UserError

__all__ = ["MAGIC", "SPLITS", "read_svhn", "svhn_files"]

MAGIC = b"MATLAB "
"""How .mat files of level 5 and of version 7.3 begin."""

SPLITS = ("train", "test", "extra")
_LEVEL_5 = b"MATLAB 5.0 MAT-file"
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


def _read(file: Path) -> tuple[np.ndarray, np.ndarray]:
    """Return images (N, 3, H, W) and labels (N,) as they are stored."""
    from scipy.io import loadmat, whosmat

    with file.open("rb") as stream:
        if not stream.read(len(_LEVEL_5)) == _LEVEL_5:
            raise UserError(
                f"{file} is a .mat file of version 7.3 (HDF5), which is not read; the files of SVHN are of level 5. Save it by"
                " MATLAB's save(..., '-v7'), or its arrays as an .npz: images and labels."
            )
    with reading(str(file)), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # about variables that are there twice
        found = {name: (shape, kind) for name, shape, kind in whosmat(file, appendmat=False)}
        shape, kind = found.get("X", ((), ""))
        if len(shape) != 4 or shape[2] != 3 or kind != "uint8" or 0 in shape or "y" not in found:
            held = (
                ", ".join(f"{name} {kind} {shape}" for name, (shape, kind) in found.items())[:200]
                or "nothing"
            )
            raise UserError(
                f"{file} is no file of SVHN: those hold X, uint8 (H, W, 3, N), and y (N, 1); it has {held}. If it is cut short,"
                " download it again; save other arrays as an .npz: images and labels."
            )
        check_total(shape[3], (3, *shape[:2]), str(file))
        if math.prod(found["y"][0]) != shape[3]:
            raise UserError(f"{file} has {found['y'][0]} labels for {shape[3]} images; download it again.")
        check_ratio(math.prod(shape), file.stat().st_size, str(file))
        arrays = loadmat(
            file, appendmat=False, variable_names=["X", "y"], verify_compressed_data_integrity=True
        )
        stored, y = arrays["X"], arrays["y"].reshape(-1)
        if stored.shape != shape or stored.dtype != np.uint8 or y.dtype.kind not in "iuf":
            raise ValueError(f"X is {stored.dtype} {stored.shape}, y is {y.dtype}")
        if not ((y >= 0) & (y <= _ZERO) & (y == np.floor(y))).all():
            raise UserError(
                f"{file}: y holds labels that are not whole numbers from 0 to 10; it is no file of SVHN."
            )
        images = new_images((shape[3], 3, *shape[:2]))
        for part in parts(shape[3], math.prod(shape[:3])):
            images[part] = stored[..., part].transpose(3, 2, 0, 1)
        return frozen(images), y.astype(np.int64)
