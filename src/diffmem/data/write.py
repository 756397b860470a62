"""`write_images` puts a set into one file that reads back the same."""

from __future__ import annotations

import json
import math
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from diffmem.data.formats.edm_zip import LABEL_FILE
from diffmem.data.formats.npy import meta_path, sample_digest
from diffmem.data.formats.png import encode_png
from diffmem.data.formats.shards import braces
from diffmem.data.images import ImageSet
from diffmem.data.names import PackedNames
from diffmem.data.storage import parts
from diffmem.data.write_members import check_new_folder, write_image_folder, write_tars
from diffmem.errors import UserError
from diffmem.files import atomic_path
from diffmem.progress import NO_PROGRESS, Progress

__all__ = ["SUFFIXES", "check_ending", "meta_path", "write_arrays", "write_images", "written_files"]

SUFFIXES = (".zip", ".npz", ".npy", ".tar")
"""How the names of written sets end, where they are files."""

_DATE = (1980, 1, 1, 0, 0, 0)  # the earliest that zip knows: the same set gives the same bytes at any time


def check_ending(out: Path) -> None:
    """Refuse a file whose ending names no format that sets are written in; without an ending, it is a new folder."""
    if out.suffix.lower() not in (*SUFFIXES, ""):
        raise UserError(
            f"A data set is written as .zip, .npz or .tar, or as .npy if it is large, not as {out.name!r}; give the file one "
            "of these endings, or none for a folder of images."
        )
    if not out.suffix:
        check_new_folder(out)


def written_files(out: Path) -> list[Path]:
    """Return the files that a set is written to: several where `out` is a list of shards in braces, `train-{000..012}.tar`."""
    names = braces(str(out)) if out.suffix.lower() == ".tar" else None
    return [out] if names is None else [Path(name) for name in names]


def write_images(images: ImageSet, out: Path, progress: Progress = NO_PROGRESS) -> None:
    """Write a set to a file that `open_images` reads back with an equal fingerprint.

    `.zip` is the layout of EDM and StyleGAN: stored PNGs 00000/img00000000.png and `dataset.json` with the
    labels, and under further keys the names, class names, captions, history and fingerprint. `.npz` holds the same as
    arrays, images as (N, C, H, W). `.npy` holds the images alone, so that they can be mapped, and
    `<name>.meta.npz` beside it the rest; see `read_npy`. `.tar` is a shard of WebDataset, `train-{000..012}.tar` several; a
    name without an ending is a new folder with metadata.jsonl, see `write_image_folder`; both keep no names of images. The
    same set always gives the same bytes. An existing file is replaced once the new one is whole.

    Raises:
        UserError: `out` has none of these endings.
        DiffmemError: The file cannot be written.
    """
    check_ending(out)
    if not out.suffix:
        write_image_folder(images, out, progress)
        return
    if out.is_dir():
        raise UserError(f"{out} is a folder; name a file to write.")
    if out.suffix.lower() == ".npy":
        _write_npy(images, out, progress)
    elif out.suffix.lower() == ".tar":
        write_tars(images, written_files(out), progress)
    elif out.suffix.lower() == ".zip":
        with _new_zip(out) as archive:
            _write_zip(images, archive, progress)
    else:
        arrays: dict[str, NDArray[Any]] = {"images": images.images, "layout": np.array("NCHW")}
        write_arrays(out, arrays | _described(images) | {"names": np.array(list(images.names))})


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
        "names": list(images.names),
        **({} if images.captions is None else {"captions": images.captions}),
        "history": images.history,
        "fingerprint": images.fingerprint,
    }
    archive.writestr(_member(LABEL_FILE), json.dumps(described))


def _write_npy(images: ImageSet, out: Path, progress: Progress) -> None:
    pixels = images.images
    with atomic_path(out) as temporary:
        with temporary.open("wb") as stream:
            header = {"descr": "|u1", "fortran_order": False, "shape": pixels.shape}
            np.lib.format.write_array_header_1_0(stream, header)
            for part in parts(len(pixels), math.prod(images.shape)):
                stream.write(pixels[part].reshape(-1).data)
                progress(part.stop, len(pixels), "writing images")
        content, ends = PackedNames.pack(images.names)
        arrays: dict[str, NDArray[Any]] = {
            "layout": np.array("NCHW"),
            "shape": np.array(pixels.shape, np.int64),
            "sample": np.array(sample_digest(pixels)),
            "names_utf8": np.frombuffer(content, np.uint8),
            "names_ends": ends,
        }
        # First, so that images never lie beside the old labels unnoticed: until the rename they belong to others.
        write_arrays(meta_path(out), arrays | _described(images))


def _described(images: ImageSet) -> dict[str, NDArray[Any]]:
    described = {
        "labels": images.labels, "class_names": images.class_names, "history": images.history or None,
    }  # fmt: skip
    arrays = {key: np.asarray(value) for key, value in described.items() if value is not None}
    if images.captions is not None:
        content, ends = PackedNames.pack(caption or "" for caption in images.captions)
        arrays["captions_utf8"], arrays["captions_ends"] = np.frombuffer(content, np.uint8), ends
        arrays["captions_given"] = np.array([caption is not None for caption in images.captions], np.uint8)
    return arrays


def write_arrays(out: Path, arrays: dict[str, NDArray[Any]]) -> None:
    """Write an .npz, whole or not at all; the same arrays give the same bytes.

    Raises:
        DiffmemError: The file cannot be written.
    """
    with _new_zip(out) as archive:
        for key, array in arrays.items():
            with archive.open(_member(f"{key}.npy"), "w", force_zip64=True) as stream:
                np.lib.format.write_array(stream, array, allow_pickle=False)


@contextmanager
def _new_zip(out: Path) -> Iterator[zipfile.ZipFile]:
    with atomic_path(out) as temporary, zipfile.ZipFile(temporary, "w", zipfile.ZIP_STORED) as archive:
        yield archive


def _member(name: str) -> zipfile.ZipInfo:
    info = zipfile.ZipInfo(name, _DATE)
    info.external_attr = 0o644 << 16
    info.create_system = 3  # the same bytes on Windows
    return info
