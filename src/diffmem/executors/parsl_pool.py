"""The pool of workers that Parsl starts, on a cluster or on this machine.

Parsl finds the machines, sends the tasks and brings back how they ended; each task runs in a process of its own beside the
worker (see `remote`). How far a task is, and that it shall stop, passes through files in the study's folder. Imports Parsl;
import this module only where a study uses it.
"""

from __future__ import annotations

import atexit
import logging
import math
import os
import queue
import re
import shutil
import signal
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from concurrent.futures import Future, wait
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from parsl import DataFlowKernel
from parsl.concurrent import ParslPoolExecutor
from parsl.config import Config
from parsl.executors import HighThroughputExecutor
from parsl.executors.high_throughput.errors import ManagerLost, WorkerLost

from diffmem.errors import DiffmemError, UserError
from diffmem.executors.child import EventFile
from diffmem.executors.config import ExecutorConfig
from diffmem.executors.jobs import FOLDER, JobBook, cancel_left_jobs, job_name
from diffmem.executors.parsl_jobs import JobWatch
from diffmem.executors.parsl_presets import capacity, parsl_config
from diffmem.executors.pool import SECONDS_TO_STOP, Event, Pool, Task, event_from_json
from diffmem.executors.remote import CONTROL, GOES_ON, Assignment, progress_file, run_remotely
from diffmem.executors.signals import signals_held
from diffmem.folder_lock import locked_folder
from diffmem.text import bytes_text, count_text

__all__ = ["ParslPool", "open_parsl"]

_SECONDS_BETWEEN_CHECKS = 1.0
_SECONDS_BETWEEN_TOUCHES = 2.0


def open_parsl(config: ExecutorConfig, folder: Path) -> ParslPool:
    """Return the pool of a recipe's executor of a kind that needs Parsl.

    Args:
        folder: Of the study; on a disk that it shares with the workers.

    Raises:
        UserError: The settings do not fit what is there, or another study works in the folder.
        DiffmemError: Parsl could not start, or jobs of the last session cannot be cancelled.
    """
    ours = folder.resolve() / FOLDER
    strange = re.search(r"[^\w./+=@:,~-]", str(ours))
    if strange is not None:
        raise UserError(
            f"executor.kind = {config.kind}: the study's folder {folder.resolve()} has a character in its path"
            f" ({strange.group()!r}) that the scripts of Parsl cannot carry; choose another folder."
        )
    with ExitStack() as stack:
        instead = f"stop that study first, or choose another folder than {folder}"
        stack.enter_context(locked_folder(ours, instead))
        for left in ours.glob("tasks-*"):  # without them, workers of a study that was killed save and end
            shutil.rmtree(left, ignore_errors=True)
        cancelled = cancel_left_jobs(ours, config.kind) if config.kind in ("slurm", "pbs") else []
        pool = ParslPool(
            parsl_config(config, ours / "parsl", JobBook(ours, config.kind, job_name(folder))),
            ours,
            seconds_to_save=60 * config.minutes_to_save,
            gpus=config.gpus_per_node,
            runs_without_memory=config.runs_per_node if config.memory_gb is None else None,
        )
        pool.on_stop(stack.pop_all())
    if cancelled:
        pool.tell(
            f"Cancelled what the last session of this study had left in the queue: {', '.join(cancelled)}."
        )
    return pool


@dataclass
class _Running:
    """A task that was submitted, and where it reports its progress."""

    task: Task
    number: int
    future: Future[Any]
    progress: EventFile


class ParslPool(Pool):
    """A pool of the workers of a Parsl configuration, which is started here and ended by `stop`.

    Args:
        folder: For the pool's files; workers see it under the same path.
        seconds_to_save: How long before a job's time limit (DIFFMEM_ENDS on the worker) its tasks are asked to save and end.
        gpus: GPUs of each machine, to be divided among its workers; None leaves that to the configuration.
        runs_without_memory: Tasks at once on a machine, if its jobs ask for no memory.

    Raises:
        DiffmemError: Parsl could not start, or the folder cannot be written.
    """

    def __init__(
        self,
        config: Config,
        folder: Path,
        *,
        seconds_to_save: float,
        gpus: int | None = None,
        runs_without_memory: int | None = None,
    ) -> None:
        self.slots = capacity(config)
        self._seconds_to_save, self._gpus = seconds_to_save, gpus
        self._runs_without_memory = runs_without_memory
        self._watches = [
            (executor, executor.block_error_handler)
            for executor in config.executors
            if isinstance(executor, HighThroughputExecutor)
            and isinstance(executor.block_error_handler, JobWatch)
        ]
        self._on_stop = ExitStack()
        self._running: dict[int, _Running] = {}
        self._ended: queue.SimpleQueue[int] = queue.SimpleQueue()
        self._count, self._next_check, self._stopped = 0, 0.0, False
        try:
            folder.mkdir(parents=True, exist_ok=True)
            self._folder = Path(tempfile.mkdtemp(prefix="tasks-", dir=folder))
            (self._folder / CONTROL).write_text(GOES_ON)
        except OSError as error:
            raise DiffmemError(f"Cannot write into {folder}: {error.strerror or error}.") from error
        self._started = _started(config, folder / "parsl.log")
        try:
            self._kernel = self._started.__enter__()
        except Exception as error:
            shutil.rmtree(self._folder, ignore_errors=True)
            raise DiffmemError(f"Parsl cannot start: {type(error).__name__}: {error}.") from error
        self._executor = ParslPoolExecutor(dfk=self._kernel)
        threading.Thread(target=self._touch, name="touch", daemon=True).start()

    def _touch(self) -> None:
        """Let the workers know that the study goes on (see `remote`)."""
        while not self._stopped:
            with suppress(OSError):
                os.utime(self._folder / CONTROL)
            time.sleep(_SECONDS_BETWEEN_TOUCHES)

    def on_stop(self, stack: ExitStack) -> None:
        """Close something when the pool has stopped."""
        self._on_stop = stack

    def tell(self, text: str) -> None:
        """Warn of something with the next events."""
        for _, watch in self._watches[:1]:
            watch.tell(text)

    @property
    def waiting(self) -> str:
        """What tasks wait for; see `Pool`."""
        return "; ".join(filter(None, dict.fromkeys(watch.book.waiting for _, watch in self._watches)))

    def submit(self, task: Task) -> None:
        """Take a task; see `Pool`."""
        number = self._count = self._count + 1
        assignment = Assignment(str(self._folder), number, self._seconds_to_save, self._gpus)
        future = self._executor.submit(run_remotely, asdict(task), asdict(assignment))
        self._running[number] = _Running(task, number, future, EventFile(progress_file(self._folder, number)))
        future.add_done_callback(lambda done: self._ended.put(number))

    def poll(self, seconds: float) -> list[Event]:
        """Return what happened; see `Pool`."""
        deadline = time.monotonic() + seconds
        while not self._stopped:
            events = self._progress()
            left = max(0.0, deadline - time.monotonic())
            try:
                number = self._ended.get(timeout=min(left, _SECONDS_BETWEEN_CHECKS) if not events else 0)
                running = self._running.pop(number, None)
                events += [] if running is None else self._end(running)
            except queue.Empty:
                pass
            if events or time.monotonic() >= deadline:
                return events
        return []

    def _progress(self) -> list[Event]:
        """Return, once a second, how far the running tasks are: the last that each has reported."""
        if time.monotonic() < self._next_check:
            return []
        self._next_check = time.monotonic() + _SECONDS_BETWEEN_CHECKS
        gone = _gone(self._kernel) or self._no_jobs()
        if gone is not None:
            lost, self._running = self._running, {}
            return [Event.failed(each.task.key, gone) for each in lost.values()]
        first = next(iter(self._running.values()), None)
        news = (
            []
            if first is None
            else [Event(first.task.key, "warning", text) for _, each in self._watches for text in each.news()]
        )
        return news + [event for running in self._running.values() for event in running.progress.new()[-1:]]

    def _no_jobs(self) -> DiffmemError | None:
        """Return why no job can work, if that is so."""
        failure = next((watch.failure for _, watch in self._watches if watch.failure is not None), None)
        if failure is None:
            return None
        return DiffmemError(
            f"{failure}. The scripts and their output are in {self._folder.parent / 'parsl'}."
        )

    def _end(self, running: _Running) -> list[Event]:
        """Return what came back of a task: its warnings and its end."""
        key, error = running.task.key, running.future.exception()
        if error is None:
            found = running.future.result()
            end = event_from_json(found["end"])
            texts = found["warnings"] + self._about_memory(found["memory"] if end.kind == "finished" else 0)
            return [*(Event(key, "warning", text) for text in texts), end]
        text = " ".join(str(error).split())
        if isinstance(error, ManagerLost | WorkerLost):
            return [Event(key, "lost", f"The worker of the task is gone: {text}.")]
        failure = DiffmemError(
            f"Parsl cannot run the tasks: {type(error).__name__}: {text}. Its scripts and logs are in"
            f" {self._folder.parent / 'parsl'}."
        )
        return [Event.failed(key, failure)]

    def _about_memory(self, measured: int) -> list[str]:
        """Return, once, how much memory to ask for, where the recipe does not; of what a task took, in bytes."""
        if not measured or self._runs_without_memory is None:
            return []
        runs, self._runs_without_memory = self._runs_without_memory, None
        ample = math.ceil(2 * measured * runs / 1e9)
        return [
            "The jobs ask for no memory, so that the scheduler may charge a whole machine, or give too little. The first run took"
            f" {bytes_text(measured)}; executor.memory_gb: {ample} is twice that for each of the {count_text(runs, 'run')} at once on a"
            " machine. Larger training sets need more."
        ]

    def stop(self) -> None:
        """Ask the running tasks to save and end, wait for them, and end the workers; see `Pool`."""
        if self._stopped:
            return
        self._stopped = True
        for _, watch in self._watches:
            watch.close()
        try:
            # Written in place: over a network, a worker sees a change of a file that it knows sooner than that another one is there.
            with suppress(OSError):  # a full disk: the workers' end, below, ends the tasks, too
                (self._folder / CONTROL).write_text("stop")
            begun = [
                each.future
                for each in self._running.values()
                if progress_file(self._folder, each.number).exists()
            ]
            if _gone(self._kernel) is None:
                wait(begun, SECONDS_TO_STOP)
        finally:
            self._running.clear()
            self._started.__exit__(None, None, None)
            for executor, watch in self._watches:
                watch.book.remove(
                    str(executor.blocks_to_job_id[block])
                    for block, one in executor.status_facade.items()
                    if one.terminal and block in executor.blocks_to_job_id
                )
            shutil.rmtree(self._folder, ignore_errors=True)
            self._on_stop.close()


@contextmanager
def _started(config: Config, log: Path) -> Iterator[DataFlowKernel]:
    """Start Parsl, and end it with its workers.

    Args:
        log: Where its warnings go.
    """
    before = os.environ.get("PATH", "")
    # Parsl starts programs of its own by their names, whether or not this environment is activated.
    os.environ["PATH"] = os.pathsep.join([str(Path(sys.executable).parent), before])
    handler, logger = logging.FileHandler(log, delay=True), logging.getLogger("parsl")
    handler.setLevel(logging.WARNING)
    handler.setFormatter(logging.Formatter("%(asctime)s %(name)s: %(message)s"))
    logger.addHandler(handler)
    try:
        # Ctrl-C is for the study alone (see `interchange`), also while that process starts.
        with signals_held(signal.SIGINT):
            kernel = DataFlowKernel(config)
        try:
            yield kernel
        finally:
            _end(kernel)
    finally:
        os.environ["PATH"] = before
        logger.removeHandler(handler)
        handler.close()


def _gone(kernel: DataFlowKernel) -> DiffmemError | None:
    """Return the error of a process of Parsl that has ended, without which nothing comes back from the workers."""
    for executor in kernel.executors.values():
        process = getattr(executor, "interchange_proc", None)
        if process is not None and process.poll() is not None:
            return DiffmemError(
                f"The process by which Parsl reaches its workers ended (exit code {process.returncode}). Finished work is"
                " kept: the same command resumes from there."
            )
    return None


def _end(kernel: DataFlowKernel) -> None:
    """End Parsl and its jobs."""
    if _gone(kernel) is None:
        kernel.cleanup()
        return
    # It would wait for an answer of that process for ever.
    atexit.unregister(kernel.atexit_cleanup)
    for executor in kernel.executors.values():
        provider, jobs = getattr(executor, "provider", None), list(getattr(executor, "job_ids_to_block", ()))
        if provider is not None and jobs:
            with suppress(Exception):  # the jobs end by themselves, too, a little later
                provider.cancel(jobs)
