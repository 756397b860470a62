"""Several runs on one machine: a few worker processes, each taking the next job when it is free."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TypeVar

from diffmem.errors import DiffmemError
from diffmem.progress import NO_PROGRESS, Progress
from diffmem.studies.executors.processes import Processes, available_cores

__all__ = ["default_workers", "run_jobs"]

_Job = TypeVar("_Job")
_SECONDS_BETWEEN_LOOKS = 60.0


def default_workers(jobs: int, device: str) -> int:
    """Return how many processes to use: one per core on a CPU (no more than there are jobs), one on a GPU."""
    if device.startswith("cuda"):
        return 1
    return max(1, min(jobs, available_cores()))


def run_jobs(
    jobs: Sequence[_Job],
    work: Callable[[_Job, Progress, Callable[[str], None]], None],
    costs: Sequence[float],
    *,
    workers: int,
    progress: Progress = NO_PROGRESS,
    warn: Callable[[str], None] = lambda text: None,
) -> None:
    """Do all jobs, the most expensive first.

    Args:
        jobs: What to do; picklable.
        work: `work(job, progress, warn)`, a function of a module.
        costs: Expected cost of each job, in the units that it reports as progress.
        workers: Number of processes; 1 does the work in this process.
        progress: Told the cost done, of all cost.
        warn: Told the jobs' warnings.

    Raises:
        DiffmemError: A job failed (the first failure, after the others were stopped), or its process died.
        KeyboardInterrupt: A stop was requested; all jobs were told and given time to save.
    """
    order = sorted(range(len(jobs)), key=lambda i: -costs[i])
    done = [0.0] * len(jobs)

    def told(number: int, units: float, total: float, note: str = "") -> None:
        done[number] = costs[number] * min(1.0, units / max(total, 1e-12))
        progress(sum(done), sum(costs), note)

    if workers <= 1:
        for i in order:
            work(jobs[i], lambda units, total, note="", i=i: told(i, units, total, note), warn)
            told(i, 1, 1)
        return
    with Processes(work, workers, threads=max(1, available_cores() // workers)) as processes:
        for i in order:
            processes.submit(str(i), jobs[i])
        left = len(jobs)
        while left:
            for event in processes.poll(_SECONDS_BETWEEN_LOOKS):
                if event.kind == "progress":
                    told(int(event.key), event.done, event.total, event.text)
                elif event.kind == "warning":
                    warn(event.text)
                elif event.kind == "finished":
                    told(int(event.key), 1, 1)
                    left -= 1
                elif event.kind == "stopped":
                    raise KeyboardInterrupt
                elif event.error is not None:
                    raise event.error
                else:
                    raise DiffmemError(
                        f"{event.text} Finished work is kept: the same command resumes from there."
                    )
