"""NumPy archives (.npz): images as one uint8 array, with labels and names beside it."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from diffmem.data.conversions import Conversion, name_text
from diffmem.data.formats.arrays import as_nchw, layout_of, naming, open_arrays
from diffmem.data.images import ImageSet
from diffmem.data.names import NumberedNames
from diffmem.errors import UserError
from diffmem.text import count_text

__all__ = ["read_npz"]

_IMAGES = ("images", "x", "data", "arr_0")
_USED = ("labels", "y", "names", "class_names", "history", "layout")
_UNNAMED_LABELS = "arr_1"


def read_npz(path: Path) -> ImageSet:
    """Read a NumPy archive. Pickled objects are refused.

    Keys: `images` (or `x`, `data`, `arr_0`), uint8 (N, H, W), (N, H, W, C) or (N, C, H, W); if wanted,
    `labels` (or `y`), whole numbers (N,); `names`, `class_names` and `history`, text; and `layout`, 'NCHW' or
    'NHWC', which is needed only where the shape could mean either.

    Raises:
        UserError: The archive is damaged, a key is missing, or an array has a type or shape that cannot be
            meant.
    """
    with open_arrays(path) as arrays:
        key = next((key for key in _IMAGES if key in arrays.members), None)
        stored = None if key is None else arrays.array(key, np.uint8)
        if stored is None:
            found = ", ".join(sorted(arrays.members))[:200] or "nothing"
            raise UserError(
                f"{path} has no key {', '.join(_IMAGES)}; it has {found}. Save the images as 'images'."
            )
        declared = arrays.text("layout")
        layout = layout_of(stored.shape, declared[0] if declared else None, f"{path}: {key}", "beside it")
        images = as_nchw(stored, layout)
        labels, names = arrays.labels(), arrays.text("names")
        class_names, history = arrays.text("class_names"), arrays.text("history") or ()
        dropped, total = sorted(arrays.members.keys() - {key, *_USED}), len(arrays.members)
    conversions = _passed_over(dropped, total, labels is None)
    steps = (f"npz {path.name}: {len(images)} images", *(one.sentence for one in conversions))
    with naming(path):
        return ImageSet(
            images,
            labels,
            names if names is not None else NumberedNames(path.name, range(len(images))),
            class_names if labels is not None else None,
            (*history, *steps),
            conversions,
        )


def _passed_over(keys: list[str], total: int, unlabelled: bool) -> tuple[Conversion, ...]:
    """Return what is said of arrays that are not read."""
    if not keys:
        return ()
    told = f"{count_text(len(keys), 'other array')} passed over ({', '.join(map(name_text, keys[:3]))}{', ...' if len(keys) > 3 else ''})"
    meant = _UNNAMED_LABELS in keys and unlabelled
    if meant:
        told += f": if {_UNNAMED_LABELS} holds labels, save them as 'labels'"
    return (Conversion("labels" if meant else "passed-over", "none", len(keys), total, told, False),)
