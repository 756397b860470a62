"""The page of a study."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from diffmem.reports.gallery import Gallery
from diffmem.reports.html import png_uri, render_page, svg_uri
from diffmem.reports.text import line_text, size_text, threshold_text
from diffmem.studies.records import StudyResult
from diffmem.studies.report.figures import rmem_against_epochs, rmem_against_size
from diffmem.studies.report.tables import summary_rows
from diffmem.studies.report.text import emm_text, headline, warnings_of
from diffmem.text import percent

if TYPE_CHECKING:
    pass

__all__ = ["render_report"]


def render_report(result: StudyResult, galleries: Sequence[Gallery] = ()) -> str:
    """Return the report of a study as one self-contained HTML page.

    Args:
        result: The study; without runs the page says so and has no figures.
        galleries: Shown in the given order.

    Returns:
        HTML text. Everything that comes from the study is escaped.
    """
    sizes = [run.size for run in result.runs]
    return render_page(
        "report.html",
        package=__package__,
        result=result,
        headline=headline(result),
        emm=emm_text(result.emm, sizes),
        emm_last=None if result.emm_last is None else emm_text(result.emm_last, sizes),
        warnings=warnings_of(result),
        rows=summary_rows(result),
        several_seeds=len(set(sizes)) < len(sizes),
        line=line_text(result.epsilon),
        threshold=threshold_text(result.threshold),
        methods=sorted({one.memorized.method for run in result.runs for one in run.evaluations}),
        samples=sorted({one.memorized.total for run in result.runs for one in run.evaluations}),
        figures=_figures(result),
        galleries=[(gallery, png_uri(gallery.figure())) for gallery in galleries],
    )


def _figures(result: StudyResult) -> list[tuple[str, str, str]]:
    """Return (heading, image, alternative text) of each figure that the study can fill."""
    if not result.runs:
        return []
    found = [
        (
            "R_mem against the number of training images",
            svg_uri(rmem_against_size(result)),
            "R_mem, the share of samples that are copies, by number of training images. Peak over training: "
            + "; ".join(
                f"{size_text(run.size)} images {percent(run.peak.memorized.value)}" for run in result.runs
            )
            + f". EMM: {emm_text(result.emm, [run.size for run in result.runs])}.",
        )
    ]
    if any(one.epoch > 0 for run in result.runs for one in run.evaluations):
        found.append(
            (
                "R_mem over training",
                svg_uri(rmem_against_epochs(result)),
                "R_mem by epoch, one curve per training set. At the end of training: "
                + "; ".join(
                    f"{size_text(run.size)} images {percent(run.last.memorized.value)}" for run in result.runs
                )
                + ".",
            )
        )
    return found
