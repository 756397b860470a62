"""Images by their content: which are copies, and an order that does not depend on the order they came in."""

from __future__ import annotations

import hashlib
from typing import Any

import numpy as np
from numpy.typing import NDArray

from diffmem.data.storage import gather
from diffmem.errors import UserError

__all__ = ["Keys", "check_images", "common_space", "content_keys", "distinct", "present", "taken"]

Keys = NDArray[np.uint64]
"""One of 128 bits for each image, uint64 (N, 2)."""


def content_keys(images: NDArray[Any]) -> Keys:
    """Return a key of 128 bits for each image, uint64 (N, 2): equal for equal values, and for no others (BLAKE2b).

    Args:
        images: uint8 or floating point (N, ...), also memory-mapped; read one image at a time. 0 and -0 are equal.
    """
    keys = np.empty((len(images), 2), "<u8")
    for at, image in enumerate(images):
        values = image if image.dtype.kind in "ui" else image + 0.0  # turns -0 into 0
        digest = hashlib.blake2b(np.ascontiguousarray(values).tobytes(), digest_size=16).digest()
        keys[at] = np.frombuffer(digest, "<u8")
    return keys.astype(np.uint64, copy=False)


def distinct(keys: Keys) -> NDArray[np.int64]:
    """Return the first position of each content, int64, in the order of the keys.

    That order is as good as random, and which contents come first does not depend on the order of the images. Sorted, the
    positions are those of the images that are no copy of an earlier one.
    """
    return np.unique(keys, axis=0, return_index=True)[1].astype(np.int64)


def present(keys: Keys, known: Keys) -> NDArray[np.bool_]:
    """Return which keys are among the known ones, bool (N,)."""
    maybe = np.isin(keys[:, 0], known[:, 0])  # half of a key is enough but for chance
    among = set(map(tuple, known[np.isin(known[:, 0], keys[maybe, 0])].tolist()))
    return np.array([tuple(key) in among for key in keys.tolist()], bool)


def taken(images: NDArray[Any], chosen: NDArray[np.int64]) -> NDArray[Any]:
    """Return `images[chosen]`, not copied where that is all of them in order; large uint8 sets stay out of memory."""
    if len(chosen) == len(images) and bool((chosen == np.arange(len(images))).all()):
        return images
    return gather(images, chosen) if images.dtype == np.uint8 and len(chosen) else images[chosen]


def check_images(named: dict[str, NDArray[Any]]) -> None:
    """Refuse arrays that are not uint8 images (N, C, H, W) of one shape, at least one each; see `common_space`."""
    common_space(named, "euclidean", None)
    (name, images), *_ = named.items()
    if images.dtype != np.uint8 or images.ndim != 4:
        raise UserError(
            f"The {name} are {images.dtype} of shape {images.shape}; convert them to uint8 images (N, C, H, W), 0 to 255."
        )


def common_space(named: dict[str, NDArray[Any]], metric: str, space: str | None) -> str:
    """Check that arrays can be compared with each other, and return the name of their space for a protocol id.

    Args:
        named: Arrays by what they hold, for messages; all uint8 or all of one floating-point type, of one shape.
        metric: 'euclidean' or 'cosine'.
        space: The name, if the caller knows a better one than the type: the network that made features, for example.

    Raises:
        UserError: The arrays differ in type or shape, or one is empty.
    """
    (first, reference), *_ = named.items()
    for name, images in named.items():
        if images.dtype.kind not in "uf" or (images.dtype.kind == "u" and images.dtype != np.uint8):
            raise UserError(
                f"The {name} have type {images.dtype}; give uint8 images or floating-point features."
            )
        if images.dtype != reference.dtype or images.shape[1:] != reference.shape[1:]:
            raise UserError(
                f"The {name} are {images.dtype} {images.shape[1:]} and the {first} {reference.dtype} "
                f"{reference.shape[1:]}; bring both to one type and shape."
            )
        if images.ndim < 2 or len(images) == 0:
            raise UserError(f"The {name} have shape {images.shape}; give at least one, as an array (N, ...).")
    if space is not None:
        return space
    return (
        "pixel-l2/uint8"
        if reference.dtype == np.uint8 and metric == "euclidean"
        else f"{metric}/{reference.dtype}"
    )
