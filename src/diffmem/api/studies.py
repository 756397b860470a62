"""Studies: `find_emm` for every level of a factor, `run_study` on a grid of training-set sizes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import yaml

from diffmem.console import rendered, warn
from diffmem.data import ImageSet
from diffmem.distributed import world
from diffmem.environment import choose_device
from diffmem.errors import UserError
from diffmem.executors.config import ExecutorConfig
from diffmem.files import write_text
from diffmem.progress import show_progress
from diffmem.reports.folder import ReportPaths
from diffmem.runs.recipe import StudyRecipe
from diffmem.settings import load_recipe, validated
from diffmem.studies.records import EmmRecord, StudyResult
from diffmem.studies.report.page import write_study
from diffmem.studies.report.text import ascending, terminal_table
from diffmem.studies.search.recipe import SearchRecipe
from diffmem.studies.search.records import SearchResult
from diffmem.studies.search.report.page import write_search
from diffmem.studies.search.report.tables import search_table
from diffmem.studies.search.report.text import level_emm
from diffmem.studies.search.study import SearchStudy, open_search, store_of
from diffmem.studies.study import Study, stored_set
from diffmem.text import html_table

__all__ = [
    "EmmSearch",
    "GridStudy",
    "device_of",
    "find_emm",
    "open_emm",
    "open_study",
    "prepared_search",
    "run_search",
    "run_study",
]

_RECIPE = "recipe.yaml"


@dataclass(frozen=True, eq=False)
class EmmSearch:
    """A search for EMM, finished or not.

    Attributes:
        study: The recipe in its folder.
        device: Where it computes.
    """

    study: SearchStudy
    device: str = "cpu"

    @cached_property
    def result(self) -> SearchResult:
        """What is known now, as one record; what `report.json` holds."""
        return self.study.result(self.device)

    @property
    def emm(self) -> dict[str, EmmRecord]:
        """EMM of every level with its interval, or why it is not known."""
        return {level.name: level.emm for level in self.result.levels}

    def __str__(self) -> str:
        return rendered(search_table(self.result))

    def _repr_html_(self) -> str:
        rows = [(level.name, level_emm(level, self.result)) for level in self.result.levels]
        return html_table(self.result.title, rows)

    def write_report(self) -> ReportPaths:
        """Write the report into the study's folder: report.html, report.json and pictures.

        Raises:
            DiffmemError: A file cannot be written.
        """
        return write_search(self.study, self.result, warn)


def find_emm(
    source: str | Path | ImageSet,
    sizes: Sequence[int],
    *,
    levels: Mapping[str, Mapping[str, Any]] | None = None,
    out: str | Path,
    device: str | None = None,
    **settings: Any,
) -> EmmSearch:
    """Find EMM, the largest training-set size at which R_mem still reaches 90%, and write the report.

    Sizes, lengths of trainings and numbers of samples are chosen until the interval of EMM is narrow. What is finished is
    never done again: after an interruption, the same call goes on.

    Args:
        source: Where training sets are drawn from: anything that `open_images` reads, or a set.
        sizes: The smallest and the largest size that may be trained.
        levels: Level -> the settings that it changes, dotted key: value, for example {"16": {"data.resolution": 16}}.
        out: Folder of the study: its runs, data and report.
        device: 'cpu', 'cuda' or 'cuda:N'; by default a GPU where there is one.
        settings: Further parts of a search's recipe, as values or configs: model, training, sampling, measure, search, seeds,
            factor, title, executor, and data but for its source; see `SearchRecipe`.

    Raises:
        UserError: A setting is wrong, or the data do not fit.
        DiffmemError: A training failed.
        KeyboardInterrupt: A stop was requested; everything is saved.
    """
    folder = Path(out)
    path = stored_set(folder, source, "source") if isinstance(source, ImageSet) else source
    values = {
        name: value.model_dump(mode="json", exclude_unset=True) if hasattr(value, "model_dump") else value
        for name, value in settings.items()
    }
    values["data"] = {**values.get("data", {}), "source": str(path)}
    values["sizes"] = tuple(sizes)
    if levels is not None:
        values["levels"] = {str(name): dict(changes) for name, changes in levels.items()}
    found = run_search(validated(SearchRecipe, values, "find_emm"), folder, device=device)
    if world().is_main:
        found.write_report()
    return found


def run_search(
    recipe: SearchRecipe, out: Path, *, store: Path | None = None, device: str | None = None
) -> EmmSearch:
    """Search for EMM as a recipe says.

    Args:
        recipe: What to do.
        out: Folder of the study.
        store: Where runs lie; the folder, or the store that an earlier call named, if not given.
        device: 'cpu', 'cuda' or 'cuda:N'; by default what the recipe's executor says, else a GPU where there is one.

    Raises:
        UserError: The data cannot be had, or the executor does not fit this machine.
        DiffmemError: A training failed.
        KeyboardInterrupt: A stop was requested; everything is saved.
    """
    found = prepared_search(recipe, out, store=store, device=device)
    with show_progress(recipe.title) as progress:
        found.study.execute(device=found.device, progress=progress, warn=warn)
    return EmmSearch(found.study, found.device)


def prepared_search(
    recipe: SearchRecipe, out: Path, *, store: Path | None = None, device: str | None = None
) -> EmmSearch:
    """Return a search before it begins; arguments and errors are those of `run_search`."""
    device = device_of(recipe.executor, device)
    with show_progress("Reading images") as progress:
        study = SearchStudy(recipe.with_whole_paths(), out, store or store_of(out), progress)
    return EmmSearch(study, device)


def device_of(executor: ExecutorConfig, device: str | None) -> str:
    """Return where trainings compute: the device that is wanted, else what the executor says, else a GPU where there is one.

    Raises:
        UserError: The device is unknown or not there.
    """
    if executor.kind in ("inline", "local"):
        return choose_device(device)
    # On a login node there is no GPU; where the jobs run is what counts.
    return device or executor.device or choose_device(None)


def open_emm(folder: str | Path) -> EmmSearch:
    """Open a search from its folder, finished or not.

    Raises:
        UserError: It is no such folder.
    """
    return EmmSearch(open_search(Path(folder)))


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
        device: 'cpu', 'cuda' or 'cuda:N'; by default what the recipe's executor says, else a GPU where there is one.
        workers: Processes that train at the same time, instead of the recipe's executor.

    Raises:
        UserError: The data cannot be had, a size cannot be drawn, the images do not fit the model, or the executor does not
            fit this machine.
        DiffmemError: A run failed.
        KeyboardInterrupt: A stop was requested; everything is saved.
    """
    source, folder = Path(recipe.data.source), Path(out)
    if source.exists():  # so that the report can be drawn again from any folder
        data = recipe.data.model_copy(update={"source": str(source.resolve())})
        recipe = recipe.model_copy(update={"data": data})
    if workers is not None:
        recipe = recipe.model_copy(update={"executor": ExecutorConfig.of_workers(workers)})
    device = device_of(recipe.executor, device)
    with show_progress("Reading images") as progress:
        study = Study(recipe, folder, progress)
    if world().is_main:
        write_text(folder / _RECIPE, yaml.safe_dump(recipe.model_dump(mode="json"), sort_keys=False))
    with show_progress(recipe.title) as progress:
        study.execute(device=device, progress=progress, warn=warn)
    found = GridStudy(study, device)
    _ = (
        found.result
    )  # under torchrun all processes read it together, and the first alone goes on to the report
    return found


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
