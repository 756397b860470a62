"""`diffmem measure --expdir`: all snapshots of a run."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from diffmem.runs.records import Evaluation, RunRecord

__all__ = ["print_run"]


def print_run(record: RunRecord, threshold: float) -> None:
    """Print R_mem of every snapshot as a table."""
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
