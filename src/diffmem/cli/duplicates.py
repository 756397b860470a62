"""`diffmem data duplicates`."""

from __future__ import annotations

from pathlib import Path

from diffmem.cli.data import check_target, set_text
from diffmem.cli.options import Executor
from diffmem.console import console
from diffmem.errors import UserError
from diffmem.folder_lock import locked_folder
from diffmem.progress import show_progress
from diffmem.text import count_text

__all__ = ["data_duplicates"]


def data_duplicates(
    data: str,
    *,
    radius: float = 1.0,
    split: str | None = None,
    out: Path | None = None,
    dedup: Path | None = None,
    executor: Executor = None,
) -> None:
    """Find groups of exact copies and near-duplicates, and optionally write the set without them.

    Two images are a near pair if they are at most --radius apart; near pairs join images into groups, also through
    others: in a group of three or more, two images can be further apart than the radius. All pairs are found.

    Example: diffmem data duplicates cifar10.npz --radius 4 --out duplicates/ --dedup cifar10-clean.npz

    Args:
        data: The data set: anything that `data build` reads.
        radius: In grey levels RMS per pixel value: 1 is a difference of one grey level everywhere, which is what rounding
            makes at most; 0 finds only exact copies. Compression and small retouches need more: look at the gallery.
        split: Which split of it to read.
        out: Folder for duplicates.json and duplicates.csv (all groups), duplicates.html and duplicates.png (the largest).
        dedup: Also write the set with the first image of each group alone: .zip, .npz or .npy.
        executor: Compare in pieces elsewhere, with the same result: local (processes of this machine), or a YAML file of the settings
            under `executor:` of a study's recipe. --out and an .npy of the images lie on a disk that all workers see.
    """
    from diffmem.api.spreading import spread_over
    from diffmem.data import open_images, write_images
    from diffmem.memorization.neighbours.groups import near_duplicates
    from diffmem.reports.duplicates import duplicates_tables, radius_text, write_duplicates

    # Before the work, so that a mistake costs no time.
    if not 0 <= radius <= 255:
        raise UserError(f"--radius must lie between 0 and 255 grey levels, not {radius:g}.")
    if dedup is not None:
        check_target((data,), dedup)
    if executor is not None and out is None:
        raise UserError("With --executor, name a folder with --out: workers need it.")
    if out is not None and out.exists() and not out.is_dir():
        raise UserError(f"--out {out} is a file; name a folder.")
    place = None if out is None else out / "pieces"
    with locked_folder(out):
        with spread_over(executor, "cpu", place), show_progress("Comparing") as progress:
            images = open_images(data, split, progress)
            groups = near_duplicates(images.images, radius, progress=progress)
        to = console()
        for table in duplicates_tables(data, images, groups):
            to.print(table)
        if out is not None:
            for path in write_duplicates(data, images, groups, out):
                print(f"written: {path}")
        if dedup is not None:
            step = (
                f"{count_text(groups.removed, 'image', 'images')} removed that repeat an earlier one within "
                f"{radius_text(radius)}, directly or through others ({count_text(len(groups), 'group', 'groups')})"
            )
            clean = images.take(groups.distinct, step)
            with show_progress("Writing") as progress:
                write_images(clean, dedup, progress)
            print(f"{dedup}: {set_text(clean)}, fingerprint {clean.fingerprint[:16]}")
