"""Tables of a search for a terminal: what every level found, and what every training does right now."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from diffmem.reports.text import line_text, rate_text, size_text
from diffmem.studies.search.records import SearchResult, SizeRecord
from diffmem.studies.search.report.text import cost_text, level_emm, search_runs, share_text
from diffmem.text import duration_text

if TYPE_CHECKING:
    from rich.table import Table

__all__ = ["search_table", "watch_table"]


def search_table(result: SearchResult) -> Table:
    """Return EMM of every level with its interval, the paper's value, the runs and the cost, for 80 columns.

    Args:
        result: The search; an unfinished one has what is known so far.
    """
    from rich.text import Text

    line = f"EMM at {line_text(result.epsilon)}; {cost_text(result)}"
    if not result.finished:
        line += " The search is still running."
    table = _table(result.title, line)
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


def watch_table(result: SearchResult, live: Mapping[str, Mapping[str, object]]) -> Table:
    """Return every training with what it does: level, size, seed, epoch, R_mem so far, decision, time left; for 80 columns.

    The runs in work come first, then the others in the order of levels, sizes and seeds.

    Args:
        result: The search as far as it is known.
        live: Id of each run in work -> 'note' (what it does), 'done' of 'total' (how much of its training), and 'seconds_left'
            (none if it is not known). What is missing is not shown. A run that the records do not have yet gets a row with its id.
    """
    from rich.text import Text

    table = _table(
        result.title,
        f"R_mem with its interval at the best evaluation point; the target is {line_text(result.epsilon)}.",
    )
    table.add_column(Text(result.factor), max_width=20, min_width=6, overflow="fold")
    for name in ("N", "seed", "epoch", "R_mem so far"):
        table.add_column(name, justify="right", no_wrap=True)
    table.add_column("decision", overflow="fold", min_width=9)
    table.add_column("time left", justify="right", no_wrap=True)
    working: list[list[str]] = []
    others: list[list[str]] = []
    runs = {run.run_id: run for run in search_runs(result)}
    for run_id, state in live.items():
        if run_id not in runs:
            working.append([run_id, "–", "–", _live_share(state), "–", _note(state), _left(state)])
    for level in result.levels:
        for run in sorted(level.runs, key=lambda run: (run.size, run.seed)):
            cells = [level.name, size_text(run.size), str(run.seed), *_state(run, live.get(run.run_id))]
            (working if run.run_id in live else others).append(cells)
        if not level.runs:
            others.append([level.name, "–", "–", "–", "–", "no runs yet", ""])
    for cells in working:
        table.add_row(*map(Text, cells), style="bold")
    if working:
        table.add_section()
    for cells in others:
        table.add_row(*map(Text, cells))
    return table


def _table(title: str, line: str) -> Table:
    from rich.box import SIMPLE_HEAD
    from rich.table import Table
    from rich.text import Text

    table = Table(title=Text(title), caption=Text(line), caption_justify="left", title_justify="left")
    table.box, table.pad_edge, table.collapse_padding = SIMPLE_HEAD, False, True
    return table


def _state(run: SizeRecord, state: Mapping[str, object] | None) -> list[str]:
    """Return epoch, R_mem, decision and time left of a run."""
    rate = "–" if run.peak is None else rate_text(run.peak.memorized)
    share = None if state is None else _share(state)
    # The record is as old as the last evaluation; the worker's own count is newer.
    trained = (
        run.epochs_trained if share is None else max(run.epochs_trained, float(round(share * run.epochs)))
    )
    epochs = f"{size_text(trained)}/{size_text(run.epochs)}"
    if state is None:
        return [epochs, rate, "waiting" if run.verdict == "unfinished" else run.verdict, ""]
    return [epochs, rate, _note(state), _left(state)]


def _share(state: Mapping[str, object]) -> float | None:
    done, total = state.get("done"), state.get("total")
    if not isinstance(done, int | float) or not isinstance(total, int | float) or total <= 0:
        return None
    return min(max(done / total, 0.0), 1.0)


def _live_share(state: Mapping[str, object]) -> str:
    share = _share(state)
    return "–" if share is None else f"{100 * share:.0f}%"


def _note(state: Mapping[str, object]) -> str:
    return str(state.get("note") or "in work")


def _left(state: Mapping[str, object]) -> str:
    left = state.get("seconds_left")
    return duration_text(left) if isinstance(left, int | float) else "–"
