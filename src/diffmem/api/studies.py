"""Studies: `find_emm` and `find_onset` for every level of a factor, `run_study` on a grid of training-set sizes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

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
from diffmem.studies.folder import read_study, store_of
from diffmem.studies.grid import GridStudy
from diffmem.studies.records import EmmRecord, LevelRecord, StudyRecord
from diffmem.studies.report.growing import growing_report
from diffmem.studies.report.page import examples_of, write_study
from diffmem.studies.report.tables import answers_of, level_table, study_tables, watch_table
from diffmem.studies.report.text import level_label
from diffmem.studies.search.onset_study import OnsetStudy
from diffmem.studies.search.plan import Plan, plan_grid, plan_onset, plan_search
from diffmem.studies.search.recipe import AdaptiveRecipe, OnsetConfig, OnsetRecipe, SearchRecipe
from diffmem.studies.search.study import SearchStudy
from diffmem.studies.tasks import stored_set
from diffmem.text import html_table

__all__ = [
    "StudyFolder",
    "device_of",
    "find_emm",
    "find_onset",
    "open_emm",
    "open_study",
    "prepared",
    "run_study",
]


@dataclass(frozen=True, eq=False)
class StudyFolder:
    """A study in its folder, a grid or a search of either kind, finished or not.

    Attributes:
        study: The recipe in its folder.
        device: Where it computes.
    """

    study: GridStudy | SearchStudy | OnsetStudy
    device: str = "cpu"

    def execute(self) -> None:
        """Train and sample until every level has its answer, or the budget is spent; errors are those of `run_study`.

        The report is written meanwhile with what is known, if this process works alone.
        """
        self.tell_remarks()
        with show_progress(self.recipe.title) as shown:
            progress = shown
            if world().size == 1:
                progress = growing_report(self.study, self.device, shown)
            self.study.execute(device=self.device, progress=progress, warn=warn)
        _ = (
            self.result
        )  # under torchrun all processes read it together, and the first alone goes on to the report

    def tell_remarks(self) -> None:
        """Warn of what the recipe's author may not have meant; see `StudyRecipe.remarks`."""
        for remark in self.recipe.remarks() if world().is_main else ():
            warn(remark)

    @cached_property
    def result(self) -> StudyRecord:
        """What was found, as one record; what `report.json` holds."""
        return self.study.result(self.device)

    @property
    def recipe(self) -> StudyRecipe:
        """What is done."""
        return self.study.recipe

    @property
    def folder(self) -> Path:
        """Folder of the study."""
        return self.study.folder

    @property
    def levels(self) -> dict[str, LevelRecord]:
        """What was found for every level."""
        return {level.name: level for level in self.result.levels}

    @property
    def emm(self) -> dict[str, EmmRecord]:
        """EMM of every level with its interval, or why it is not known."""
        return {level.name: level.emm for level in self.result.levels}

    def now(self) -> tuple[bool, list[Any], list[str]]:
        """Return whether it is finished, and what is known at this moment, as tables for `console`: EMM of the
        levels, then what each training does; and in words what it waits for and what it spent of its budget."""
        result = self.study.result(self.device, so_far=True)
        live = read_statuses(self.study.store / run.folder for run in result.runs)
        waiting, budget = waiting_for_jobs(self.folder), self.study.spent_text()
        lines = [f"Waiting: {waiting}"] if waiting else []
        lines += [f"Budget spent: {budget}"] if budget else []
        return result.finished, [level_table(result), watch_table(result, live)], lines

    def plan(self, slots: int, threads: int, progress: Progress = NO_PROGRESS) -> Plan:
        """Project what the rest takes; see `plan_search`, `plan_onset` and `plan_grid`."""
        if isinstance(self.study, GridStudy):
            return plan_grid(self.study.studies, self.device, slots, threads, progress)
        if isinstance(self.study, OnsetStudy):
            return plan_onset(self.study, self.device, slots, threads, progress)
        return plan_search(self.study, self.device, slots, threads, progress)

    @property
    def tables(self) -> list[Any]:
        """What was found, as tables for `console`; see `study_tables`."""
        return study_tables(self.result)

    def __str__(self) -> str:
        return rendered(*self.tables)

    def _repr_html_(self) -> str:
        _, of_level = answers_of(self.result)
        rows = [(level_label(level.name, self.result), of_level(level)) for level in self.result.levels]
        return html_table(self.result.title, rows)

    def write_report(self) -> ReportPaths:
        """Write the report into the study's folder: report.html, report.json and pictures.

        Raises:
            DiffmemError: A file cannot be written.
        """
        return write_study(self.result, examples_of(self.study, self.result, warn), self.folder)


def find_emm(
    source: str | Path | ImageSet,
    sizes: Sequence[int],
    *,
    levels: Mapping[str, Mapping[str, Any]] | None = None,
    out: str | Path,
    device: str | None = None,
    **settings: Any,
) -> StudyFolder:
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
    return _searched(SearchRecipe, "find_emm", source, sizes, levels, out, device, settings)


def find_onset(
    source: str | Path | ImageSet,
    sizes: Sequence[int],
    line: float = 0.1,
    *,
    levels: Mapping[str, Mapping[str, Any]] | None = None,
    out: str | Path,
    device: str | None = None,
    **settings: Any,
) -> StudyFolder:
    """Find how long may be trained on so many images until a share of the samples are copies, and write the report.

    Each training ends where the line is certainly reached, and seeds are added until the mean time of a size is known well enough. What is
    finished is never done again: after an interruption, the same call goes on. `onset` asks the same of a study that is there.

    Args:
        source: Where training sets are drawn from: anything that `open_images` reads, or a set.
        sizes: Numbers of training images.
        line: The share of copies, in (0, 1).
        levels: Level -> the settings that it changes, dotted key: value.
        out: Folder of the study: its runs, data and report.
        device: 'cpu', 'cuda' or 'cuda:N'; by default a GPU where there is one.
        settings: Further parts of the recipe, as of `find_emm`, with `onset` (tolerance, confidence, most_seeds) in place of `search`; see
            `OnsetRecipe`.

    Raises:
        UserError: A setting is wrong, or the data do not fit.
        DiffmemError: A training failed.
        KeyboardInterrupt: A stop was requested; everything is saved.
    """
    onset = settings.get("onset", {})
    asked = onset.model_dump(exclude_unset=True) if isinstance(onset, OnsetConfig) else dict(onset)
    if asked.setdefault("line", line) != line:
        raise UserError(
            f"find_onset: line is {line:g}, but onset.line is {asked['line']!r}; give it once, as line."
        )
    settings["onset"] = asked
    return _searched(OnsetRecipe, "find_onset", source, sizes, levels, out, device, settings)


def _searched(
    kind: type[AdaptiveRecipe],
    name: str,
    source: str | Path | ImageSet,
    sizes: Sequence[int],
    levels: Mapping[str, Mapping[str, Any]] | None,
    out: str | Path,
    device: str | None,
    settings: Mapping[str, Any],
) -> StudyFolder:
    """Carry out a search that `find_emm` or `find_onset` was asked for."""
    folder = Path(out)
    path = stored_set(folder, source, "source") if isinstance(source, ImageSet) else source
    values = {
        key: value.model_dump(mode="json", exclude_unset=True) if hasattr(value, "model_dump") else value
        for key, value in settings.items()
    }
    if "source" in values.get("data", {}):
        raise UserError(
            f"{name}: data has a source, {values['data']['source']!r}, beside that of the first argument; give it there alone."
        )
    values["data"] = {**values.get("data", {}), "source": str(path)}
    values["sizes"] = tuple(sizes)
    if levels is not None:
        values["levels"] = {str(level): dict(changes) for level, changes in levels.items()}
    found = prepared(validated(kind, values, name), folder, device=device)
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


def open_study(folder: str | Path) -> StudyFolder:
    """Open a study from its folder, a grid or a search, finished or not.

    Raises:
        UserError: It is no such folder.
    """
    path = Path(folder)
    return prepared(read_study(path), path, device="cpu")


open_emm = open_study
"""The same, by its name in version 0.1.0."""


def run_study(
    recipe: StudyRecipe,
    out: str | Path,
    *,
    device: str | None = None,
    workers: int | None = None,
    store: Path | None = None,
) -> StudyFolder:
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
    found = prepared(recipe, Path(out), store=store, device=device)
    found.execute()
    return found


def prepared(
    recipe: StudyRecipe, out: Path, *, store: Path | None = None, device: str | None = None
) -> StudyFolder:
    """Return a study before it begins: a grid or a search of either kind, as its recipe says.

    Args:
        recipe: What to do.
        out: Folder of the study.
        store: Where runs lie; the folder, or the store that an earlier call named, if not given.
        device: 'cpu', 'cuda' or 'cuda:N'; by default what the recipe's executor says, else a GPU where there is one.

    Raises:
        UserError: The data cannot be had or do not fit, or the executor does not fit this machine.
    """
    device, whole, runs = (
        device_of(recipe.executor, device),
        recipe.with_whole_paths(),
        store or store_of(out),
    )
    with show_progress("Reading images") as progress:
        if isinstance(whole, SearchRecipe):
            return StudyFolder(SearchStudy(whole, out, runs, progress), device)
        if isinstance(whole, OnsetRecipe):
            return StudyFolder(OnsetStudy(whole, out, runs, progress), device)
        return StudyFolder(GridStudy(whole, out, runs, progress), device)
