"""`open_images`: whatever holds images, recognised by its content."""

from __future__ import annotations

import gzip
from pathlib import Path
from typing import Literal, cast

from diffmem.data.cifar10 import is_cifar10_folder, read_cifar10
from diffmem.data.digits import read_digits
from diffmem.data.edm_zip import read_zip
from diffmem.data.fit import fit_images
from diffmem.data.folder import read_folder
from diffmem.data.guards import checked_zip, in_one_line
from diffmem.data.guards import reading as in_words
from diffmem.data.idx import IMAGE_MAGIC, idx_image_files, read_idx
from diffmem.data.images import ImageSet
from diffmem.data.npy import MAGIC, read_npy
from diffmem.data.npz import read_npz
from diffmem.data.reading import AS_USUAL, Reading
from diffmem.data.signatures import LIKELY, ending_of
from diffmem.errors import UserError
from diffmem.progress import NO_PROGRESS, Progress

__all__ = ["UNDERSTOOD", "Split", "open_images"]

Split = Literal["train", "test"]
"""The splits of sources that come with them (CIFAR-10 and IDX files)."""

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
def open_images(
    source: str | Path,
    split: str | None = None,
    progress: Progress = NO_PROGRESS,
    reading: Reading = AS_USUAL,
) -> ImageSet:
    """Read images from whatever holds them.

    Args:
        source: The word 'digits' (the scans that come with scikit-learn), or a path. What is at the path is
            told by its content: a CIFAR-10 archive or folder, a folder of images, a zip of images (EDM's
            layout), an .npz or .npy file, or IDX files (MNIST's format).
        split: Which split: 'train' or 'test' of CIFAR-10 and IDX, where none means 'train'; a folder's name where a folder
            or zip holds splits, which are not read together. 'train' of one set that has no splits is that set.
            The same as `reading.split`.
        progress: Called now and then while images are decoded.
        reading: How encoded images become pixels, where loaders have different rules (transparency, EXIF orientation,
            16 bits, pages and frames, unequal shapes).

    Returns:
        The images in the source's own order. Reading the same source again gives the same set. What was done to the
        images, and what was skipped, is in its `history` and, for programs, in its `conversions`.

    Raises:
        UserError: Nothing is there, it is not understood, it is damaged, a split has to be chosen, or it holds pixels of
            which `reading` cannot choose anything.
    """
    if split is not None and reading.split is not None and split != reading.split:
        raise UserError(f"Two splits are asked for: {split} and {reading.split}. Name one.")
    split = reading.split if split is None else split
    if source == "digits":
        _check_fixed(split)
        return _fitted(read_digits(split or "train"), reading, "digits", progress)
    path = _place(source)
    with in_words(str(path)):
        kind = _kind(path)
    if kind == "unknown":
        raise UserError(f"{path} is nothing that images are read from. Understood are: {UNDERSTOOD}.")
    if kind == "zip":
        return read_zip(path, progress, reading, split)
    if kind == "folder":
        return read_folder(path, progress, reading, split)
    _check_fixed(split)
    if kind == "cifar10":
        images = read_cifar10(path, split or "train")
    elif kind == "idx":
        images = read_idx(path, split or "train")
    elif split == "test":
        raise UserError(
            f"{path} has no test split: it is one set. Leave the split out, or name the file of the test "
            "images."
        )
    else:
        images = read_npz(path) if kind == "npz" else read_npy(path)
    return _fitted(images, reading, str(path), progress)


def _place(source: str | Path) -> Path:
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
    return path


def _check_fixed(split: str | None) -> None:
    if split not in (None, "train", "test"):
        raise UserError(f"There is no split {split!r}; choose 'train' or 'test'.")


def _fitted(images: ImageSet, reading: Reading, what: str, progress: Progress) -> ImageSet:
    """Bring images that were never encoded to one size; of everything else in `reading` they are no matter."""
    for key in ("alpha", "exif", "white", "pages"):
        value = getattr(reading, key)
        if value != getattr(AS_USUAL, key):
            raise UserError(
                f"{what} holds pixels, not encoded images: {key} {value} can change nothing in it. Leave it out."
            )
    if reading.fit is None or reading.resolution is None:
        return images
    return fit_images(images, reading.fit, reading.resolution, progress)


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
            endings = set(map(ending_of, archive.namelist()))
            return "npz" if ".npy" in endings and not endings & LIKELY else "zip"
    if head.startswith(MAGIC):
        return "npy"
    if head.startswith(IMAGE_MAGIC):
        return "idx"
    return "cifar10" if head[257:262] == b"ustar" else "unknown"
