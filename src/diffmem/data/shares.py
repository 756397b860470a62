"""Shares of a set, and what is decided for each image by its own pixels alone: exact copies on purpose, labels without meaning.

Random and unique labels are conditions that Gu et al. 2023, "On Memorization in Diffusion Models", compare with the true
classes.
"""

from __future__ import annotations

import hashlib
import math
from fractions import Fraction

import numpy as np

from diffmem.data.formats.guards import check_total
from diffmem.data.images import ImageSet, frozen
from diffmem.data.storage import gather
from diffmem.errors import UserError, check_seed

__all__ = [
    "KEY_BITS",
    "check_share",
    "count_of_share",
    "duplicated",
    "pixel_keys",
    "random_labels",
    "unique_labels",
]

_MAX_CLASSES = 1_000_000

KEY_BITS = 128
"""Bits of each number of `pixel_keys`."""


def count_of_share(n: int, share: float) -> int:
    """Return n * share as a whole number, halves rounded up.

    The share counts as the decimal number that it is written as, so 0.29 of 50 is 15 although the product of
    the floating-point numbers is below 14.5. For n growing by one, both the count and the rest of n grow by
    one or stay.

    Args:
        n: Number of images, 0 or more.
        share: From 0 to 1.

    Raises:
        UserError: The share is outside of 0 to 1.
    """
    check_share(share)
    return math.floor(n * Fraction(repr(float(share))) + Fraction(1, 2))


def check_share(share: float) -> None:
    """Refuse a share that is no number from 0 to 1."""
    if not 0 <= share <= 1:
        raise UserError(f"A share must lie between 0 and 1, not {share:g}.")


def pixel_keys(images: ImageSet, seed: int, purpose: str) -> list[int]:
    """Return a random-looking number for each image: a hash of purpose, seed and the image's own pixels.

    It does not depend on the other images, nor on their number or order. Images of identical pixels have
    identical keys.

    Args:
        images: The set.
        seed: 0 or more; other seeds and purposes give unrelated keys.
        purpose: What the keys are for, at most 16 bytes.

    Returns:
        N whole numbers, uniform on 0 to 2**128 - 1 (BLAKE2b).

    Raises:
        UserError: The seed is negative.
    """
    check_seed(seed)
    start = hashlib.blake2b(f"{seed} ".encode(), digest_size=KEY_BITS // 8, person=purpose.encode())
    keys = []
    for pixels in images.images:
        digest = start.copy()
        digest.update(pixels.reshape(-1).data)
        keys.append(int.from_bytes(digest.digest(), "big"))
    return keys


def random_labels(images: ImageSet, classes: int, seed: int) -> ImageSet:
    """Return the set with labels that are independent and uniform on 0 to `classes` - 1, so not balanced.

    The label of an image depends on the seed and on its own pixels only: it is the same at every size of the
    set and in any order, and exact copies share a label. (It does change with the resolution.)

    Args:
        images: Any set; its labels are replaced.
        classes: Number of classes, 1 or more. The result has this `num_classes`, even if the highest classes
            or others stay empty.
        seed: 0 or more.

    Raises:
        UserError: `classes` or `seed` is out of range.
    """
    if not 1 <= classes <= _MAX_CLASSES:
        raise UserError(f"Random labels need from 1 to {_MAX_CLASSES:,} classes, not {classes}.")
    # The remainder of a 128-bit number: no class is favoured by more than one part in 2**97.
    labels = np.array([key % classes for key in pixel_keys(images, seed, "random label")], np.int64)
    names = tuple(f"random {label}" for label in range(classes))
    return images.with_labels(frozen(labels), names, f"random labels of {classes} classes, seed {seed}")


def unique_labels(images: ImageSet) -> ImageSet:
    """Return the set with a label of its own for every image: its position, 0 to N - 1.

    The labels are N whole numbers and the classes have no names; `num_classes` is N.
    """
    return images.with_labels(
        frozen(np.arange(len(images), dtype=np.int64)), None, f"a label for each of {len(images)} images"
    )


def duplicated(images: ImageSet, share: float, copies: int, seed: int) -> ImageSet:
    """Return a set in which a share of the images occurs `copies` times in total and the rest once.

    Whether an image is chosen depends on the seed and its own pixels only: each is chosen with probability
    `share`, independently. So an image that is chosen is chosen at every size of the set, in any order, and
    for any larger share. The price is that the number of chosen images is binomial around N * share; the
    history has it.

    Args:
        images: Any set of N images.
        share: From 0 to 1.
        copies: How often a chosen image occurs in total, 1 or more.
        seed: 0 or more.

    Returns:
        The N images in their order, then the second copies of the chosen ones, then the third, and so on.
        Copies keep their label; the names of chosen images say which copy each is.

    Raises:
        UserError: A number is out of range.
    """
    check_share(share)
    if copies < 1:
        raise UserError(f"An image occurs at least once: copies must be 1 or more, not {copies}.")
    limit = Fraction(repr(float(share))) * 2**KEY_BITS
    chosen = np.flatnonzero([key < limit for key in pixel_keys(images, seed, "duplication")])
    check_total(len(images) + len(chosen) * (copies - 1), images.shape, f"a set with {copies} copies")
    order = np.concatenate([np.arange(len(images)), *[chosen] * (copies - 1)]).astype(np.int64)
    names = list(images.names)
    for index in chosen.tolist() if copies > 1 else []:
        names[index] = f"{images.names[index]} (copy 1 of {copies})"
    for copy in range(2, copies + 1):
        names.extend(f"{images.names[index]} (copy {copy} of {copies})" for index in chosen.tolist())
    step = (
        f"duplicated: {len(chosen)} of {len(images)} images (share {share:g}, seed {seed}) occur {copies} times, "
        f"{len(order)} images in all"
    )
    return ImageSet(
        gather(images.images, order),
        None if images.labels is None else frozen(images.labels[order]),
        tuple(names),
        images.class_names,
        (*images.history, step),
        images.conversions,
        images.captions_at(order),
        images.repeats_at(order),
    )
