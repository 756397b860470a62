"""`diffmem study` for searches: run one, plan it, look at it while it goes on, write a recipe."""

from __future__ import annotations

import time
from pathlib import Path
from typing import TYPE_CHECKING

from diffmem.console import console
from diffmem.distributed import world
from diffmem.errors import UserError
from diffmem.progress import show_progress
from diffmem.text import bytes_text, duration_text

if TYPE_CHECKING:
    from diffmem.api.studies import EmmSearch
    from diffmem.runs.store.workers import Status
    from diffmem.studies.search.study import SearchStudy

__all__ = ["is_search_folder", "new", "report_search", "search_for_emm", "status", "watch"]


def search_for_emm(
    path: Path,
    out: Path,
    store: Path | None,
    settings: list[str],
    device: str | None,
    plan: bool,
) -> None:
    """Search for EMM as a recipe says, print the table, write the report; or only say what it will take."""
    from diffmem.api.studies import prepared_search, run_search
    from diffmem.studies.search.recipe import load_search

    recipe = load_search(path, settings)
    if plan:
        found = prepared_search(recipe, out, store=store, device=device)
        _plan(found.study, found.device)
        return
    found = run_search(recipe, out, store=store, device=device)
    if world().is_main:
        report_search(found)


def _plan(study: SearchStudy, device: str) -> None:
    from rich.table import Table

    from diffmem.executors.open import open_pool
    from diffmem.executors.processes import available_cores
    from diffmem.studies.search.plan import plan_search

    kind = study.recipe.executor.kind
    if kind in ("inline", "local"):
        with open_pool(study.recipe.executor, device=device, folder=study.folder) as pool:
            slots = pool.slots
    else:
        config = study.recipe.executor
        slots = config.most_blocks * config.nodes * (config.runs_per_node or 1)
    threads = max(1, available_cores() // slots) if kind == "local" else available_cores()
    with show_progress("Measuring") as progress:
        plan = plan_search(study, device, slots, threads, progress)
    table = Table(title=f"{study.recipe.title}: estimated cost", title_justify="left")
    table.add_column(study.recipe.factor)
    for name in ("runs", "images trained", "images sampled", "hours", "hours, grid", "disk"):
        table.add_column(name, justify="right")
    for level in plan.levels:
        table.add_row(
            level.name, f"{level.runs:.1f} (to {level.runs_high:.0f})", f"{level.images_trained:,.0f}",
            f"{level.images_sampled:,.0f}", f"{level.hours:.2g} (to {level.hours_high:.2g})", f"{level.grid_hours:.2g}",
            bytes_text(level.disk),
        )  # fmt: skip
    console().print(table)
    print(
        f"{plan.runs:.0f} trainings, {plan.slots} at a time: {duration_text(3600 * plan.hours)} on average, below"
        f" {duration_text(3600 * plan.hours_high)} in nine of ten cases; a fixed grid {duration_text(3600 * plan.grid_hours)}."
    )
    print(
        f"Memory {bytes_text(plan.memory)}, disk {bytes_text(plan.disk)}. Trainings already in the store: {plan.finished}."
    )
    print(
        "Hours of one process unless stated otherwise, from a short measurement on this machine and simulated searches with EMM"
        " anywhere between the sizes."
    )


def is_search_folder(folder: Path) -> bool:
    """Whether a folder is that of a search, as `diffmem study` leaves it."""
    from diffmem.studies.search.recipe import is_search
    from diffmem.studies.search.study import RECIPE_FILE

    return (folder / RECIPE_FILE).is_file() and is_search(folder / RECIPE_FILE)


def report_search(found: EmmSearch) -> None:
    """Write the report of a search as it is now, and print its table."""
    from diffmem.studies.search.report.tables import search_table

    paths = found.write_report()
    console().print(search_table(found.result))
    print(f"{paths.html}\n{paths.json}")


def status(folder: Path) -> None:
    """Show how far a study is: each level, each training, what is going on now.

    Example: diffmem study status studies/width

    Args:
        folder: Folder of the study.
    """
    from diffmem.studies.search.report.tables import search_table, watch_table

    study = _open(folder)
    result = study.result()
    console().print(search_table(result))
    console().print(watch_table(result, _live(study)))


def watch(folder: Path, *, every: float = 2.0, once: bool = False) -> None:
    """Show the table of a running study, until it is finished or Ctrl-C.

    Example: diffmem study watch studies/width

    Args:
        folder: Folder of the study.
        every: Seconds between updates.
        once: Show it once and end.
    """
    from rich.live import Live

    from diffmem.studies.search.report.tables import watch_table

    if not every > 0:
        raise UserError(f"--every {every} must be a positive number of seconds, for example 2.")
    study = _open(folder)
    with Live(console=console(), auto_refresh=False) as shown:
        while True:
            result = study.result()
            shown.update(watch_table(result, _live(study)), refresh=True)
            if result.finished or once:
                return
            time.sleep(every)


def _live(study: SearchStudy) -> dict[str, Status]:
    from diffmem.runs.store.workers import read_status

    live: dict[str, Status] = {}
    for group in study.searches().values():
        for search in group:
            for item in search.waiting:
                run = study.run(item)
                status = read_status(run.folder)
                if status is not None:
                    live[run.run_id] = status
    return live


def _open(folder: Path) -> SearchStudy:
    from diffmem.studies.search.study import open_search

    if not is_search_folder(folder):
        raise UserError(
            f"{folder} is not the folder of a search for EMM: name the folder that was given to diffmem study --out."
        )
    return open_search(folder)


def new(path: Path) -> None:
    """Write a commented recipe of a search, to be changed.

    Example: diffmem study new width.yaml

    Args:
        path: The file; it must not exist yet.
    """
    from importlib.resources import files

    from diffmem.files import write_text

    if path.exists():
        raise UserError(f"{path} exists already; choose another name or remove it.")
    write_text(path, (files("diffmem.studies.search") / "template.yaml").read_text("utf-8"))
    print(f"{path}: edit it, then: diffmem study {path} --out studies/{path.stem} --plan")
