"""`diffmem data`: build a data set, look at one."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    from rich.table import Table

    from diffmem.data.images import ImageSet

__all__ = ["data_build", "data_info"]

_MOST_CLASSES_SHOWN = 20


def data_build(
    source: str,
    out: Path,
    *,
    size: int | None = None,
    resolution: int | None = None,
    gray: bool = False,
    classes: list[str] | None = None,
    selection: Literal["balanced", "first", "random"] | None = None,
    seed: int = 0,
    split: Literal["train", "test"] = "train",
) -> None:
    """Build a data set: choose images of a source, bring them to one form, write them to one file.

    Example: diffmem data build cifar-10-python.tar.gz datasets/cifar10-1k.zip --size 1000 --resolution 32

    Args:
        source: What to read: the word digits, a CIFAR-10 archive, a folder of images (sub-folders are
            classes), a .zip, an .npz with uint8 images, or IDX files (MNIST's format).
        out: File to write, .zip (PNGs and dataset.json, as EDM reads them) or .npz.
        size: Number of images; all if left out.
        resolution: Side of the images in pixels; as they are if left out.
        gray: Turn the images grey.
        classes: Names or numbers of the classes to keep; all if left out.
        selection: How images are chosen: balanced (the first of each class), first, or random. If left out:
            balanced where there are labels, else first.
        seed: Seed of the random selection.
        split: Which split of the source to read.
    """
    from diffmem.data.build import build, write_images
    from diffmem.progress import show_progress

    _check_target(source, out)
    with show_progress("Building") as progress:
        images = build(
            source,
            size=size,
            resolution=resolution,
            gray=gray,
            classes=classes,
            selection=selection,
            seed=seed,
            split=split,
            progress=progress,
        )
        write_images(images, out, progress)
    print(
        f"{out}: {_in_words(images)}, fingerprint {images.fingerprint[:16]}, "
        f"{_bytes_in_words(out.stat().st_size)}"
    )


def data_info(path: str, *, split: Literal["train", "test"] = "train", sheet: Path | None = None) -> None:
    """Show what a data set holds: images, classes, exact duplicates, fingerprint, history.

    Example: diffmem data info datasets/cifar10-1k.zip --sheet cifar10-1k.png

    Args:
        path: The data set: anything that `data build` reads, for example its output.
        split: Which split of it to read.
        sheet: Also write a contact sheet, a .png with a row of images for each class.
    """
    from rich.console import Console

    from diffmem.data.sheet import contact_sheet
    from diffmem.data.sources import open_images
    from diffmem.progress import show_progress

    with show_progress("Reading") as progress:
        images = open_images(path, split, progress)
    Console().print(_table(path, images))
    if sheet is not None:
        contact_sheet(images, sheet)
        print(f"contact sheet: {sheet}")


def _check_target(source: str, out: Path) -> None:
    # Before the work, so that a wrong ending or a source that would be replaced costs no time.
    from diffmem.errors import UserError

    if out.suffix.lower() not in (".zip", ".npz"):
        raise UserError(
            f"A data set is written as .zip or .npz, not as {out.name!r}; give the file one of these endings."
        )
    if out.exists() and source != "digits" and Path(source).exists() and out.samefile(source):
        raise UserError(f"{out} is the source itself; write to another file.")


def _table(path: str, images: ImageSet) -> Table:
    import numpy as np
    from rich.table import Table
    from rich.text import Text

    from diffmem.data.duplicates import duplicate_groups

    copies = int(np.count_nonzero(duplicate_groups(images) != np.arange(len(images))))
    pixels = images.images
    channels, height, width = images.shape
    rows = {
        "images": f"{len(images):,}",
        "shape": f"{channels} x {height} x {width} (C x H x W), {'grey' if channels == 1 else 'RGB'}, uint8",
        "pixels": f"{pixels.min()} to {pixels.max()}, mean {pixels.mean(dtype=np.float64):.1f}",
        "labels": "none" if images.labels is None else f"0 to {images.num_classes - 1}",
        "classes": _classes(images),
        "duplicates": f"{copies:,} ({copies / len(images):.1%}) exact copies of an earlier image",
        "fingerprint": images.fingerprint,
        "history": "\n".join(f"{number}. {step}" for number, step in enumerate(images.history, 1)) or "none",
    }
    table = Table(
        title=Text(path),
        title_justify="left",
        title_style="bold",
        show_header=False,
        box=None,
        padding=(0, 2, 0, 0),
    )
    table.add_column(style="dim", no_wrap=True)
    table.add_column(overflow="fold")
    for name, value in rows.items():
        table.add_row(name, Text(value))  # as plain text: names from files are no markup
    return table


def _classes(images: ImageSet) -> str:
    import numpy as np

    if images.labels is None:
        return "none"
    counts = np.bincount(images.labels, minlength=images.num_classes)
    names = images.class_names or tuple(map(str, range(len(counts))))
    shown = [
        f"{name} {count:,}" for name, count in zip(names[:_MOST_CLASSES_SHOWN], counts.tolist(), strict=False)
    ]
    if len(counts) <= len(shown) and counts.min() == counts.max():
        return f"{len(counts)} of {counts[0]:,} images each: {', '.join(names[: len(counts)])}"
    if len(counts) > len(shown):
        shown.append(f"... {len(counts):,} in all, {counts.min():,} to {counts.max():,} images each")
    return ", ".join(shown)


def _in_words(images: ImageSet) -> str:
    shape = " x ".join(map(str, images.shape))
    classes = "no labels" if images.labels is None else f"{images.num_classes:,} classes"
    return f"{len(images):,} images of {shape} (C x H x W), {classes}"


def _bytes_in_words(count: int) -> str:
    size = float(count)
    for unit in ("B", "kB", "MB"):
        if size < 1000:
            return f"{size:.0f} {unit}" if unit == "B" else f"{size:.1f} {unit}"
        size /= 1000
    return f"{size:.1f} GB"
