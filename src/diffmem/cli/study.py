"""`diffmem quickstart`, `diffmem study` and `diffmem report`: studies on a list of sizes, and searches for EMM."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from diffmem.cli.options import Settings
from diffmem.cli.search import print_plan
from diffmem.console import console
from diffmem.distributed import world

if TYPE_CHECKING:
    from diffmem.api.studies import EmmSearch, GridStudy
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
    how many images are sampled. A recipe with a list of sizes trains them all to the end; with `plan: grid`, for every level.

    Finished runs are reused; interrupt with Ctrl-C, and the same command resumes.

    Example: diffmem study recipes/digits-width.yaml --out studies/width

    Args:
        recipe: YAML file; see the recipes folder, and `diffmem train --list-settings` for the keys.
        out: Folder of the study: its report, and its runs and data unless there is a store.
        set_: Change a setting of the recipe, key=value; may be repeated.
        device: cpu, cuda or cuda:N; by default a GPU where there is one.
        workers: Short for executor={kind: local, processes: WORKERS}; 1 trains in this process.
        store: Folder of runs and data that several studies share.
        plan: Only say what it will take: runs, hours, memory, disk.
    """
    from diffmem.api.studies import prepared_grid, prepared_search, run_search
    from diffmem.studies.search.recipe import SearchRecipe, load_study

    chosen = load_study(recipe, with_workers(set_, workers))
    if plan:
        if isinstance(chosen, SearchRecipe):
            print_plan(prepared_search(chosen, out, store=store, device=device))
        else:
            print_plan(prepared_grid(chosen, out, store=store, device=device))
    elif isinstance(chosen, SearchRecipe):
        found = run_search(chosen, out, store=store, device=device)
        if world().is_main:
            report_search(found)
    else:
        run_grid(chosen, out, device, store=store)


def with_workers(settings: list[str] | None, workers: int | None) -> list[str]:
    """Return the settings with the one that `--workers` is short for."""
    if workers is None:
        return settings or []
    executor = "inline" if workers == 1 else f"{{kind: local, processes: {workers}}}"
    return [*(settings or []), f"executor={executor}"]


def run_grid(
    recipe: StudyRecipe, out: Path, device: str | None, workers: int | None = None, store: Path | None = None
) -> None:
    """Run a study on a list of sizes, print its tables, write its reports and say where they are."""
    from diffmem.api.studies import run_study

    _report(run_study(recipe, out, device=device, workers=workers, store=store))


def report(folder: Path) -> None:
    """Draw the report of a study again, from its stored neighbours; nothing is trained or generated.

    A search for EMM can be reported at any moment, also while it runs.

    Example: diffmem report quickstart

    Args:
        folder: Folder of the study.
    """
    from diffmem.api.studies import open_emm, open_study
    from diffmem.studies.folder import read_study

    if read_study(folder).plan == "search":
        report_search(open_emm(folder))
    else:
        _report(open_study(folder))


def report_search(found: EmmSearch) -> None:
    """Write the report of a search as it is now, and print its table."""
    from diffmem.studies.search.report.tables import search_table

    paths = found.write_report()
    console().print(search_table(found.result))
    print(f"{paths.html}\n{paths.json}")


def _report(done: GridStudy) -> None:
    from diffmem.studies.report.text import terminal_table

    if world().is_main:
        paths = done.write_report()
        for result in done.results.values():
            console().print(terminal_table(result))
        print(f"{paths.html}\n{paths.json}")
