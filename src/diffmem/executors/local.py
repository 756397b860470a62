"""The pool of processes of this machine, with its cores and GPUs divided among them."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence

from diffmem.executors.child import run_task
from diffmem.executors.pool import Event, Pool, Task
from diffmem.executors.processes import Processes, available_cores

__all__ = ["LocalPool", "share_of_gpus", "visible_gpus"]


def visible_gpus(count: int, environment: Mapping[str, str] = os.environ) -> list[str]:
    """Return the names by which CUDA_VISIBLE_DEVICES calls the GPUs 0 to `count` - 1 of those that a process may see.

    Args:
        count: How many GPUs there are, as this process sees them.
        environment: Where the variable is, if a scheduler or the user has set it.
    """
    named = environment.get("CUDA_VISIBLE_DEVICES", "")
    names = [name.strip() for name in named.split(",") if name.strip()]
    return names[:count] if names else [str(number) for number in range(count)]


def share_of_gpus(names: Sequence[str], worker: int, processes: int) -> str:
    """Return CUDA_VISIBLE_DEVICES of one of several workers: as many GPUs as a task has processes, beginning anew at the end.

    Args:
        names: The GPUs.
        worker: Its number; worker 0 has the first GPUs.
        processes: Of each task.
    """
    shares = max(1, len(names) // processes)
    first = worker % shares * processes
    return ",".join(names[first : first + processes])


class LocalPool(Pool):
    """A pool of spawned processes; each does one task at a time, and one that dies is replaced.

    Args:
        slots: How many processes.
        threads: Threads of each process; by default the cores divided by the slots.
        gpus: Names of the GPUs, divided among the slots and shared if there are more slots; none on a CPU.
        processes: Processes of each task (torchrun), each with a GPU of its own.
    """

    def __init__(
        self, slots: int, *, threads: int | None = None, gpus: Sequence[str] = (), processes: int = 1
    ) -> None:
        self.slots = slots
        share = max(1, available_cores() // (slots * processes)) if threads is None else threads
        environments = [{"CUDA_VISIBLE_DEVICES": share_of_gpus(gpus, i, processes)} for i in range(slots)]
        self._processes = Processes(run_task, slots, share, environments if gpus else ())

    def submit(self, task: Task) -> None:
        """Take a task; see `Pool`."""
        self._processes.submit(task.key, task)

    def poll(self, seconds: float) -> list[Event]:
        """Return what happened; see `Pool`."""
        return self._processes.poll(seconds)

    def stop(self) -> None:
        """End the processes; see `Pool`."""
        self._processes.stop()
