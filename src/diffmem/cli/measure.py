"""`diffmem measure`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from diffmem.cli.options import Settings
from diffmem.console import console
from diffmem.distributed import world
from diffmem.errors import UserError

if TYPE_CHECKING:
    from diffmem.api.measuring import Measured
    from diffmem.runs.records import Evaluation, RunRecord

__all__ = ["measure"]


def measure(
    generated: str | None = None,
    /,
    *,
    expdir: Path | None = None,
    train: str | None = None,
    heldout: str | None = None,
    threshold: float = 1 / 3,
    samples: int | None = None,
    set_: Settings = None,
    frechet: str | None = None,
    out: Path | None = None,
    gallery: Path | None = None,
    index: Path | None = None,
    device: str | None = None,
) -> None:
    """Measure how many images copy a training image: R_mem with its interval, and the null rate beside it.

    Give either generated images, or --expdir: then images are generated from all snapshots of a run, measured, and kept
    in its folder. Interrupt with Ctrl-C: the same command resumes.

    Example: diffmem measure samples.npz --train cifar10-1k.zip --heldout cifar10-test.zip --gallery worst.png

    Example: diffmem measure --expdir runs/0123456789abcdef --train cifar10-1k.zip --samples 10000 --out run.json

    Args:
        generated: Generated images: a file of `diffmem generate`, or any source of `diffmem data build`.
        expdir: Folder of a run, made by `diffmem train` or a study, finished or not.
        train: The whole training set, in the form in which the model saw it. With --expdir it may be left out where it
            was given before or a study keeps it.
        heldout: Images of the same source that were not trained on, for the null rate.
        threshold: A sample is memorized if its nearest training image is closer than this times the
            second nearest.
        samples: With --expdir: images generated from each snapshot, seeds 0, 1, 2, ...; 10000 if not given.
        set_: With --expdir: change a setting of the sampler, key=value, for example steps=40; may be repeated.
        frechet: With --expdir: also a Frechet distance to the training images: pixels, inception (the FID; needs
            diffmem[fid]), or a TorchScript file.
        out: Also write the numbers to this .json file, and for samples their neighbours beside it.
        gallery: For samples: also draw the eight of smallest ratio with their neighbours to this .png.
        index: File that keeps the index of the training images for the next measurement, for example train.index. Made if
            it is not there; saves time with tens of thousands of images on a CPU.
        device: cpu, cuda or cuda:N; by default a GPU where there is one.
    """
    if (generated is None) == (expdir is None):
        raise UserError("Give either a file of generated images, or a run's folder with --expdir.")
    for path, ending in ((out, ".json"), (gallery, ".png")):
        if path is not None and path.suffix.lower() != ending:
            raise UserError(f"{path.name!r} must end in {ending}; give the file this ending.")
    if expdir is not None:
        if gallery is not None:
            raise UserError("--gallery is for generated images; give them in place of --expdir.")
        if index is not None:
            raise UserError("--index is for generated images; a run keeps its neighbours in its folder.")
        from diffmem.api.measuring import measure_run
        from diffmem.runs.recipe import MeasureConfig
        from diffmem.sampling import SamplerConfig
        from diffmem.settings import load_recipe

        given = [f"samples={10_000 if samples is None else samples}", f"threshold={threshold!r}"]
        config = load_recipe(MeasureConfig, None, given).model_copy(update={"frechet": frechet})
        run = measure_run(
            expdir, training=train, heldout=heldout, sampler=load_recipe(SamplerConfig, None, set_ or []), config=config,
            device=device,
        )  # fmt: skip
        if world().is_main:
            _print_run(run.record, threshold)
            if out is not None:
                print(run.save(out))
        return
    for name, option in (("--samples", samples), ("--set", set_), ("--frechet", frechet)):
        if option is not None:
            raise UserError(f"{name} is for a run's folder; give it with --expdir.")
    if train is None:
        raise UserError("Name the training images with --train: samples are compared with all of them.")
    from diffmem.api.measuring import measure as measure_images

    assert generated is not None
    found = measure_images(generated, train, heldout=heldout, threshold=threshold, index=index, device=device)
    if world().is_main:
        _print(found)
        if out is not None:
            print(found.save(out))
        if gallery is not None:
            print(found.gallery(gallery))


def _print(found: Measured) -> None:
    from rich.table import Table

    table = Table(box=None, show_header=False)
    for row in found.rows():
        table.add_row(*row)
    to = console()
    to.print(table)
    for warning in found.warnings:
        to.print(f"note: {warning}")


def _print_run(record: RunRecord, threshold: float) -> None:
    """Print R_mem of every snapshot of a run as a table."""
    from rich.table import Table

    from diffmem.reports.text import rate_text

    first = record.evaluations[0]
    titles = ["epoch", "R_mem", "null", "copied", "mean nearest"]
    if first.frechet_of is not None:
        titles.append("FID" if first.frechet_of == "inception" else "Frechet")
    table = Table(*titles, box=None)
    null = "-" if record.null is None else rate_text(record.null)
    for each in record.evaluations:
        cells = [
            _epoch(each),
            rate_text(each.memorized),
            null,
            str(each.distinct_replicated),
            f"{each.mean_nearest_distance:.2f}",
        ]
        if first.frechet_of is not None:
            cells.append("-" if each.frechet is None else f"{each.frechet:.4g}")
        table.add_row(*cells)
    console(soft_wrap=True).print(table)
    print(f"maximum {_line(record.peak)}; last {_line(record.last)}")
    total = first.memorized.total
    print(
        f"{total} images of each snapshot, d1 / d2 below {threshold:.4g}; copied: distinct training images of"
        f" {record.size - record.duplicates}; distances in grey levels RMS."
    )
    if first.frechet_of not in (None, "inception"):
        print(
            f"Frechet: squared Frechet distance of {first.frechet_of} to the training images; this is no FID."
        )
    if record.null is None:
        print("note: the null rate was not measured: give --heldout.")
    if first.frechet_note is not None:
        print(f"note: {first.frechet_note}")


def _line(one: Evaluation) -> str:
    from diffmem.reports.text import rate_text

    return f"{rate_text(one.memorized)} at epoch {_epoch(one)}"


def _epoch(one: Evaluation) -> str:
    return f"{one.epoch:.3g}" if one.epoch < 10 else f"{one.epoch:,.0f}"
