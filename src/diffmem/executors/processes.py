"""Worker processes of this machine: each takes one task after the other, and one that dies is replaced.

They are spawned when there is work for them. One single-threaded process per core trains small networks much faster than one
process with all cores, since at that size the threads mostly wait for each other.
"""

from __future__ import annotations

import multiprocessing
import os
import pickle
import signal
import sys
import time
from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import partial
from multiprocessing import resource_tracker
from multiprocessing.connection import Connection, wait
from multiprocessing.context import SpawnProcess
from typing import Any

from diffmem.errors import DiffmemError
from diffmem.executors.child import run_task
from diffmem.executors.pool import (
    SECONDS_TO_STOP,
    Event,
    Pool,
    Task,
    event_from_json,
    event_to_json,
    outcome,
    throttled,
)
from diffmem.executors.signals import end_with, signals_held, stop_on_signals

__all__ = [
    "LocalPool",
    "available_cores",
    "share_of_gpus",
    "visible_gpus",
]

_SECONDS_BETWEEN_PROGRESS = 0.05


def available_cores() -> int:
    """Return how many cores this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


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


def _serve(connection: Connection, threads: int) -> None:
    """Run tasks until none comes, and send the parent their events, before them a word that this process is ready."""
    parent = multiprocessing.parent_process()
    assert parent is not None
    end_with(parent.join)

    def send(event: Event | None) -> None:
        # If the parent is gone, the work is about to be stopped and to save; it must not fail here before it has.
        with suppress(OSError):
            connection.send(None if event is None else event_to_json(event))

    try:
        stop_on_signals()
        import torch

        torch.set_num_threads(threads)
        send(None)
        while True:
            task: Task = connection.recv()
            send(outcome(task.key, partial(run_task, task), throttled(send, _SECONDS_BETWEEN_PROGRESS)))
    except (KeyboardInterrupt, EOFError):
        return


@dataclass
class _Worker:
    """One process, and what it is doing."""

    number: int
    process: SpawnProcess
    connection: Connection
    key: str | None = None
    ready: bool = False


class LocalPool(Pool):
    """A pool of spawned processes; each does one task at a time, and one that dies is replaced.

    Args:
        slots: How many processes.
        threads: Threads of torch in each; by default the cores divided by the slots.
        gpus: Names of the GPUs, divided among the slots and shared if there are more slots; none on a CPU.
        processes: Processes of each task (torchrun), each with a GPU of its own.
    """

    def __init__(
        self, slots: int, *, threads: int | None = None, gpus: Sequence[str] = (), processes: int = 1
    ) -> None:
        self.slots = slots
        self._threads = max(1, available_cores() // (slots * processes)) if threads is None else threads
        self._environments = [
            {"CUDA_VISIBLE_DEVICES": share_of_gpus(gpus, i, processes)} if gpus else {} for i in range(slots)
        ]
        self._waiting: deque[Task] = deque()
        self._workers: list[_Worker] = []
        self._context = multiprocessing.get_context("spawn")

    def submit(self, task: Task) -> None:
        """Take a task; see `Pool`."""
        self._waiting.append(task)
        self._feed()

    def poll(self, seconds: float) -> list[Event]:
        """Return what happened; see `Pool`."""
        deadline = time.monotonic() + seconds
        while True:
            self._feed()
            left = max(0.0, deadline - time.monotonic())
            by_connection = {worker.connection: worker for worker in self._workers}
            if not by_connection:
                time.sleep(left)
                return []
            events: list[Event] = []
            for connection in wait(list(by_connection), left):
                assert isinstance(connection, Connection)
                events += self._receive(by_connection[connection])
            if events or time.monotonic() >= deadline:
                return events

    def _feed(self) -> None:
        """Give waiting jobs to idle processes, and start more if there are too few."""
        idle = [worker for worker in self._workers if worker.key is None]
        while self._waiting and (idle or len(self._workers) < self.slots):
            worker = idle.pop(0) if idle else self._start()
            try:
                worker.connection.send(self._waiting[0])
            except OSError:  # it died while it had nothing to do
                self._remove(worker)
                continue
            worker.key = self._waiting.popleft().key

    def _start(self) -> _Worker:
        number = min(set(range(self.slots)) - {worker.number for worker in self._workers})
        ours, theirs = self._context.Pipe()
        process = self._context.Process(target=_serve, args=(theirs, self._threads), daemon=True)
        values = {"OMP_NUM_THREADS": str(self._threads)}  # read by the child's libraries as they load
        values |= self._environments[number]
        # The first start of a process would start it, which lets the signals through again.
        resource_tracker.ensure_running()
        with _environment(values), _without_program(), signals_held(signal.SIGINT, signal.SIGTERM):
            process.start()
            worker = _Worker(number, process, ours)
            self._workers.append(worker)
        theirs.close()
        return worker

    def _receive(self, worker: _Worker) -> list[Event]:
        events = []
        try:
            while worker.connection.poll():
                content = worker.connection.recv()
                worker.ready = True
                if content is not None:
                    events.append(event_from_json(content))
                    if events[-1].kind not in ("progress", "warning"):
                        worker.key = None
        except (EOFError, OSError, pickle.UnpicklingError):
            events += self._ended(worker)
        return events

    def _ended(self, worker: _Worker) -> list[Event]:
        """Return what the end of a process means for what it was doing."""
        self._remove(worker)
        key, code = worker.key, worker.process.exitcode
        if key is None:
            return []
        if code == 0:
            return [Event(key, "stopped", "Its process was stopped, and saved.")]
        if not worker.ready and code is not None and code > 0:
            text = f"A worker process cannot start (exit code {code}); its error is above."
            return [Event.failed(key, DiffmemError(text))]
        text = f"A worker process ended unexpectedly (exit code {code}; -9 often means that memory ran out)."
        return [Event(key, "lost", text)]

    def _remove(self, worker: _Worker) -> None:
        self._workers.remove(worker)
        worker.process.join(SECONDS_TO_STOP)
        if worker.process.is_alive():
            worker.process.kill()
            worker.process.join()
        worker.connection.close()

    def stop(self) -> None:
        """Ask all to save and end; end those that have not after a minute. What they report meanwhile is lost."""
        self._waiting.clear()
        workers, self._workers = self._workers, []
        for worker in workers:
            if worker.process.is_alive() and worker.process.pid is not None:
                os.kill(worker.process.pid, signal.SIGTERM)
        deadline = time.monotonic() + SECONDS_TO_STOP
        talking = [worker.connection for worker in workers]
        while talking and time.monotonic() < deadline:
            # Read on, as bytes, since an interrupt may have left half a message: a process whose pipe is full does not save.
            for connection in wait(talking, max(0.0, deadline - time.monotonic())):
                assert isinstance(connection, Connection)
                try:
                    read = os.read(connection.fileno(), 65_536)
                except OSError:
                    read = b""
                if not read:
                    talking.remove(connection)
        for worker in workers:
            worker.process.join(max(0.0, deadline - time.monotonic()))
            if worker.process.is_alive():
                print("A worker process did not stop and was ended.", file=sys.stderr)
                worker.process.kill()
                worker.process.join()
            # Not before: a worker that reports progress into a closed pipe fails before it has saved.
            worker.connection.close()


@contextmanager
def _without_program() -> Iterator[None]:
    """Start processes that do not import the program again, which would run a script that does not guard its calls."""
    program = vars(sys.modules["__main__"])
    hidden: dict[str, Any] = {name: program.pop(name) for name in ("__file__", "__spec__") if name in program}
    program["__spec__"] = None
    try:
        yield
    finally:
        program.update(hidden)


@contextmanager
def _environment(values: Mapping[str, str]) -> Iterator[None]:
    """Set variables for the processes that are started meanwhile."""
    before = {name: os.environ.get(name) for name in values}
    os.environ.update(values)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value
