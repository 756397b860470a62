"""P, the data distribution: which images a model learns, where they come from and how they are chosen.

Modules:
    images: `ImageSet`, the noun of this room.
    sources: `open_images`, which recognises what it is given; one module per kind: `cifar10` (with
        `unpickle`), `folder`, `edm_zip`, `npz`, `npy`, `idx`, `digits`.
    imagenet: chosen synsets out of ImageNet's folders.
    fetch: the download of a published archive.
    subsets: balanced, first and random selections, chosen classes, held-out images.
    transforms: resolution and channels.
    labels: random labels, and a label for each image.
    mixture: two sources at a given share.
    duplication: copies on purpose, of a given share.
    canaries: marked images on purpose, with a control group that is left out.
    shares: how many images a share is, and choices that depend on an image's own pixels only.
    build: a set from a source in one call.
    write: a set into one file.
    duplicates: exact copies inside a set.
    sheet: a contact sheet for people.
    storage, names: pixels and names of sets that are larger than memory.
    reading: the choices for which loaders have different rules; other_readings, the same source by the other rules.
    conversions: what was done to the images of a source, or skipped, counted and in words.
    splits: folders called train and test, which are no classes.
    signatures, passed_over, headers, decode, deep, exif, fit, stack: encoded images, known by their content and judged by
        their header, to pixels of one shape.
    png, markers, arrays, guards, quiet: formats in detail, and the limits for files that nobody vouches for.
"""

from __future__ import annotations

from diffmem.data.build import Labels, Selection, build, relabelled, select
from diffmem.data.canaries import CanarySet, canaries_path, plant_canaries
from diffmem.data.conversions import Conversion
from diffmem.data.duplicates import duplicate_groups
from diffmem.data.duplication import duplicated
from diffmem.data.fetch import DOWNLOADS, Download, fetch
from diffmem.data.fit import fit_images
from diffmem.data.imagenet import DOGS, read_imagenet, read_synsets
from diffmem.data.images import ImageSet
from diffmem.data.labels import random_labels, unique_labels
from diffmem.data.mixture import mixture
from diffmem.data.other_readings import OtherReading, other_readings
from diffmem.data.reading import Reading, parse_reading
from diffmem.data.shares import count_of_share
from diffmem.data.sheet import contact_sheet
from diffmem.data.sources import UNDERSTOOD, Split, open_images
from diffmem.data.subsets import balanced, choose_classes, first, hold_out, random_subset
from diffmem.data.transforms import grayscale, resize, rgb
from diffmem.data.write import write_images

__all__ = [
    "DOGS",
    "DOWNLOADS",
    "UNDERSTOOD",
    "CanarySet",
    "Conversion",
    "Download",
    "ImageSet",
    "Labels",
    "OtherReading",
    "Reading",
    "Selection",
    "Split",
    "balanced",
    "build",
    "canaries_path",
    "choose_classes",
    "contact_sheet",
    "count_of_share",
    "duplicate_groups",
    "duplicated",
    "fetch",
    "first",
    "fit_images",
    "grayscale",
    "hold_out",
    "mixture",
    "open_images",
    "other_readings",
    "parse_reading",
    "plant_canaries",
    "random_labels",
    "random_subset",
    "read_imagenet",
    "read_synsets",
    "relabelled",
    "resize",
    "rgb",
    "select",
    "unique_labels",
    "write_images",
]
