"""An experiment as people read it: its scale, its levels, its rates over seeds, its verdicts; the same as rows and tables."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from diffmem.paper.records import ClaimRecord, ExperimentLevel, ExperimentResult
from diffmem.paper.report.match import paper_points, published_at
from diffmem.reports.tables import text_table
from diffmem.reports.text import sentence, size_text
from diffmem.studies.report.method import data_text
from diffmem.studies.report.tables import SizeRow, size_rows, sizes_of
from diffmem.studies.report.text import emm_text, level_text
from diffmem.text import percent

if TYPE_CHECKING:
    from rich.table import Table

__all__ = [
    "SCALE_WORDS",
    "UNKNOWN",
    "ExperimentRow",
    "emm_rows",
    "experiment_rows",
    "experiment_table",
    "lead",
    "paper_heading",
    "paper_text",
    "several_sizes",
    "verdict_text",
]

UNKNOWN = "unknown"

SCALE_WORDS = {
    "paper": "Paper scale: the networks, training-set sizes and epochs of the paper.",
    "cpu": "CPU scale: smaller networks, images, training sets and budgets than the paper's, so that it runs on a"
    " CPU; the directions of the findings can be compared, the numbers cannot.",
    "smoke": "Smoke scale: everything runs, but far too briefly to learn anything; these numbers say nothing about"
    " memorization.",
}
_WHO = {"paper": "The paper's scale", "cpu": "The CPU scale", "smoke": "The smoke scale"}
_VERDICTS = {
    "shown": "shows this",
    "opposite": "shows the opposite",
    "cannot tell": "shows neither this nor the opposite",
}


def verdict_text(result: ExperimentResult, claim: ClaimRecord) -> str:
    """Return a verdict in a sentence: 'The CPU scale shows neither this nor the opposite: ...'."""
    numbers = sentence(claim.numbers, capital=False)
    opening = f"{_WHO[result.scale]} {_VERDICTS[claim.verdict]}"
    return f"{opening}: {numbers}" if numbers else f"{opening}."


def paper_text(result: ExperimentResult, level: ExperimentLevel, size: int) -> str:
    """Return the paper's number that stands beside one level and size, or 'unknown'.

    Where the paper's size is another, it is named: '92.1% at 1,000'. Where the paper draws epochs, it is the
    highest point of its curve, with its epoch.
    """
    if result.form == "epochs":
        points = paper_points(result, level.paper_name)
        if not points:
            return UNKNOWN
        epoch, value = max(points, key=lambda point: point[1])
        return f"{value:.1f}% at {size_text(epoch)}"
    found = published_at(result, level.paper_name, size)
    if not found:
        return UNKNOWN
    words = " or ".join(f"{value:.1f}%" for _, value in found)
    return words if found[0][0] == size else f"{words} at {size_text(found[0][0])}"


def paper_heading(result: ExperimentResult) -> str:
    """Return the heading of a column of `paper_text`: what stands behind 'at'."""
    return "paper (at epoch)" if result.form == "epochs" else "paper (at its N)"


def lead(result: ExperimentResult) -> str:
    """Return the first lines of a page: the scale and the data set used."""
    data = data_text(result)
    return SCALE_WORDS[result.scale] + (f" Data: {sentence(data, capital=False)}" if data else "")


@dataclass(frozen=True)
class ExperimentRow(SizeRow):
    """One level at one size, with the paper's number."""

    paper: str


def experiment_rows(result: ExperimentResult) -> list[ExperimentRow]:
    """Return one row per level and size, in the order of levels, sizes ascending."""
    levels = {level_text(level.name): level for level in result.levels}
    return [
        ExperimentRow(**vars(row), paper=paper_text(result, levels[row.level], row.size))
        for row in size_rows(result)
    ]


def emm_rows(result: ExperimentResult) -> list[tuple[str, str, str]]:
    """Return (level, the paper's level, EMM with its 95% interval) of each level."""
    return [
        (
            level_text(level.name),
            level_text(level.paper_name),
            emm_text(level.emm, [run.size for run in level.runs]),
        )
        for level in result.levels
    ]


def several_sizes(result: ExperimentResult) -> bool:
    """Return whether any level was run at more than one size; at one size EMM is only above or below it."""
    return any(len({run.size for run in level.runs}) > 1 for level in result.levels)


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
    for row, (_, _, runs) in zip(rows, sizes_of(result), strict=True):
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
