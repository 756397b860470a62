"""A study as tables: its levels, its sizes, its runs, and for a terminal what every training does right now."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from diffmem.memorization.rates import Rate
from diffmem.reports.tables import text_table
from diffmem.reports.text import rate_text, size_text, target_text
from diffmem.runs.records import RunRecord
from diffmem.studies.records import LevelRecord, StudyRecord
from diffmem.studies.report.onset_text import onset_of_levels, onset_table, times_text
from diffmem.studies.report.text import (
    cost_text,
    emm_text,
    level_emm,
    level_text,
    runs_of,
    share_text,
    verdict_text,
)
from diffmem.text import duration_text, percent

if TYPE_CHECKING:
    from rich.table import Table
    from rich.text import Text

    from diffmem.runs.store.workers import Status

__all__ = [
    "SizeRow",
    "answers_of",
    "level_table",
    "rates_text",
    "size_rows",
    "sizes_of",
    "study_tables",
    "watch_table",
]


def rates_text(rates: Sequence[Rate]) -> str:
    """Return one rate with its interval; of several seeds their mean and the span of all their intervals."""
    if len(rates) == 1:
        return rate_text(rates[0])
    mean = sum(rate.value for rate in rates) / len(rates)
    low, high = min(rate.low for rate in rates), max(rate.high for rate in rates)
    return f"{percent(mean)} [{100 * low:.1f}, {100 * high:.1f}]"


@dataclass(frozen=True)
class SizeRow:
    """One level at one size, each of its numbers as it is shown.

    Rates have their 95% interval; of several seeds they are the mean and the span of all their intervals.
    """

    level: str
    first: bool  # of its level
    size: int
    seeds: int
    peak: str
    last: str
    null: str


def sizes_of(result: StudyRecord) -> list[tuple[LevelRecord, int, list[RunRecord]]]:
    """Return each level and size with its measured runs (one per seed), in the order of levels, sizes ascending."""
    found: dict[tuple[int, int], tuple[LevelRecord, int, list[RunRecord]]] = {}
    for level, run in runs_of(result):
        if run.evaluations:
            found.setdefault((id(level), run.size), (level, run.size, []))[2].append(run)
    return list(found.values())


def size_rows(result: StudyRecord) -> list[SizeRow]:
    """Return one row per level and size, in the order of levels, sizes ascending."""
    rows: list[SizeRow] = []
    for level, size, runs in sizes_of(result):
        nulls, name = [run.null for run in runs if run.null is not None], level_text(level.name)
        rows.append(
            SizeRow(
                level=name,
                first=not rows or rows[-1].level != name,
                size=size,
                seeds=len(runs),
                peak=rates_text([run.peak.memorized for run in runs]),
                last=rates_text([run.last.memorized for run in runs]),
                null=rates_text(nulls) if nulls else "none held out",
            )
        )
    return rows


def study_tables(result: StudyRecord) -> list[Table | Text]:
    """Return a study for a terminal of 80 columns: its levels; of a grid, the runs of each level; when its models begin to copy."""
    from rich.text import Text

    if result.plan == "onset":
        several = len(result.levels) > 1
        return [
            onset_table(level.onset, level_text(level.name) if several else "")
            for level in result.levels
            if level.onset is not None and level.onset.lines[0].runs
        ] or [level_table(result)]
    levels = [] if result.plan == "grid" and len(result.levels) == 1 else [level_table(result)]
    return [
        *levels,
        *([run_table(level, result) for level in result.levels] if result.plan == "grid" else []),
        *(
            Text(f"{name}: {answer}\n" if len(result.levels) > 1 else f"{answer}\n")
            for name, answer, *_ in onset_of_levels(result)
        ),
    ]


def answers_of(result: StudyRecord) -> tuple[str, Callable[[LevelRecord], str]]:
    """Return what a study asks of its levels, in a few words, and a function that says what was found for one."""
    if result.plan == "onset":
        return f"epochs until {target_text(result.epsilon)} copies", times_text
    return "EMM", lambda level: level_emm(level, result)


def level_table(result: StudyRecord) -> Table:
    """Return the answer of every level with its interval, the paper's value, the runs and, of a search for EMM, the cost."""
    from rich.text import Text

    so_far = (
        "" if result.finished else f" The {'study' if result.plan == 'grid' else 'search'} is not finished."
    )
    heading, of_level = answers_of(result)
    asked = f"EMM at {target_text(result.epsilon)}; " if result.plan != "onset" else ""
    caption = f"{asked}{cost_text(result)}{so_far}"
    table = text_table(result.title, caption, narrow=True)
    table.add_column(Text(result.factor), max_width=28, overflow="fold")
    columns = [f"{heading} [95%]" if result.confidence == 0.95 else heading, "paper", "runs"]
    for name in [*columns, *(["of the grid's\ncost"] if result.cost.grid_units else [])]:
        table.add_column(name, justify="right", no_wrap=name not in (heading, columns[0]), vertical="top")
    for level in result.levels:
        published = "–" if level.published is None else size_text(level.published)
        cells = [level_text(level.name), of_level(level), published, str(len(level.runs))]
        cells += [share_text(level.cost)] if result.cost.grid_units else []
        table.add_row(*map(Text, cells))
    return table


def run_table(level: LevelRecord, result: StudyRecord) -> Table:
    """Return the runs of a level, with EMM below them."""
    from rich.text import Text

    sizes = [run.size for run in level.runs]
    several = len(set(sizes)) < len(sizes)
    caption = f"EMM at {target_text(result.epsilon)}: {emm_text(level.emm, sizes)}"
    if level.emm_last is not None:
        caption += f"; from the ends of training: {emm_text(level.emm_last, sizes)}"
    title = result.title if len(result.levels) == 1 else f"{result.title}: {level_text(level.name)}"
    table = text_table(title, caption, narrow=several)
    names = ["N", *(["seed"] if several else []), "R_mem peak [95%]", "at\nepoch", "R_mem\nend", "null\nrate"]
    for name in [*names, "images\ncopied", "training"]:
        table.add_column(name, justify="right", no_wrap=True, vertical="bottom")
    for run in sorted(level.runs, key=lambda run: (run.size, run.seed)):
        cells = [
            size_text(run.size),
            *([str(run.seed)] if several else []),
            rate_text(run.peak.memorized),
            size_text(run.peak.epoch),
            percent(run.last.memorized.value),
            "–" if run.null is None else percent(run.null.value),
            f"{run.peak.distinct_replicated:,} of {run.size - run.duplicates:,}",
            duration_text(run.training_seconds),
        ]
        table.add_row(*map(Text, cells))
    return table


def watch_table(result: StudyRecord, live: Mapping[str, Status]) -> Table:
    """Return every training with what it does: level, size, seed, epoch, R_mem so far, decision, time left; for 80 columns.

    The runs in work come first, then the others in their order.

    Args:
        live: Id of each run in work -> what it does. A run that the study does not have yet gets a row with its id.
    """
    from rich.text import Text

    ended = sum(run.verdict != "unfinished" for run in result.runs)
    counted = f"; {ended} of {len(result.runs)} runs are finished" if result.plan == "grid" else ""
    caption = f"R_mem with its interval at the best evaluation point; the target is {target_text(result.epsilon)}{counted}."
    table = text_table(result.title, caption, narrow=True)
    table.add_column(Text(result.factor), max_width=20, min_width=6, overflow="fold")
    for name in ("N", "seed", "epoch", "R_mem so far"):
        table.add_column(name, justify="right", no_wrap=True)
    table.add_column("decision", overflow="fold", min_width=9)
    table.add_column("time left", justify="right", no_wrap=True)
    known = {run.run_id for run in result.runs}
    working = [
        [run_id, "–", "–", f"{100 * status.done / max(status.total, 1):.0f}%", "–", *_live_cells(status)]
        for run_id, status in live.items()
        if run_id not in known
    ]
    others: list[list[str]] = []
    for level, run in runs_of(result):
        status = live.get(run.run_id)
        rate = rate_text(run.peak.memorized) if run.evaluations else "–"
        cells = [level_text(level.name), size_text(run.size), str(run.seed), _epochs(run, status), rate]
        if status is None:
            decision = "waiting" if run.verdict == "unfinished" else verdict_text(run, result) or "finished"
            others.append([*cells, decision, ""])
        else:
            working.append([*cells, *_live_cells(status)])
    others += [
        [level_text(level.name), "–", "–", "–", "–", "no runs yet", ""]
        for level in result.levels
        if not level.runs
    ]
    for cells in working:
        table.add_row(*map(Text, cells), style="bold")
    if working:
        table.add_section()
    for cells in others:
        table.add_row(*map(Text, cells))
    return table


def _epochs(run: RunRecord, status: Status | None) -> str:
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
