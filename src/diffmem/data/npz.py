"""NumPy archives (.npz): images as one uint8 array, with labels and names beside it."""

from __future__ import annotations

import math
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from diffmem.data.guards import MAX_TOTAL_BYTES, checked_zip, reading
from diffmem.data.images import ImageSet, frozen
from diffmem.errors import UserError

__all__ = ["read_npz"]

_IMAGES = ("images", "x", "data", "arr_0")
_LABELS = ("labels", "y")


def read_npz(path: Path) -> ImageSet:
    """Read a NumPy archive. Pickled objects are refused.

    Keys: `images` (or `x`, `data`, `arr_0`), uint8 (N, H, W), (N, H, W, C) or (N, C, H, W); if wanted,
    `labels` (or `y`), whole numbers (N,); `names`, `class_names` and `history`, text; and `layout`, 'NCHW' or
    'NHWC', which is needed only where the shape could mean either.

    Raises:
        UserError: The archive is damaged, a key is missing, or an array has a type or shape that cannot be
            meant.
    """
    with checked_zip(path) as archive:
        members = {info.filename.removesuffix(".npy"): info for info in archive.infolist()}
        key = next((key for key in _IMAGES if key in members), None)
        if key is None:
            found = ", ".join(sorted(members))[:200] or "nothing"
            raise UserError(
                f"{path} has no key {', '.join(_IMAGES)}; it has {found}. Save the images as 'images'."
            )
        layout = _words(archive, members.get("layout"), str(path))
        stored = _array(archive, members[key], f"{path}: {key}", np.dtype(np.uint8))
        images = _as_nchw(stored, layout[0] if layout else None, f"{path}: {key}")
        label_key = next((key for key in _LABELS if key in members), None)
        labels = None
        if label_key is not None:
            labels = _array(archive, members[label_key], f"{path}: {label_key}", np.dtype(np.int64))
        names = _words(archive, members.get("names"), str(path))
        class_names = _words(archive, members.get("class_names"), str(path))
        history = _words(archive, members.get("history"), str(path)) or ()
    told = f"npz {path.name}: {len(images)} images"
    with _named(path):
        return ImageSet(
            images,
            labels,
            names if names is not None else tuple(f"{path.name}[{index}]" for index in range(len(images))),
            class_names if labels is not None else None,
            (*history, told),
        )


class _named:  # noqa: N801 - used like a function
    """Put the file's name before what `ImageSet` says."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __enter__(self) -> None: ...

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> None:
        if isinstance(error, UserError):
            raise UserError(f"{self.path}: {error}") from error


def _array(
    archive: zipfile.ZipFile, info: zipfile.ZipInfo, what: str, meant: np.dtype[Any] | None
) -> NDArray[Any]:
    """Read one array after checking that its header says what is meant and fits the member's size."""
    with reading(what), archive.open(info) as stream:
        version = np.lib.format.read_magic(stream)
        if version == (1, 0):
            shape, fortran, dtype = np.lib.format.read_array_header_1_0(stream)
        elif version == (2, 0):
            shape, fortran, dtype = np.lib.format.read_array_header_2_0(stream)
        else:
            raise ValueError(f"the array format version {version} is unknown")
        header = stream.tell()
        _check_dtype(dtype, meant, what)
        size = math.prod(shape) * dtype.itemsize
        if size > MAX_TOTAL_BYTES or any(length < 0 for length in shape):
            raise UserError(f"{what} is refused: an array of shape {str(shape)[:60]} is too large.")
        if size != info.file_size - header:
            raise EOFError(f"the header tells of {size:,} bytes but there are {info.file_size - header:,}")
        content = stream.read()  # to the end: the CRC is checked there
        if len(content) != size:
            raise EOFError(f"{len(content):,} of {size:,} bytes are there")
        return np.frombuffer(content, dtype).reshape(shape, order="F" if fortran else "C")


def _check_dtype(dtype: np.dtype[Any], meant: np.dtype[Any] | None, what: str) -> None:
    if dtype.hasobject:
        raise UserError(
            f"{what} is refused: it holds pickled Python objects, which could run code. Save plain arrays."
        )
    if meant is None and dtype.kind != "U":
        raise UserError(f"{what} must be text, not {dtype}.")
    if meant == np.uint8 and dtype != np.uint8:
        remedy = "save them as uint8 from 0 to 255"
        if dtype.kind == "f":
            remedy += ", for values from -1 to 1 by ((x + 1) * 127.5).round().clip(0, 255).astype('uint8')"
            remedy += ", for values from 0 to 1 by (x * 255).round().astype('uint8'); look for NaN first"
        raise UserError(f"{what} holds {dtype} values; {remedy}.")
    if meant == np.int64 and dtype.kind not in "iu":
        raise UserError(f"{what} holds {dtype} values; save the class numbers as whole numbers.")


def _words(archive: zipfile.ZipFile, info: zipfile.ZipInfo | None, what: str) -> tuple[str, ...] | None:
    if info is None:
        return None
    array = _array(archive, info, f"{what}: {info.filename.removesuffix('.npy')}", None)
    with reading(f"{what}: {info.filename}"):
        return tuple(str(word) for word in np.atleast_1d(array).reshape(-1))


def _as_nchw(array: NDArray[np.uint8], layout: str | None, what: str) -> NDArray[np.uint8]:
    shape = array.shape
    if array.ndim not in (3, 4) or layout not in (None, "NCHW", "NHWC"):
        raise UserError(
            f"{what} has shape {shape}{f' and layout {layout[:20]!r}' if layout else ''}; images are (N, H, "
            "W), (N, H, W, C) "
            "or (N, C, H, W), with layout 'NCHW' or 'NHWC' if given."
        )
    if array.ndim == 3:
        return _contiguous(array[:, None])
    first, last = shape[1] in (1, 3), shape[3] in (1, 3)
    if layout is None and first and last:
        raise UserError(
            f"{what} has shape {shape}, which could be (N, C, H, W) or (N, H, W, C): "
            "save a key 'layout' with the text 'NCHW' or 'NHWC' beside it."
        )
    if layout == "NHWC" or (layout is None and last):
        return _contiguous(array.transpose(0, 3, 1, 2))
    if layout is None and not first:
        hint = " Drop the alpha channel." if shape[3] == 4 or shape[1] == 4 else ""
        raise UserError(f"{what} has shape {shape}; images have 1 or 3 channels, first or last.{hint}")
    return _contiguous(array)


def _contiguous(array: NDArray[np.uint8]) -> NDArray[np.uint8]:
    return frozen(np.ascontiguousarray(array))
