"""Several runs on one machine: a few worker processes, each taking the next job when it is free."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from diffmem.errors import DiffmemError
from diffmem.executors.processes import Processes, Run, available_cores
from diffmem.progress import NO_PROGRESS, Progress

__all__ = ["default_workers", "run_jobs"]

_SECONDS_BETWEEN_LOOKS = 60.0


def default_workers(jobs: int, device: str) -> int:
    """Return how many processes to use: one per core on a CPU (no more than there are jobs), one on a GPU."""
    if device.startswith("cuda"):
        return 1
    return max(1, min(jobs, available_cores()))


def run_jobs(
    jobs: Sequence[Any],
    run: Run,
    costs: Sequence[float],
    *,
    workers: int,
    progress: Progress = NO_PROGRESS,
    warn: Callable[[str], None] = lambda text: None,
) -> None:
    """Run all jobs, the most expensive first.

    Args:
        jobs: What to do; picklable.
        run: `run(job, progress, warn)`, a function of a module.
        costs: Expected cost of each job, in any unit.
        workers: Number of processes; 1 runs them in this process.
        progress: Reported the cost done, of all cost.
        warn: Called with the jobs' warnings.

    Raises:
        DiffmemError: A job failed (the first failure, after the others were stopped), or its process died.
        KeyboardInterrupt: A stop was requested; all jobs were asked to end and given time to save.
    """
    order = sorted(range(len(jobs)), key=lambda i: -costs[i])
    done = [0.0] * len(jobs)

    def report(number: int, units: float, total: float, note: str = "") -> None:
        done[number] = costs[number] * min(1.0, units / max(total, 1e-12))
        progress(sum(done), sum(costs), note)

    if workers <= 1:
        for i in order:
            run(jobs[i], lambda units, total, note="", i=i: report(i, units, total, note), warn)
            report(i, 1, 1)
        return
    with Processes(run, workers, threads=max(1, available_cores() // workers)) as processes:
        for i in order:
            processes.submit(str(i), jobs[i])
        left = len(jobs)
        while left:
            for event in processes.poll(_SECONDS_BETWEEN_LOOKS):
                if event.kind == "progress":
                    report(int(event.key), event.done, event.total, event.text)
                elif event.kind == "warning":
                    warn(event.text)
                elif event.kind == "finished":
                    report(int(event.key), 1, 1)
                    left -= 1
                elif event.kind == "stopped":
                    raise KeyboardInterrupt
                elif event.error is not None:
                    raise event.error
                else:
                    raise DiffmemError(
                        f"{event.text} Finished work is kept: the same command resumes from there."
                    )
