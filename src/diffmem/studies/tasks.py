"""What a worker process is given of a grid, as paths and settings alone: runs to do as a group, and the images that they need."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from diffmem.data import ImageSet, open_images, write_images
from diffmem.errors import UserError
from diffmem.progress import Progress
from diffmem.runs.recipe import StudyRecipe, TrainRecipe
from diffmem.runs.run import Run
from diffmem.runs.together import Job, execute_together
from diffmem.threads import of_threads

__all__ = ["WORK", "opened_sets", "stored_set", "task_content", "work_on_runs"]

WORK = "diffmem.studies.tasks:work_on_runs"
_DATA = "data"


def work_on_runs(content: dict[str, Any], progress: Progress, warn: Callable[[str], None]) -> None:
    """Do the runs that `content` describes as a group, as far as they are not done: what a worker process calls, with paths and
    settings alone.

    Args:
        content: runs: for each what `task_content` says, with a `StudyRecipe`, and threads, of torch; none for what there is.
        progress: Reports units of work, in images trained.
        warn: Gets a message for each damaged file that is made anew.

    Raises:
        DiffmemError: Training diverged, another process works in a folder, or a file cannot be written.
        KeyboardInterrupt: A stop was requested; the states are saved.
    """
    jobs: list[Job] = []
    for one in content["runs"]:
        recipe = StudyRecipe.model_validate(one["recipe"])
        run = Run(**opened_sets(one), model=recipe.model, training=recipe.training)
        jobs.append((run, recipe.sampling, recipe.measure))
    first = content["runs"][0]
    with of_threads(first["threads"]):
        execute_together(jobs, device=first["device"], progress=progress, warn=warn)


def opened_sets(content: Mapping[str, Any]) -> dict[str, Any]:
    """Return what the content of a task, made by `task_content`, says of its run: its images, seed and store."""
    return {
        "training_set": open_images(Path(content["training_set"])),
        "heldout": None if content["heldout"] is None else open_images(Path(content["heldout"])),
        "seed": int(content["seed"]),
        "store": Path(content["store"]),
    }


def task_content(run: Run, recipe: TrainRecipe, device: str) -> dict[str, Any]:
    """Return what a worker process needs to do a run, as JSON; the images that it needs are written to the store.

    Args:
        recipe: Whose settings it is given, without the executor.
    """
    store, heldout = run.store.parent, run.heldout
    return {
        "recipe": recipe.model_dump(mode="json", exclude={"executor", "budget"}),
        "training_set": str(stored_set(store, run.training_set, "train").resolve()),
        "heldout": None if heldout is None else str(stored_set(store, heldout, "heldout").resolve()),
        "seed": run.seed,
        "store": str(run.store.resolve()),
        "device": device,
    }


def stored_set(store: Path, images: ImageSet, kind: str) -> Path:
    """Write a set once, named by its content, so that workers and later readers have the very images; return where it lies.

    Args:
        kind: 'train' or 'heldout', the beginning of its name.

    Raises:
        DiffmemError: The file cannot be written.
    """
    path = store / _DATA / f"{kind}-{images.fingerprint[:16]}.npz"
    if path.exists():
        try:
            if open_images(path).fingerprint == images.fingerprint:
                return path
        except UserError:
            pass  # damaged: written again below
    write_images(images, path)
    return path
