"""The summary of a study: one row per run, as words, for the terminal and for the page."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from diffmem.reports.text import line_text, rate_text, size_text
from diffmem.runs.records import RunRecord
from diffmem.studies.records import StudyResult
from diffmem.studies.report.text import emm_text
from diffmem.text import duration_text, percent

if TYPE_CHECKING:
    from rich.table import Table

__all__ = ["SummaryRow", "summary_rows", "terminal_table"]


@dataclass(frozen=True)
class SummaryRow:
    """One run, each of its numbers as it is shown."""

    size: str
    seed: str
    epochs: str
    peak: str
    peak_epoch: str
    last: str
    null: str
    distinct: str
    distance: str
    time: str


def summary_rows(result: StudyResult) -> list[SummaryRow]:
    """Return one row per run, ascending in size.

    'distinct' counts the different training images that samples copy at the peak, of all N; 'distance' is the
    mean distance to the nearest training image there, in RMS grey levels.
    """
    return [
        SummaryRow(
            size=size_text(run.size),
            seed=str(run.seed),
            epochs=size_text(run.epochs),
            peak=rate_text(run.peak.memorized),
            peak_epoch=size_text(run.peak.epoch),
            last=percent(run.last.memorized.value),
            null="none held out" if run.null is None else rate_text(run.null),
            distinct=f"{run.peak.distinct_replicated:,} of {run.size - run.duplicates:,}",
            distance=f"{run.peak.mean_nearest_distance:.2f}",
            time=duration_text(run.training_seconds),
        )
        for run in _ascending(result)
    ]


def _ascending(result: StudyResult) -> list[RunRecord]:
    return sorted(result.runs, key=lambda run: (run.size, run.seed))


def terminal_table(result: StudyResult) -> Table:
    """Return the summary as a table for a terminal of 80 columns, with EMM below it."""
    from rich.box import SIMPLE_HEAD
    from rich.table import Table
    from rich.text import Text

    sizes = [run.size for run in result.runs]
    several = len(set(sizes)) < len(sizes)
    line = f"EMM at {line_text(result.epsilon)}: {emm_text(result.emm, sizes)}"
    if result.emm_last is not None:
        line += f"; from the ends of training: {emm_text(result.emm_last, sizes)}"
    table = Table(title=Text(result.title), caption=Text(line), caption_justify="left", title_justify="left")
    table.box, table.pad_edge = SIMPLE_HEAD, False
    names = ["N", *(["seed"] if several else []), "R_mem peak [95%]", "at\nepoch", "R_mem\nend", "null\nrate"]
    for name in [*names, "images\ncopied", "training"]:
        table.add_column(name, justify="right", no_wrap=True, vertical="bottom")
    for row, run in zip(summary_rows(result), _ascending(result), strict=True):
        null = "–" if run.null is None else percent(run.null.value)
        cells = [row.size, *([row.seed] if several else []), row.peak, row.peak_epoch, row.last, null]
        table.add_row(*(Text(cell) for cell in [*cells, row.distinct, row.time]))
    return table
