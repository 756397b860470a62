"""A single NumPy array (.npy): images that stay on disk and are read where they are looked at.

Labels, names, class names and history lie beside it in a small file of their own, `images.meta.npz` for
`images.npy`, which may be absent: any uint8 array (N, H, W), (N, H, W, C) or (N, C, H, W) is a set of images.
"""

from __future__ import annotations

import hashlib
import zipfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from diffmem.data.arrays import (
    as_nchw,
    layout_of,
    member_array,
    member_labels,
    member_words,
    members_of,
    naming,
    read_header,
)
from diffmem.data.guards import checked_zip, reading
from diffmem.data.images import ImageSet
from diffmem.data.names import NumberedNames, PackedNames
from diffmem.errors import UserError

__all__ = ["MAGIC", "meta_path", "read_npy", "sample_digest"]

MAGIC = b"\x93NUMPY"
"""How an .npy file begins."""

_SAMPLED = 64


class _Meta(NamedTuple):
    labels: NDArray[Any] | None = None
    names: Sequence[str] | None = None
    class_names: tuple[str, ...] | None = None
    history: tuple[str, ...] = ()
    layout: str | None = None
    shape: tuple[int, ...] | None = None
    sample: str | None = None


def meta_path(path: Path) -> Path:
    """Return where the labels and names of an .npy file are: images.meta.npz beside images.npy."""
    return path.with_name(f"{path.stem}.meta.npz")


def sample_digest(images: NDArray[np.uint8]) -> str:
    """Return the SHA-256, in hexadecimal, of up to 64 images (N, C, H, W) spread evenly over a set.

    It tells whether labels and names were written for these images, without reading them all.
    """
    digest = hashlib.sha256()
    for index in np.unique(np.linspace(0, len(images) - 1, _SAMPLED).astype(np.int64)):
        digest.update(images[index].reshape(-1).data)
    return digest.hexdigest()


def read_npy(path: Path) -> ImageSet:
    """Open an array of images as a read-only memory map: nothing but its header, and 64 images, is read.

    The file must stay as it is while the set is in use; replacing it by another one (as `write_images` does) is
    fine, overwriting it in place is not. Channels that come last cannot be mapped: such images are copied
    into the order (N, C, H, W) when they are opened, see `new_images`.

    Beside it, `<name>.meta.npz` may hold: `labels` (or `y`), whole numbers (N,); `names`, text (N,), or the same
    as `names_utf8` and `names_ends`, see `PackedNames`; `class_names` and `history`, text; `layout`, 'NCHW' or
    'NHWC', which is needed only where the shape could mean either; and, as `write_images` writes them, the
    `shape` (N, C, H, W) and the `sample` (see `sample_digest`) of the images that it belongs to.

    Raises:
        UserError: A file is damaged or cut short, has a type or shape that cannot be meant, or the second file
            belongs to other images.
    """
    what, beside = str(path), meta_path(path)
    meta = _read_meta(beside) if beside.is_file() else _Meta()
    with path.open("rb") as stream:
        header = read_header(stream, np.uint8, what)
        layout = layout_of(header.shape, meta.layout, what, f"in {beside.name} beside it")
        start, size = stream.tell(), path.stat().st_size
        if header.bytes != size - start:
            raise UserError(
                f"Cannot read {path}: its header declares {header.bytes:,} bytes of images but it has "
                f"{size - start:,}. It is damaged or incomplete; make or download it again."
            )
        if header.fortran:
            raise UserError(
                f"{path} is stored in Fortran order, the images not one after the other; save "
                "np.ascontiguousarray(images) instead."
            )
        if not header.bytes:
            raise UserError(f"{path} has shape {header.shape}; a set needs at least one image.")
        with reading(what):
            mapped = np.asarray(np.memmap(stream, np.uint8, "r", start, header.shape))
    images = as_nchw(mapped, layout)
    _check_belongs(meta, images, beside, path)
    converted = " (channels last, copied into channels first)" if layout == "NHWC" else ""
    with naming(path if meta.labels is None and meta.names is None else beside):
        return ImageSet(
            images,
            meta.labels,
            meta.names if meta.names is not None else NumberedNames(path.name, range(len(images))),
            meta.class_names if meta.labels is not None else None,
            (*meta.history, f"npy {path.name}: {len(images)} images{converted}"),
        )


def _check_belongs(meta: _Meta, images: NDArray[np.uint8], beside: Path, path: Path) -> None:
    if meta.shape is None and meta.sample is None:
        return
    if (meta.shape or images.shape) != images.shape or (meta.sample or "") != sample_digest(images):
        raise UserError(
            f"{beside} holds the labels and names of other images than those of {path}; write both again, or delete "
            f"{beside.name} to read the images without labels."
        )


def _read_meta(path: Path) -> _Meta:
    what = str(path)
    with checked_zip(path) as archive:
        layout, sample = member_words(archive, "layout", what), member_words(archive, "sample", what)
        shape = _numbers(archive, "shape", what)
        return _Meta(
            member_labels(archive, what),
            _names(archive, what),
            member_words(archive, "class_names", what),
            member_words(archive, "history", what) or (),
            layout[0] if layout else None,
            None if shape is None else tuple(shape.reshape(-1).tolist()),
            sample[0] if sample else None,
        )


def _names(archive: zipfile.ZipFile, what: str) -> Sequence[str] | None:
    ends, members = _numbers(archive, "names_ends", what), members_of(archive)
    if ends is None or "names_utf8" not in members:
        return member_words(archive, "names", what)
    content = member_array(archive, members["names_utf8"], f"{what}: names_utf8", np.uint8)
    with reading(f"{what}: names_utf8"):
        return PackedNames(content.tobytes(), ends.astype(np.int64))


def _numbers(archive: zipfile.ZipFile, key: str, what: str) -> NDArray[Any] | None:
    info = members_of(archive).get(key)
    return None if info is None else member_array(archive, info, f"{what}: {key}", np.int64)
