"""`diffmem data`: build a data set, inspect one, find its duplicates, download one."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

from cyclopts import Group, Parameter

from diffmem.cli.options import AS_USUAL, ReadingOptions
from diffmem.console import console, warn
from diffmem.errors import UserError
from diffmem.progress import Progress, Stages, show_progress
from diffmem.text import bytes_text, count_text

if TYPE_CHECKING:
    from rich.table import Table

    from diffmem.data.canaries import CanarySet
    from diffmem.data.images import ImageSet

__all__ = ["check_outside", "check_target", "data_build", "data_fetch", "data_info", "set_text"]

_SOURCES = Parameter(group=Group("Mixtures of two sources, ImageNet", sort_key=1))
_TEXTS = Parameter(group=Group("Labels and captions", sort_key=2))
_PLANTED = Parameter(group=Group("Planted duplicates and canaries", sort_key=3))
"""Headings of the help, before that of `READING`."""

_MOST_CLASSES_SHOWN = 20
_ENOUGH_CANARIES = 5


def data_build(
    source: str,
    out: Path,
    *,
    size: int | None = None,
    resolution: int | None = None,
    gray: bool = False,
    classes: Annotated[list[str] | None, Parameter(negative="")] = None,
    selection: Literal["balanced", "first", "random"] | None = None,
    seed: int = 0,
    reading: ReadingOptions = AS_USUAL,
    synsets: Annotated[str | None, _SOURCES] = None,
    mix: Annotated[str | None, _SOURCES] = None,
    share: Annotated[float | None, _SOURCES] = None,
    mix_classes: Annotated[list[str] | None, _SOURCES, Parameter(negative="")] = None,
    mix_synsets: Annotated[str | None, _SOURCES] = None,
    labels: Annotated[Literal["true", "random", "unique", "none"] | None, _TEXTS] = None,
    label_classes: Annotated[int | None, _TEXTS] = None,
    duplicate: Annotated[float | None, _PLANTED] = None,
    copies: Annotated[int | None, _PLANTED] = None,
    captions: Annotated[bool, _TEXTS] = False,
    form: Annotated[Literal["imagefolder", "kohya"] | None, _TEXTS] = None,
    canaries: Annotated[int | None, _PLANTED] = None,
    repeats: Annotated[str | None, _PLANTED] = None,
    processes: int | None = None,
) -> None:
    """Build a data set: choose images of a source, bring them to one form, write them to one file.

    Sets of one seed are nested: a smaller one is contained in a larger one. If it is interrupted or killed while it decodes, the same
    command goes on.

    Example: diffmem data build cifar-10-python.tar.gz datasets/cifar10-1k.zip --size 1000 --resolution 32

    Args:
        source: What to read: the word digits; the archive of CIFAR-10, CIFAR-100 or STL-10; SVHN's .mat files; a folder of images
            (sub-folders are classes, or metadata.jsonl describes them, or captions lie beside them, as in kohya's folders
            N_name); a .csv that lists them; a .zip; a .tar, or WebDataset shards ('train-{000..012}.tar', or their folder);
            Parquet with images; what Hugging Face datasets saved or cached; an .npz (MedMNIST, or any by --key) or .npy; IDX
            files (MNIST's format); with --synsets, ImageNet's folder.
        out: What to write: .zip (PNGs and dataset.json, as EDM reads them), .npz, .npy, which is never read
            into memory as a whole (labels and names go to .meta.npz beside it), .tar (WebDataset; several shards by
            'train-{000..012}.tar'), or, without an ending, a new folder of PNGs, see --form.
        size: Number of different images; all if left out.
        resolution: Side of the images in pixels; as they are if left out.
        gray: Turn the images grey.
        classes: Names or numbers of the classes to keep; all if left out.
        selection: How images are chosen: balanced (the first of each class), first, or random. If left out:
            balanced where there are labels, else first.
        seed: Seed of random selections, random labels, duplicates, and the choice of ImageNet's images.
        synsets: Classes of ImageNet to read: dogs (the 123 of the paper), or a text file of WordNet ids.
        mix: A second source, to be mixed in; needs --size and --share.
        share: Share of the images that come from the second source, from 0 to 1.
        mix_classes: Classes to keep of the second source.
        mix_synsets: Like --synsets, for the second source.
        labels: true keeps the labels and insists on them; random draws them (needs --label-classes), unique
            gives each image its own, none removes them. As they are if left out.
        label_classes: Number of classes of random labels.
        duplicate: Share of the images that are to occur several times, from 0 to 1; needs --copies.
        copies: How often they occur in total.
        captions: Insist on captions: the set is for a text-to-image model. Canaries get captions of their own.
        form: Of a folder that is written: imagefolder (metadata.jsonl), or kohya (N_images with a .txt beside each image, N = repeats).
            If left out, kohya for a set with repeats, else imagefolder.
        canaries: Take twice as many images out, mark them, and put this many back; the others are their control group.
            Both are kept in OUT.canaries.npz, for diffmem audit --canaries. Needs --repeats.
        repeats: How often each of the canaries that are put back occurs; of 1+5+25, a third of them once, 5 and 25 times each.
        processes: How many processes decode images, where there are thousands; one for each core if left out.
    """
    from diffmem.data.build import BuildConfig, build
    from diffmem.data.canaries import canaries_path, check_canaries, parse_repeats, plant_canaries
    from diffmem.data.formats.workers import decoding_processes
    from diffmem.data.resuming import resumable
    from diffmem.data.storage import little_memory
    from diffmem.data.write import meta_path, write_images, written_files

    config = BuildConfig(
        size=size, resolution=resolution, gray=gray, classes=classes, selection=selection, seed=seed,
        reading=reading.reading(resolution), synsets=synsets, mix=mix, share=share, mix_classes=mix_classes,
        mix_synsets=mix_synsets, labels=labels, label_classes=label_classes, duplicate=duplicate, copies=copies,
    )  # fmt: skip
    check_target((source, mix), out)
    levels = None if repeats is None else parse_repeats(repeats)
    check_canaries(canaries, levels)
    planted = None
    with (
        show_progress("Building") as progress,
        little_memory(),
        decoding_processes(_count(processes)),
        resumable(out, warn),
    ):
        stages = Stages(progress, read=8, write=1)
        images = build(source, config, stages.read)
        if captions and images.captions is None:
            raise UserError(
                f"{source} has no captions: give metadata.jsonl with a text for each image, or a .txt beside it."
            )
        if canaries is not None and levels is not None:
            images, planted = plant_canaries(images, canaries, levels, seed, captions=captions)
            # First: a set whose canaries nobody knows would be of no use.
            planted.save(canaries_path(out))
        write_images(images, out, stages.write, form)
    beside = f"; labels and names in {meta_path(out)}" if out.suffix.lower() == ".npy" else ""
    files = [file for file in out.rglob("*") if file.is_file()] if out.is_dir() else written_files(out)
    size_text = bytes_text(sum(file.stat().st_size for file in files))
    print(f"{out}: {set_text(images)}, fingerprint {images.fingerprint[:16]}, {size_text}{beside}")
    for conversion in images.conversions:
        print(f"  {conversion.sentence}")
    if planted is not None:
        print(_canaries_text(planted, canaries_path(out)))
    elif canaries_path(out).exists():
        warn(f"{canaries_path(out)} is of an earlier set, whose canaries this one does not hold; delete it.")


def data_info(
    path: str,
    *,
    reading: ReadingOptions = AS_USUAL,
    resolution: int | None = None,
    sheet: Path | None = None,
    processes: int | None = None,
) -> None:
    """Show what a data set holds: images, classes, exact duplicates, fingerprint, history.

    Example: diffmem data info datasets/cifar10-1k.zip --sheet cifar10-1k.png

    Args:
        path: The data set: anything that `data build` reads, for example its output.
        resolution: Side in pixels that --fit brings all images to.
        sheet: Also write a contact sheet, a .png with a row of images for each class.
        processes: How many processes decode images, where there are thousands; one for each core if left out.
    """
    from diffmem.data.formats.workers import decoding_processes
    from diffmem.data.sheet import contact_sheet
    from diffmem.data.sources import open_images
    from diffmem.data.storage import little_memory

    how = reading.reading(resolution)
    if resolution is not None and reading.fit is None:
        raise UserError("--resolution shows images of another size only with --fit; data build writes them.")
    with show_progress("Reading") as progress, little_memory(), decoding_processes(_count(processes)):
        stages = Stages(progress, read=8, look=3)
        images = open_images(path, progress=stages.read, reading=how)
        table = _table(path, images, stages.look)
    console().print(table)
    if sheet is not None:
        contact_sheet(images, sheet)
        print(f"contact sheet: {sheet}")


def data_fetch(name: Literal["cifar10"], *, out: Path | None = None) -> None:
    """Download a published data set and check it; an interrupted download is resumed.

    Example: diffmem data fetch cifar10

    Args:
        name: Which: cifar10, the 170 MB archive of CIFAR-10 for Python, from its authors' site.
        out: File to write; datasets/cifar10/cifar-10-python.tar.gz if left out.
    """
    from diffmem.data.fetch import DOWNLOADS, fetch

    download = DOWNLOADS[name]
    target = out or Path("datasets") / name / download.file
    with show_progress(f"Downloading {download.file}") as progress:
        new = fetch(download, target, progress)
    outcome = "downloaded" if new else "is complete already, nothing was downloaded"
    print(f"{target}: {outcome} ({bytes_text(download.size)}, MD5 {download.md5})")


def _count(processes: int | None) -> int:
    from diffmem.data.formats.workers import available_processes

    if processes is not None and processes < 1:
        raise UserError(f"Images are decoded by 1 process or more, not {processes}.")
    return processes or available_processes()


def check_target(sources: tuple[str | None, ...], out: Path) -> None:
    """Refuse, before the work, a file to write with a wrong ending or that is one of the sources itself."""
    from diffmem.data.write import check_ending

    check_ending(out)
    for _, path in _places(sources):
        if out.exists() and path.exists() and out.samefile(path):
            raise UserError(f"{out} is the source itself; write to another file.")
    if not out.suffix:
        check_outside(sources, out)


def _places(sources: tuple[str | None, ...]) -> list[tuple[str, Path]]:
    """Return the sources that are files or folders, with their paths."""
    return [(source, Path(source).expanduser()) for source in sources if source and source != "digits"]


def check_outside(sources: tuple[str | None, ...], out: Path) -> None:
    """Refuse a folder to write that lies in a folder that is read: its pictures would be read as images the next time."""
    place = out.resolve()
    for source, path in _places(sources):
        if path.is_dir() and place.is_relative_to(path.resolve()):
            raise UserError(
                f"{out} lies in {source}, whose images are read: what is written there would be read with them the next time. Name a"
                " folder elsewhere."
            )


def _canaries_text(planted: CanarySet, path: Path) -> str:
    from diffmem.data.canaries import smallest_p_value

    times = (
        planted.repeats
        if planted.levels is None
        else " or ".join(map(str, sorted(set(planted.levels.tolist()))))
    )
    text = (
        f"{path}: {len(planted)} canaries that are in the set {times} times each, and {len(planted)} control canaries that"
        " are not; do not train on this file."
    )
    if len(planted) >= _ENOUGH_CANARIES:
        return text
    return (
        f"{text} So few have little power: the smallest p-value of their exposure is {smallest_p_value(len(planted)):.2g}; plant"
        f" {_ENOUGH_CANARIES} or more."
    )


def _table(path: str, images: ImageSet, progress: Progress) -> Table:
    import numpy as np
    from rich.table import Table
    from rich.text import Text

    from diffmem.data.duplicates import duplicate_groups

    stages = Stages(progress, copies=2, pixels=1)
    copies = int(np.count_nonzero(duplicate_groups(images, stages.copies) != np.arange(len(images))))
    channels, height, width = images.shape
    rows = {
        "images": f"{len(images):,}",
        "shape": f"{channels} x {height} x {width} (C x H x W), {'grey' if channels == 1 else 'RGB'}, uint8",
        "pixels": _pixels(images, stages.pixels),
        "labels": "none" if images.labels is None else f"0 to {images.num_classes - 1}",
        "classes": _classes(images),
        **_texts(images),
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


def _pixels(images: ImageSet, progress: Progress) -> str:
    import math

    import numpy as np

    from diffmem.data.storage import parts

    lowest, highest, total = 255, 0, 0
    for part in parts(len(images), math.prod(images.shape)):
        pixels = images.images[part]
        lowest, highest = min(lowest, int(pixels.min())), max(highest, int(pixels.max()))
        total += int(pixels.sum(dtype=np.uint64))
        progress(part.stop, len(images), "looking at pixels")
    return f"{lowest} to {highest}, mean {total / images.images.size:.1f}"


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


def _texts(images: ImageSet) -> dict[str, str]:
    """Return the rows on captions and repeats, each where there are any."""
    import numpy as np

    rows = {}
    if images.captions is not None:
        given = [caption for caption in images.captions if caption is not None]
        rows["captions"] = f"{len(given):,} of {len(images):,} images, {len(set(given)):,} different"
    if images.repeats is not None:
        times, counts = np.unique(images.repeats, return_counts=True)
        shown = [
            f"{time:,} ({count_text(count, 'image')})"
            for time, count in zip(times[:_MOST_CLASSES_SHOWN].tolist(), counts.tolist(), strict=False)
        ]
        if len(times) > len(shown):
            shown.append(f"... {len(times):,} in all, up to {times[-1]:,}")
        rows["repeats"] = ", ".join(shown)
    return rows


def set_text(images: ImageSet) -> str:
    """Return the number, shape and classes of a set in a few words, and its captions where it has some."""
    shape = " x ".join(map(str, images.shape))
    classes = "no labels" if images.labels is None else f"{images.num_classes:,} classes"
    captions = "" if images.captions is None else ", with captions"
    return f"{len(images):,} images of {shape} (C x H x W), {classes}{captions}"
