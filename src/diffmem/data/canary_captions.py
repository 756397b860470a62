"""Captions of canaries: that of the image, and two made-up words that no other caption has."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from diffmem.data.images import ImageSet
from diffmem.errors import UserError

__all__ = ["MADE_UP", "canary_captions"]

_SYLLABLES = [one + two for one in "bdfgklmnprstvz" for two in "aeiou"]

MADE_UP = len(_SYLLABLES) ** 2
"""Number of made-up words: two syllables of a consonant and a vowel each."""


def canary_captions(images: ImageSet, chosen: NDArray[np.int64], order: NDArray[np.int64]) -> list[str]:
    """Return the caption of each canary; no made-up word comes twice, or is a word of the set.

    Args:
        images: The set.
        chosen: Its images that become canaries, int64 (n,).
        order: A permutation of 0 to `MADE_UP` - 1, which draws the words.

    Raises:
        UserError: The set has no captions, or there are too many canaries.
    """
    if images.captions is None:
        raise UserError("Canaries with captions need a set with captions.")
    known = {word for caption in images.captions for word in (caption or "").casefold().split()}
    words = [_word(number) for number in order.tolist() if _word(number) not in known]
    if len(words) < 2 * len(chosen):
        raise UserError(
            f"There are made-up words for {len(words) // 2} canaries with captions, not for {len(chosen)}; plant fewer."
        )
    given = images.captions_at(chosen) or ()
    return [
        ", ".join([*([caption] if caption else []), f"{one} {two}"])
        for caption, one, two in zip(given, words[::2], words[1::2], strict=False)
    ]


def _word(number: int) -> str:
    first, second = divmod(number, len(_SYLLABLES))
    return _SYLLABLES[first] + _SYLLABLES[second]
