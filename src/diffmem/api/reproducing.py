"""Experiments of the paper: run, judged, and written beside the paper's numbers."""

from __future__ import annotations

import shlex
from collections.abc import Iterator, Sequence
from pathlib import Path

import yaml

from diffmem.console import warn
from diffmem.distributed import world
from diffmem.files import write_bytes, write_text
from diffmem.paper.records import ExperimentResult
from diffmem.paper.report.page import write_experiment
from diffmem.paper.report.results_page import results_page
from diffmem.paper.reproduce import Reproduction
from diffmem.paper.reproduce import reproduce as run_experiment
from diffmem.progress import show_progress
from diffmem.reports.folder import ReportPaths
from diffmem.studies.grid import GridStudy
from diffmem.studies.report.page import examples_of
from diffmem.text import file_name

__all__ = ["reproduce", "write_results_page"]

_PICTURES = "results"
_FIGURES = {"figure.png": "", "onset.png": "_onset"}  # of an experiment -> what its name on the page ends in
_MOST_GALLERIES = 4


def reproduce(
    planned: Sequence[Reproduction], *, device: str
) -> Iterator[tuple[ExperimentResult, ReportPaths]]:
    """Do what is not done yet of each experiment, write its report, and yield both; under torchrun, rank 0 alone yields.

    Args:
        planned: The experiments.
        device: 'cpu' or 'cuda'.

    Raises:
        UserError: The data cannot be had or do not fit.
        DiffmemError: A run failed.
        KeyboardInterrupt: A stop was requested; everything is saved.
    """
    for one in planned:
        with show_progress(one.experiment.name) as progress:
            result, study = run_experiment(one, device=device, progress=progress, warn=warn)
        if world().is_main:
            yield result, _write(one, result, study)


def _write(one: Reproduction, result: ExperimentResult, study: GridStudy) -> ReportPaths:
    for level in one.levels:
        recipe = yaml.safe_dump(level.recipe.model_dump(mode="json"), sort_keys=False)
        write_text(one.folder / "recipes" / f"{file_name(level.paper_name)}.yaml", recipe)
    return write_experiment(result, examples_of(study, result, warn, _MOST_GALLERIES), one.folder)


def write_results_page(
    page: Path, results: Sequence[ExperimentResult], newest: ReportPaths, scale: str, note: str | None = None
) -> None:
    """Write the page of all results so far; the newest one's figure is put beside those of the others.

    Args:
        page: The page.
        results: All so far.
        newest: The report of the last of them.
        scale: Theirs, for the command that makes the page again.
        note: The sentence that they were given, for that command.

    Raises:
        DiffmemError: A file cannot be written.
    """
    folder, name = page.parent / _PICTURES, results[-1].name
    drawn = {figure.name: figure for figure in newest.figures}
    for figure, end in _FIGURES.items():
        if figure in drawn:
            write_bytes(folder / f"{name}{end}.png", drawn[figure].read_bytes())
        else:  # of an earlier page
            (folder / f"{name}{end}.png").unlink(missing_ok=True)
    pictures, onsets = (
        {
            one.name: f"{_PICTURES}/{one.name}{end}.png"
            for one in results
            if (folder / f"{one.name}{end}.png").is_file()
        }
        for end in _FIGURES.values()
    )
    command = f"diffmem reproduce --all --scale {scale} --page {page.name if page.is_absolute() else page}"
    command += "" if note is None else f" --note {shlex.quote(note)}"
    write_text(page, results_page(results, pictures, command, onsets))
