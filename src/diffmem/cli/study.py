"""`diffmem study` and `diffmem report`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from diffmem.cli.common import Settings

if TYPE_CHECKING:
    from diffmem.runs.recipe import StudyRecipe
    from diffmem.studies.study import Study

__all__ = ["carry_out", "report", "study"]

_RECIPE = "recipe.yaml"


def study(
    recipe: Path,
    *,
    out: Path,
    set_: Settings = None,
    device: str | None = None,
    workers: int | None = None,
    store: Path | None = None,
    plan: bool = False,
) -> None:
    """Find EMM: for every level of a factor, or on a fixed list of training-set sizes; write the report.

    A recipe with `levels` or `search` (`diffmem study new` writes one) chooses by itself which sizes are trained, how long, and
    how many images are sampled. A recipe with a list of sizes trains them all to the end.

    What is finished is never done again; interrupt with Ctrl-C, and the same command goes on.

    Example: diffmem study recipes/digits-width.yaml --out studies/width

    Args:
        recipe: YAML file; see the recipes folder, and `diffmem train --list-settings` for the keys.
        out: Folder of the study: its report, and its runs and data unless there is a store.
        set_: Change a setting of the recipe, key=value; may be repeated.
        device: cpu, cuda or cuda:N; by default a GPU where there is one.
        workers: Processes that train at the same time; by default one per core on a CPU.
        store: Folder of runs and data that several studies share.
        plan: Only say what it will take: runs, hours, memory, disk (recipes with levels or search).
    """
    from diffmem.errors import UserError
    from diffmem.runs.recipe import StudyRecipe
    from diffmem.settings import load_recipe
    from diffmem.studies.search.recipe import is_search

    if is_search(recipe):
        from diffmem.cli.search import carry_out_search_study

        carry_out_search_study(recipe, out, store, list(set_ or []), device, workers, plan)
        return
    if plan or store is not None:
        raise UserError(
            f"{recipe} is a list of sizes; --{'plan' if plan else 'store'} is for recipes with levels or search"
            " (diffmem study new writes one)."
        )
    carry_out(load_recipe(StudyRecipe, recipe, set_ or []), out, device, workers)


def carry_out(recipe: StudyRecipe, out: Path, device: str | None, workers: int | None) -> None:
    """Run a study, print its table, write its report and say where it is."""
    import yaml

    from diffmem.cli.common import choose_device, warn
    from diffmem.distributed import world
    from diffmem.files import write_text
    from diffmem.progress import show_progress
    from diffmem.studies.study import Study

    source = Path(recipe.data.source)
    if source.exists():  # so that the report can be drawn again from any folder
        data = recipe.data.model_copy(update={"source": str(source.resolve())})
        recipe = recipe.model_copy(update={"data": data})
    place = choose_device(device)
    with show_progress("Reading images") as progress:
        work = Study(recipe, out, progress)
    if world().is_main:
        write_text(out / _RECIPE, yaml.safe_dump(recipe.model_dump(mode="json"), sort_keys=False))
    with show_progress(recipe.title) as progress:
        work.execute(device=place, workers=workers, progress=progress, warn=warn)
    _report(work, place)


def report(folder: Path) -> None:
    """Draw the report of a study again, from its stored neighbours; nothing is trained or generated.

    A search for EMM can be reported at any moment, also while it goes on.

    Example: diffmem report quickstart

    Args:
        folder: Folder of the study.
    """
    from diffmem.cli.search import is_search_folder, report_search
    from diffmem.errors import UserError
    from diffmem.runs.recipe import StudyRecipe
    from diffmem.settings import load_recipe
    from diffmem.studies.study import Study

    if is_search_folder(folder):
        from diffmem.studies.search.study import open_search

        report_search(open_search(folder))
        return
    if not (folder / _RECIPE).is_file():
        raise UserError(f"{folder} is not the folder of a study: it has no {_RECIPE}.")
    recipe = load_recipe(StudyRecipe, folder / _RECIPE)
    work = Study(recipe, folder)
    missing = [run for run in work.runs() if not run.is_finished(recipe.sampling, recipe.measure)]
    if missing:
        raise UserError(
            f"{len(missing)} of {len(work.runs())} runs are not finished,"
            f" first that of size {len(missing[0].training_set)};"
            f" finish the study with the command that began it."
        )
    _report(work, "cpu")


def _report(work: Study, device: str) -> None:
    from diffmem.console import console
    from diffmem.distributed import world
    from diffmem.studies.report.page import write_report
    from diffmem.studies.report.tables import terminal_table

    result = work.result(device)
    if not world().is_main:
        return
    by_rate = sorted(result.runs, key=lambda run: run.peak.memorized.value)
    galleries = []
    for run, words in ((by_rate[-1], "Most memorized"), (by_rate[0], "Least memorized")):
        galleries.append(work.example(run.run_id).titled(words))
        if len(result.runs) == 1:
            break
    paths = write_report(result, galleries, work.folder)
    console().print(terminal_table(result))
    print(f"{paths.html}\n{paths.json}")
