"""`diffmem measure`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from diffmem.memorization import Measurement

__all__ = ["measure"]


def measure(
    samples: str,
    *,
    train: str,
    heldout: str | None = None,
    threshold: float = 1 / 3,
    out: Path | None = None,
    gallery: Path | None = None,
    device: str | None = None,
) -> None:
    """Measure how many samples copy a training image: R_mem with its interval, and the null rate beside it.

    Example: diffmem measure samples.npz --train cifar10-1k.zip --heldout cifar10-test.zip --gallery worst.png

    Args:
        samples: Generated images: a file of `diffmem generate`, or any source of `diffmem data build`.
        train: The whole training set, in the form in which the model saw it.
        heldout: Images of the same kind that were not trained on, for the null rate.
        threshold: A sample is memorized if its nearest training image is closer than this times the
            second nearest.
        out: Also write the numbers to this .json file, and the neighbours beside it.
        gallery: Also draw the eight samples of smallest ratio with their neighbours to this .png.
        device: cpu, cuda or cuda:N; by default a GPU where there is one.
    """
    import numpy as np

    from diffmem.cli.common import choose_device
    from diffmem.data import open_images
    from diffmem.errors import UserError
    from diffmem.files import write_json
    from diffmem.memorization import RatioRule
    from diffmem.memorization import measure as measure_images
    from diffmem.progress import show_progress

    for path, ending in ((out, ".json"), (gallery, ".png")):
        if path is not None and path.suffix.lower() != ending:
            raise UserError(f"{path.name!r} must end in {ending}; give the file this ending.")
    place = choose_device(device)
    rule = RatioRule(threshold)
    with show_progress("Reading images") as progress:
        made, training = open_images(samples, progress=progress), open_images(train, progress=progress)
        fresh = None if heldout is None else open_images(heldout, progress=progress)
    with show_progress("Measuring") as progress:
        found = measure_images(
            made.images, training.images, heldout=None if fresh is None else fresh.images, criterion=rule,
            device=place, progress=progress,
        )  # fmt: skip
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
        from diffmem.reports import gallery_figure, save_figure

        worst = np.argsort(found.ratio, kind="stable")[:8]
        pairs = found.neighbours.indices[worst]
        figure = gallery_figure(
            "The samples of smallest ratio",
            made.images[worst],
            training.images[pairs[:, 0]],
            training.images[pairs[:, 1]],
            found.ratio[worst].tolist(),
            threshold,
        )
        save_figure(figure, gallery)
        print(gallery)


def _print(found: Measurement) -> None:
    from rich.console import Console
    from rich.table import Table

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
    console = Console()
    console.print(table)
    for warning in found.warnings:
        console.print(f"note: {warning}", markup=False)
