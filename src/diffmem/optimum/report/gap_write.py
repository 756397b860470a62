"""The table of some gaps, and their folder: numbers and pictures."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from diffmem.optimum.gap_records import GapResult
from diffmem.optimum.report.figure import plain_table, write_figures
from diffmem.optimum.report.gap_figure import (
    INPUT_TEXT,
    correlation_text,
    gap_figure,
    loss_figure,
    position_figure,
    scatter_figure,
    side_by_side,
)
from diffmem.reports.picture_page import PicturePage
from diffmem.reports.text import rate_text, size_text
from diffmem.text import count_text

if TYPE_CHECKING:
    from rich.table import Table

    from diffmem.memorization.rates import MeanRecord

__all__ = ["gap_notes", "gap_table", "write_gap"]


_HEADS = ("run", "N", "epoch", "training", "held-out", "own\nsampling", "R_mem [95%]")


def gap_table(result: GapResult) -> Table:
    """Return one row per run for a terminal of 80 columns: positions with standard errors, and R_mem."""
    return plain_table(_HEADS, _rows(result), left=1)


def _rows(result: GapResult) -> list[Sequence[str]]:
    rows: list[Sequence[str]] = []
    for run in result.runs:
        positions = [None if (curve := run.curve(kind)) is None else curve.position for kind in INPUT_TEXT]
        rate = "not measured" if run.rmem is None else rate_text(run.rmem)
        cells = [
            Path(run.folder).name[:8],
            size_text(run.images),
            "–" if run.epoch is None else size_text(round(run.epoch)),
            *map(_mean, positions),
            rate,
        ]
        rows.append(cells)
    return rows


def _mean(mean: MeanRecord | None) -> str:
    return "–" if mean is None else f"{mean.value:.2f}±{mean.se:.2f}"


def gap_notes(result: GapResult) -> list[str]:
    """Return what belongs below the table: what the numbers are, how they go with R_mem, what is missing."""
    lines = [
        "Position of the model: 0 at the optimum of its training images, 1 at their Gaussian, ± standard error; on noisy training"
        " images, noisy held-out images and states of its own sampling.",
        *(
            f"Position on {INPUT_TEXT[one.kind]} and R_mem: {correlation_text(one)}."
            for one in result.correlations
        ),
    ]
    missing = sum(run.curve("heldout") is None for run in result.runs)
    if missing:
        lines.append(f"note: {missing} of {len(result.runs)} runs have no held-out images: give --heldout.")
    lines += [f"note: {note}" for run in result.runs if run.epoch is None for note in run.notes]
    unmeasured = sum(run.rmem is None and run.epoch is not None for run in result.runs)
    if unmeasured:
        lines.append(
            f"note: R_mem of the last snapshot is not known for {unmeasured} of {len(result.runs)} runs; see diffmem measure --expdir."
        )
    return lines


def write_gap(result: GapResult, folder: Path) -> list[Path]:
    """Write `gap.json`, `gap.html` and its pictures; see `write_figures`.

    Pictures: `gap_side_by_side`, `gap_losses`, `gap_position`, and `gap_vs_rmem` where five runs or more have R_mem.
    """
    chosen = side_by_side(result.runs)
    figures = {
        "gap_side_by_side": (
            gap_figure(chosen),
            "Distances of models to the optimum and to the Gaussian of their training images, over noise levels.",
        ),
        "gap_losses": (loss_figure(chosen), "Denoising losses over noise levels, and the least they can be."),
        "gap_position": (position_figure(result.runs), "Positions of models over noise levels."),
    }
    if result.correlations:
        drawn = scatter_figure(result.runs, result.correlations)
        figures["gap_vs_rmem"] = (drawn, "R_mem of each run over its position, as in the table.")
    meaning, *notes = gap_notes(result)
    title = f"How far {count_text(len(result.runs), 'model is', 'models are')} from the optimum"
    page = PicturePage("The gap to the optimum", title, meaning, _HEADS, _rows(result), notes)
    return write_figures(folder, figures, "gap", result, page)
