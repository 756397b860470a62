"""`diffmem quickstart`, `diffmem study` and `diffmem report`: studies on a list of sizes, and searches for EMM."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from diffmem.cli.options import Settings
from diffmem.cli.search import print_plan
from diffmem.console import console
from diffmem.distributed import world
from diffmem.errors import UserError

if TYPE_CHECKING:
    from diffmem.api.studies import StudyFolder

__all__ = ["report", "show_report", "study", "with_workers"]


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
    """Find EMM, for every level of a factor or on a fixed list of training-set sizes, or when training copies; write the report.

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
    from diffmem.api.studies import prepared
    from diffmem.studies.search.recipe import load_study

    found = prepared(load_study(recipe, with_workers(set_, workers)), out, store=store, device=device)
    if plan:
        print_plan(found)
    else:
        found.execute()
        show_report(found)


def with_workers(settings: list[str] | None, workers: int | None) -> list[str]:
    """Return the settings with the one that `--workers` is short for."""
    if workers is None:
        return settings or []
    for setting in settings or []:
        if setting.startswith(("executor=", "executor.")):
            raise UserError(
                f"--workers {workers} and --set {setting} both say where trainings run; leave one out."
            )
    executor = "inline" if workers == 1 else f"{{kind: local, processes: {workers}}}"
    return [*(settings or []), f"executor={executor}"]


def report(folder: Path) -> None:
    """Draw the report of a study again, from its stored neighbours; nothing is trained or generated.

    A study can be reported at any moment, also while it runs.

    Example: diffmem report quickstart

    Args:
        folder: Folder of the study.
    """
    from diffmem.api.studies import open_study

    show_report(open_study(folder))


def show_report(found: StudyFolder) -> None:
    """Write the report of a study as it is now, print its tables and where it is; under torchrun, rank 0 alone."""
    if world().is_main:
        paths = found.write_report()
        for table in found.tables:
            console().print(table)
        print(f"{paths.html}\n{paths.json}")
