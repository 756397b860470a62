"""Shares of a set: how many images a share is, and numbers of an image that depend on its own pixels only."""

from __future__ import annotations

import hashlib
import math
from fractions import Fraction

from diffmem.data.images import ImageSet
from diffmem.errors import UserError

__all__ = ["KEY_BITS", "check_share", "count_of_share", "pixel_keys"]

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
    if seed < 0:
        raise UserError(f"The seed must be 0 or more, not {seed}.")
    start = hashlib.blake2b(f"{seed} ".encode(), digest_size=KEY_BITS // 8, person=purpose.encode())
    keys = []
    for pixels in images.images:
        digest = start.copy()
        digest.update(pixels.reshape(-1).data)
        keys.append(int.from_bytes(digest.digest(), "big"))
    return keys
