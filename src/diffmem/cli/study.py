"""`diffmem quickstart`, `diffmem study` and `diffmem report`: studies on a list of sizes, and searches for EMM."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from diffmem.cli.options import Settings
from diffmem.cli.search import is_search_folder, report_search, search_for_emm
from diffmem.console import console
from diffmem.distributed import world
from diffmem.errors import UserError

if TYPE_CHECKING:
    from diffmem.api.studies import GridStudy
    from diffmem.runs.recipe import StudyRecipe

__all__ = ["report", "run_grid", "study", "with_workers"]


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

    Finished runs are reused; interrupt with Ctrl-C, and the same command resumes.

    Example: diffmem study recipes/digits-width.yaml --out studies/width

    Args:
        recipe: YAML file; see the recipes folder, and `diffmem train --list-settings` for the keys.
        out: Folder of the study: its report, and its runs and data unless there is a store.
        set_: Change a setting of the recipe, key=value; may be repeated.
        device: cpu, cuda or cuda:N; by default a GPU where there is one.
        workers: Short for executor={kind: local, processes: WORKERS}; 1 trains in this process.
        store: Folder of runs and data that several studies share.
        plan: Only say what it will take: runs, hours, memory, disk (recipes with levels or search).
    """
    from diffmem.runs.recipe import StudyRecipe
    from diffmem.settings import load_recipe
    from diffmem.studies.search.recipe import is_search

    if is_search(recipe):
        search_for_emm(recipe, out, store, with_workers(set_, workers), device, plan)
        return
    if plan or store is not None:
        raise UserError(
            f"{recipe} is a list of sizes; --{'plan' if plan else 'store'} is for recipes with levels or search"
            " (diffmem study new writes one)."
        )
    run_grid(load_recipe(StudyRecipe, recipe, with_workers(set_, workers)), out, device)


def with_workers(settings: list[str] | None, workers: int | None) -> list[str]:
    """Return the settings with the one that `--workers` is short for."""
    if workers is None:
        return settings or []
    executor = "inline" if workers == 1 else f"{{kind: local, processes: {workers}}}"
    return [*(settings or []), f"executor={executor}"]


def run_grid(recipe: StudyRecipe, out: Path, device: str | None, workers: int | None = None) -> None:
    """Run a study on a list of sizes, print its table, write its report and say where it is."""
    from diffmem.api.studies import run_study

    _report(run_study(recipe, out, device=device, workers=workers))


def report(folder: Path) -> None:
    """Draw the report of a study again, from its stored neighbours; nothing is trained or generated.

    A search for EMM can be reported at any moment, also while it runs.

    Example: diffmem report quickstart

    Args:
        folder: Folder of the study.
    """
    from diffmem.api.studies import open_study

    if is_search_folder(folder):
        from diffmem.api.studies import open_emm

        report_search(open_emm(folder))
    else:
        _report(open_study(folder))


def _report(done: GridStudy) -> None:
    from diffmem.studies.report.text import terminal_table

    if world().is_main:
        paths = done.write_report()
        console().print(terminal_table(done.result))
        print(f"{paths.html}\n{paths.json}")
