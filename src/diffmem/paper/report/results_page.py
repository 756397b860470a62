"""The results of all experiments as one Markdown page: what was found here, beside what the paper found."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import get_args

from diffmem.errors import UserError
from diffmem.paper.records import ExperimentResult, Verdict
from diffmem.paper.report.text import (
    SCALE_WORDS,
    emm_rows,
    experiment_rows,
    paper_heading,
    several_sizes,
    verdict_text,
)
from diffmem.reports.text import sentence, size_text, threshold_text
from diffmem.studies.report.method import data_text, method_text, versions_text
from diffmem.studies.report.onset_text import onset_of_levels
from diffmem.studies.report.text import NOTHING_FINISHED, warnings_of
from diffmem.text import count_text, duration_text

__all__ = ["markdown_table", "results_page"]

MOST = 4
"""Where more levels than this differ in how they were made, the page names one and counts the others."""

WIDE = 36
"""Columns wider than this are not padded: their rows wrap in a terminal anyway."""


_PROPORTIONAL = (
    "The paper gives no exponent. Others find a time that is proportional to N, an exponent of 1 (Bonnaire et al. 2025, arXiv 2505.17638;"
    " Favero et al. 2025, arXiv 2505.16959)."
)


def results_page(
    results: Sequence[ExperimentResult],
    pictures: Mapping[str, str],
    command: str,
    onsets: Mapping[str, str] = MappingProxyType({}),
) -> str:
    """Return a Markdown page of experiments: a summary, then each with its figure, numbers, verdicts and notes.

    It holds no HTML, so that it can be read in a terminal, and no path of the machine it was made on.

    Args:
        results: The experiments, in the order of the page.
        pictures: Name of an experiment -> path of its figure, relative to the page. An experiment without one
            has no figure.
        onsets: The same of the figures of when training begins to copy.

    Raises:
        UserError: There are no results, two have the same name, or a picture's path is absolute.
    """
    if not results:
        raise UserError("There are no results to put on a page; run `diffmem reproduce` first.")
    names = [result.name for result in results]
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice:
        raise UserError(f"The experiment {twice[0]!r} is given twice; give each experiment once.")
    for picture in (*pictures.values(), *onsets.values()):
        if re.match(r"[/\\~]|[A-Za-z]:|\w+://", picture):
            raise UserError(f"The picture {picture!r} is not relative to the page; give a relative path.")
    parts = ["# Results", _opening(results, command), "## Summary", _summary(results)]
    for result in results:
        parts += _section(result, pictures.get(result.name), onsets.get(result.name))
    return "\n\n".join(parts) + "\n"


def markdown_table(header: Sequence[str], rows: Sequence[Sequence[str]], left: int = 1) -> str:
    """Return a Markdown table whose columns line up in a terminal.

    Args:
        header: The columns' names.
        rows: Cells; bars and line breaks in them are made harmless.
        left: How many columns, from the first, are aligned left; the others right.
    """
    table = [[_cell(cell) for cell in row] for row in [header, *rows]]
    widths = [max(3, *(len(row[column]) for row in table)) for column in range(len(header))]
    widths = [width if width <= WIDE else 0 for width in widths]

    def line(cells: Sequence[str]) -> str:
        padded = [
            cell.ljust(width) if column < left else cell.rjust(width)
            for column, (cell, width) in enumerate(zip(cells, widths, strict=True))
        ]
        return "| " + " | ".join(padded) + " |"

    rule = [
        "-" * max(width, 3) if column < left else "-" * max(width - 1, 2) + ":"
        for column, width in enumerate(widths)
    ]
    return "\n".join([line(table[0]), "| " + " | ".join(rule) + " |", *map(line, table[1:])])


def _cell(text: str) -> str:
    return _inline(text).replace("|", r"\|")


def _inline(text: str) -> str:
    """Return text that Markdown shows as it stands, on one line."""
    # Brackets mean a link only before a parenthesis; an underscore inside a word ('R_mem') and a lone star mean nothing.
    text = re.sub(r"([<\\`]|\*(?=\S)|(?<=\S)\*)", r"\\\1", " ".join(text.split()))
    return text.replace("](", r"]\(")


def _opening(results: Sequence[ExperimentResult], command: str) -> str:
    # Experiments share runs.
    runs = list({run.run_id: run for result in results for run in result.runs}.values())
    spent = sum(run.training_seconds + run.sampling_seconds for run in runs)
    seeds = sorted({run.seed for run in runs})
    samples = sorted({one.memorized.total for run in runs for one in run.evaluations})
    scales = list(dict.fromkeys(result.scale for result in results))
    thresholds = list(dict.fromkeys(threshold_text(result.threshold) for result in results))
    methods = sorted({one.memorized.method.title() for run in runs for one in run.evaluations})
    versions = versions_text(results)
    paragraphs = [
        'The experiments of "On Memorization in Diffusion Models" (Gu et al., 2025), run with diffmem and compared'
        " with the paper's results.",
        *(SCALE_WORDS[scale] for scale in scales),
        _range_text(results) if runs else "",
        f"{count_text(len(runs), 'training run', 'training runs')} in"
        f" {count_text(len(results), 'experiment', 'experiments')}, with"
        f" {count_text(len(seeds), 'seed', 'different seeds')}"
        f" ({', '.join(map(str, seeds))}), took {duration_text(spent)} of training and sampling, summed over"
        " parallel processes."
        if runs
        else f"{NOTHING_FINISHED}.",
        f"Versions: {_inline('; '.join(versions))}." if versions else "",
    ]
    if runs:
        paragraphs.append(
            "R_mem is the fraction of generated images that are copies: nearer to one training image than"
            f" {' or '.join(thresholds)} of the distance to the next nearest. 'Peak' is the highest R_mem over"
            " training, as in the paper, 'end' the last value; the null rate is that of the same rule on real images that were not"
            " trained on. Numbers in brackets are 95% intervals"
            f" ({', '.join(methods)}; {' or '.join(f'{total:,}' for total in samples)} images per evaluation); with several"
            " seeds, the mean is given, and the union of their intervals. They do not cover the"
            " variation between trainings. The paper's numbers are read off its plots and have no"
            " intervals; 'unknown' means that no public source has them."
        )
    if any(result.form == "masks" for result in results):
        paragraphs.append(
            "A mask has a 1 for each skip connection that is kept, those of the highest resolution first."
        )
    code = f"```console\n{command}\n```"
    return "\n\n".join([*filter(None, paragraphs), f"To reproduce:\n\n{code}"])


def _range_text(results: Sequence[ExperimentResult]) -> str:
    """Return how many images and epochs the trainings had, beside the numbers of the paper that they stand for."""
    runs = [run for result in results for run in result.runs]
    sizes = [run.size for run in runs]
    stand_for = [round(run.size * result.size_ratio) for result in results for run in result.runs]
    epochs = [round(run.epochs) for run in runs if run.epochs > 0]  # 0: the optimum, which is not trained
    text = f"Training sets have {_between(sizes)} images, trainings {_between(epochs or [0])} epochs."
    return (
        text if stand_for == sizes else f"{text} The sets stand for the paper's {_between(stand_for)} images."
    )


def _between(numbers: Sequence[int]) -> str:
    low, high = min(numbers), max(numbers)
    return f"{low:,}" if low == high else f"{low:,} to {high:,}"


def _summary(results: Sequence[ExperimentResult]) -> str:
    rows = []
    for result in results:
        link = f"[{result.name}](#{_anchor(_heading(result))})"
        if not result.claims:
            rows.append((link, _cell(result.finding), "not checked", ""))
        for index, claim in enumerate(result.claims):
            name = "" if index else link
            rows.append((name, _cell(claim.claim), claim.verdict, _cell(claim.numbers)))
    lines = ["| Experiment | What the paper found | Here | Numbers |", "| --- | --- | --- | --- |"]
    table = "\n".join([*lines, *("| " + " | ".join(row) + " |" for row in rows)])
    return "\n\n".join(filter(None, [_verdicts_text(results), table]))


def _verdicts_text(results: Sequence[ExperimentResult]) -> str:
    """Return what the verdicts mean and how many there are of each."""
    verdicts = [claim.verdict for result in results for claim in result.claims]
    if not verdicts:
        return ""
    counts = ", ".join(f"{verdicts.count(one)} {one}" for one in get_args(Verdict))
    text = (
        f"Of {count_text(len(verdicts), 'finding', 'findings')} of the paper: {counts}. A finding is *shown* where the 95% interval of the"
        " difference excludes zero in its direction (in either, if the paper's is unknown), *opposite* where it excludes zero in the other"
        " one; of two things that are the same, where the interval lies within, or beyond, the margin that is given."
    )
    if any(result.scale == "paper" for result in results):
        return text
    return f"{text} At this scale a verdict neither proves nor disproves the finding at the paper's own."


def _heading(result: ExperimentResult) -> str:
    return f"{result.name}: {_inline(result.title)}"


def _anchor(heading: str) -> str:
    """Return the anchor that renderers make of a heading: lower case, hyphens for spaces, no punctuation."""
    return re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-")


def _section(result: ExperimentResult, picture: str | None, onset: str | None) -> list[str]:
    parts = [f"## {_heading(result)}", f"The paper: {_inline(sentence(result.finding))}"]
    parts.append(
        f"{SCALE_WORDS[result.scale].split(':')[0]}. Data: {_inline(sentence(data_text(result), capital=False))}"
    )
    if picture is not None:
        parts.append(_image(f"{result.title}: this run beside the paper", picture))
    if result.claims:
        parts.append(
            "\n".join(
                f"- {_inline(sentence(claim.claim))} {_inline(verdict_text(result, claim))}"
                for claim in result.claims
            )
        )
    rows = experiment_rows(result)
    if rows:
        several = any(row.seeds > 1 for row in rows)
        header = [
            result.factor,
            "N",
            *(["seeds"] if several else []),
            "R_mem peak [95%]",
            paper_heading(result),
        ]
        cells = [
            [
                row.level,
                size_text(row.size),
                *([str(row.seeds)] if several else []),
                row.peak,
                row.paper,
                row.last,
                row.null,
            ]
            for row in rows
        ]
        parts.append(markdown_table([*header, "R_mem end [95%]", "null rate [95%]"], cells))
    else:
        parts.append(f"{NOTHING_FINISHED}.")
    if several_sizes(result):
        parts.append(
            markdown_table(
                [result.factor, "of the paper", "EMM here [95%]"],
                [list(row) for row in emm_rows(result)],
                left=2,
            )
        )
    if result.form == "epochs":
        parts += _onset(result, onset)
    notes = warnings_of(result)
    if notes:
        parts.append("Notes:")
        parts.append("\n".join(f"- {_inline(sentence(note))}" for note in notes))
    made = []
    for heading, lines in method_text(result):
        shown = lines if len(lines) <= MOST else [lines[0], f"{len(lines) - 1} more, by {result.factor}"]
        if heading != "Versions":
            made.append(f"- {heading}: {_inline('; '.join(shown))}")
    parts.append("Method:")
    parts.append("\n".join([*made, f"- Time: {duration_text(result.seconds)}"]))
    return parts


def _image(alt: str, path: str) -> str:
    return f"![{_inline(alt)}]({path.replace(' ', '%20')})"


def _onset(result: ExperimentResult, picture: str | None) -> list[str]:
    """Return when training begins to copy, beside what others found of how that grows with N."""
    found = onset_of_levels(result)
    if not found:
        return []
    parts = [] if picture is None else [_image(f"{result.title}: when training begins to copy", picture)]
    for name, answer, head, rows, _ in found:
        parts.append(f"{name}: {answer}" if len(found) > 1 else answer)
        parts.append(
            f"Epochs until a share of copies, and the exponent of N in images seen:\n\n{markdown_table(head, rows)}"
        )
    grown = any(
        line.growth is not None
        for level in result.levels
        if level.onset is not None
        for line in level.onset.lines
    )
    return [*parts, _PROPORTIONAL] if grown else parts
