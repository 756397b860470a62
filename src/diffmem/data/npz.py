"""NumPy archives (.npz): images as one uint8 array, with labels and names beside it."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from diffmem.data.arrays import (
    as_nchw,
    layout_of,
    member_array,
    member_labels,
    member_words,
    members_of,
    naming,
)
from diffmem.data.conversions import Conversion, count_text, name_text
from diffmem.data.guards import checked_zip
from diffmem.data.images import ImageSet
from diffmem.data.names import NumberedNames
from diffmem.errors import UserError

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
    what = str(path)
    with checked_zip(path) as archive:
        members = members_of(archive)
        key = next((key for key in _IMAGES if key in members), None)
        if key is None:
            found = ", ".join(sorted(members))[:200] or "nothing"
            raise UserError(
                f"{path} has no key {', '.join(_IMAGES)}; it has {found}. Save the images as 'images'."
            )
        told = member_words(archive, "layout", what)
        stored = member_array(archive, members[key], f"{path}: {key}", np.uint8)
        layout = layout_of(stored.shape, told[0] if told else None, f"{path}: {key}", "beside it")
        images = as_nchw(stored, layout)
        labels = member_labels(archive, what)
        dropped = sorted(members.keys() - {key, *_USED})
        names = member_words(archive, "names", what)
        class_names = member_words(archive, "class_names", what)
        history = member_words(archive, "history", what) or ()
    conversions = _passed_over(dropped, len(members), labels is None)
    told_of = (f"npz {path.name}: {len(images)} images", *(one.sentence for one in conversions))
    with naming(path):
        return ImageSet(
            images,
            labels,
            names if names is not None else NumberedNames(path.name, range(len(images))),
            class_names if labels is not None else None,
            (*history, *told_of),
            conversions,
        )


def _passed_over(keys: list[str], total: int, unlabelled: bool) -> tuple[Conversion, ...]:
    """Return what is said of arrays that are not read."""
    if not keys:
        return ()
    told = f"{count_text(len(keys), 'other array')} skipped ({', '.join(map(name_text, keys[:3]))}{', ...' if len(keys) > 3 else ''})"
    if _UNNAMED_LABELS in keys and unlabelled:
        told += f": if {_UNNAMED_LABELS} holds labels, save them as 'labels'"
        return (Conversion("labels", "none", len(keys), total, told, False),)
    return (Conversion("passed-over", "none", len(keys), total, told, False),)
