"""P, the data distribution: which images a model learns, where they come from and how they are chosen.

Modules:
    images: `ImageSet`, the noun of this room.
    sources: `open_images`, which recognises what it is given; one module per kind: `cifar10` (with
        `unpickle`), `folder`, `edm_zip`, `npz`, `idx`, `digits`.
    subsets: balanced, first and random selections, chosen classes, held-out images.
    transforms: resolution and channels.
    build: a set from a source in one call, and writing it to one file.
    duplicates: exact copies inside a set.
    sheet: a contact sheet for people.
    decode, png, guards: encoded images to pixels and back, and the limits for files that nobody vouches for.
"""

from __future__ import annotations

from diffmem.data.build import Selection, build, select, write_images
from diffmem.data.duplicates import duplicate_groups
from diffmem.data.images import ImageSet
from diffmem.data.sheet import contact_sheet
from diffmem.data.sources import UNDERSTOOD, Split, open_images
from diffmem.data.subsets import balanced, choose_classes, first, hold_out, random_subset
from diffmem.data.transforms import grayscale, resize, rgb

__all__ = [
    "UNDERSTOOD",
    "ImageSet",
    "Selection",
    "Split",
    "balanced",
    "build",
    "choose_classes",
    "contact_sheet",
    "duplicate_groups",
    "first",
    "grayscale",
    "hold_out",
    "open_images",
    "random_subset",
    "resize",
    "rgb",
    "select",
    "write_images",
]
