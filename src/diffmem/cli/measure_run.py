"""`diffmem measure --expdir`: all snapshots of a run."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from diffmem.errors import UserError

if TYPE_CHECKING:
    from diffmem.runs.records import Evaluation, RunRecord

__all__ = ["measure_run"]


def measure_run(
    folder: Path,
    *,
    number: int,
    settings: Sequence[str],
    train: str | None,
    heldout: str | None,
    threshold: float,
    frechet: str | None,
    out: Path | None,
    device: str,
) -> None:
    """Measure every snapshot of a run's folder that is not measured yet, print the table and write it if asked.

    Raises:
        UserError: An argument is wrong, or the folder is not that of a run.
    """
    from diffmem.cli.common import warn
    from diffmem.data import open_images
    from diffmem.distributed import world
    from diffmem.files import write_json
    from diffmem.memorization import RatioRule, protocol_id
    from diffmem.memorization.features import open_features
    from diffmem.progress import show_progress
    from diffmem.runs.opening import open_run, remember_data, snapshots_of
    from diffmem.runs.recipe import MeasureConfig
    from diffmem.sampling import SamplerConfig
    from diffmem.settings import load_recipe

    sampling = load_recipe(SamplerConfig, None, settings)
    given = [f"samples={number}", f"threshold={threshold!r}"]
    measure = load_recipe(MeasureConfig, None, given).model_copy(update={"frechet": frechet})
    if not folder.is_dir():
        raise UserError(
            f"There is no folder {folder}; name the folder of a run, made by diffmem train or a study."
        )
    here = world()
    points = here.broadcast(snapshots_of(folder, warn) if here.is_main else [])
    features = None if frechet is None else open_features(frechet, device)
    with show_progress("Reading images") as progress:
        fresh = None if heldout is None else open_images(heldout, progress=progress)
        run = open_run(folder, train, fresh, progress)
    if fresh is not None and fresh.shape != run.training_set.shape:
        raise UserError(
            f"The held-out images of {heldout} have shape {fresh.shape}, the training images"
            f" {run.training_set.shape} (C, H, W); give images of one shape."
        )
    if train is not None:
        remember_data(folder, train)
    with show_progress("Measuring") as progress:
        for index, seen in enumerate(points):

            def tell(done: float, total: float, note: str = "", index: int = index, seen: int = seen) -> None:
                progress(index + done / total, len(points), f"epoch {seen / len(run.training_set):.0f}")

            run.evaluate(seen, sampling, number, features, device=device, progress=tell, warn=warn)
            progress(index + 1, len(points))
        run.measure_null(device=device, warn=warn)
    record = run.record(sampling, measure, folder, points)
    if not here.is_main:
        return
    _print(record, measure.threshold)
    if out is not None:
        protocol = {"protocol": protocol_id(RatioRule(threshold)), "sampling": sampling.describe()}
        sets = {"train": run.training_set.fingerprint, "heldout": fresh.fingerprint if fresh else None}
        content = {**protocol, "fingerprints": sets, **record.model_dump(mode="json")}
        write_json(out, {**content, "folder": str(folder)})
        print(out)


def _print(record: RunRecord, threshold: float) -> None:
    from rich.table import Table

    from diffmem.console import console
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
