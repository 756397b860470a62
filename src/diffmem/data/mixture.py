"""A mixture of two sources, of which one makes up a given share."""

from __future__ import annotations

import numpy as np

from diffmem.data.images import ImageSet, frozen
from diffmem.data.shares import count_of_share
from diffmem.data.storage import new_images
from diffmem.data.subsets import first as first_of
from diffmem.data.subsets import random_subset
from diffmem.errors import UserError

__all__ = ["mixture"]


def mixture(first: ImageSet, second: ImageSet, n: int, share: float, seed: int | None = None) -> ImageSet:
    """Return n images, a share of which come from `second`: those of `first`, then those of `second`.

    Each part is the beginning of a fixed order. So for one share the sets are nested across n; for one n, a
    larger share has all images of `second` that a smaller one has, and `first` the other way round.

    The mixtures of CIFAR-10 and ImageNet dogs in Gu et al. 2023, "On Memorization in Diffusion Models", figure
    2(c), take the first images of each source; their alpha is `share`, with ImageNet as `second`.

    Args:
        first: The first source.
        second: The second source, of the same shape.
        n: Number of images, 1 or more.
        share: From 0 to 1. `second` gives n * share images, halves rounded up (never cut off).
        seed: If given, the order of each source is a permutation of this seed (see `random_subset`); if not,
            it is the source's own.

    Returns:
        n images with labels 0 (first) and 1 (second). The classes are named 'first' and 'second'.

    Raises:
        UserError: The shapes differ, a source has too few images, or n, share or seed is out of range.
    """
    if n < 1:
        raise UserError(f"A mixture needs at least 1 image; {n} were asked for.")
    if first.shape != second.shape:
        raise UserError(f"The sources of a mixture need one shape: {_difference(first, second)}")
    of_second = count_of_share(n, share)
    counts = n - of_second, of_second
    parts = []
    for which, source, count in zip(("first", "second"), (first, second), counts, strict=True):
        if count > len(source):
            raise UserError(
                f"{n} images at a share of {share:g} need {count} of the {which} source, which has "
                f"{len(source)}."
            )
        if count:
            parts.append(first_of(source, count) if seed is None else random_subset(source, count, seed))
    order = "the first of each" if seed is None else f"random, seed {seed}"
    story = (
        *(f"first source: {step}" for step in first.history),
        *(f"second source: {step}" for step in second.history),
        f"mixture: {counts[0]} images of the first source and {counts[1]} of the second "
        f"(share {share:g} of {n}), {order}",
    )
    pixels = new_images((n, *first.shape))
    np.concatenate([part.images for part in parts], out=pixels)
    return ImageSet(
        frozen(pixels),
        frozen(np.repeat(np.arange(2, dtype=np.int64), counts)),
        tuple(name for part in parts for name in part.names),
        ("first", "second"),
        story,
        (*first.conversions, *second.conversions),
    )


def _difference(first: ImageSet, second: ImageSet) -> str:
    (channels_1, height_1, width_1), (channels_2, height_2, width_2) = first.shape, second.shape
    if (height_1, width_1) != (height_2, width_2):
        return (
            f"the first has {width_1} x {height_1} pixels, the second {width_2} x {height_2}; "
            "resize both to one resolution."
        )
    words = {1: "grey", 3: "RGB"}
    return (
        f"the first is {words[channels_1]}, the second {words[channels_2]}; turn the colour images grey, or the "
        "grey ones into RGB."
    )
