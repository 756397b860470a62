"""MATLAB files of level 5: the numeric arrays of a file that nobody vouches for, one after the other, their values as a stream.

Format: "MAT-File Format" (The MathWorks, R2024b), chapter 1: a header of 128 bytes, then elements of a tag (type, bytes) and data, plain or
deflated by zlib. `scipy.io.loadmat` reads them, too, but reads beyond its memory in damaged ones, which ends the process.
"""

from __future__ import annotations

import io
import math
import struct
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any, BinaryIO, NamedTuple, cast

import numpy as np

from diffmem.data.formats.arrays import Readable, exactly
from diffmem.data.formats.guards import BoundedStream, check_ratio

__all__ = ["LEVEL_5", "MatArray", "mat_arrays"]

LEVEL_5 = b"MATLAB 5.0 MAT-file"
"""How such files begin."""

_HEADER_BYTES = 128
_INT8, _INT32, _UINT32, _MATRIX, _COMPRESSED = 1, 5, 6, 14, 15
_STORED = {1: "i1", 2: "u1", 3: "i2", 4: "u2", 5: "i4", 6: "u4", 7: "f4", 9: "f8", 12: "i8", 13: "u8"}
_CLASSES = {
    6: "double", 7: "single", 8: "int8", 9: "uint8", 10: "int16", 11: "uint16", 12: "int32", 13: "uint32", 14: "int64",
    15: "uint64",
}  # fmt: skip
_COMPLEX = 0x800
_MAX_WORDS_BYTES = 4096  # of dimensions and of a name
_MOST_ARRAYS = 1000
_PIECE = 2**18


class MatArray(NamedTuple):
    """One variable of a file.

    Attributes:
        name: Its name.
        shape: Length of each dimension; the first index runs fastest.
        kind: The class as MATLAB names it; 'other' for what is not an array of real numbers, which has no values here.
        dtype: How the values are stored; this may be a smaller type than that of the class.
        values: Their bytes, to be read before the next variable.
    """

    name: str
    shape: tuple[int, ...]
    kind: str
    dtype: np.dtype[Any]
    values: Readable


def mat_arrays(path: Path) -> Iterator[MatArray]:
    """Yield the variables of a file in their order; see `MatArray`.

    Raises:
        UserError: A variable looks like a decompression bomb.
        Exception: Any other, for a damaged file; see `diffmem.data.formats.guards.reading`.
    """
    with path.open("rb") as file:
        header = exactly(file, _HEADER_BYTES)
        order = {b"IM": "<", b"MI": ">"}.get(header[126:])
        if order is None:
            raise ValueError("its header does not tell the order of bytes")
        size = path.stat().st_size
        for _ in range(_MOST_ARRAYS):
            if file.tell() == size:
                return
            kind, count = struct.unpack(f"{order}II", _whole(file, 8))
            start = file.tell()
            if start + count > size:
                raise EOFError(f"a variable has {count:,} bytes but {size - start:,} are left")
            if kind == _COMPRESSED:
                inflated = _Inflated(file, count)
                kind, held = struct.unpack(f"{order}II", _whole(inflated, 8))
                check_ratio(held, count, str(path))
                yield from _matrix(
                    BoundedStream(cast(BinaryIO, inflated), held, str(path)), kind, order, held
                )
                inflated.finish()
            else:
                yield from _matrix(BoundedStream(cast(BinaryIO, file), count, str(path)), kind, order, count)
            file.seek(start + count)
        raise ValueError(f"it has more than {_MOST_ARRAYS} variables")


class _Inflated:
    """What a deflated element of `count` bytes unpacks to."""

    def __init__(self, file: IO[bytes], count: int) -> None:
        self._file, self._left, self._zlib = file, count, zlib.decompressobj()

    def read(self, size: int) -> bytes:
        while not self._zlib.eof:
            packed = self._zlib.unconsumed_tail
            if not packed and self._left:
                packed = self._file.read(min(_PIECE, self._left))
                self._left -= len(packed)
            content = self._zlib.decompress(packed, size)
            if content or not packed:
                return content
        return b""

    def finish(self) -> None:
        """Go to the end, where zlib compares its checksum."""
        while self.read(_PIECE):
            pass
        if not self._zlib.eof:
            raise EOFError("a deflated variable is cut short")


def _matrix(stream: BoundedStream, kind: int, order: str, size: int) -> Iterator[MatArray]:
    if kind != _MATRIX:
        return  # what programs may add beside variables
    (flags, _) = struct.unpack(f"{order}II", _small(stream, order, _UINT32, 8))
    dimensions = _small(stream, order, _INT32)
    shape = struct.unpack(f"{order}{len(dimensions) // 4}i", dimensions)
    name = _small(stream, order, _INT8).decode("latin-1")
    if min(shape, default=-1) < 0:
        raise ValueError("a variable has an impossible shape")
    of_class = _CLASSES.get(flags & 0xFF)
    if of_class is None or flags & _COMPLEX:
        yield MatArray(name, shape, "other", np.dtype("u1"), io.BytesIO())
        return
    stored, count, within = _tag(stream, order)
    if stored not in _STORED:
        raise ValueError(f"the values of {name:.40} are of the unknown type {stored}")
    dtype = np.dtype(f"{order}{_STORED[stored]}")
    if math.prod(shape) * dtype.itemsize != count or count > size:
        raise ValueError(f"{name:.40} has the shape {str(shape)[:60]} but {count:,} bytes of values")
    yield MatArray(name, shape, of_class, dtype, stream if within is None else io.BytesIO(within))


def _tag(stream: BoundedStream, order: str) -> tuple[int, int, bytes | None]:
    """Return type and bytes of an element, and its data where they are within the tag."""
    tag = _whole(stream, 8)
    first, second = struct.unpack(f"{order}II", tag)
    if not first >> 16:
        return first, second, None
    if first >> 16 > 4:
        raise ValueError("an element of a variable has an impossible size")
    return first & 0xFFFF, first >> 16, tag[4 : 4 + (first >> 16)]


def _small(stream: BoundedStream, order: str, kind: int, size: int | None = None) -> bytes:
    """Return the data of an element before the values."""
    found, count, within = _tag(stream, order)
    if found != kind or count > _MAX_WORDS_BYTES or size not in (None, count):
        raise ValueError("a variable does not begin with its class, its shape and its name")
    return _whole(stream, count + -count % 8)[:count] if within is None else within


def _whole(stream: Readable, size: int) -> bytes:
    content = exactly(stream, size)
    if len(content) != size:
        raise EOFError("it is cut short")
    return content
