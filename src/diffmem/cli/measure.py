"""`diffmem measure`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from diffmem.cli.common import Settings
from diffmem.errors import UserError

if TYPE_CHECKING:
    from diffmem.memorization import Measurement

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
    in its folder. Interrupt with Ctrl-C: the same command goes on where it stopped.

    Example: diffmem measure samples.npz --train cifar10-1k.zip --heldout cifar10-test.zip --gallery worst.png

    Example: diffmem measure --expdir runs/0123456789abcdef --train cifar10-1k.zip --samples 10000 --out run.json

    Args:
        generated: Generated images: a file of `diffmem generate`, or any source of `diffmem data build`.
        expdir: Folder of a run, made by `diffmem train` or a study, finished or not.
        train: The whole training set, in the form in which the model saw it. With --expdir it may be left out where it
            was given before or a study keeps it.
        heldout: Images of the same kind that were not trained on, for the null rate.
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
        from diffmem.cli.common import choose_device
        from diffmem.cli.measure_run import measure_run

        measure_run(
            expdir, number=10_000 if samples is None else samples, settings=set_ or [], train=train, heldout=heldout,
            threshold=threshold, frechet=frechet, out=out, device=choose_device(device),
        )  # fmt: skip
        return
    for name, given in (("--samples", samples), ("--set", set_), ("--frechet", frechet)):
        if given is not None:
            raise UserError(f"{name} is for a run's folder; give it with --expdir.")
    if train is None:
        raise UserError("Name the training images with --train: samples are compared with all of them.")
    if generated is not None:
        _measure_samples(generated, train, heldout, threshold, out, gallery, index, device)


def _measure_samples(
    samples: str,
    train: str,
    heldout: str | None,
    threshold: float,
    out: Path | None,
    gallery: Path | None,
    index: Path | None,
    device: str | None,
) -> None:
    import numpy as np

    from diffmem.cli.common import choose_device
    from diffmem.data import open_images
    from diffmem.distributed import world
    from diffmem.files import write_bytes, write_json
    from diffmem.memorization import RatioRule
    from diffmem.memorization import measure as measure_images
    from diffmem.progress import show_progress

    place = choose_device(device)
    rule = RatioRule(threshold)
    with show_progress("Reading images") as progress:
        made, training = open_images(samples, progress=progress), open_images(train, progress=progress)
        fresh = None if heldout is None else open_images(heldout, progress=progress)
    with show_progress("Measuring") as progress:
        found = measure_images(
            made.images, training.images, heldout=None if fresh is None else fresh.images, criterion=rule,
            index=index, device=place, progress=progress,
        )  # fmt: skip
    if not world().is_main:
        return
    _print(found)
    if out is not None:
        sets = {
            "samples": made.fingerprint,
            "train": training.fingerprint,
            "heldout": fresh.fingerprint if fresh else None,
        }
        write_json(out, {**found.to_json(), "fingerprints": sets})
        found.neighbours.save(out.with_suffix(".neighbours.npz"))
        print(out)
    if gallery is not None:
        from diffmem.memorization.examples import Example
        from diffmem.reports.gallery import gallery_figure
        from diffmem.reports.html import png_bytes

        worst = np.argsort(found.ratio, kind="stable")[:8]
        pairs = found.neighbours.indices[worst]
        shown = Example(
            "The samples of smallest ratio",
            made.images[worst],
            training.images[pairs[:, 0]],
            training.images[pairs[:, 1]],
            found.ratio[worst],
            threshold,
        )
        write_bytes(gallery, png_bytes(gallery_figure(shown)))
        print(gallery)


def _print(found: Measurement) -> None:
    from rich.table import Table

    from diffmem.console import console

    table = Table(box=None, show_header=False)
    table.add_row("R_mem", str(found.rate))
    table.add_row(
        "null rate (held-out images)",
        "not measured: give --heldout" if found.null is None else str(found.null),
    )
    table.add_row(
        "distinct training images copied",
        f"{found.distinct_replicated} of {found.training_images - found.duplicates}",
    )
    table.add_row("mean distance to the nearest", f"{found.mean_nearest_rms:.2f} grey levels RMS")
    table.add_row("protocol", found.protocol)
    to = console()
    to.print(table)
    for warning in found.warnings:
        to.print(f"note: {warning}")
