"""`write_images` puts a set into one file that reads back the same."""

from __future__ import annotations

import json
import math
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from diffmem.data.formats.edm_zip import LABEL_FILE
from diffmem.data.formats.npy import meta_path, sample_digest
from diffmem.data.formats.png import encode_png
from diffmem.data.formats.shards import braces
from diffmem.data.formats.zip_writer import StoredZip
from diffmem.data.images import ImageSet
from diffmem.data.names import PackedNames
from diffmem.data.storage import parts
from diffmem.data.write_members import (
    check_captions,
    check_new_folder,
    write_image_folder,
    write_kohya_folder,
    write_tars,
)
from diffmem.errors import UserError
from diffmem.files import atomic_path
from diffmem.progress import NO_PROGRESS, Progress

__all__ = [
    "SUFFIXES",
    "FolderForm",
    "check_ending",
    "check_writable",
    "meta_path",
    "write_arrays",
    "write_images",
    "written_files",
]

FolderForm = Literal["imagefolder", "kohya"]

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


def check_writable(images: ImageSet, out: Path, form: FolderForm | None = None) -> None:
    """Refuse what `write_images` would refuse, before anything is written."""
    check_ending(out)
    if form is not None and out.suffix:
        raise UserError(f"{out} is a file; the form {form} is for a folder: leave its ending out.")
    if not out.suffix and _is_kohya(images, form):
        check_captions(images)
    if out.suffix and out.is_dir():
        raise UserError(f"{out} is a folder; name a file to write.")


def _is_kohya(images: ImageSet, form: FolderForm | None) -> bool:
    return form == "kohya" if form is not None else images.repeats is not None


def written_files(out: Path) -> list[Path]:
    """Return the files that a set is written to: several where `out` is a list of shards in braces, `train-{000..012}.tar`."""
    names = braces(str(out)) if out.suffix.lower() == ".tar" else None
    return [out] if names is None else [Path(name) for name in names]


def write_images(
    images: ImageSet, out: Path, progress: Progress = NO_PROGRESS, form: FolderForm | None = None
) -> None:
    """Write a set to a file that `open_images` reads back with an equal fingerprint.

    `.zip` is the layout of EDM and StyleGAN: stored PNGs 00000/img00000000.png and `dataset.json` with the
    labels, and under further keys the names, class names, captions, repeats, history and fingerprint. `.npz` holds the same as
    arrays, images as (N, C, H, W). `.npy` holds the images alone, so that they can be mapped, and
    `<name>.meta.npz` beside it the rest; see `read_npy`. `.tar` is a shard of WebDataset, `train-{000..012}.tar` several; a
    name without an ending is a new folder, see `write_image_folder` and `write_kohya_folder`; these keep no names of images, and tars no
    repeats. The same set always gives the same bytes. An existing file is replaced once the new one is whole.

    Args:
        images: The set.
        out: Where.
        progress: Called now and then.
        form: Of a folder; kohya's for a set with repeats if left out, else imagefolder.

    Raises:
        UserError: `out` has none of these endings.
        DiffmemError: The file cannot be written.
    """
    check_writable(images, out, form)
    if not out.suffix:
        (write_kohya_folder if _is_kohya(images, form) else write_image_folder)(images, out, progress)
        return
    if out.suffix.lower() == ".npy":
        _write_npy(images, out, progress)
    elif out.suffix.lower() == ".tar":
        write_tars(images, written_files(out), progress)
    elif out.suffix.lower() == ".zip":
        with atomic_path(out) as temporary, temporary.open("wb") as stream:
            _write_zip(images, StoredZip(stream), progress)
    else:
        arrays: dict[str, NDArray[Any]] = {"images": images.images, "layout": np.array("NCHW")}
        write_arrays(out, arrays | _described(images) | {"names": np.array(list(images.names))})


def _write_zip(images: ImageSet, archive: StoredZip, progress: Progress) -> None:
    for index, pixels in enumerate(images.images):
        archive.add(_png_name(index), encode_png(pixels))
        if index % 256 == 255:
            progress(index + 1, len(images), "writing images")
    content = bytearray()
    for text in _json_parts(images):
        content += text.encode()
    archive.add(LABEL_FILE, content)
    archive.finish()


def _png_name(index: int) -> str:
    return f"{index // 1000:05d}/img{index:08d}.png"


def _json_parts(images: ImageSet) -> Iterator[str]:
    """Yield the text of `dataset.json` in parts: as objects, the labels of a million images would take ten times as much."""
    yield '{"labels": '
    if images.labels is None:
        yield "null"
    else:
        for index, label in enumerate(images.labels.tolist()):
            yield f'{", " if index else "["}["{_png_name(index)}", {label}]'
        yield "]"
    yield f', "class_names": {json.dumps(images.class_names)}, "names": '
    for index, name in enumerate(images.names):
        yield f"{', ' if index else '['}{json.dumps(name)}"
    yield "]"
    last: dict[str, Any] = {} if images.captions is None else {"captions": images.captions}
    last |= {} if images.repeats is None else {"repeats": images.repeats.tolist()}
    yield ", " + json.dumps(last | {"history": images.history, "fingerprint": images.fingerprint})[1:]


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
        "labels": images.labels, "class_names": images.class_names, "history": images.history or None, "repeats": images.repeats,
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
