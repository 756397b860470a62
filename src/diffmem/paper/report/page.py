"""The folder of an experiment: one self-contained page, its figure and its numbers."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from diffmem.memorization.examples import Example
from diffmem.paper.records import ExperimentResult
from diffmem.paper.report.figure import experiment_figure, figure_text
from diffmem.paper.report.text import (
    experiment_rows,
    lead,
    paper_heading,
    verdict_text,
)
from diffmem.reports.folder import ReportPaths, gallery_pictures, numbers_bytes, write_pages
from diffmem.reports.html import gallery_uris, png_bytes, render_page, svg_uri
from diffmem.studies.report.levels_page import page_values

if TYPE_CHECKING:
    from matplotlib.figure import Figure

__all__ = ["render_experiment", "write_experiment"]


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


def _drawable(result: ExperimentResult) -> bool:
    runs = result.runs
    if result.form == "epochs":
        return any(one.epoch > 0 for run in runs for one in run.evaluations)
    return bool(runs)


def _page(result: ExperimentResult, examples: Sequence[Example], figure: Figure | None) -> str:
    galleries = gallery_uris(examples, gallery_pictures(examples).values())
    return render_page(
        "experiment.html",
        package=__package__,
        lead=lead(result),
        paper_heading=paper_heading(result),
        verdicts=[(claim, verdict_text(result, claim)) for claim in result.claims],
        image=None if figure is None else svg_uri(figure),
        alt="" if figure is None else figure_text(result),
        **page_values(result, experiment_rows(result), galleries),
    )
