"""A folder of image files; its sub-folders, if it has any, are the classes."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np

from diffmem.data.arrays import naming
from diffmem.data.decode import FORMATS, stack_images
from diffmem.data.guards import MAX_FILE_BYTES, read_plain, reading, stays_inside
from diffmem.data.images import ImageSet, frozen
from diffmem.errors import UserError
from diffmem.progress import NO_PROGRESS, Progress

__all__ = ["read_folder"]


def read_folder(path: Path, progress: Progress = NO_PROGRESS) -> ImageSet:
    """Read the images of a folder, sorted by their path.

    Images right in the folder have no labels. Images in sub-folders have the sub-folder (of the first level)
    as their class; classes are numbered in sorted order. Hidden files and files of other kinds are passed
    over.

    Raises:
        UserError: No image, a broken one, unequal sizes, images both beside and inside of sub-folders, or a
            link that leads out of the folder.
    """
    files, others = _image_files(path)
    # A name that is not valid UTF-8 is shown with question marks; the file itself is still found.
    names = [os.fsencode(file.relative_to(path).as_posix()).decode("utf-8", "replace") for file in files]
    direct = [name for name in names if "/" not in name]
    inside = [name for name in names if "/" in name]
    if direct and inside:
        raise UserError(
            f"{path} has images beside its sub-folders ({direct[0]}) and inside of them ({inside[0]}): the "
            "classes are unclear. Move the first into a sub-folder of their own, or out of the folder."
        )

    def read(index: int) -> bytes:
        return read_plain(files[index], MAX_FILE_BYTES, f"{path}: {names[index]}")

    held = sum(file.stat().st_size for file in files)
    images, steps = stack_images(names, read, str(path), progress=progress, held=held)
    labels, class_names = None, None
    if inside:
        class_names = tuple(sorted({name.partition("/")[0] for name in names}))
        number = {name: label for label, name in enumerate(class_names)}
        labels = frozen(np.array([number[name.partition("/")[0]] for name in names], np.int64))
    told = f"folder {path.resolve().name}: {len(names)} images"
    told += f" in {len(class_names)} classes" if class_names else ""
    told += f"; {others} other files passed over" if others else ""
    with naming(path):
        return ImageSet(images, labels, tuple(names), class_names, (told, *steps))


def _image_files(path: Path) -> tuple[list[Path], int]:
    with reading(str(path)):
        root = path.resolve()
    files: list[Path] = []
    others = 0
    waiting = [path]
    while waiting:  # os.walk calls itself for each level of a deep folder
        place = waiting.pop()
        with _listing(place):
            entries = sorted(os.scandir(place), key=lambda entry: entry.name)
        for entry in entries:
            file = place / entry.name
            if entry.name.startswith("."):
                continue
            if entry.is_dir(follow_symlinks=False):
                waiting.append(file)
                continue
            if entry.is_symlink() and _is_folder(file):
                raise UserError(f"{file} is refused: it is a link to a folder. Put the images there instead.")
            if file.suffix.lower() not in FORMATS:
                others += 1
                continue
            if not stays_inside(file, root):
                raise UserError(
                    f"{file} is refused: it is a link that leads out of {path}. Copy the image instead."
                )
            if not file.is_file():
                raise UserError(f"{file} is no plain file; remove it.")
            files.append(file)
    return sorted(files, key=lambda file: file.relative_to(path).as_posix()), others


@contextmanager
def _listing(place: Path) -> Iterator[None]:
    """Tell in words why a folder cannot be listed."""
    try:
        yield
    except OSError as error:
        raise UserError(f"Cannot read the folder {place}: {error.strerror}.") from error


def _is_folder(link: Path) -> bool:
    try:
        return link.is_dir()
    except OSError:  # it leads nowhere, in a circle, or where this user may not look
        return False
