"""Where the heavy parts of an audit may be done: a pool of workers, here or on a cluster."""

from __future__ import annotations

import shutil
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any
from uuid import uuid4

from diffmem.console import warn
from diffmem.distributed import under_torchrun
from diffmem.errors import DiffmemError, UserError
from diffmem.executors.config import ExecutorConfig
from diffmem.executors.open import open_pool
from diffmem.executors.pool import Event, Pool, Task
from diffmem.interrupt import StopRequest
from diffmem.progress import NO_PROGRESS, Progress
from diffmem.settings import load_recipe, validated
from diffmem.spread import Piece, spreading

__all__ = ["PoolSpread", "model_by_path", "read_executor", "spread_over", "whole_path"]

_MOST_LOSSES = 3  # of one piece


def read_executor(text: str | Path) -> ExecutorConfig:
    """Return where pieces of a work are done.

    Args:
        text: A YAML file of the settings that stand under `executor:` in a study's recipe, or the name of a kind that needs none:
            'local' or 'inline'.

    Raises:
        UserError: There is no such file or kind, or a setting is wrong.
    """
    path = Path(text)
    if path.suffix.lower() in (".yaml", ".yml") or path.is_file():
        config = load_recipe(ExecutorConfig, path)
        if config.path is not None:
            return config.model_copy(update={"path": str((path.parent / config.path).resolve())})
    else:
        config = validated(ExecutorConfig, str(text), f"executor {str(text)!r}")
    return config


def model_by_path(model: object, details: Mapping[str, Any]) -> dict[str, Any]:
    """Return the arguments by which workers open a model, as JSON.

    Args:
        model: Its path.
        details: Further arguments of `open_model`; paths in its settings may be relative to this process's folder.

    Raises:
        UserError: The model is an object of this process.
    """
    if not isinstance(model, str | Path):
        raise UserError(
            f"Workers cannot open a {type(model).__name__}: with an executor, name the model's file or folder."
        )
    given = {key: value for key, value in details.items() if value is not None}
    if given.get("settings"):
        given["settings"] = {key: whole_path(value) for key, value in given["settings"].items()}
    return {**given, "path": str(whole_path(Path(model).expanduser()))}


def whole_path(value: Any) -> Any:
    """Return a path that exists as an absolute one, in text; anything else as it is."""
    named = isinstance(value, str | Path) and Path(value).exists()
    return str(Path(value).resolve()) if named else value


class PoolSpread:
    """Does pieces of a work in a pool; see `Spread`. A piece whose worker dies is done again.

    Args:
        device: Where they compute.
        folder: On a disk that all workers see.
        model: Of `model_by_path`; none if nothing is sampled.
    """

    def __init__(self, device: str, folder: Path, model: dict[str, Any] | None) -> None:
        self.device, self.folder, self.model = device, folder.resolve(), model
        self.kept: dict[object, Any] = {}
        self._pool: Pool | None = None
        self._shares: dict[str, float] = {}
        self._progress: Progress = NO_PROGRESS
        self._note = ""

    @property
    def slots(self) -> int:
        """How many pieces are worked on at once."""
        return self._of.slots

    @property
    def _of(self) -> Pool:
        assert self._pool is not None
        return self._pool

    def use(self, pool: Pool) -> None:
        """Take the pool, once it is open."""
        self._pool = pool

    def run(self, pieces: Sequence[Piece], progress: Progress) -> None:
        """Do all pieces.

        Raises:
            DiffmemError: One failed, or what worked on it died again and again.
            KeyboardInterrupt: A stop was requested.
        """
        name = uuid4().hex[:8]
        tasks = [Task(f"{name}-{at}", piece.function, piece.content) for at, piece in enumerate(pieces)]
        waiting = {task.key: task for task in tasks}
        losses = dict.fromkeys(waiting, 0)
        self._shares, self._progress = dict.fromkeys(waiting, 0.0), progress
        for task in tasks:
            self._of.submit(task)
        while waiting:
            with spreading(None):  # a pool that works in this process must not split a piece again
                events = self._of.poll(1.0)
            for event in events:
                if event.kind in ("progress", "warning"):
                    self.on_event(event)
                elif event.kind == "failed":
                    raise event.error or DiffmemError(event.text)
                elif event.kind == "finished":
                    del waiting[event.key]
                    self._shares[event.key] = 1.0
                else:
                    losses[event.key] += event.kind == "lost"
                    if losses[event.key] >= _MOST_LOSSES:
                        raise DiffmemError(
                            f"A worker died {_MOST_LOSSES} times at the same piece of the work: {event.text} What is finished is kept."
                        )
                    if event.kind == "lost":
                        warn(f"{event.text} Its piece of the work is done again.")
                    self._of.submit(waiting[event.key])
            self._report()

    def on_event(self, event: Event) -> None:
        """Take note of a progress or a warning."""
        if event.kind == "warning":
            warn(event.text)
        elif event.key in self._shares:
            self._shares[event.key] = event.done / max(event.total, 1e-12)
            self._note = event.text
            self._report()

    def _report(self) -> None:
        count = sum(share >= 1.0 for share in self._shares.values())
        text = f"{count} of {len(self._shares)} pieces"
        waiting = "" if self._pool is None else self._pool.waiting
        self._progress(
            sum(self._shares.values()),
            len(self._shares),
            "; ".join(filter(None, (self._note, text, waiting))),
        )


@contextmanager
def spread_over(
    executor: str | Path | ExecutorConfig | None,
    device: str,
    folder: Path | None,
    model: dict[str, Any] | None = None,
) -> Iterator[None]:
    """Let the heavy parts of the work in the block be done by an executor; without one, nothing changes.

    Args:
        executor: See `read_executor`.
        device: Where this process computes; workers compute there, too, unless the executor says otherwise.
        folder: On a disk that all workers see, for what is split; the pool keeps its logs beside it, and names jobs after the
            folder in which that is.
        model: What is sampled; see `model_by_path`.

    Raises:
        UserError: The executor cannot be read or does not fit this machine, or a cluster was given no folder.
        DiffmemError: The pool cannot start.
    """
    if executor is None:
        yield
        return
    config = executor if isinstance(executor, ExecutorConfig) else read_executor(executor)
    if under_torchrun():
        raise UserError("An executor starts its processes itself; start this without torchrun.")
    if config.processes_per_run > 1:
        raise UserError(
            f"executor.processes_per_run = {config.processes_per_run} is for trainings; a piece of this work has one process: leave it out."
        )
    if folder is None:
        raise UserError("With an executor, name a folder for the work on a disk that all workers see.")
    where = config.device or device
    # Workers see the GPU that each has as their only one.
    own = where if config.kind == "inline" else where.partition(":")[0]
    place = PoolSpread(own, folder / "pieces", model)
    try:
        with (
            StopRequest() as stop,
            stop.at_once(),
            open_pool(config, device=where, folder=folder.resolve().parent, on_event=place.on_event) as pool,
            spreading(place),
        ):
            place.use(pool)
            yield
    finally:
        shutil.rmtree(place.folder, ignore_errors=True)
        with suppress(OSError):  # something else is in it, or it was never made
            folder.rmdir()
