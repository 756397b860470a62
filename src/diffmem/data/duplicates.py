"""Which images of a set are exact copies of an earlier one."""

from __future__ import annotations

import hashlib

import numpy as np
from numpy.typing import NDArray

from diffmem.data.images import ImageSet
from diffmem.errors import UserError

__all__ = ["duplicate_groups"]


def duplicate_groups(images: ImageSet | NDArray[np.uint8]) -> NDArray[np.int64]:
    """Return for each image the index of the first image that has identical pixels; labels do not count.

    Images that share a hash are compared byte by byte, so no two different images ever share a group.

    Args:
        images: A set, or uint8 (N, ...).

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
    groups = np.arange(len(array), dtype=np.int64)
    seen: dict[bytes, list[int]] = {}
    for index, image in enumerate(array):
        key = hashlib.blake2b(np.ascontiguousarray(image).tobytes(), digest_size=16).digest()
        leaders = seen.setdefault(key, [])
        same = next((leader for leader in leaders if np.array_equal(array[leader], image)), None)
        if same is None:
            leaders.append(index)
        else:
            groups[index] = same
    return groups
