"""The page of a study and its folder: one self-contained HTML file with its figures, its numbers, its pictures.

Galleries are of the most and the least memorized run.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

from diffmem.memorization.examples import Example
from diffmem.reports.folder import Picture, ReportPaths, gallery_pictures, write_drawn
from diffmem.reports.html import gallery_uris, render_page, svg_uri
from diffmem.reports.text import size_text, target_text, threshold_text
from diffmem.runs.records import Evaluation, RunRecord
from diffmem.studies.records import StudyResult
from diffmem.studies.report.figures import rmem_against_epochs, rmem_against_size
from diffmem.studies.report.text import ascending, emm_text, headline, warnings_of
from diffmem.studies.study import Study
from diffmem.text import percent

__all__ = ["render_report", "write_report", "write_study"]


def write_report(result: StudyResult, examples: Sequence[Example], out_dir: Path) -> ReportPaths:
    """Write a report's folder: `report.html`, `report.json` and the pictures.

    The pictures are `rmem_vs_size.png`, `rmem_vs_epochs.png` and a `gallery_*.png` per example. The record `report.json` comes
    last, after all else is whole (see `write_folder`). A figure that the study cannot fill is not written.

    Args:
        result: The study; `StudyResult.model_validate_json` reads `report.json` back.
        out_dir: The folder; made if it is missing, files of an earlier report are replaced.

    Raises:
        DiffmemError: A file cannot be written, or the result holds a number that JSON cannot (NaN, infinity).
    """
    return write_drawn(out_dir, result, examples, _pictures, _page)


def render_report(result: StudyResult, examples: Sequence[Example] = ()) -> str:
    """Return the report of a study as one self-contained HTML page; everything that comes from the study is escaped.

    Args:
        result: The study; without runs the page says so and has no figures.
    """
    galleries = gallery_uris(examples, gallery_pictures(examples).values())
    return _page(result, _pictures(result), galleries)


def _page(result: StudyResult, pictures: Sequence[Picture], galleries: list[tuple[str, str]]) -> str:
    sizes = [run.size for run in result.runs]
    return render_page(
        "report.html",
        package=__package__,
        result=result,
        headline=headline(result),
        emm=emm_text(result.emm, sizes),
        emm_last=None if result.emm_last is None else emm_text(result.emm_last, sizes),
        warnings=warnings_of(result),
        runs=ascending(result),
        several_seeds=len(set(sizes)) < len(sizes),
        target=target_text(result.epsilon),
        threshold=threshold_text(result.threshold),
        methods=sorted({one.memorized.method for run in result.runs for one in run.evaluations}),
        samples=sorted({one.memorized.total for run in result.runs for one in run.evaluations}),
        pictures=[(picture, svg_uri(picture.figure)) for picture in pictures],
        galleries=galleries,
    )


def _pictures(result: StudyResult) -> list[Picture]:
    """Return the figures that the study can fill."""

    def rates(which: Callable[[RunRecord], Evaluation]) -> str:
        found = [f"{size_text(run.size)} images {percent(which(run).memorized.value)}" for run in result.runs]
        return "; ".join(found)

    found = []
    if result.runs:
        found.append(
            Picture(
                "rmem_vs_size.png",
                "R_mem against the number of training images",
                rmem_against_size(result),
                "R_mem, the share of samples that are copies, by number of training images. Peak over training:"
                f" {rates(lambda run: run.peak)}. EMM: {emm_text(result.emm, [run.size for run in result.runs])}.",
            )
        )
    if any(one.epoch > 0 for run in result.runs for one in run.evaluations):
        found.append(
            Picture(
                "rmem_vs_epochs.png",
                "R_mem over training",
                rmem_against_epochs(result),
                "R_mem by epoch, one curve per training set. At the end of training:"
                f" {rates(lambda run: run.last)}.",
            )
        )
    return found


def write_study(study: Study, result: StudyResult) -> ReportPaths:
    """Write the report of a study into its folder.

    Args:
        study: Has the images.
        result: What was found.

    Raises:
        DiffmemError: A file cannot be written.
    """
    by_rate = sorted(result.runs, key=lambda run: run.peak.memorized.value)
    shown = [("Most memorized", by_rate[-1]), ("Least memorized", by_rate[0])][: len(by_rate)]
    examples = [study.example(run.run_id).titled(title) for title, run in shown]
    return write_report(result, examples, study.folder)
