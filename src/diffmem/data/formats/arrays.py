"""NumPy's array format in files that nobody vouches for: checked headers, texts, and where the channels are.

Format: NEP 1, "A Simple File Format for NumPy Arrays", and `numpy.lib.format`.
"""

from __future__ import annotations

import math
import sys
import warnings
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any, BinaryIO, Literal, NamedTuple, cast

import numpy as np
from numpy.typing import NDArray

from diffmem.data.formats.guards import MAX_FILE_BYTES, MAX_TOTAL_BYTES, BoundedStream, checked_zip, reading
from diffmem.data.storage import PART_BYTES, contiguous, new_images
from diffmem.errors import UserError

__all__ = [
    "ArrayArchive",
    "Header",
    "Layout",
    "as_nchw",
    "filled",
    "layout_of",
    "naming",
    "open_arrays",
    "read_header",
]

Layout = Literal["NHW", "NHWC", "NCHW"]

_LABELS = ("labels", "y")
_MAX_HEADER_BYTES = 2**16
_MAX_WORDS = 10_000_000


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


def read_header(stream: IO[bytes], meant: type[np.generic] | None, what: str) -> Header:
    """Read a header and check that it tells of the type that is meant.

    Args:
        stream: At its beginning; afterwards at the first value.
        meant: np.uint8 for images, np.int64 for whole numbers of any kind, none for text.
        what: The file's name, for errors.

    Raises:
        UserError: The header is damaged, holds pickled objects, another type, or an impossible shape.
    """
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
        _check_dtype(dtype, meant, what)
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

    def array(self, key: str, meant: type[np.generic] | None) -> NDArray[Any] | None:
        """Read an array after checking that its header says what is meant and fits the member's size.

        Args:
            key: Its key.
            meant: See `read_header`.

        Returns:
            The array; none if there is no such key.

        Raises:
            UserError: It is damaged or too large, or see `read_header`.
        """
        info, what = self.members.get(key), f"{self.name}: {key}"
        if info is None:
            return None
        with reading(what), self._archive.open(info) as stream:
            header = read_header(stream, meant, what)
            if header.bytes > (MAX_TOTAL_BYTES if meant is np.uint8 else 4 * MAX_FILE_BYTES):
                raise UserError(
                    f"{what} is refused: an array of shape {str(header.shape)[:60]} is too large."
                )
            left = info.file_size - stream.tell()
            if header.bytes != left:
                raise EOFError(f"the header declares {header.bytes:,} bytes but there are {left:,}")
            shape = header.shape[::-1] if header.fortran else header.shape
            if meant is np.uint8:
                values: NDArray[Any] = filled(stream, shape)
            else:
                values = np.frombuffer(stream.read(header.bytes), header.dtype).reshape(shape)
            if stream.read(1):  # at the end, where the CRC is checked
                raise ValueError("there is more than its header declares")
            return values.transpose() if header.fortran else values

    def labels(self) -> NDArray[Any] | None:
        """Read the whole numbers under `labels` (or `y`); none if there are none."""
        key = next((key for key in _LABELS if key in self.members), _LABELS[0])
        return self.array(key, np.int64)

    def text(self, key: str) -> tuple[str, ...] | None:
        """Read the texts under a key; none if there is no such key."""
        array = self.array(key, None)
        if array is None:
            return None
        what = f"{self.name}: {key}"
        if array.size > _MAX_WORDS:
            raise UserError(f"{what} is refused: it has {array.size:,} texts; the limit is {_MAX_WORDS:,}.")
        with reading(what):
            # NumPy makes texts of any numbers, and Python finds out when it looks at the letters.
            letters = np.ascontiguousarray(array).reshape(-1)
            letters = letters.view(np.dtype(np.uint32).newbyteorder(array.dtype.byteorder))
            if letters.size and int(letters.max()) > sys.maxunicode:
                raise ValueError("it holds letters that Unicode does not have")
            return tuple(str(word) for word in np.atleast_1d(array).reshape(-1))


@contextmanager
def open_arrays(path: Path) -> Iterator[ArrayArchive]:
    """Open an .npz; see `checked_zip`."""
    with checked_zip(path) as archive:
        yield ArrayArchive(archive, str(path))


def filled(stream: IO[bytes] | BoundedStream, shape: tuple[int, ...]) -> NDArray[np.uint8]:
    """Read the values of a uint8 array from a stream, part by part, into memory or a map (see `new_images`).

    Raises:
        EOFError: The stream ends before.
    """
    values = new_images(shape)
    flat = values.reshape(-1)
    done = 0
    while done < flat.size:
        content = stream.read(min(PART_BYTES, flat.size - done))
        if not content:
            raise EOFError(f"its header declares {flat.size:,} values but it has {done:,}")
        flat[done : done + len(content)] = np.frombuffer(content, np.uint8)
        done += len(content)
    values.flags.writeable = False
    return values


def _check_dtype(dtype: np.dtype[Any], meant: type[np.generic] | None, what: str) -> None:
    if dtype.hasobject:
        raise UserError(
            f"{what} is refused: it holds pickled Python objects, which could run code. Save plain arrays."
        )
    if meant is None and dtype.kind != "U":
        raise UserError(f"{what} must be text, not {dtype}.")
    if meant is np.uint8 and dtype != np.uint8:
        remedy = "save them as uint8 from 0 to 255"
        if dtype.kind == "f":
            remedy += ", for values from -1 to 1 by ((x + 1) * 127.5).round().clip(0, 255).astype('uint8')"
            remedy += ", for values from 0 to 1 by (x * 255).round().astype('uint8'); look for NaN first"
        raise UserError(f"{what} holds {dtype} values; {remedy}.")
    if meant is np.int64 and dtype.kind not in "iu":
        raise UserError(f"{what} holds {dtype} values; save the class numbers as whole numbers.")


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
    if len(shape) == 3:
        return "NHW"
    if declared is not None:
        return cast("Layout", declared)
    first, last = shape[1] in (1, 3), shape[3] in (1, 3)
    if first and last:
        raise UserError(
            f"{what} has shape {shape}, which could be (N, C, H, W) or (N, H, W, C): "
            f"save a key 'layout' with the text 'NCHW' or 'NHWC' {where}."
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
