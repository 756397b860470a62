"""A study on a grid of training-set sizes: R_mem and EMM."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import yaml

from diffmem.console import rendered, warn
from diffmem.distributed import world
from diffmem.environment import choose_device
from diffmem.errors import UserError
from diffmem.files import write_text
from diffmem.progress import show_progress
from diffmem.reports.folder import ReportPaths
from diffmem.runs.recipe import StudyRecipe
from diffmem.settings import load_recipe
from diffmem.studies.records import StudyResult
from diffmem.studies.report.page import write_study
from diffmem.studies.report.text import ascending, terminal_table
from diffmem.studies.study import Study
from diffmem.text import html_table

__all__ = ["GridStudy", "open_study", "run_study"]

_RECIPE = "recipe.yaml"


@dataclass(frozen=True, eq=False)
class GridStudy:
    """A finished study.

    Attributes:
        study: The recipe in its folder.
        device: Where it computes.
    """

    study: Study
    device: str = "cpu"

    @cached_property
    def result(self) -> StudyResult:
        """What was found, as one record; what `report.json` holds."""
        return self.study.result(self.device)

    def __str__(self) -> str:
        return rendered(terminal_table(self.result))

    def _repr_html_(self) -> str:
        return html_table(
            self.result.title, [(f"N = {run.size:,}", run.peak.memorized) for run in ascending(self.result)]
        )

    def write_report(self) -> ReportPaths:
        """Write the report into the study's folder: report.html, report.json and pictures.

        Raises:
            DiffmemError: A file cannot be written.
        """
        return write_study(self.study, self.result)


def run_study(
    recipe: StudyRecipe, out: str | Path, *, device: str | None = None, workers: int | None = None
) -> GridStudy:
    """Train every size and seed of a recipe to the end and measure R_mem; what is finished is never done again.

    Args:
        recipe: What to do.
        out: Folder of the study.
        device: 'cpu', 'cuda' or 'cuda:N'; by default a GPU where there is one.
        workers: Processes that train at the same time; by default one per core on a CPU.

    Raises:
        UserError: The data cannot be had, a size cannot be drawn, or the images do not fit the model.
        DiffmemError: A run failed.
        KeyboardInterrupt: A stop was requested; everything is saved.
    """
    source, folder = Path(recipe.data.source), Path(out)
    if source.exists():  # so that the report can be drawn again from any folder
        data = recipe.data.model_copy(update={"source": str(source.resolve())})
        recipe = recipe.model_copy(update={"data": data})
    device = choose_device(device)
    with show_progress("Reading images") as progress:
        study = Study(recipe, folder, progress)
    if world().is_main:
        write_text(folder / _RECIPE, yaml.safe_dump(recipe.model_dump(mode="json"), sort_keys=False))
    with show_progress(recipe.title) as progress:
        study.execute(device=device, workers=workers, progress=progress, warn=warn)
    return GridStudy(study, device)


def open_study(folder: str | Path) -> GridStudy:
    """Open a finished study from its folder.

    Raises:
        UserError: It is no such folder, or some runs are not finished.
    """
    path = Path(folder)
    if not (path / _RECIPE).is_file():
        raise UserError(f"{path} is not the folder of a study: it has no {_RECIPE}.")
    study = Study(load_recipe(StudyRecipe, path / _RECIPE), path)
    missing = [
        run for run in study.runs() if not run.is_finished(study.recipe.sampling, study.recipe.measure)
    ]
    if missing:
        raise UserError(
            f"{len(missing)} of {len(study.runs())} runs are not finished, first that of size"
            f" {len(missing[0].training_set)}; finish the study with the command that began it."
        )
    return GridStudy(study)
