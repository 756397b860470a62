"""`open_images`: whatever holds images, recognised by its content."""

from __future__ import annotations

import gzip
from pathlib import Path
from typing import Literal, cast

from diffmem.data.cifar10 import is_cifar10_folder, read_cifar10
from diffmem.data.digits import read_digits
from diffmem.data.edm_zip import read_zip
from diffmem.data.folder import read_folder
from diffmem.data.guards import checked_zip, in_one_line, reading
from diffmem.data.idx import IMAGE_MAGIC, idx_image_files, read_idx
from diffmem.data.images import ImageSet
from diffmem.data.npy import MAGIC, read_npy
from diffmem.data.npz import read_npz
from diffmem.errors import UserError
from diffmem.progress import NO_PROGRESS, Progress

__all__ = ["UNDERSTOOD", "Split", "open_images"]

Split = Literal["train", "test"]

UNDERSTOOD = (
    "the word 'digits'; a CIFAR-10 archive (cifar-10-python.tar.gz) or its unpacked folder; a folder of "
    "images, "
    "with sub-folders as classes; a .zip of images with or without dataset.json; an .npz with uint8 "
    "'images'; an .npy of uint8 images, which stays on disk and may be larger than memory, with or without "
    "its .meta.npz; "
    "IDX files such as train-images-idx3-ubyte.gz"
)
"""What `open_images` reads, in words."""


@in_one_line()
def open_images(source: str | Path, split: Split = "train", progress: Progress = NO_PROGRESS) -> ImageSet:
    """Read images from whatever holds them.

    Args:
        source: The word 'digits' (the scans that come with scikit-learn), or a path. What is at the path is
            told by its content: a CIFAR-10 archive or folder, a folder of images, a zip of images (EDM's
            layout), an .npz or .npy file, or IDX files (MNIST's format).
        split: 'train', or 'test' where the source has a test split (CIFAR-10 and IDX).
        progress: Called now and then while images are decoded.

    Returns:
        The images in the source's own order. Reading the same source again gives the same set.

    Raises:
        UserError: Nothing is there, it is not understood, or it is damaged.
    """
    if split not in ("train", "test"):
        raise UserError(f"There is no split {split!r}; choose 'train' or 'test'.")
    if source == "digits":
        return read_digits(split)
    try:
        path = Path(source).expanduser()
        there = path.exists()
    except (
        OSError,
        RuntimeError,
        ValueError,
    ) as error:  # a name that no file can have, a user that is not there
        raise UserError(
            f"Nothing can be at {str(source)[:200]} ({error}). Images are read from: {UNDERSTOOD}."
        ) from error
    if not there:
        raise UserError(f"There is nothing at {source}. Images are read from: {UNDERSTOOD}.")
    with reading(str(path)):
        kind = _kind(path)
    if kind == "cifar10":
        return read_cifar10(path, split)
    if kind == "idx":
        return read_idx(path, split)
    if kind == "unknown":
        raise UserError(f"{path} is nothing that images are read from. Understood are: {UNDERSTOOD}.")
    if split == "test":
        raise UserError(
            f"{path} has no test split: it is one set. Leave the split out, or name the file of the test "
            "images."
        )
    if kind == "npz":
        return read_npz(path)
    if kind == "npy":
        return read_npy(path)
    return read_zip(path, progress) if kind == "zip" else read_folder(path, progress)


def _kind(path: Path) -> str:
    if path.is_dir():
        if is_cifar10_folder(path):
            return "cifar10"
        return "idx" if idx_image_files(path) else "folder"
    if not path.is_file():
        return "unknown"
    with path.open("rb") as stream:
        head = stream.read(512)
        if head.startswith(b"\x1f\x8b"):
            stream.seek(0)
            head = gzip.GzipFile(fileobj=cast("gzip._ReadableFileobj", stream)).read(512)
    if head.startswith(b"PK"):
        with checked_zip(path) as archive:
            return "npz" if any(name.endswith(".npy") for name in archive.namelist()) else "zip"
    if head.startswith(MAGIC):
        return "npy"
    if head.startswith(IMAGE_MAGIC):
        return "idx"
    return "cifar10" if head[257:262] == b"ustar" else "unknown"
