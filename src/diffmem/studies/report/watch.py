"""The table of a study for a terminal: what every training does right now."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from diffmem.errors import DiffmemError
from diffmem.memorization import RatioRule
from diffmem.memorization.rates import Rate
from diffmem.reports.tables import text_table
from diffmem.reports.text import rate_text, size_text
from diffmem.runs.evaluations import summary
from diffmem.runs.run import Run
from diffmem.studies.study import Study
from diffmem.text import duration_text
from diffmem.training.loop import snapshots_in

if TYPE_CHECKING:
    from rich.table import Table

    from diffmem.runs.store.workers import Status

__all__ = ["WatchRow", "grid_rows", "watch_table"]


@dataclass(frozen=True)
class WatchRow:
    """What is known of a training.

    Attributes:
        level: Name of its level.
        rate: R_mem at the best evaluation point; none before there is one.
        decision: What it says, or that it waits.
    """

    run_id: str
    level: str
    size: int
    seed: int
    epochs_trained: float
    epochs: float
    rate: Rate | None
    decision: str


def grid_rows(levels: Mapping[str, Study]) -> list[WatchRow]:
    """Return what is known of the runs of a grid, finished or not."""
    rows = []
    for name, study in levels.items():
        sampling, measure = study.recipe.sampling, study.recipe.measure
        for run in study.runs():
            size, trained = len(run.training_set), max(snapshots_in(run.folder), default=0)
            finished = run.is_finished(sampling, measure)
            rows.append(
                WatchRow(
                    run_id=run.run_id,
                    level=name,
                    size=size,
                    seed=run.seed,
                    epochs_trained=min(trained, run.points[-1]) / size,
                    epochs=run.points[-1] / size,
                    rate=_best(run, study),
                    decision="finished" if finished else "waiting",
                )
            )
    return rows


def _best(run: Run, study: Study) -> Rate | None:
    measure, rates = study.recipe.measure, list[Rate]()
    store, size = run.evaluation_store(study.recipe.sampling, measure.samples), len(run.training_set)
    for seen in run.points:
        with suppress(DiffmemError):  # not there yet, or damaged: made anew when the run is next worked on
            found = summary(
                store.read(seen),
                RatioRule(measure.threshold),
                size,
                int(np.prod(run.training_set.shape)),
                None,
            )
            rates.append(found.memorized)
    return max(rates, key=lambda rate: rate.value, default=None)


def watch_table(
    title: str, caption: str, factor: str, rows: Sequence[WatchRow | str], live: Mapping[str, Status]
) -> Table:
    """Return every training with what it does: level, size, seed, epoch, R_mem so far, decision, time left; for 80 columns.

    The runs in work come first, then the others in their order.

    Args:
        factor: What the levels are.
        rows: The trainings, and the names of levels that have none yet.
        live: Id of each run in work -> what it does. A run that the rows do not have yet gets a row with its id.
    """
    from rich.text import Text

    table = text_table(title, caption, narrow=True)
    table.add_column(Text(factor), max_width=20, min_width=6, overflow="fold")
    for name in ("N", "seed", "epoch", "R_mem so far"):
        table.add_column(name, justify="right", no_wrap=True)
    table.add_column("decision", overflow="fold", min_width=9)
    table.add_column("time left", justify="right", no_wrap=True)
    known = {row.run_id for row in rows if isinstance(row, WatchRow)}
    working = [
        [run_id, "–", "–", f"{100 * status.done / max(status.total, 1):.0f}%", "–", *_live_cells(status)]
        for run_id, status in live.items()
        if run_id not in known
    ]
    others: list[list[str]] = []
    for row in rows:
        if isinstance(row, str):
            others.append([row, "–", "–", "–", "–", "no runs yet", ""])
            continue
        status = live.get(row.run_id)
        rate = "–" if row.rate is None else rate_text(row.rate)
        cells = [row.level, size_text(row.size), str(row.seed), _epochs(row, status), rate]
        if status is None:
            others.append([*cells, row.decision, ""])
        else:
            working.append([*cells, *_live_cells(status)])
    for cells in working:
        table.add_row(*map(Text, cells), style="bold")
    if working:
        table.add_section()
    for cells in others:
        table.add_row(*map(Text, cells))
    return table


def _epochs(row: WatchRow, status: Status | None) -> str:
    # The record is as old as the last evaluation; the worker's own count is newer.
    done = 0.0 if status is None else min(status.done / max(status.total, 1), 1.0)
    trained = max(row.epochs_trained, float(round(done * row.epochs)))
    return f"{size_text(trained)}/{size_text(row.epochs)}"


def _live_cells(status: Status) -> list[str]:
    """Return what a run in work does, and the time left."""
    return [
        status.note or "in work",
        "–" if status.seconds_left is None else duration_text(status.seconds_left),
    ]
