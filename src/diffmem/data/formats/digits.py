"""The 1,797 handwritten digits that come with scikit-learn: real images that need no download."""

from __future__ import annotations

import numpy as np

from diffmem.data.images import ImageSet, frozen
from diffmem.errors import UserError

__all__ = ["read_digits"]


def read_digits(split: str) -> ImageSet:
    """Return the digits: (1797, 1, 8, 8), ten classes, in the order of scikit-learn.

    The values 0 to 16 of the scans become 0 to 255 by round(v * 255 / 16). Source: Alpaydin and Kaynak 1998,
    "Optical Recognition of Handwritten Digits", the test part of the UCI data set, as
    `sklearn.datasets.load_digits`.

    Raises:
        UserError: `split` is 'test': the digits are one set.
    """
    if split == "test":
        raise UserError(
            "The digits have no test split. Hold some out instead: diffmem.data.hold_out(images, n, seed) "
            "gives both parts."
        )
    from sklearn.datasets import load_digits

    scans, labels = load_digits(return_X_y=True)
    images = np.rint(scans * 255 / 16).astype(np.uint8).reshape(-1, 1, 8, 8)
    names = tuple(f"digit_{index:04d}" for index in range(len(images)))
    step = f"handwritten digits of scikit-learn: {len(images)} images"
    return ImageSet(frozen(images), labels.astype(np.int64), names, tuple("0123456789"), (step,))
