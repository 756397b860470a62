"""The folder of an experiment: one self-contained page, its figure and its numbers."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from diffmem.memorization.examples import Example
from diffmem.paper.records import ExperimentResult
from diffmem.paper.report.figure import experiment_figure, figure_text
from diffmem.paper.report.match import experiment_runs, level_sizes
from diffmem.paper.report.text import (
    experiment_rows,
    lead,
    level_text,
    method_text,
    paper_heading,
    verdict_text,
)
from diffmem.reports.folder import ReportPaths, gallery_pictures, numbers_bytes, write_pages
from diffmem.reports.html import gallery_uris, png_bytes, render_page, svg_uri
from diffmem.reports.text import shared_texts, target_text, threshold_text
from diffmem.studies.report.text import warnings_of

if TYPE_CHECKING:
    from matplotlib.figure import Figure

__all__ = ["experiment_warnings", "render_experiment", "write_experiment"]


def write_experiment(result: ExperimentResult, examples: Sequence[Example], folder: Path) -> ReportPaths:
    """Write an experiment's folder: `report.html`, `figure.png` and `result.json`.

    The record comes last, after all else is whole (see `write_folder`). Without any evaluated run there is no figure.

    Args:
        result: The experiment; `ExperimentResult.model_validate_json` reads `result.json` back.
        examples: Galleries, shown in the given order, inside the page.
        folder: Made if it is missing; files of an earlier report are replaced.

    Raises:
        DiffmemError: A file cannot be written, or the result holds a number that JSON cannot (NaN, infinity).
    """
    numbers = numbers_bytes(result)
    figure = experiment_figure(result) if _drawable(result) else None
    pictures = {} if figure is None else {"figure.png": png_bytes(figure)}
    return write_pages(folder, pictures, _page(result, examples, figure), "result.json", numbers)


def render_experiment(result: ExperimentResult, examples: Sequence[Example] = ()) -> str:
    """Return an experiment as one self-contained HTML page; everything that comes from the result is escaped.

    Args:
        result: The experiment; without runs the page says so and has no figure.
    """
    return _page(result, examples, experiment_figure(result) if _drawable(result) else None)


def experiment_warnings(result: ExperimentResult) -> list[str]:
    """Return what to know before using the numbers, of all levels, each once; a level is named where they differ."""
    warnings = (
        (level_text(level.name), warning)
        for level in result.levels
        for warning in warnings_of(level.study)
        if warning not in result.notes
    )
    return shared_texts(warnings, len(result.levels))


def _drawable(result: ExperimentResult) -> bool:
    runs = experiment_runs(result)
    if result.form == "epochs":
        return any(one.epoch > 0 for run in runs for one in run.evaluations)
    return bool(runs)


def _page(result: ExperimentResult, examples: Sequence[Example], figure: Figure | None) -> str:
    studies = [level.study for level in result.levels]
    rows = experiment_rows(result)
    return render_page(
        "experiment.html",
        package=__package__,
        result=result,
        lead=lead(result),
        paper_heading=paper_heading(result),
        verdicts=[(claim, verdict_text(result, claim)) for claim in result.claims],
        warnings=experiment_warnings(result),
        image=None if figure is None else svg_uri(figure),
        alt="" if figure is None else figure_text(result),
        rows=rows,
        several_seeds=any(row.seeds > 1 for row in rows),
        seeds=len({run.seed for run in experiment_runs(result)}),
        threshold=" or ".join(dict.fromkeys(threshold_text(study.threshold) for study in studies)),
        target=" or ".join(dict.fromkeys(target_text(study.epsilon) for study in studies)),
        galleries=gallery_uris(examples, gallery_pictures(examples).values()),
        method=method_text(result),
        runs=[(level_text(level.name), run) for level, _, runs in level_sizes(result) for run in runs],
        thresholds=list(
            dict.fromkeys(name for run in experiment_runs(result) for name in run.peak.at_thresholds)
        ),
        frechet=next(
            (run.peak.frechet_of for run in experiment_runs(result) if run.peak.frechet_of is not None), None
        ),
    )
