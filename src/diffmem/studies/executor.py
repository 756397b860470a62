"""Several runs on one machine: a few worker processes, each taking the next job when it is free.

One single-threaded process per core trains small networks much faster than one process with all cores, since
at that size the threads mostly wait for each other.
"""

from __future__ import annotations

import multiprocessing
import os
import pickle
import signal
import sys
from collections.abc import Callable, Sequence
from multiprocessing.connection import Connection, wait
from typing import Any, TypeVar

from diffmem.errors import DiffmemError
from diffmem.progress import NO_PROGRESS, Progress

__all__ = ["default_workers", "run_jobs"]

_Job = TypeVar("_Job")
_Work = Callable[[Any, Progress, Callable[[str], None]], None]
_SECONDS_TO_STOP = 60.0


def default_workers(jobs: int, device: str) -> int:
    """Return how many processes to use: one per core on a CPU (no more than there are jobs), one on a GPU."""
    if device.startswith("cuda"):
        return 1
    return max(
        1,
        min(jobs, len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1),
    )


def _serve(connection: Connection, work: _Work, threads: int) -> None:
    """Do jobs until none comes; tell the parent of progress, warnings, failures and ends."""
    import torch

    torch.set_num_threads(threads)
    try:
        while True:
            job = connection.recv()
            if job is None:
                return
            try:
                work(
                    job,
                    lambda *told: connection.send(("progress", told)),
                    lambda text: connection.send(("warning", text)),
                )
            except DiffmemError as error:
                connection.send(("failed", error))
            else:
                connection.send(("finished", None))
    except (KeyboardInterrupt, EOFError, BrokenPipeError):
        return


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
    _run_in_processes(jobs, work, order, workers, told, warn)


def _run_in_processes(
    jobs: Sequence[Any],
    work: _Work,
    order: list[int],
    workers: int,
    told: Callable[..., None],
    warn: Callable[[str], None],
) -> None:
    context = multiprocessing.get_context("spawn")
    cores = os.cpu_count() or 1
    threads = max(1, cores // workers)
    before = os.environ.get("OMP_NUM_THREADS")
    os.environ["OMP_NUM_THREADS"] = str(threads)  # read by the children's libraries as they load
    active: dict[Connection, tuple[Any, int]] = {}
    try:
        waiting = list(order)
        for _ in range(min(workers, len(jobs))):
            ours, theirs = context.Pipe()
            process = context.Process(target=_serve, args=(theirs, work, threads), daemon=True)
            process.start()
            theirs.close()
            number = waiting.pop(0)
            ours.send(jobs[number])
            active[ours] = (process, number)
        while active:
            for connection in wait(list(active)):
                assert isinstance(connection, Connection)
                process, number = active[connection]
                try:
                    kind, content = connection.recv()
                except (EOFError, ConnectionResetError, pickle.UnpicklingError) as error:
                    process.join()
                    if process.exitcode == 0:
                        raise KeyboardInterrupt from error  # it was told to stop, and saved
                    raise DiffmemError(
                        f"A worker process ended unexpectedly (exit code {process.exitcode}; -9 often means"
                        " that memory ran out). Finished work is kept: the same command goes on from there."
                    ) from error
                if kind == "progress":
                    told(number, *content)
                elif kind == "warning":
                    warn(content)
                elif kind == "failed":
                    raise content
                else:
                    told(number, 1, 1)
                    connection.send(jobs[waiting[0]] if waiting else None)
                    if waiting:
                        active[connection] = (process, waiting.pop(0))
                    else:
                        process.join()
                        del active[connection]
    finally:
        if before is None:
            os.environ.pop("OMP_NUM_THREADS", None)
        else:
            os.environ["OMP_NUM_THREADS"] = before
        _stop([process for process, _ in active.values()], list(active))


def _stop(processes: list[Any], connections: list[Connection]) -> None:
    """Ask processes to save and end; end them after a while."""
    for process in processes:
        if process.is_alive():
            os.kill(process.pid, signal.SIGTERM)
    for process in processes:
        process.join(_SECONDS_TO_STOP)
        if process.is_alive():
            print("A worker process did not stop and was ended.", file=sys.stderr)
            process.kill()
            process.join()
    # Not before: a worker that reports progress into a closed pipe fails before it has saved.
    for connection in connections:
        connection.close()
