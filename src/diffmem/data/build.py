"""`build` makes a data set out of a source; `write_images` puts it into one file that reads back the same."""

from __future__ import annotations

import json
import zipfile
from collections.abc import Sequence
from pathlib import Path
from typing import Literal

import numpy as np

from diffmem.data.edm_zip import LABEL_FILE
from diffmem.data.images import ImageSet
from diffmem.data.png import encode_png
from diffmem.data.sources import Split, open_images
from diffmem.data.subsets import balanced, choose_classes, first, random_subset
from diffmem.data.transforms import grayscale, resize
from diffmem.errors import UserError
from diffmem.files import atomic_path
from diffmem.progress import NO_PROGRESS, Progress

__all__ = ["Selection", "build", "select", "write_images"]

Selection = Literal["balanced", "first", "random"]

_SUFFIXES = (".zip", ".npz")
_DATE = (1980, 1, 1, 0, 0, 0)  # the earliest that zip knows: the same set gives the same bytes at any time


def build(
    source: str | Path,
    *,
    size: int | None = None,
    resolution: int | None = None,
    gray: bool = False,
    classes: Sequence[str | int] | None = None,
    selection: Selection | None = None,
    seed: int = 0,
    split: Split = "train",
    progress: Progress = NO_PROGRESS,
) -> ImageSet:
    """Open a source, choose classes, choose images, resize, turn grey: in this order.

    Args:
        source: See `open_images`.
        size: Number of images; all if left out.
        resolution: Side of the square images in pixels; as they are if left out.
        gray: Whether to turn RGB into grey.
        classes: Names or numbers of the classes to keep; see `choose_classes`.
        selection: How `size` images are chosen: 'balanced' (the first of each class), 'first' or 'random'. If
            left out, balanced for a labelled set and first for an unlabelled one, which the history then
            says.
        seed: For the random selection.
        split: 'train' or 'test'.
        progress: Called now and then.

    Raises:
        UserError: The source is not understood, or the wish cannot be met.
    """
    if selection not in (None, "balanced", "first", "random"):
        raise UserError(f"There is no selection {selection!r}; choose 'balanced', 'first' or 'random'.")
    if selection is not None and size is None:
        raise UserError(f"The selection {selection!r} needs a size: how many images to choose.")
    images = open_images(source, split, progress)
    if classes is not None:
        images = choose_classes(images, list(classes))
    if size is not None:
        images = select(images, size, selection, seed)
    if resolution is not None:
        images = resize(images, resolution, progress)
    return grayscale(images) if gray else images


def select(images: ImageSet, size: int, selection: Selection | None, seed: int) -> ImageSet:
    """Choose `size` images; `selection` and `seed` are those of `build`.

    Raises:
        UserError: The set cannot give them.
    """
    if selection == "random":
        return random_subset(images, size, seed)
    if selection == "balanced" or (selection is None and images.labels is not None):
        return balanced(images, size)
    chosen = first(images, size)
    if selection is None:
        note = f"{chosen.history[-1]} (no labels to balance)"
        return ImageSet(
            chosen.images, chosen.labels, chosen.names, chosen.class_names, (*images.history, note)
        )
    return chosen


def write_images(images: ImageSet, out: Path, progress: Progress = NO_PROGRESS) -> None:
    """Write a set to one file that `open_images` reads back with an equal fingerprint.

    `.zip` is the layout of EDM and StyleGAN: stored PNGs 00000/img00000000.png and `dataset.json` with the
    labels, and under further keys the names, class names, history and fingerprint. `.npz` holds the same as
    arrays, images as (N, C, H, W). The same set always gives the same bytes. An existing file is replaced
    once the new one is whole.

    Raises:
        UserError: `out` ends in neither `.zip` nor `.npz`.
        DiffmemError: The file cannot be written.
    """
    suffix = out.suffix.lower()
    if suffix not in _SUFFIXES:
        raise UserError(
            f"A data set is written as .zip or .npz, not as {out.name!r}; give the file one of these endings."
        )
    if out.is_dir():
        raise UserError(f"{out} is a folder; name a file to write.")
    with atomic_path(out) as temporary, zipfile.ZipFile(temporary, "w", zipfile.ZIP_STORED) as archive:
        if suffix == ".zip":
            _write_zip(images, archive, progress)
        else:
            _write_npz(images, archive)


def _write_zip(images: ImageSet, archive: zipfile.ZipFile, progress: Progress) -> None:
    files = []
    for index, pixels in enumerate(images.images):
        file = f"{index // 1000:05d}/img{index:08d}.png"
        files.append(file)
        archive.writestr(_member(file), encode_png(pixels))
        if index % 256 == 255:
            progress(index + 1, len(images), "writing images")
    labels = (
        None
        if images.labels is None
        else [list(pair) for pair in zip(files, images.labels.tolist(), strict=True)]
    )
    described = {
        "labels": labels,
        "class_names": images.class_names,
        "names": images.names,
        "history": images.history,
        "fingerprint": images.fingerprint,
    }
    archive.writestr(_member(LABEL_FILE), json.dumps(described))


def _write_npz(images: ImageSet, archive: zipfile.ZipFile) -> None:
    arrays: dict[str, np.ndarray] = {"images": images.images, "layout": np.array("NCHW")}
    if images.labels is not None:
        arrays["labels"] = images.labels
    arrays["names"] = np.array(images.names)
    if images.class_names is not None:
        arrays["class_names"] = np.array(images.class_names)
    if images.history:
        arrays["history"] = np.array(images.history)
    for key, array in arrays.items():
        with archive.open(_member(f"{key}.npy"), "w", force_zip64=True) as stream:
            np.lib.format.write_array(stream, array, allow_pickle=False)


def _member(name: str) -> zipfile.ZipInfo:
    info = zipfile.ZipInfo(name, _DATE)
    info.external_attr = 0o644 << 16
    info.create_system = 3  # the same bytes on Windows
    return info
