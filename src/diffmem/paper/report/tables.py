"""The numbers of an experiment: one row per level and size, for the page, for Markdown and for the terminal."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from diffmem.paper.records import ExperimentResult
from diffmem.paper.report.match import level_sizes
from diffmem.paper.report.text import level_text, paper_heading, paper_text, rates_text, verdict_text
from diffmem.reports.tables import text_table
from diffmem.studies.report.text import emm_text
from diffmem.text import percent

if TYPE_CHECKING:
    from rich.table import Table

__all__ = ["ExperimentRow", "emm_rows", "experiment_rows", "experiment_table", "several_sizes"]


@dataclass(frozen=True)
class ExperimentRow:
    """One level at one size, each of its numbers as it is shown.

    Rates have their 95% interval; of several seeds they are the mean and the span of all their intervals.
    """

    level: str
    first: bool  # of its level
    emm: str  # of its level
    size: int
    seeds: int
    peak: str
    last: str
    null: str
    paper: str


def experiment_rows(result: ExperimentResult) -> list[ExperimentRow]:
    """Return one row per level and size, in the order of levels, sizes ascending."""
    rows = []
    for level, size, runs in level_sizes(result):
        nulls = [run.null for run in runs if run.null is not None]
        sizes = [run.size for run in level.study.runs]
        rows.append(
            ExperimentRow(
                level=level_text(level.name),
                first=size == min(sizes),
                emm=emm_text(level.study.emm, sizes),
                size=size,
                seeds=len(runs),
                peak=rates_text([run.peak.memorized for run in runs]),
                last=rates_text([run.last.memorized for run in runs]),
                null=rates_text(nulls) if nulls else "none held out",
                paper=paper_text(result, level, size),
            )
        )
    return rows


def emm_rows(result: ExperimentResult) -> list[tuple[str, str, str]]:
    """Return (level, the paper's level, EMM with its 95% interval) of each level."""
    return [
        (
            level_text(level.name),
            level_text(level.paper_name),
            emm_text(level.study.emm, [run.size for run in level.study.runs]),
        )
        for level in result.levels
    ]


def several_sizes(result: ExperimentResult) -> bool:
    """Return whether any level was run at more than one size; at one size EMM is only above or below it."""
    return any(len({run.size for run in level.study.runs}) > 1 for level in result.levels)


def experiment_table(result: ExperimentResult) -> Table:
    """Return the numbers of an experiment for a terminal of 80 columns, with EMM and the verdicts below.

    A mask of skip connections is written as ones and zeros.
    """
    from rich.text import Text

    rows = experiment_rows(result)
    seeds = {row.seeds for row in rows}
    several = len(seeds) > 1
    lines = []
    if several or max(seeds, default=1) > 1:
        count = "Several seeds" if several else f"{max(seeds)} seeds each"
        lines.append(f"{count}: their mean, and the union of their 95% intervals.")
    if several_sizes(result):
        lines += ["EMM:", *(f"  {level}: {emm}" for level, _, emm in emm_rows(result))]
    for claim in result.claims:
        lines.append(f"{claim.claim}: {verdict_text(result, claim)}")
    table = text_table(f"{result.title} ({result.scale} scale)", "\n".join(lines))
    table.add_column("level", overflow="fold")
    for name in ["N", *(["seeds"] if several else []), "R_mem peak [95%]", "end", "null"]:
        table.add_column(name, justify="right", no_wrap=True)
    table.add_column(paper_heading(result).replace(" (", "\n("), justify="right", no_wrap=True)
    for row, (_, _, runs) in zip(rows, level_sizes(result), strict=True):
        nulls = [run.null.value for run in runs if run.null is not None]
        cells = [
            row.level if row.first else "",
            f"{row.size:,}",
            *([str(row.seeds)] if several else []),
            row.peak,
            percent(sum(run.last.memorized.value for run in runs) / len(runs)),
            percent(sum(nulls) / len(nulls)) if nulls else "–",
            row.paper,
        ]
        table.add_row(*map(Text, cells))
    return table
