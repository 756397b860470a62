"""Studies: `find_emm` for every level of a factor, `run_study` on a grid of training-set sizes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Self

from diffmem.console import rendered, warn
from diffmem.data import ImageSet
from diffmem.distributed import world
from diffmem.environment import choose_device
from diffmem.errors import UserError
from diffmem.executors.config import ExecutorConfig
from diffmem.executors.jobs import waiting_for_jobs
from diffmem.progress import NO_PROGRESS, Progress, show_progress
from diffmem.reports.folder import ReportPaths
from diffmem.runs.recipe import StudyRecipe
from diffmem.runs.store.workers import read_statuses
from diffmem.settings import validated
from diffmem.studies.driver import budget_state
from diffmem.studies.folder import read_study, store_of, write_study_folder
from diffmem.studies.records import EmmRecord, GridLevel, GridResult, StudyResult
from diffmem.studies.report.levels_page import write_levels
from diffmem.studies.report.page import write_study
from diffmem.studies.report.text import ascending, terminal_table
from diffmem.studies.report.watch import grid_rows, watch_table
from diffmem.studies.search.plan import Plan, plan_grid, plan_search
from diffmem.studies.search.recipe import SearchRecipe
from diffmem.studies.search.records import SearchResult
from diffmem.studies.search.report.page import write_search
from diffmem.studies.search.report.tables import search_table
from diffmem.studies.search.report.tables import watch_table as search_watch_table
from diffmem.studies.search.report.text import level_emm
from diffmem.studies.search.study import SearchStudy
from diffmem.studies.study import Study, budget_of, execute_studies, stored_set
from diffmem.text import html_table

__all__ = [
    "EmmSearch",
    "GridStudy",
    "device_of",
    "find_emm",
    "open_any",
    "open_emm",
    "open_study",
    "prepared",
    "run_study",
]


@dataclass(frozen=True, eq=False)
class EmmSearch:
    """A search for EMM, finished or not.

    Attributes:
        study: The recipe in its folder.
        device: Where it computes.
    """

    study: SearchStudy
    device: str = "cpu"

    @classmethod
    def prepared(
        cls, recipe: SearchRecipe, out: Path, *, store: Path | None = None, device: str | None = None
    ) -> Self:
        """Return a search before it begins; see `prepared`."""
        device = device_of(recipe.executor, device)
        with show_progress("Reading images") as progress:
            return cls(SearchStudy(recipe.with_whole_paths(), out, store or store_of(out), progress), device)

    def execute(self) -> None:
        """Train and sample until every level has its answer, or the budget is spent; errors are those of `find_emm`."""
        with show_progress(self.recipe.title) as progress:
            self.study.execute(device=self.device, progress=progress, warn=warn)

    @cached_property
    def result(self) -> SearchResult:
        """What is known now, as one record; what `report.json` holds."""
        return self.study.result(self.device)

    @property
    def recipe(self) -> SearchRecipe:
        """What is done."""
        return self.study.recipe

    @property
    def folder(self) -> Path:
        """Folder of the study."""
        return self.study.folder

    def now(self) -> tuple[bool, list[Any], list[str]]:
        """Return whether it is finished, and what is known at this moment, as tables for `console`: EMM of the
        levels, then what each training does; and in words what it waits for and what it spent of its budget."""
        result = self.study.result(self.device)
        items = [item for group in self.study.searches().values() for one in group for item in one.waiting]
        live = read_statuses(self.study.run(item).folder for item in items)
        tables = [search_table(result), search_watch_table(result, live)]
        return result.finished, tables, _lines(self.folder, budget_state(self.study)[1])

    def plan(self, slots: int, threads: int, progress: Progress = NO_PROGRESS) -> Plan:
        """Project what it takes; see `plan_search`."""
        return plan_search(self.study, self.device, slots, threads, progress)

    @property
    def emm(self) -> dict[str, EmmRecord]:
        """EMM of every level with its interval, or why it is not known."""
        return {level.name: level.emm for level in self.result.levels}

    @property
    def tables(self) -> list[Any]:
        """EMM of every level, as a table for `console`."""
        return [search_table(self.result)]

    def __str__(self) -> str:
        return rendered(*self.tables)

    def _repr_html_(self) -> str:
        rows = [(level.name, level_emm(level, self.result)) for level in self.result.levels]
        return html_table(self.result.title, rows)

    def write_report(self) -> ReportPaths:
        """Write the report into the study's folder: report.html, report.json and pictures.

        Raises:
            DiffmemError: A file cannot be written.
        """
        return write_search(self.study, self.result, warn)


def _lines(folder: Path, budget: str) -> list[str]:
    waiting = waiting_for_jobs(folder)
    return [*([f"Waiting: {waiting}"] if waiting else []), *([f"Budget spent: {budget}"] if budget else [])]


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
            factor, title, executor, budget, and data but for its source; see `SearchRecipe`.

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
    found = EmmSearch.prepared(validated(SearchRecipe, values, "find_emm"), folder, device=device)
    found.execute()
    if world().is_main:
        found.write_report()
    return found


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
    found = open_any(folder)
    if isinstance(found, GridStudy):
        raise UserError(
            f"{folder} is the folder of a grid, not of a search for EMM: open it with `open_study`."
        )
    return found


def open_any(folder: str | Path) -> EmmSearch | GridStudy:
    """Open a study from its folder, finished or not.

    Raises:
        UserError: It is no such folder.
    """
    path = Path(folder)
    return prepared(read_study(path), path, device="cpu")


@dataclass(frozen=True, eq=False)
class GridStudy:
    """A finished study of a grid: every size and seed of every level.

    Attributes:
        recipe: What was done.
        levels: Level -> its study.
        folder: Where the reports go.
        device: Where it computes.
    """

    recipe: StudyRecipe
    levels: dict[str, Study]
    folder: Path
    device: str = "cpu"

    @classmethod
    def prepared(
        cls, recipe: StudyRecipe, out: Path, *, store: Path | None = None, device: str | None = None
    ) -> Self:
        """Return a study of a grid before it begins; see `prepared`."""
        recipe, device = recipe.with_whole_paths(), device_of(recipe.executor, device)
        runs = store or store_of(out)
        with show_progress("Reading images") as progress:
            levels = {name: Study(recipe.level(name), out, progress, store=runs) for name in recipe.levels}
        return cls(recipe, levels, out, device)

    def execute(self) -> None:
        """Do what is not done yet, until the budget is spent; errors are those of `run_study`."""
        studies = list(self.levels.values())
        if world().is_main:
            write_study_folder(self.folder, self.recipe, studies[0].store)
        with show_progress(self.recipe.title) as progress:
            execute_studies(studies, self.folder, device=self.device, progress=progress, warn=warn)
        _ = (
            self.results
        )  # under torchrun all processes read them together, and the first alone goes on to the report

    @cached_property
    def results(self) -> dict[str, StudyResult]:
        """What was found for every level, each as one record; what its `report.json` holds."""
        unfinished, _ = budget_of(list(self.levels.values()), self.folder)
        return {name: study.result(self.device, unfinished) for name, study in self.levels.items()}

    def now(self) -> tuple[bool, list[Any], list[str]]:
        """Return whether it is finished, and what is known at this moment, a table for `console`: what each
        training does; and in words what it waits for and what it spent of its budget."""
        rows = grid_rows(self.levels)
        live = read_statuses(run.folder for study in self.levels.values() for run in study.runs())
        done = sum(row.decision == "finished" for row in rows)
        caption = (
            f"R_mem with its interval at the best evaluation point; {done} of {len(rows)} runs are finished."
        )
        table = watch_table(self.recipe.title, caption, self.recipe.factor, rows, live)
        budget = budget_of(list(self.levels.values()), self.folder)[1]
        return done == len(rows), [table], _lines(self.folder, budget)

    def plan(self, slots: int, threads: int, progress: Progress = NO_PROGRESS) -> Plan:
        """Project what the rest takes; see `plan_grid`."""
        return plan_grid(self.levels, self.device, slots, threads, progress)

    @property
    def result(self) -> StudyResult:
        """What was found, of a study without levels.

        Raises:
            UserError: It has several levels.
        """
        if len(self.results) > 1:
            raise UserError(f"This study has the levels {', '.join(self.results)}: see `results`.")
        return next(iter(self.results.values()))

    @property
    def tables(self) -> list[Any]:
        """The runs of every level, as tables for `console`."""
        return list(map(terminal_table, self.results.values()))

    def __str__(self) -> str:
        return rendered(*self.tables)

    def _repr_html_(self) -> str:
        tables = [
            html_table(one.title, [(f"N = {run.size:,}", run.peak.memorized) for run in ascending(one)])
            for one in self.results.values()
        ]
        return "".join(tables)

    @property
    def together(self) -> GridResult:
        """What was found for all levels, as one record; what `report.json` holds where there are several."""
        levels = [
            GridLevel(name=name, study=study, published=self.recipe.published.get(name))
            for name, study in self.results.items()
        ]
        seconds = max(level.study.seconds for level in levels)  # they were done together
        return GridResult(title=self.recipe.title, factor=self.recipe.factor, levels=levels, seconds=seconds)

    def write_report(self) -> ReportPaths:
        """Write the report into the study's folder, one for all levels: report.html, report.json and pictures.

        Raises:
            DiffmemError: A file cannot be written.
        """
        if len(self.levels) == 1:
            return write_study(next(iter(self.levels.values())), self.result)
        return write_levels(self.levels, self.together, self.folder)


def run_study(
    recipe: StudyRecipe,
    out: str | Path,
    *,
    device: str | None = None,
    workers: int | None = None,
    store: Path | None = None,
) -> GridStudy:
    """Train every level, size and seed of a recipe to the end and measure R_mem; what is finished is never done again.

    Args:
        recipe: What to do.
        out: Folder of the study.
        device: 'cpu', 'cuda' or 'cuda:N'; by default what the recipe's executor says, else a GPU where there is one.
        workers: Processes that train at the same time, instead of the recipe's executor.
        store: Where runs lie; the folder, or the store that an earlier call named, if not given.

    Raises:
        UserError: The data cannot be had, a size cannot be drawn, the images do not fit the model, or the executor does not
            fit this machine.
        DiffmemError: A run failed.
        KeyboardInterrupt: A stop was requested; everything is saved.
    """
    if workers is not None:
        recipe = recipe.model_copy(update={"executor": ExecutorConfig.of_workers(workers)})
    found = GridStudy.prepared(recipe, Path(out), store=store, device=device)
    found.execute()
    return found


def prepared(
    recipe: StudyRecipe, out: Path, *, store: Path | None = None, device: str | None = None
) -> EmmSearch | GridStudy:
    """Return a study before it begins: a search or a grid, as its recipe says.

    Args:
        recipe: What to do.
        out: Folder of the study.
        store: Where runs lie; the folder, or the store that an earlier call named, if not given.
        device: 'cpu', 'cuda' or 'cuda:N'; by default what the recipe's executor says, else a GPU where there is one.

    Raises:
        UserError: The data cannot be had or do not fit, or the executor does not fit this machine.
    """
    if isinstance(recipe, SearchRecipe):
        return EmmSearch.prepared(recipe, out, store=store, device=device)
    return GridStudy.prepared(recipe, out, store=store, device=device)


def open_study(folder: str | Path) -> GridStudy:
    """Open a finished study of a grid from its folder.

    Raises:
        UserError: It is no such folder, or some runs are not finished.
    """
    found = open_any(folder)
    if isinstance(found, EmmSearch):
        raise UserError(f"{folder} is the folder of a search for EMM: open it with `open_emm`.")
    runs = [
        (run, run.is_finished(study.recipe.sampling, study.recipe.measure))
        for study in found.levels.values()
        for run in study.runs()
    ]
    missing = [run for run, finished in runs if not finished]
    if missing and not budget_of(list(found.levels.values()), found.folder)[0]:
        raise UserError(
            f"{len(missing)} of {len(runs)} runs are not finished, first that of size {len(missing[0].training_set)}; finish"
            " the study with the command that began it."
        )
    return found
