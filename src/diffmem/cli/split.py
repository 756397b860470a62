"""`diffmem data split`."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Literal

from diffmem.cli.data import check_target, set_text
from diffmem.cli.options import AS_USUAL, ReadingOptions
from diffmem.errors import UserError
from diffmem.progress import show_progress

__all__ = ["data_split"]


def data_split(
    source: str,
    train: Path,
    heldout: Path,
    /,
    *,
    count: int,
    seed: int = 0,
    together: str | None = None,
    resolution: int | None = None,
    form: Literal["imagefolder", "kohya"] | None = None,
    reading: ReadingOptions = AS_USUAL,
) -> None:
    """Split a data set at random, before training: images to train on, and held-out ones for audits.

    Train on TRAIN alone. Labels, captions and repeats go with their images. Images of which the other part has an exact copy
    are counted, as they are no held-out images.

    Example: diffmem data split photos/ train.zip heldout.zip --count 1000
    Example: diffmem data split scans/ train.zip heldout.zip --count 1000 --together 'patient([0-9]+)'

    Args:
        source: What to read: anything that `data build` reads.
        train: Where to write the images to train on: .zip, .npz, .npy, .tar or, without an ending, a new folder of PNGs.
        heldout: Where to write the held-out images, likewise.
        count: Number of held-out images.
        seed: Seed of the choice.
        together: Regular expression of what stays on one side (a patient, a clip), found in the names of images: '^[^/]+' is the
            first folder, 'patient([0-9]+)' a number. Whole groups are then held out, until they hold COUNT images or more.
        resolution: Side in pixels that --fit brings all images to.
        form: Of folders that are written: imagefolder (metadata.jsonl), or kohya (N_images with a .txt beside each image, N = repeats).
            If left out, kohya for a set with repeats, else imagefolder.
    """
    from diffmem.data import groups_by_name, hold_out, open_images, write_images
    from diffmem.data.write import check_writable

    how = reading.reading(resolution)
    if resolution is not None and reading.fit is None:
        raise UserError("--resolution is for --fit; data build changes the size of images that fit already.")
    for out in (train, heldout):
        check_target((source,), out)
    places = train.resolve(), heldout.resolve()
    if places[0] == places[1]:
        raise UserError(f"Both parts are to be written to {train}; name two files.")
    if places[0].is_relative_to(places[1]) or places[1].is_relative_to(places[0]):
        raise UserError(f"{heldout} and {train} lie in each other; name two folders beside each other.")
    with show_progress("Splitting") as progress:
        images = open_images(source, progress=progress, reading=how)
        for out in (train, heldout):  # both, so that no part is written where the other one cannot be
            check_writable(images, out, form)
        groups = None if together is None else groups_by_name(images, together)
        parts = hold_out(images, count, seed, groups)
        for part, out in zip(parts, (train, heldout), strict=True):
            write_images(part, out, progress, form)
    for part, out in zip(parts, (train, heldout), strict=True):
        print(f"{out}: {set_text(part)}, fingerprint {part.fingerprint[:16]}")
    known = {hashlib.sha256(image).digest() for image in parts[0].images}
    both = sum(hashlib.sha256(image).digest() in known for image in parts[1].images)
    if both:
        print(
            f"{both} of the {len(parts[1]):,} held-out images have an exact copy among the others: remove copies first"
            " (diffmem data duplicates), since these are no held-out images."
        )
