"""A folder of image files; its sub-folders, if it has any, are the classes."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from diffmem.data.formats.arrays import naming
from diffmem.data.formats.files import PassedOver, divide
from diffmem.data.formats.guards import MAX_FILE_BYTES, is_folder, read_plain, stays_inside
from diffmem.data.formats.guards import reading as reading_text
from diffmem.data.formats.signatures import HEAD_BYTES, LIKELY, ending_of
from diffmem.data.formats.stack import stack_images
from diffmem.data.images import ImageSet, frozen
from diffmem.data.reading import AS_USUAL, Reading
from diffmem.errors import UserError
from diffmem.progress import NO_PROGRESS, Progress

__all__ = ["labels_of", "read_folder"]


def read_folder(
    path: Path, progress: Progress = NO_PROGRESS, reading: Reading = AS_USUAL, split: str | None = None
) -> ImageSet:
    """Read the images of a folder, sorted by their path.

    Files are known by their content, whatever they are called. Images right in the folder have no labels. Images in
    sub-folders have the sub-folder (of the first level) as their class; classes are numbered in sorted order. If the
    sub-folders are splits, as train and test, one of them is read, see `divide`. Hidden files are skipped; so are
    files of other kinds, which the history then tells.

    Args:
        path: The folder.
        progress: Called now and then while images are decoded.
        reading: How images are decoded.
        split: Which split is read, if the folder holds splits.

    Raises:
        UserError: No image, a broken one, unequal sizes, images both beside and inside of sub-folders, several splits, or
            a link that leads out of the folder.
    """
    passed_over = PassedOver()
    files = _image_files(path, passed_over)
    names = [_name(file, path) for file, _ in files]
    if not names:
        raise passed_over.nothing(str(path))
    conversions = passed_over.conversions(len(names))
    chosen, classes, division = divide(names, split, str(path))
    files, names = [files[index] for index in chosen], [names[index] for index in chosen]
    direct = [name for name, below in zip(names, classes, strict=True) if "/" not in below]
    inside = [name for name, below in zip(names, classes, strict=True) if "/" in below]
    if direct and inside:
        raise UserError(
            f"{path} has images beside its sub-folders ({direct[0]}) and inside of them ({inside[0]}): the "
            "classes are unclear. Move the first into a sub-folder of their own, or out of the folder."
        )

    def read(index: int) -> bytes:
        return read_plain(files[index][0], MAX_FILE_BYTES, f"{path}: {names[index]}")

    held = sum(size for _, size in files)
    stacked = stack_images(names, read, str(path), reading, progress, held)
    labels, class_names = labels_of(classes, stacked.files) if inside else (None, None)
    step = f"folder {path.resolve().name}: {len(stacked.images)} images"
    step += f" in {len(class_names)} classes" if class_names else ""
    conversions = (*division, *conversions, *stacked.conversions)
    history = (step, *(one.sentence for one in conversions))
    with naming(path):
        return ImageSet(stacked.images, labels, stacked.names, class_names, history, conversions)


def labels_of(paths: Sequence[str], files: NDArray[np.int64]) -> tuple[NDArray[np.int64], tuple[str, ...]]:
    """Return the label of each image and the names of the classes: the first folder of its path.

    Args:
        paths: Of each file, with / between folders.
        files: Which file each image is of.
    """
    class_names = tuple(sorted({path.partition("/")[0] for path in paths}))
    number = {name: label for label, name in enumerate(class_names)}
    labels = np.array([number[path.partition("/")[0]] for path in paths], np.int64)
    return frozen(labels[files]), class_names


def _image_files(path: Path, passed_over: PassedOver) -> list[tuple[Path, int]]:
    """Return the image files of a folder, sorted, with their sizes in bytes."""
    with reading_text(str(path)):
        root = path.resolve()
    files: list[tuple[Path, int]] = []
    waiting = [path]
    while waiting:  # os.walk calls itself for each level of a deep folder
        folder = waiting.pop()
        try:
            entries = sorted(os.scandir(folder), key=lambda entry: entry.name)
        except OSError as error:
            raise UserError(f"Cannot read the folder {folder}: {error.strerror}.") from error
        for entry in entries:
            file = folder / entry.name
            if entry.name.startswith(".") or entry.name == "__MACOSX":
                continue
            if entry.is_dir(follow_symlinks=False):
                waiting.append(file)
                continue
            if entry.is_symlink() and is_folder(file):
                raise UserError(f"{file} is refused: it is a link to a folder. Put the images there instead.")
            if not _is_image(file, entry, root, path, passed_over):
                continue
            if entry.is_symlink() and not stays_inside(file, root):
                raise UserError(
                    f"{file} is refused: it is a link that leads out of {path}. Copy the image instead."
                )
            if not entry.is_file():
                raise UserError(f"{file} is no plain file; remove it.")
            files.append((file, entry.stat().st_size))
    return sorted(files, key=lambda one: one[0].relative_to(path).as_posix())


def _is_image(file: Path, entry: os.DirEntry[str], root: Path, path: Path, passed_over: PassedOver) -> bool:
    if ending_of(entry.name) in LIKELY:
        return True
    name = _name(file, path)
    # Only a file of the folder itself is opened to see what it is: a pipe would be waited for, a link may lead anywhere.
    if not entry.is_file() or (entry.is_symlink() and not stays_inside(file, root)):
        passed_over.add(name)
        return False
    return passed_over.is_read(name, lambda: _head(file, f"{path}: {name}"))


def _name(file: Path, root: Path) -> str:
    """Return the name of a file; what is not valid UTF-8 is shown with question marks."""
    return os.fsencode(file.relative_to(root).as_posix()).decode("utf-8", "replace")


def _head(file: Path, what: str) -> bytes:
    with reading_text(what), file.open("rb") as stream:
        return stream.read(HEAD_BYTES)
