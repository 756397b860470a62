"""The pools of this machine, and the one that a recipe asks for, opened."""

from __future__ import annotations

import importlib.util
import shutil
import time
from collections import deque
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path

from diffmem.errors import UserError
from diffmem.executors.child import run_task
from diffmem.executors.config import ExecutorConfig
from diffmem.executors.pool import Event, Pool, Task, outcome
from diffmem.executors.processes import LocalPool, available_cores, visible_gpus

__all__ = ["InlinePool", "LocalPool", "open_pool"]


class InlinePool(Pool):
    """A pool whose `poll` does the next task, however long that takes, and returns what it reported.

    An interrupt of the work leaves `poll` as KeyboardInterrupt, when the work has saved.

    Args:
        on_event: Called with progress and warnings as they come; without it, `poll` returns the warnings and the last progress.
    """

    slots = 1

    def __init__(self, on_event: Callable[[Event], None] | None = None) -> None:
        self._on_event = on_event
        self._waiting: deque[Task] = deque()

    def submit(self, task: Task) -> None:
        """Take a task; see `Pool`."""
        self._waiting.append(task)

    def poll(self, seconds: float) -> list[Event]:
        """Do the next task and return what it reported; without one, wait.

        Raises:
            KeyboardInterrupt: A stop was requested; the work is saved.
        """
        if not self._waiting:
            time.sleep(seconds)
            return []
        task, events = self._waiting.popleft(), list[Event]()
        end = outcome(task.key, partial(run_task, task), self._on_event or events.append)
        warnings = [event for event in events if event.kind == "warning"]
        return [*warnings, *[event for event in events if event.kind == "progress"][-1:], end]

    def stop(self) -> None:
        """Forget the tasks that wait; none runs outside of `poll`."""
        self._waiting.clear()


def open_pool(
    config: ExecutorConfig,
    *,
    device: str,
    folder: Path,
    threads: int | None = None,
    most: int | None = None,
    on_event: Callable[[Event], None] | None = None,
) -> Pool:
    """Return the pool that a recipe asks for; use it as a context manager.

    Args:
        device: Where tasks compute: 'cpu', 'cuda' or 'cuda:N', which is that GPU alone unless others are named.
        folder: Of the study; clusters keep their scripts and logs in it, and need it on a common disk.
        threads: local: threads of each process; the cores divided by the processes if not given.
        most: local: how many tasks there will be at once; no more processes are started, and they share the cores.
        on_event: inline: called with progress and warnings as they come (see `InlinePool`).

    Raises:
        UserError: What the recipe asks for is not there (GPUs, the scheduler, Parsl, the file) or does not fit the device.
        DiffmemError: Parsl could not start.
    """
    if config.kind == "inline":
        return InlinePool(on_event)
    if config.kind == "local":
        return _local(config, device, threads, most)
    if config.device is not None and config.device != device.partition(":")[0]:
        raise UserError(
            f"executor.gpus_per_node = {config.gpus_per_node}, but the device is {device!r}: give --device {config.device},"
            f" or {'name' if config.gpus_per_node is None else 'leave out'} gpus_per_node."
        )
    command = {"slurm": "sbatch", "pbs": "qsub"}.get(config.kind)
    if command is not None and shutil.which(command) is None:
        raise UserError(
            f"executor.kind = {config.kind}: there is no {command!r} on this machine; start the study where jobs are"
            " submitted, usually on a login node, or choose 'local'."
        )
    if importlib.util.find_spec("parsl") is None:
        raise UserError(f"executor.kind = {config.kind} needs Parsl: pip install 'diffmem[cluster]'.")
    from diffmem.executors.parsl_pool import open_parsl

    return open_parsl(config, folder)


def _local(config: ExecutorConfig, device: str, threads: int | None, most: int | None) -> LocalPool:
    each, named = config.processes_per_run, device.partition(":")[2]
    if not device.startswith("cuda"):
        if config.gpus is not None or config.runs_per_gpu != 1:
            raise UserError(
                f"executor: gpus and runs_per_gpu are for GPUs, but the device is {device!r}; leave them out or choose"
                " --device cuda."
            )
        slots = config.processes or max(1, available_cores() // each)
        return LocalPool(min(slots, most or slots), threads=threads, processes=each)
    import torch

    names = visible_gpus(torch.cuda.device_count())
    wanted: Sequence[int] = [int(named)] if named else range(len(names))
    wanted = wanted if config.gpus is None else config.gpus
    if not names or any(not 0 <= number < len(names) for number in wanted):
        raise UserError(
            f"executor.gpus = {list(wanted)}: torch sees {len(names)} GPUs here, numbered from 0; name some of these."
        )
    if len(wanted) < each:
        raise UserError(
            f"executor.processes_per_run = {each}: there are only {len(wanted)} GPUs; lower it or name more GPUs."
        )
    gpus = [names[number] for number in wanted]
    slots = config.processes or len(gpus) * config.runs_per_gpu // each
    return LocalPool(min(slots, most or slots), threads=threads, gpus=gpus, processes=each)
