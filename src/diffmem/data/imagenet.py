"""Some classes of ImageNet, out of the folders that it is published in: small colour images of one size.

Layout: one folder of JPEG files for each synset, named by its WordNet id, as n02085620 (Russakovsky et al. 2015,
"ImageNet Large Scale Visual Recognition Challenge").
"""

from __future__ import annotations

import hashlib
import os
import re
from contextlib import suppress
from functools import partial
from importlib.resources import files as package_files
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from diffmem.data.formats.decoding import FileFacts, Files
from diffmem.data.formats.files import PassedOver
from diffmem.data.formats.guards import MAX_FILE_BYTES, in_one_line, read_plain, stays_inside
from diffmem.data.formats.guards import reading as as_text
from diffmem.data.formats.signatures import LIKELY
from diffmem.data.formats.stack import stack_images
from diffmem.data.images import ImageSet, frozen
from diffmem.data.reading import AS_USUAL, FIT_TEXT, Fit, Reading, check_resolution
from diffmem.data.subsets import check_count
from diffmem.data.transforms import fitted
from diffmem.errors import UserError, check_seed
from diffmem.progress import NO_PROGRESS, Progress

__all__ = ["DOGS", "read_imagenet", "read_synsets"]

DOGS = "dogs"
"""The word for the 123 synsets of dogs of Gu et al. 2023, of which the last five are wild dogs."""

_LAYOUTS = ("ILSVRC/Data/CLS-LOC/train", "train", ".")
_MAX_LIST_BYTES = 2**20


@in_one_line()
def read_imagenet(
    root: Path,
    synsets: str | Path,
    *,
    size: int | None = None,
    resolution: int | None = None,
    seed: int = 0,
    progress: Progress = NO_PROGRESS,
    reading: Reading = AS_USUAL,
) -> ImageSet:
    """Read images of some synsets of ImageNet, spread evenly over the synsets.

    The order goes round: a random image of each synset in turn, then another of each, and so on. So the first n
    images hold n // S of each of the S synsets and one more of the first n % S, and a smaller set is the
    beginning of a larger one. Which image of a synset comes when depends on the seed and the file's name only,
    not on the order in which a folder lists its files. Only the chosen files are decoded.

    Args:
        root: ImageNet's folder. Synset folders are looked for in root/ILSVRC/Data/CLS-LOC/train, root/train and
            root itself.
        synsets: The word 'dogs', or a text file; see `read_synsets`.
        size: Number of images; all if left out.
        resolution: Side in pixels of the images, resampled by LANCZOS; as they are if left out, which works only
            if all have one size.
        seed: 0 or more.
        progress: Called now and then while images are decoded.
        reading: How they are decoded. Of several pages or frames, the first alone is read. Its `fit` and `resolution`, if
            given, take the place of the crop.

    Returns:
        RGB images (grey, CMYK and transparent ones are converted), cropped to the square in their middle. The
        label is the position of the synset in the list.

    Raises:
        UserError: Folders are missing, a synset has too few images, an image is broken, or the sizes differ.
    """
    listed = read_synsets(synsets)
    if size is not None:
        check_count(size)
    if resolution is not None:
        check_resolution(resolution)
    check_seed(seed)
    base = _base(root, listed)
    chosen = _chosen(base, listed, size, seed)
    names = [f"{synset}/{file}" for _, synset, file in chosen]
    if reading.pages == "all":
        raise UserError("Of ImageNet, one image is read of each file: pages all does not go with synsets.")
    if reading.fit is not None:
        resolution = reading.resolution
    inside = base.resolve()

    def content(index: int) -> bytes:
        file = base / names[index]
        if not stays_inside(file, inside) or not file.is_file():
            raise UserError(f"{file} is refused: it is no plain file, or a link that leads out of {base}.")
        return read_plain(file, MAX_FILE_BYTES, str(file))

    prepared = partial(_square, resolution=resolution, fit=reading.fit)
    facts = FileFacts()
    for name in names:
        with suppress(OSError):  # which is told when it is read
            facts.add(name, (base / name).stat())
    stacked = stack_images(Files(names, content, identity=str(facts)), str(base), reading, progress, prepared)
    side = f"{resolution} x {resolution} (LANCZOS)" if resolution else "their own resolution"
    shape = "centre crop" if reading.fit in (None, "crop") else FIT_TEXT[reading.fit]
    step = (
        f"ImageNet {root.resolve().name}: {len(names)} images of {len(listed)} synsets ({Path(synsets).name}), "
        f"seed {seed}, {shape}, RGB, {side}"
    )
    labels = np.array([label for label, _, _ in chosen], np.int64)
    # A name that is not valid UTF-8 is shown with question marks.
    shown = tuple(os.fsencode(name).decode("utf-8", "replace") for name in names)
    history = (step, *(one.sentence for one in stacked.conversions))
    names_of = tuple(listed.values())
    return ImageSet(stacked.images, frozen(labels), shown, names_of, history, stacked.conversions)


def read_synsets(synsets: str | Path) -> dict[str, str]:
    """Return the names of a list of synsets, by WordNet id, in the order of the list.

    Args:
        synsets: The word 'dogs', or a text file with one synset a line: its WordNet id (as n02085620) and, if
            wanted, its name. Empty lines and lines that begin with # are skipped.

    Raises:
        UserError: There is no such file, a line has no WordNet id, or one is there twice.
    """
    if synsets == DOGS:
        what = "the list of dogs"
        text = package_files("diffmem.data").joinpath("imagenet_dogs.txt").read_text("utf-8")
    else:
        path = Path(synsets).expanduser()
        what = str(path)
        if not path.is_file():
            raise UserError(
                f"There is no list of synsets at {path}: give the word 'dogs' or a text file with a WordNet id, "
                "such as n02085620, on each line."
            )
        with as_text(what):
            text = read_plain(path, _MAX_LIST_BYTES, what).decode()
    listed: dict[str, str] = {}
    for number, line in enumerate(text.splitlines(), 1):
        synset, _, name = line.strip().partition(" ")
        if not synset or synset.startswith("#"):
            continue
        if not re.fullmatch(r"n[0-9]{8}", synset):
            raise UserError(
                f"{what}, line {number}: {synset[:40]!r} is no WordNet id; an id is n and eight digits, as n02085620."
            )
        if synset in listed:
            raise UserError(f"{what}, line {number}: {synset} is there twice.")
        listed[synset] = name.strip() or synset
    if not listed:
        raise UserError(f"{what} holds no synsets; write a WordNet id, such as n02085620, on each line.")
    return listed


def _base(root: Path, listed: dict[str, str]) -> Path:
    """Return the folder of the synset folders."""
    if not root.is_dir():
        raise UserError(
            f"There is no folder {root}; name ImageNet's folder, which holds its training folders."
        )
    found = {part: [synset for synset in listed if (root / part / synset).is_dir()] for part in _LAYOUTS}
    best = max(_LAYOUTS, key=lambda part: len(found[part]))
    if len(found[best]) < len(listed):
        first = next(synset for synset in listed if synset not in found[best])
        raise UserError(
            f"{root / best} has {len(found[best])} of the {len(listed)} synset folders; the first that is missing "
            f"is {first} ({listed[first]}). Folders are looked for in {root}/{', '.join(_LAYOUTS[:2])} and {root}: "
            "unpack the training images there, or shorten the list."
        )
    return root / best


def _chosen(base: Path, listed: dict[str, str], size: int | None, seed: int) -> list[tuple[int, str, str]]:
    """Return (label, synset, file name) of the images in their order."""
    ordered: list[tuple[int, int, str, str]] = []
    for label, synset in enumerate(listed):
        with as_text(str(base / synset)):
            entries = [
                entry for entry in os.listdir(base / synset)
                if Path(entry).suffix.lower() in LIKELY and not entry.startswith(".")
            ]  # fmt: skip
        entries.sort(key=lambda entry: _key(seed, synset, entry))
        if size is not None:
            need = size // len(listed) + (label < size % len(listed))
            if len(entries) < need:
                raise UserError(
                    f"{base / synset} ({listed[synset]}) has {len(entries)} images but {size} images over "
                    f"{len(listed)} synsets need {need} of it."
                )
            entries = entries[:need]
        ordered.extend((number, label, synset, entry) for number, entry in enumerate(entries))
    if not ordered:
        raise PassedOver().nothing(f"{base} with its synset folders")
    ordered.sort()
    return [(label, synset, entry) for _, label, synset, entry in ordered]


def _key(seed: int, synset: str, file: str) -> tuple[bytes, str]:
    content = f"{seed} {synset}/".encode() + os.fsencode(file)
    return hashlib.blake2b(content, digest_size=16, person=b"imagenet order").digest(), file


def _square(pixels: NDArray[np.uint8], resolution: int | None, fit: Fit | None) -> NDArray[np.uint8]:
    """Return an image, (H, W) or (H, W, 3), as an RGB square (S, S, 3)."""
    colours = np.repeat(pixels[..., None], 3, 2) if pixels.ndim == 2 else pixels
    return fitted(colours, fit or "crop", resolution or min(pixels.shape[:2]))
