"""Tables of a search for a terminal: what every level found, and what every training does right now."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from diffmem.reports.tables import text_table
from diffmem.reports.text import rate_text, size_text, target_text
from diffmem.studies.search.records import SearchResult, SizeRecord
from diffmem.studies.search.report.text import cost_text, level_emm, search_runs, share_text
from diffmem.text import duration_text

if TYPE_CHECKING:
    from rich.table import Table

    from diffmem.runs.store.workers import Status

__all__ = ["search_table", "watch_table"]


def search_table(result: SearchResult) -> Table:
    """Return EMM of every level with its interval, the paper's value, the runs and the cost, for 80 columns."""
    from rich.text import Text

    caption = f"EMM at {target_text(result.epsilon)}; {cost_text(result)}"
    table = text_table(
        result.title, caption + ("" if result.finished else " The search is still running."), narrow=True
    )
    table.add_column(Text(result.factor), max_width=28, overflow="fold")
    for name in ("EMM [95%]" if result.confidence == 0.95 else "EMM", "paper", "runs", "of the grid's\ncost"):
        table.add_column(name, justify="right", no_wrap=name != "EMM", vertical="top")
    for level in result.levels:
        cells = [
            level.name,
            level_emm(level, result),
            "–" if level.published is None else size_text(level.published),
            str(len(level.runs)),
            share_text(level.cost),
        ]
        table.add_row(*map(Text, cells))
    return table


def watch_table(result: SearchResult, live: Mapping[str, Status]) -> Table:
    """Return every training with what it does: level, size, seed, epoch, R_mem so far, decision, time left; for 80 columns.

    The runs in work come first, then the others in the order of levels, sizes and seeds.

    Args:
        live: Id of each run in work -> what it does. A run that the records do not have yet gets a row with its id.
    """
    from rich.text import Text

    table = text_table(
        result.title,
        f"R_mem with its interval at the best evaluation point; the target is {target_text(result.epsilon)}.",
        narrow=True,
    )
    table.add_column(Text(result.factor), max_width=20, min_width=6, overflow="fold")
    for name in ("N", "seed", "epoch", "R_mem so far"):
        table.add_column(name, justify="right", no_wrap=True)
    table.add_column("decision", overflow="fold", min_width=9)
    table.add_column("time left", justify="right", no_wrap=True)
    known = {run.run_id for run in search_runs(result)}
    working = [
        [run_id, "–", "–", f"{100 * status.done / max(status.total, 1):.0f}%", "–", *_live_cells(status)]
        for run_id, status in live.items()
        if run_id not in known
    ]
    others: list[list[str]] = []
    for level in result.levels:
        for run in sorted(level.runs, key=lambda run: (run.size, run.seed)):
            status = live.get(run.run_id)
            rate = "–" if run.peak is None else rate_text(run.peak.memorized)
            cells = [level.name, size_text(run.size), str(run.seed), _epochs(run, status), rate]
            if status is None:
                others.append([*cells, "waiting" if run.verdict == "unfinished" else run.verdict, ""])
            else:
                working.append([*cells, *_live_cells(status)])
        if not level.runs:
            others.append([level.name, "–", "–", "–", "–", "no runs yet", ""])
    for cells in working:
        table.add_row(*map(Text, cells), style="bold")
    if working:
        table.add_section()
    for cells in others:
        table.add_row(*map(Text, cells))
    return table


def _epochs(run: SizeRecord, status: Status | None) -> str:
    # The record is as old as the last evaluation; the worker's own count is newer.
    done = 0.0 if status is None else min(status.done / max(status.total, 1), 1.0)
    trained = max(run.epochs_trained, float(round(done * run.epochs)))
    return f"{size_text(trained)}/{size_text(run.epochs)}"


def _live_cells(status: Status) -> list[str]:
    """Return what a run in work does, and the time left."""
    return [
        status.note or "in work",
        "–" if status.seconds_left is None else duration_text(status.seconds_left),
    ]
