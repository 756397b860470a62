"""`diffmem study`: what one will take, what it does while it goes on, when its models begin to copy, a recipe of a new one."""

from __future__ import annotations

import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from cyclopts import Parameter

from diffmem.console import console
from diffmem.errors import UserError
from diffmem.progress import show_progress
from diffmem.text import bytes_text, count_text, duration_text

if TYPE_CHECKING:
    from diffmem.api.studies import StudyFolder

__all__ = ["new", "onset", "print_plan", "status", "watch"]


def print_plan(found: StudyFolder) -> None:
    """Print what a study will take: runs, hours, memory, disk."""
    from rich.table import Table

    from diffmem.executors.open import open_pool
    from diffmem.executors.processes import available_cores

    found.tell_remarks()
    recipe, config = found.recipe, found.recipe.executor
    if config.kind in ("inline", "local"):
        with open_pool(config, device=found.device, folder=found.folder) as pool:
            slots = pool.slots
    else:
        slots = config.most_blocks * config.nodes * (config.runs_per_node or 1)
    threads = max(1, available_cores() // slots) if config.kind == "local" else available_cores()
    with show_progress("Measuring") as progress:
        plan = found.plan(slots, threads, progress)
    table = Table(title=f"{recipe.title}: estimated cost", title_justify="left")
    table.add_column(recipe.factor)
    fixed = recipe.plan == "grid"
    for name in (
        "runs",
        "images trained",
        "images sampled",
        "hours",
        *(() if fixed else ("hours, grid",)),
        "disk",
    ):
        table.add_column(name, justify="right")
    for level in plan.levels:
        runs = f"{level.runs:.0f}" if fixed else f"{level.runs:.1f} (to {level.runs_high:.0f})"
        hours = f"{level.hours:.2g}" if fixed else f"{level.hours:.2g} (to {level.hours_high:.2g})"
        table.add_row(
            level.name, runs, f"{level.images_trained:,.0f}", f"{level.images_sampled:,.0f}", hours,
            *(() if fixed else (f"{level.grid_hours:.2g}",)), bytes_text(level.disk),
        )  # fmt: skip
    console().print(table)
    resources = f"Memory {bytes_text(plan.memory)}, disk {bytes_text(plan.disk)}. Trainings already in the store: {plan.finished}."
    if recipe.plan == "onset":
        print(
            f"At most {plan.runs:.0f} trainings of the first seeds, {plan.slots} at a time: {duration_text(3600 * plan.hours)};"
            f" with all seeds that are allowed {duration_text(3600 * plan.hours_high)}. Most end much earlier, where the line is reached."
        )
        print(resources)
        return
    if fixed:
        print(
            f"{count_text(round(plan.runs), 'training')}, {plan.slots} at a time: {duration_text(3600 * plan.hours)}."
        )
        print(resources)
        print("Hours are of one process, from a short measurement on this machine.")
        return
    still = "Still " if plan.finished else ""
    usual, high, grid = (duration_text(3600 * one) for one in (plan.hours, plan.hours_high, plan.grid_hours))
    print(
        f"{still}{count_text(round(plan.runs), 'training')}, up to {plan.slots} at a time: {usual} on average, below {high} in nine of"
        f" ten cases; a fixed grid {grid}."
    )
    print(resources)
    print(
        "Hours in the table are of one process; all are from a short measurement on this machine and simulated searches with EMM"
        " anywhere between the sizes. A search trains one size after the other."
    )


def status(folder: Path) -> None:
    """Show how far a study is: each level, each training, what is going on now.

    Example: diffmem study status studies/width

    Args:
        folder: Folder of the study.
    """
    from diffmem.api.studies import open_study

    _, tables, lines = open_study(folder).now()
    for table in tables:
        console().print(table)
    for line in lines:
        print(line)


def watch(folder: Path, *, every: float = 2.0, once: bool = False) -> None:
    """Show the table of a running study, until it is finished or Ctrl-C.

    Example: diffmem study watch studies/width

    Args:
        folder: Folder of the study.
        every: Seconds between updates.
        once: Show it once and end.
    """
    from rich.console import Group
    from rich.live import Live
    from rich.text import Text

    from diffmem.api.studies import open_study

    if not every > 0:
        raise UserError(f"--every {every} must be a positive number of seconds, for example 2.")
    found = open_study(folder)
    if once:
        _, tables, lines = found.now()
        console().print(Group(tables[-1], *map(Text, lines)))
        return
    with Live(console=console(), auto_refresh=False) as shown:
        while True:
            finished, tables, lines = found.now()
            shown.update(Group(tables[-1], *map(Text, lines)), refresh=True)
            if finished:
                return
            time.sleep(every)


def onset(
    folder: Path,
    *,
    size: Annotated[list[int] | None, Parameter(negative="")] = None,
    line: Annotated[list[float] | None, Parameter(negative="")] = None,
) -> None:
    """Say how long its models may be trained before they copy: when R_mem reaches 1%, 10% and 90%, against the training images.

    It uses the runs that are finished; nothing is trained or generated.

    Example: diffmem study onset studies/mine --size 5000

    Args:
        folder: Folder of the study.
        size: Number of training images, trained or not, to predict; may be repeated.
        line: Share of copies instead of 0.01, 0.1 and 0.9; may be repeated.
    """
    from diffmem.api.onset import onset as onset_of
    from diffmem.studies.onset import LINES

    found = onset_of(folder, line or LINES)
    for table in [*found.tables, *(found.predictions(size) if size else [])]:
        console().print(table)


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
