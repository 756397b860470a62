"""The folder of an experiment: one self-contained page, its figure and its numbers."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from diffmem.memorization.examples import Example
from diffmem.paper.records import ExperimentResult
from diffmem.paper.report.figure import experiment_figure, figure_text
from diffmem.paper.report.text import (
    experiment_rows,
    lead,
    paper_heading,
    verdict_text,
)
from diffmem.reports.folder import Picture, ReportPaths, gallery_pictures, write_drawn
from diffmem.reports.html import gallery_uris
from diffmem.studies.report.page import onset_pictures, render_page_of

__all__ = ["render_experiment", "write_experiment"]


def write_experiment(result: ExperimentResult, examples: Sequence[Example], folder: Path) -> ReportPaths:
    """Write an experiment's folder: `report.html`, `figure.png`, `onset.png` where it is about epochs, a `gallery_*.png` per
    example and `result.json`.

    The record comes last, after all else is whole (see `write_folder`). Without any evaluated run there is no figure.

    Args:
        result: The experiment; `ExperimentResult.model_validate_json` reads `result.json` back.
        examples: Galleries, shown in the given order.
        folder: Made if it is missing; files of an earlier report are replaced.

    Raises:
        DiffmemError: A file cannot be written, or the result holds a number that JSON cannot (NaN, infinity).
    """
    return write_drawn(folder, result, examples, _pictures, _page, record="result.json")


def render_experiment(result: ExperimentResult, examples: Sequence[Example] = ()) -> str:
    """Return an experiment as one self-contained HTML page; everything that comes from the result is escaped.

    Args:
        result: The experiment; without runs the page says so and has no figure.
    """
    return _page(result, _pictures(result), gallery_uris(examples, gallery_pictures(examples).values()))


def _pictures(result: ExperimentResult) -> list[Picture]:
    if not _drawable(result):
        return []
    caption = (
        "Left: this run; bars and bands are 95% intervals, and of several seeds each run is a faint point or line, and the line runs"
        " through their means. Right: what is known of the paper's numbers; it has one run per point and no intervals."
    )
    beside = Picture(
        "figure.png", "This run and the paper", experiment_figure(result), figure_text(result), caption
    )
    return [beside, *(onset_pictures(result) if result.form == "epochs" else [])]


def _drawable(result: ExperimentResult) -> bool:
    runs = result.runs
    if result.form == "epochs":
        return any(one.epoch > 0 for run in runs for one in run.evaluations)
    return bool(runs)


def _page(result: ExperimentResult, pictures: Sequence[Picture], galleries: list[tuple[str, str]]) -> str:
    return render_page_of(
        result, pictures, galleries, "experiment.html", __package__, kind=f"Experiment {result.name}", lead=lead(result),
        answers=[], rows=experiment_rows(result), paper_heading=paper_heading(result),
        verdicts=[(claim, verdict_text(result, claim)) for claim in result.claims],
    )  # fmt: skip
