"""P, the data distribution: which images a model learns, where they come from and how they are chosen."""

from __future__ import annotations

from diffmem.data.build import BuildConfig, Labels, Selection, build, mixture, relabelled, select
from diffmem.data.canaries import CanarySet, canaries_path, plant_canaries
from diffmem.data.conversions import Conversion
from diffmem.data.duplicates import duplicate_groups
from diffmem.data.fetch import DOWNLOADS, Download, fetch
from diffmem.data.imagenet import DOGS, read_imagenet, read_synsets
from diffmem.data.images import ImageSet
from diffmem.data.reading import Reading, parse_reading
from diffmem.data.shares import count_of_share, duplicated, random_labels, unique_labels
from diffmem.data.sheet import contact_sheet
from diffmem.data.sources import UNDERSTOOD, OtherReading, Split, open_images, other_readings
from diffmem.data.subsets import balanced, choose_classes, first, groups_by_name, hold_out, random_subset
from diffmem.data.transforms import fit_images, grayscale, resize, rgb
from diffmem.data.write import write_images

__all__ = [
    "DOGS",
    "DOWNLOADS",
    "UNDERSTOOD",
    "BuildConfig",
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
    "groups_by_name",
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
