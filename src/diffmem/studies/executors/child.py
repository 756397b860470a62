"""One task in a process of its own, or in several under torchrun: started, listened to, asked to stop, and judged by its end.

The task travels in a JSON file; what happens comes back in files of JSON lines, one for each process, so that nothing is lost
when a process dies. The child's standard input is held open as long as this process lives (see `lifeline`).
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from diffmem.distributed import LostProcessError
from diffmem.errors import DiffmemError
from diffmem.files import read_json, write_json
from diffmem.studies.executors.pool import (
    SECONDS_TO_STOP,
    BugError,
    Event,
    Task,
    error_from_json,
    error_to_json,
)

__all__ = [
    "Journal",
    "event_from_json",
    "event_to_json",
    "read_task",
    "run_child",
]

_SECONDS_BETWEEN_LOOKS = 0.1
_SECONDS_BETWEEN_PROGRESS = 0.5
# torchrun gives its processes half a minute; it is not ended before it has ended them.
_SECONDS_OF_LAUNCHER = 40.0


def event_to_json(event: Event) -> dict[str, Any]:
    """Return an event as JSON; of an error its class and words are kept."""
    error = None if event.error is None else error_to_json(event.error)
    return {**asdict(replace(event, error=None)), "error": error}


def event_from_json(content: Mapping[str, Any]) -> Event:
    """Return the event that `event_to_json` described."""
    error = None if content["error"] is None else error_from_json(content["error"])
    if isinstance(error, BugError):
        error.trace = content["text"]
    return Event(**{**content, "error": error})


def read_task(file: Path) -> Task:
    """Read the task that a process was started for.

    Raises:
        DiffmemError: The file cannot be read.
    """
    return Task(**read_json(file))


class Journal:
    """Where one of the processes of a task tells what happens: a file of JSON lines.

    Args:
        folder: Of the task's file.
        rank: Which of the processes this is.
    """

    def __init__(self, folder: Path, rank: int) -> None:
        self._file = os.open(folder / f"events-{rank}.jsonl", os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o666)
        self._last = -_SECONDS_BETWEEN_PROGRESS

    def __call__(self, event: Event) -> None:
        """Write an event; of progress, what comes twice a second or less."""
        if event.kind == "progress":
            if time.monotonic() - self._last < _SECONDS_BETWEEN_PROGRESS:
                return
            self._last = time.monotonic()
        # In one call, so that a signal between two of them cannot leave half a line.
        os.write(self._file, json.dumps(event_to_json(event)).encode() + b"\n")


class _Reader:
    """Reads what the processes' journals have gained; the last line counts once it is whole."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._read: dict[Path, int] = {}
        self.begun = False
        self.ends: list[Event] = []

    def new(self) -> Iterator[Event]:
        """Yield the new events of running work; keep the others."""
        for file in sorted(self._folder.glob("events-*.jsonl")):
            self.begun = True
            with file.open("rb") as stream:
                stream.seek(self._read.get(file, 0))
                gained = stream.read()
            whole = gained[: gained.rfind(b"\n") + 1]
            self._read[file] = self._read.get(file, 0) + len(whole)
            for line in whole.splitlines():
                event = event_from_json(json.loads(line))
                if event.kind in ("progress", "warning"):
                    yield event
                else:
                    self.ends.append(event)


def run_child(
    task: Task,
    told: Callable[[Event], None],
    *,
    asked: Callable[[], bool] = lambda: False,
    environment: Mapping[str, str] | None = None,
) -> Event:
    """Do a task in a process of its own, or in `task.processes` under torchrun, and return how it ended.

    Args:
        task: What to do.
        told: Told of progress and warnings.
        asked: Whether the work should save and end; asked about ten times a second.
        environment: Variables to set in the child.

    Raises:
        DiffmemError: The task's file cannot be written.
    """
    with tempfile.TemporaryDirectory(prefix="diffmem-task-", ignore_cleanup_errors=True) as name:
        folder = Path(name)
        file, words, reader = folder / "task.json", folder / "errors.txt", _Reader(folder)
        write_json(file, asdict(task))
        with words.open("wb") as stream:
            child = subprocess.Popen(
                _command(task.processes, file),
                stdin=subprocess.PIPE,
                stdout=subprocess.DEVNULL,
                stderr=stream,
                env={**os.environ, **(environment or {})},
                start_new_session=True,  # Ctrl-C is for this process, which passes it on
            )
        try:
            patience = SECONDS_TO_STOP if task.processes == 1 else SECONDS_TO_STOP + _SECONDS_OF_LAUNCHER
            deadline = None
            while child.poll() is None:
                for event in reader.new():
                    told(event)
                if deadline is None and asked():
                    deadline = time.monotonic() + patience
                    child.terminate()
                elif deadline is not None and time.monotonic() >= deadline:
                    child.kill()
                time.sleep(_SECONDS_BETWEEN_LOOKS)
        finally:
            _end(child)
        for event in reader.new():
            told(event)
        told_why = words.read_text(errors="replace")
        return _judge(task.key, reader, child.returncode, told_why, was_asked=deadline is not None)


def _command(processes: int, file: Path) -> list[str]:
    program = ["-m", "diffmem.studies.executors.task", str(file)]
    if processes == 1:
        return [sys.executable, *program]
    return [
        sys.executable, "-m", "torch.distributed.run", "--standalone", f"--nproc_per_node={processes}", *program
    ]  # fmt: skip


def _end(child: subprocess.Popen[bytes]) -> None:
    """See to it that nothing of a child runs on; what torchrun started and left behind sees its input close."""
    assert child.stdin is not None
    child.stdin.close()
    if child.poll() is None:
        child.terminate()
        try:
            child.wait(SECONDS_TO_STOP)
        except subprocess.TimeoutExpired:
            child.kill()
            child.wait()


def _judge(key: str, reader: _Reader, code: int, words: str, *, was_asked: bool) -> Event:
    """Return what the ends of the processes mean for the task: the cause, where one of them drew the others with it.

    Args:
        key: The task's.
        reader: What the processes told.
        code: How the process that was started here ended.
        words: What was written to standard error.
        was_asked: Whether it was asked to stop.
    """
    failed = [event for event in reader.ends if event.kind == "failed"]
    ends = [event for event in failed if not isinstance(event.error, LostProcessError)]
    for kind in ("finished", "stopped", "lost"):
        ends += [event for event in reader.ends if event.kind == kind]
    if ends:
        return ends[0]
    if code == -signal.SIGTERM or (was_asked and code != -signal.SIGKILL):
        return Event(key, "stopped", "It was stopped before it had started.")
    last = (words.strip().splitlines() or ["no output"])[-1].strip()
    if reader.begun or code < 0:
        text = f"The process of the task ended unexpectedly (exit code {code}; -9 often means that memory ran out): {last}"
        return Event(key, "lost", text)
    error = DiffmemError(f"The process of a task cannot start (exit code {code}): {last}")
    return Event(key, "failed", str(error), error=error)
