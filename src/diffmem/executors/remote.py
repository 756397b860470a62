"""What a worker of a cluster does with a task: run it in a process of its own, cut it off in time, and return what it reported.

Worker and study have a common disk. There the study says that it goes on (a file that it rewrites in place), and the worker
says how far the task is. Nothing here needs Parsl.
"""

from __future__ import annotations

import json
import os
import platform
import resource
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from diffmem.errors import DiffmemError
from diffmem.executors.child import run_child
from diffmem.executors.pool import Event, Task, event_to_json, throttled
from diffmem.executors.processes import available_cores, share_of_gpus, visible_gpus

__all__ = ["CONTROL", "ENDS", "GOES_ON", "Assignment", "progress_file", "run_remotely"]

CONTROL, GOES_ON = "control", "goes on"
"""Name of the file by which the study steers its workers, and what it holds until they shall stop. The study touches it every two
seconds: once it does not, it is gone, and work is saved before the worker ends, too, which then misses the heartbeats of Parsl."""
ENDS = "DIFFMEM_ENDS"
"""The variable that holds when a worker's job reaches its time limit, in seconds since 1970."""
_SECONDS_BETWEEN_CHECKS = 1.0
_SECONDS_BETWEEN_PROGRESS = 2.0
_SECONDS_OF_A_REFUSAL = 10.0
_SECONDS_OF_SILENCE = 10.0


@dataclass(frozen=True)
class Assignment:
    """Where and how a worker runs a task.

    Attributes:
        folder: On the common disk, of all tasks of a pool.
        number: Which task this is; names its files in the folder.
        seconds_to_save: How long before the job's time limit a task is asked to save and end.
        gpus: GPUs of each machine; None leaves CUDA_VISIBLE_DEVICES as the worker has it.
    """

    folder: str
    number: int
    seconds_to_save: float
    gpus: int | None = None


def progress_file(folder: Path, number: int) -> Path:
    """Return where a worker writes that it has begun a task, and how far it is."""
    return folder / f"{number}.jsonl"


def run_remotely(task: Mapping[str, Any], assignment: Mapping[str, Any]) -> dict[str, Any]:
    """Run a task on the machine of a worker and return how it ended, as JSON, with the warnings and the most memory it took, in bytes."""
    warnings: list[str] = []
    each = Task(**task)
    end = _run(each, Assignment(**assignment), warnings)
    # Of the largest process so far, in kB.
    memory = 1024 * resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss * each.processes
    return {"end": event_to_json(end), "warnings": warnings, "memory": memory}


def _run(task: Task, assignment: Assignment, warnings: list[str]) -> Event:
    folder = Path(assignment.folder)
    if not (folder / CONTROL).is_file():
        text = (
            f"The machine {platform.node()} does not see the study's folder {folder}: the study and its workers need a common"
            " disk, mounted under one path."
        )
        return Event.failed(task.key, DiffmemError(text))
    asked, ends = _asked(folder / CONTROL), float(os.environ.get(ENDS, "inf")) - assignment.seconds_to_save
    if asked():
        return Event(task.key, "stopped", "The study stops.")
    if time.time() >= ends:
        # The task would come back at once, as long as this job lasts.
        until = time.monotonic() + _SECONDS_OF_A_REFUSAL
        while time.monotonic() < until and not asked():
            time.sleep(_SECONDS_BETWEEN_CHECKS / 4)
        return Event(task.key, "stopped", "The job of this worker is about to reach its time limit.")
    with progress_file(folder, assignment.number).open("a") as stream:

        def report(event: Event) -> None:
            if event.kind == "warning":
                warnings.append(event.text)
            else:
                stream.write(json.dumps(event_to_json(event)) + "\n")
                stream.flush()

        return run_child(
            task,
            throttled(report, _SECONDS_BETWEEN_PROGRESS),
            asked=lambda: asked() or time.time() >= ends,
            environment=_environment(task, assignment),
        )


def _asked(control: Path) -> Callable[[], bool]:
    """Return a function that says whether the work shall stop; it reads the file once a second."""
    last, stop = -_SECONDS_BETWEEN_CHECKS, False
    touched, heard = 0, time.monotonic()

    def asked() -> bool:
        nonlocal last, stop, touched, heard
        now = time.monotonic()
        if not stop and now - last >= _SECONDS_BETWEEN_CHECKS:
            last = now
            try:
                with control.open(encoding="utf-8") as stream:
                    text, time_of_file = stream.read(), os.fstat(stream.fileno()).st_mtime_ns
            except OSError:  # the study is gone, and its files with it
                stop = True
            else:
                if time_of_file != touched:  # compared with itself: the clocks of machines differ
                    touched, heard = time_of_file, now
                stop = text != GOES_ON or now - heard > _SECONDS_OF_SILENCE
        return stop

    return asked


def _environment(task: Task, assignment: Assignment) -> dict[str, str]:
    """Return what to set for the task's process: its share of the machine's cores and GPUs."""
    workers = int(os.environ.get("PARSL_WORKER_COUNT", "1"))
    cores = int(os.environ.get("PARSL_CORES", available_cores()))
    values = {}
    if "OMP_NUM_THREADS" not in os.environ:
        values["OMP_NUM_THREADS"] = str(max(1, cores // (workers * task.processes)))
    if assignment.gpus:
        rank = int(os.environ.get("PARSL_WORKER_RANK", "0"))
        values["CUDA_VISIBLE_DEVICES"] = share_of_gpus(visible_gpus(assignment.gpus), rank, task.processes)
    return values
