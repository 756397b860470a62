"""The folder of a study's report."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from diffmem.reports.folder import ReportPaths, gallery_names, numbers_bytes, write_pages
from diffmem.reports.gallery import Gallery
from diffmem.reports.html import png_bytes
from diffmem.studies.records import StudyResult
from diffmem.studies.report.figures import rmem_against_epochs, rmem_against_size
from diffmem.studies.report.page import render_report

__all__ = ["write_report"]


def write_report(result: StudyResult, galleries: Sequence[Gallery], out_dir: Path) -> ReportPaths:
    """Write a report's folder: `report.html`, `report.json` and the pictures.

    The pictures are `rmem_vs_size.png`, `rmem_vs_epochs.png` and a `gallery_*.png` per gallery.

    The record `report.json` comes last, after all else is whole (see `write_folder`). A figure that the study cannot fill is
    not written.

    Args:
        result: The study.
        galleries: Shown in the given order.
        out_dir: The folder; made if it is missing, files of an earlier report are replaced.

    Raises:
        DiffmemError: A file cannot be written, or the result holds a number that JSON cannot (NaN, infinity).
    """
    numbers = numbers_bytes(result)
    pictures = []
    if result.runs:
        pictures.append(("rmem_vs_size.png", rmem_against_size(result)))
    if any(one.epoch > 0 for run in result.runs for one in run.evaluations):
        pictures.append(("rmem_vs_epochs.png", rmem_against_epochs(result)))
    for name, gallery in zip(gallery_names(galleries), galleries, strict=True):
        pictures.append((name, gallery.figure()))
    return write_pages(
        out_dir,
        {name: png_bytes(figure) for name, figure in pictures},
        render_report(result, galleries),
        "report.json",
        numbers,
    )
