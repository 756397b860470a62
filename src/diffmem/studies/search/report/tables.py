"""Tables of a search for a terminal: what every level found, and what every training does right now."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from diffmem.reports.tables import text_table
from diffmem.reports.text import size_text, target_text
from diffmem.studies.report.watch import WatchRow
from diffmem.studies.report.watch import watch_table as table_of_rows
from diffmem.studies.search.records import SearchResult
from diffmem.studies.search.report.text import cost_text, level_emm, share_text

if TYPE_CHECKING:
    from rich.table import Table

    from diffmem.runs.store.workers import Status

__all__ = ["search_table", "watch_table"]


def search_table(result: SearchResult) -> Table:
    """Return EMM of every level with its interval, the paper's value, the runs and the cost, for 80 columns."""
    from rich.text import Text

    caption = f"EMM at {target_text(result.epsilon)}; {cost_text(result)}"
    table = text_table(
        result.title, caption + ("" if result.finished else " The search is not finished."), narrow=True
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
    """Return every training of a search with what it does; see `diffmem.studies.report.watch.watch_table`."""
    rows: list[WatchRow | str] = []
    for level in result.levels:
        for run in sorted(level.runs, key=lambda run: (run.size, run.seed)):
            rows.append(
                WatchRow(
                    run_id=run.run_id,
                    level=level.name,
                    size=run.size,
                    seed=run.seed,
                    epochs_trained=run.epochs_trained,
                    epochs=run.epochs,
                    rate=None if run.peak is None else run.peak.memorized,
                    decision="waiting" if run.verdict == "unfinished" else run.verdict,
                )
            )
        rows += [] if level.runs else [level.name]
    caption = (
        f"R_mem with its interval at the best evaluation point; the target is {target_text(result.epsilon)}."
    )
    return table_of_rows(result.title, caption, result.factor, rows, live)
