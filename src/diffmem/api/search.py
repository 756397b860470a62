"""`find_emm`: the largest training set that a model still memorizes, for every level of a factor."""

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
from diffmem.progress import show_progress
from diffmem.reports.folder import ReportPaths
from diffmem.settings import validated
from diffmem.studies.records import EmmRecord
from diffmem.studies.search.driver import run_search as search_sizes
from diffmem.studies.search.recipe import SearchRecipe
from diffmem.studies.search.records import SearchResult
from diffmem.studies.search.report.page import write_search
from diffmem.studies.search.report.tables import search_table
from diffmem.studies.search.report.text import level_emm
from diffmem.studies.search.study import SearchStudy, open_search, store_of
from diffmem.studies.study import stored_set
from diffmem.text import html_table

__all__ = ["EmmSearch", "find_emm", "open_emm", "prepared_search", "run_search"]


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
        """EMM of every level with its interval, or why it cannot be told."""
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
        search_sizes(found.study, device=found.device, progress=progress, warn=warn)
    return EmmSearch(found.study, found.device)


def prepared_search(
    recipe: SearchRecipe, out: Path, *, store: Path | None = None, device: str | None = None
) -> EmmSearch:
    """Return a search before it begins; arguments and errors are those of `run_search`."""
    # On a login node there is no GPU; where the jobs run is what counts.
    if recipe.executor.kind in ("inline", "local"):
        device = choose_device(device)
    else:
        device = device or recipe.executor.device or choose_device(None)
    with show_progress("Reading images") as progress:
        study = SearchStudy(recipe.with_whole_paths(), out, store or store_of(out), progress)
    return EmmSearch(study, device)


def open_emm(folder: str | Path) -> EmmSearch:
    """Open a search from its folder, finished or not.

    Raises:
        UserError: It is no such folder.
    """
    return EmmSearch(open_search(Path(folder)))
