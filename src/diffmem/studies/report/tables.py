"""The summary of a study: one row per run."""

from __future__ import annotations

from typing import TYPE_CHECKING

from diffmem.reports.tables import text_table
from diffmem.reports.text import rate_text, size_text, target_text
from diffmem.runs.records import RunRecord
from diffmem.studies.records import StudyResult
from diffmem.studies.report.text import emm_text
from diffmem.text import duration_text, percent

if TYPE_CHECKING:
    from rich.table import Table

__all__ = ["ascending", "terminal_table"]


def ascending(result: StudyResult) -> list[RunRecord]:
    """Return the runs by size, then by seed."""
    return sorted(result.runs, key=lambda run: (run.size, run.seed))


def terminal_table(result: StudyResult) -> Table:
    """Return the summary as a table for a terminal of 80 columns, with EMM below it."""
    from rich.text import Text

    sizes = [run.size for run in result.runs]
    several = len(set(sizes)) < len(sizes)
    caption = f"EMM at {target_text(result.epsilon)}: {emm_text(result.emm, sizes)}"
    if result.emm_last is not None:
        caption += f"; from the ends of training: {emm_text(result.emm_last, sizes)}"
    table = text_table(result.title, caption)
    names = ["N", *(["seed"] if several else []), "R_mem peak [95%]", "at\nepoch", "R_mem\nend", "null\nrate"]
    for name in [*names, "images\ncopied", "training"]:
        table.add_column(name, justify="right", no_wrap=True, vertical="bottom")
    for run in ascending(result):
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
