"""Which images of a set are exact copies of an earlier one."""

from __future__ import annotations

import hashlib

import numpy as np
from numpy.typing import NDArray

from diffmem.data.images import ImageSet
from diffmem.errors import UserError
from diffmem.progress import NO_PROGRESS, Progress

__all__ = ["duplicate_groups"]


def duplicate_groups(
    images: ImageSet | NDArray[np.uint8], progress: Progress = NO_PROGRESS
) -> NDArray[np.int64]:
    """Return for each image the index of the first image that has identical pixels; labels do not count.

    Images that share a hash are compared byte by byte, so no two different images ever share a group. Beside the
    images, 50 bytes are needed for each: a set may be larger than memory.

    Args:
        images: A set, or uint8 (N, ...).
        progress: Called now and then with images done and images in all.

    Returns:
        int64 (N,). An entry equals its own index exactly if the image is no copy of an earlier one; the
        number of exact duplicates is the number of entries that do not.

    Raises:
        UserError: The array is not uint8.
    """
    array = images.images if isinstance(images, ImageSet) else np.asarray(images)
    if array.dtype != np.uint8 or array.ndim < 1:
        raise UserError(
            f"Duplicates are looked for in uint8 images (N, ...), not {array.dtype} of shape {array.shape}."
        )
    hashes = np.empty(len(array), np.uint64)
    for index, image in enumerate(array):
        key = hashlib.blake2b(np.ascontiguousarray(image).tobytes(), digest_size=8).digest()
        hashes[index] = int.from_bytes(key, "little")
        if index % 4096 == 4095:
            progress(index + 1, len(array), "looking for copies")
    groups = np.arange(len(array), dtype=np.int64)
    order = np.argsort(hashes, kind="stable")
    starts = np.flatnonzero(np.diff(hashes[order], prepend=~hashes[order[:1]]))
    ends = np.append(starts[1:], len(order))
    for start, end in zip(starts[ends - starts > 1], ends[ends - starts > 1], strict=True):
        leaders: list[int] = []
        for index in order[start:end].tolist():
            same = next((leader for leader in leaders if np.array_equal(array[leader], array[index])), None)
            if same is None:
                leaders.append(index)
            else:
                groups[index] = same
    return groups
