"""Labels that carry no meaning: random classes, and a class of its own for every image.

Conditions that Gu et al. 2023, "On Memorization in Diffusion Models", compare with the true classes.
"""

from __future__ import annotations

import numpy as np

from diffmem.data.images import ImageSet, frozen
from diffmem.data.shares import pixel_keys
from diffmem.errors import UserError

__all__ = ["random_labels", "unique_labels"]

_MAX_CLASSES = 1_000_000


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
