"""Exact copies on purpose: a share of the images occurs several times."""

from __future__ import annotations

from fractions import Fraction

import numpy as np

from diffmem.data.formats.guards import check_total
from diffmem.data.images import ImageSet, frozen
from diffmem.data.shares import KEY_BITS, check_share, pixel_keys
from diffmem.data.storage import gather
from diffmem.errors import UserError

__all__ = ["duplicated"]


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
    )
