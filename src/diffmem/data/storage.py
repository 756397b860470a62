"""Where pixels are kept: in memory, or on disk behind a memory map where memory would be too small.

A mapped array is an ordinary NumPy array whose pages the operating system reads when they are touched and drops when
memory is short. So a set can be larger than memory as long as it is worked on in parts.
"""

from __future__ import annotations

import contextlib
import math
import mmap
import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from numpy.typing import NDArray

from diffmem.errors import DiffmemError

__all__ = [
    "PART_BYTES",
    "contiguous",
    "gather",
    "in_memory_limit",
    "is_mapped",
    "little_memory",
    "new_images",
    "parts",
    "reserve",
]

PART_BYTES = 16 * 2**20
"""Bytes of pixels that are worked on at once."""

_SUBSET_BYTES = 256 * 2**20  # of a mapped array that are kept in memory
_BUILD_BYTES = 128 * 2**20  # of new pixels that are kept in memory while a set is built
_bound: ContextVar[int | None] = ContextVar("bound", default=None)
_GROUP_LIMIT = Path("/sys/fs/cgroup/memory.max")


def in_memory_limit() -> int:
    """Return the bytes up to which new pixels are kept in memory: a quarter of what the machine or container has."""
    total = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") if hasattr(os, "sysconf") else 2**33
    with contextlib.suppress(OSError, ValueError):  # no container, or one without a limit ("max")
        total = min(total, int(_GROUP_LIMIT.read_text()))
    return total // 4


@contextmanager
def little_memory() -> Iterator[None]:
    """Map new images of more than 128 MiB while the block runs, though there is memory for them, if there is space for their file.

    It is for work that goes over the pixels once, as building a file does, so that its memory does not grow with the set.
    """
    token = _bound.set(_BUILD_BYTES)
    try:
        yield
    finally:
        _bound.reset(token)


def new_images(shape: tuple[int, ...], limit: int | None = None) -> NDArray[np.uint8]:
    """Return a writeable uint8 array of any content: in memory, or mapped if it is above a limit.

    A mapped one lies in a nameless file in the folder for temporary files (the environment variable TMPDIR chooses
    it), which vanishes with the array.

    Args:
        shape: Of the array.
        limit: Most bytes that are kept in memory; `in_memory_limit` if none, or if that is less; see also `little_memory`.

    Raises:
        DiffmemError: That folder has too little space.
    """
    size, bound = math.prod(shape), _bound.get()
    most = min(in_memory_limit(), size if limit is None else limit)
    if size <= (most if bound is None else min(most, bound)):
        return np.empty(shape, np.uint8)
    try:
        with tempfile.TemporaryFile(prefix="diffmem-") as stream:
            reserve(stream, size)
            return np.asarray(np.memmap(stream, np.uint8, "r+", shape=shape))
    except OSError as error:
        if size <= most:
            return np.empty(shape, np.uint8)
        raise DiffmemError(
            f"Cannot keep images of {size / 2**30:,.1f} GiB in {tempfile.gettempdir()}: {error.strerror or error}. Name a "
            "folder with more space in the environment variable TMPDIR."
        ) from error


def reserve(stream: BinaryIO, size: int) -> None:
    """Give a file its size and its space: a mapped file that finds the disk full later kills the process."""
    if hasattr(os, "posix_fallocate"):
        os.posix_fallocate(stream.fileno(), 0, size)
        return
    zeros = bytes(2**20)
    for at in range(0, size, len(zeros)):
        stream.write(zeros[: size - at])
    stream.flush()


def is_mapped(array: NDArray[Any]) -> bool:
    """Return whether an array is, or is a view of, a memory-mapped file."""
    holder: object = array
    while isinstance(holder, np.ndarray):
        holder = holder.base
    return isinstance(holder, mmap.mmap)


def parts(count: int, item_bytes: int, part_bytes: int = PART_BYTES) -> Iterator[slice]:
    """Yield slices that cover `count` items in order, each of at most `part_bytes` or of one item."""
    step = max(1, part_bytes // max(1, item_bytes))
    for start in range(0, count, step):
        yield slice(start, min(start + step, count))


def gather(images: NDArray[np.uint8], chosen: NDArray[np.integer[Any]]) -> NDArray[np.uint8]:
    """Return `images[chosen]`, read-only.

    Neighbouring images of a mapped array stay where they are; others are copied into another mapped file if they are many, so that
    work on a part of a set that is larger than memory needs no more of it than work on the whole.

    Args:
        images: uint8 (N, ...), read-only.
        chosen: Whole numbers from 0 to N - 1, (n,), at least one.
    """
    first, last = int(chosen[0]), int(chosen[-1])
    if is_mapped(images) and last - first == len(chosen) - 1 and bool((np.diff(chosen) == 1).all()):
        return images[first : last + 1]
    result = new_images((len(chosen), *images.shape[1:]), _SUBSET_BYTES if is_mapped(images) else None)
    for part in parts(len(chosen), math.prod(images.shape[1:])):
        # Any mode but "raise" writes without a second copy; the indices are checked.
        np.take(images, chosen[part], axis=0, out=result[part], mode="clip")
    result.flags.writeable = False
    return result


def contiguous(images: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Return a read-only copy of an array (N, ...) whose values lie in order."""
    result = new_images(images.shape)
    for part in parts(len(images), math.prod(images.shape[1:])):
        result[part] = images[part]
    result.flags.writeable = False
    return result
