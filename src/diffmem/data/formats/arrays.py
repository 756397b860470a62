"""NumPy's array format in files that nobody vouches for: checked headers, texts, and where the channels are.

Format: NEP 1, "A Simple File Format for NumPy Arrays", and `numpy.lib.format`.
"""

from __future__ import annotations

import math
import warnings
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any, BinaryIO, Literal, NamedTuple, Protocol, cast

import numpy as np
from numpy.typing import NDArray

from diffmem.data.formats.floats import ScaledPixels
from diffmem.data.formats.guards import (
    MAX_FILE_BYTES,
    MAX_TOTAL_BYTES,
    BoundedStream,
    check_total,
    checked_zip,
    reading,
)
from diffmem.data.formats.labels import words
from diffmem.data.reading import OPTIONS
from diffmem.data.storage import PART_BYTES, contiguous, new_images, parts
from diffmem.errors import UserError

__all__ = [
    "ArrayArchive",
    "Header",
    "Layout",
    "Readable",
    "as_nchw",
    "column_major",
    "exactly",
    "filled",
    "layout_of",
    "naming",
    "open_arrays",
    "read_header",
]

Layout = Literal["NHW", "NHWC", "NCHW"]

_LABELS = ("labels", "y")
_MAX_HEADER_BYTES = 2**16
_FLOAT_BYTES = 8  # the widest float that images are read from


class Readable(Protocol):
    """What bytes are read from, forwards."""

    def read(self, size: int, /) -> bytes:
        """Return up to `size` bytes; none at the end."""


class Header(NamedTuple):
    """What stands before the values of an array.

    Attributes:
        shape: Length of each dimension.
        fortran: Whether the first index runs fastest.
        dtype: Type of the values, without Python objects.
        bytes: How many bytes the header declares after itself.
    """

    shape: tuple[int, ...]
    fortran: bool
    dtype: np.dtype[Any]
    bytes: int


def read_header(
    stream: IO[bytes], meant: type[np.generic] | None, what: str, *, floats: bool = False
) -> Header:
    """Read a header and check that it tells of the type that is meant.

    Args:
        stream: At its beginning; afterwards at the first value.
        meant: np.uint8 for images, np.int64 for whole numbers of any kind, np.generic for labels of any kind, none for text.
        what: The file's name, for errors.
        floats: Whether the images are float numbers, whose range is known.

    Raises:
        UserError: The header is damaged, holds pickled objects, another type, or an impossible shape.
    """
    header = _any_header(stream, what)
    _check_dtype(header.dtype, meant, what, floats)
    return header


def _any_header(stream: IO[bytes], what: str) -> Header:
    with reading(what):
        # NumPy reads a header of any length before it refuses one of more than 10,000 letters.
        head = cast(
            IO[bytes], BoundedStream(cast(BinaryIO, stream), _MAX_HEADER_BYTES, f"the header of {what}")
        )
        version = np.lib.format.read_magic(head)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # about headers that Python 2 wrote
            if version == (1, 0):
                shape, fortran, dtype = np.lib.format.read_array_header_1_0(head)
            elif version == (2, 0):
                shape, fortran, dtype = np.lib.format.read_array_header_2_0(head)
            else:
                raise ValueError(f"the array format version {version} is unknown")
        if any(length < 0 for length in shape) or max(shape, default=0) > np.iinfo(np.int64).max:
            raise UserError(f"{what} is refused: no array has the shape {str(shape)[:60]}.")
        return Header(shape, fortran, dtype, math.prod(shape) * dtype.itemsize)


class ArrayArchive:
    """The arrays of an open .npz, by key.

    Args:
        archive: The zip, whose members were checked.
        name: The file's name, for errors.
    """

    def __init__(self, archive: zipfile.ZipFile, name: str) -> None:
        self._archive, self.name = archive, name
        self.members = {info.filename.removesuffix(".npy"): info for info in archive.infolist()}

    def array(
        self, key: str, meant: type[np.generic] | None, scaled: ScaledPixels | None = None
    ) -> NDArray[Any] | None:
        """Read an array after checking that its header says what is meant and fits the member's size.

        Args:
            key: Its key.
            meant: See `read_header`.
            scaled: Makes pixels of float images.

        Returns:
            The array; none if there is no such key.

        Raises:
            UserError: It is damaged or too large, or see `read_header`.
        """
        info, what = self.members.get(key), f"{self.name}: {key}"
        if info is None:
            return None
        with reading(what), self._archive.open(info) as stream:
            header = read_header(stream, meant, what, floats=scaled is not None)
            limit = MAX_TOTAL_BYTES * header.dtype.itemsize if meant is np.uint8 else 4 * MAX_FILE_BYTES
            if header.bytes > limit:
                raise UserError(
                    f"{what} is refused: an array of shape {str(header.shape)[:60]} is too large."
                )
            left = info.file_size - stream.tell()
            if header.bytes != left:
                raise EOFError(f"the header declares {header.bytes:,} bytes but there are {left:,}")
            shape = header.shape[::-1] if header.fortran else header.shape
            if meant is np.uint8:
                values: NDArray[Any] = filled(stream, shape, header.dtype, scaled)
            else:
                values = np.frombuffer(stream.read(header.bytes), header.dtype).reshape(shape)
            if stream.read(1):  # at the end, where the CRC is checked
                raise ValueError("there is more than its header declares")
            return values.transpose() if header.fortran else values

    def labels(self, key: str | None = None) -> NDArray[Any] | None:
        """Read the labels under a key, as they are stored; of none, those under `labels` (or `y`), none if there are none."""
        key = key or next((key for key in _LABELS if key in self.members), _LABELS[0])
        return self.array(key, np.generic)

    def header(self, key: str) -> Header:
        """Read what stands before the values of an array of any kind."""
        what = f"{self.name}: {key}"
        with reading(what), self._archive.open(self.members[key]) as stream:
            return _any_header(stream, what)

    def text(self, key: str) -> tuple[str, ...] | None:
        """Read the texts under a key; none if there is no such key."""
        array = self.array(key, None)
        if array is None:
            return None
        what = f"{self.name}: {key}"
        with reading(what):
            return words(array, what)


@contextmanager
def open_arrays(path: Path) -> Iterator[ArrayArchive]:
    """Open an .npz; see `checked_zip`."""
    with checked_zip(path) as archive:
        yield ArrayArchive(archive, str(path))


def filled(
    stream: Readable,
    shape: tuple[int, ...],
    dtype: np.dtype[Any] | None = None,
    scaled: ScaledPixels | None = None,
) -> NDArray[np.uint8]:
    """Read the pixels of an array from a stream, part by part, into memory or a map (see `new_images`).

    Args:
        stream: At the first value.
        shape: Of the array.
        dtype: Of its values; uint8 if none.
        scaled: Makes pixels of float values.

    Raises:
        EOFError: The stream ends before.
    """
    width = 1 if dtype is None else dtype.itemsize
    values = new_images(shape)
    flat = values.reshape(-1)
    done = 0
    while done < flat.size:
        content = exactly(
            stream, min(PART_BYTES // (_FLOAT_BYTES if scaled else 1), flat.size - done) * width
        )
        if not content:
            raise EOFError(f"its header declares {flat.size:,} values but it has {done:,}")
        part = np.frombuffer(content[: len(content) // width * width], dtype or np.uint8)
        if not part.size:
            raise EOFError("it ends within a value")
        flat[done : done + len(part)] = part if scaled is None else scaled.convert(part)
        done += len(part)
    values.flags.writeable = False
    return values


def exactly(stream: Readable, size: int) -> bytes:
    """Return `size` bytes, or all that are left if they are fewer; a decompressor gives them in pieces."""
    pieces: list[bytes] = []
    while size > 0 and (content := stream.read(size)):
        pieces.append(content)
        size -= len(content)
    return pieces[0] if len(pieces) == 1 else b"".join(pieces)


def column_major(stream: Readable, count: int, shape: tuple[int, int, int], what: str) -> NDArray[np.uint8]:
    """Read images (N, C, H, W) from a stream of planes whose columns follow one another, as MATLAB writes them.

    Args:
        stream: At the first value.
        count: Number of images.
        shape: (C, H, W) of each.
        what: The file's name, for errors.

    Raises:
        UserError: They are too large.
        EOFError: The stream ends before.
    """
    check_total(count, shape, what)
    images = new_images((count, *shape))
    channels, height, width = shape
    for part in parts(count, math.prod(shape)):
        wanted = (part.stop - part.start) * math.prod(shape)
        content = exactly(stream, wanted)
        if len(content) != wanted:
            raise EOFError("it is cut short")
        images[part] = (
            np.frombuffer(content, np.uint8).reshape(-1, channels, width, height).transpose(0, 1, 3, 2)
        )
    images.flags.writeable = False
    return images


def _check_dtype(dtype: np.dtype[Any], meant: type[np.generic] | None, what: str, floats: bool) -> None:
    if dtype.hasobject:
        raise UserError(
            f"{what} is refused: it holds pickled Python objects, which could run code. Save plain arrays."
        )
    if meant is None and dtype.kind != "U":
        raise UserError(f"{what} must be text, not {dtype}.")
    if meant is np.uint8:
        _check_pixels(dtype, what, floats)
    if meant is np.int64 and dtype.kind not in "iu":
        raise UserError(f"{what} holds {dtype} values; save whole numbers.")
    if meant is np.generic and dtype.kind not in "iubfUS":
        raise UserError(f"{what} holds {dtype} values; save the class numbers as whole numbers.")


def _check_pixels(dtype: np.dtype[Any], what: str, floats: bool) -> None:
    real = dtype.kind == "f" and dtype.itemsize <= _FLOAT_BYTES
    if floats and not real:
        raise UserError(
            f"{what} holds {dtype} values: a range is for float images and can change nothing in it. Leave it out."
        )
    if floats or dtype == np.uint8:
        return
    remedy = "save them as uint8 from 0 to 255"
    if real:
        remedy += f", or tell their range by --range 0..1 or --range -1..1 (range, {OPTIONS}); NaN is refused"
    raise UserError(f"{what} holds {dtype} values; {remedy}.")


def layout_of(shape: tuple[int, ...], declared: str | None, what: str, where: str) -> Layout:
    """Return where the channels are in images of a shape.

    Args:
        shape: Of the array.
        declared: 'NCHW' or 'NHWC' if the source says so.
        what: The array's name, for errors.
        where: A key `layout` would be saved, for errors.

    Raises:
        UserError: The shape is not one of images, or could be either.
    """
    if len(shape) not in (3, 4) or declared not in (None, "NCHW", "NHWC"):
        raise UserError(
            f"{what} has shape {shape}{f' and layout {declared[:20]!r}' if declared else ''}; images are (N, H, "
            "W), (N, H, W, C) "
            "or (N, C, H, W), with layout 'NCHW' or 'NHWC' if given."
        )
    if len(shape) == 3 and shape[2] in (3, 4) and min(shape[:2]) >= 4 * shape[2] and declared is None:
        raise UserError(
            f"{what} has shape {shape}, which is that of one image with its colours last, or of {shape[0]} grey images {shape[2]} pixels"
            " wide. Save a set of images (N, H, W, C); grey ones as (N, H, W, 1)."
        )
    if len(shape) == 3:
        return "NHW"
    first, last = shape[1] in (1, 3), shape[3] in (1, 3)
    if declared is not None:
        if not (first if declared == "NCHW" else last) and (first or last):
            raise UserError(
                f"{what} has shape {shape}, which is not of the layout {declared}; choose the other."
            )
        return cast("Layout", declared)
    if first and last:
        raise UserError(
            f"{what} has shape {shape}, which could be (N, C, H, W) or (N, H, W, C): "
            f"say which by --layout chw or hwc (layout, {OPTIONS}), or save a key 'layout' with the text 'NCHW' or 'NHWC' {where}."
        )
    if not first and not last:
        hint = " Drop the alpha channel." if shape[3] == 4 or shape[1] == 4 else ""
        raise UserError(f"{what} has shape {shape}; images have 1 or 3 channels, first or last.{hint}")
    return "NHWC" if last else "NCHW"


def as_nchw(array: NDArray[np.uint8], layout: Layout) -> NDArray[np.uint8]:
    """Return read-only images (N, C, H, W): the array itself, or a copy if its values lie in another order."""
    if layout == "NHW":
        array = array[:, None]
    elif layout == "NHWC":
        array = array.transpose(0, 3, 1, 2)
    return contiguous(array) if array.flags.writeable or not array.flags.c_contiguous else array


@contextmanager
def naming(what: object) -> Iterator[None]:
    """Put a file's name, or what else is checked, before what `ImageSet` says."""
    try:
        yield
    except UserError as error:
        raise UserError(f"{what}: {error}") from error
