"""IDX files, the format of MNIST and its family (Fashion-MNIST, KMNIST, EMNIST), gzipped or not.

Format: http://yann.lecun.com/exdb/mnist/ (LeCun, Cortes and Burges): two zero bytes, a type byte (8: unsigned
bytes), the number of dimensions, each dimension as a big-endian 32-bit number, then the values.
"""

from __future__ import annotations

import math
import re
import struct
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from diffmem.data.formats.arrays import filled, naming
from diffmem.data.formats.guards import (
    MAX_TOTAL_BYTES,
    check_ratio,
    check_total,
    reading,
    stays_inside,
    unpacked,
)
from diffmem.data.images import ImageSet
from diffmem.data.names import NumberedNames
from diffmem.errors import UserError

__all__ = ["IMAGE_MAGIC", "idx_image_files", "read_idx"]

IMAGE_MAGIC = b"\x00\x00\x08\x03"
_SPLITS = {"train": ("train",), "test": ("t10k", "test")}
_IMAGE_NAME = re.compile(r"images[-.]idx3", re.IGNORECASE)


def idx_image_files(folder: Path) -> list[Path]:
    """Return the files of a folder whose names are those of IDX images, sorted."""
    return sorted(file for file in folder.iterdir() if _IMAGE_NAME.search(file.name) and file.is_file())


def read_idx(path: Path, split: str) -> ImageSet:
    """Read IDX images and the labels beside them.

    Args:
        path: An image file, or a folder of the usual four files.
        split: 'train' or 'test'. In a folder it chooses train-* or t10k-* (or *test*). A file is read as it
            is for 'train'; for 'test' its test sibling is read.

    Returns:
        Images (N, 1, H, W). Without a label file of the same name, the set is unlabelled.

    Raises:
        UserError: A file is missing, damaged or cut short; or the labels do not fit the images.
    """
    file = _of_folder(path, split) if path.is_dir() else path
    if not path.is_dir() and split == "test" and "train" in path.name:
        siblings = [path.with_name(path.name.replace("train", word)) for word in _SPLITS["test"]]
        file = next((sibling for sibling in siblings if sibling.is_file()), siblings[0])
        if not file.is_file():
            raise UserError(f"The test split of {path} is missing: there is no {file.name} beside it.")
    _refuse_links(path, file)
    images = _read(file, 3)
    if 0 in images.shape:
        raise UserError(f"{file} holds no images: its shape is {images.shape}.")
    labels = None
    label_file = _label_file(file)
    if label_file is not None:
        _refuse_links(path, label_file)
        labels = _read(label_file, 1).astype(np.int64)
        if len(labels) != len(images):
            raise UserError(
                f"{label_file} has {len(labels)} labels for the {len(images)} images of {file.name}."
            )
    step = f"IDX file {file.name}: {len(images)} images"
    step += "; no labels beside it" if labels is None else ""
    names = NumberedNames(file.name.partition(".")[0], range(len(images)))
    with naming(file):
        return ImageSet(images[:, None], labels, names, None, (step,))


def _refuse_links(given: Path, file: Path) -> None:
    if given.is_dir() and not stays_inside(file, given.resolve()):
        raise UserError(f"{file} is refused: it is a link that leads out of {given}. Copy the file instead.")


def _of_folder(folder: Path, split: str) -> Path:
    files = idx_image_files(folder)
    # An unpacked file beside its .gz is the same thing twice.
    files = [file for file in files if file.suffix != ".gz" or file.with_suffix("") not in files]
    found = [file for file in files if any(word in file.name for word in _SPLITS[split])]
    names = ", ".join(file.name for file in files)
    if not found:
        raise UserError(
            f"{folder} has no {split} split: no file {_SPLITS[split][0]}-images-idx3-ubyte; it has {names}."
        )
    if len(found) > 1:
        raise UserError(f"{folder} has several {split} sets; name one of the files instead: {names}.")
    return found[0]


def _label_file(images: Path) -> Path | None:
    name = images.name.replace("images", "labels").replace("idx3", "idx1")
    if name == images.name:
        return None
    plain = name.removesuffix(".gz")
    candidates = [images.with_name(one) for one in dict.fromkeys((name, plain, f"{plain}.gz"))]
    return next((file for file in candidates if file.is_file()), None)


def _read(path: Path, dimensions: int) -> NDArray[np.uint8]:
    with reading(str(path)), unpacked(path, MAX_TOTAL_BYTES) as (stream, packed):
        magic = stream.read(4)
        if len(magic) < 4 or magic[:2] != b"\0\0":
            raise ValueError("it is no IDX file")
        if magic[2] != 8:
            raise UserError(
                f"{path} holds values of IDX type 0x{magic[2]:02x}; only unsigned bytes (0x08) are images."
            )
        if magic[3] != dimensions:
            raise UserError(
                f"{path} has {magic[3]} dimensions instead of {dimensions}: it is not the file it is named "
                "as."
            )
        header = stream.read(4 * dimensions)
        if len(header) < 4 * dimensions:
            raise EOFError("it is cut short in its header")
        shape = struct.unpack(f">{dimensions}I", header)
        size = math.prod(shape)
        check_total(shape[0], shape[1:], str(path))
        if packed:
            check_ratio(size, path.stat().st_size, str(path))
        elif size != (left := path.stat().st_size - 4 - 4 * dimensions):
            raise EOFError(f"its header declares {size:,} values but it has {left:,}")
        values = filled(stream, shape)
        if stream.read(1):  # at the end, where gzip compares its checksum
            raise EOFError(f"its header declares {size:,} values but it has more")
        return values
