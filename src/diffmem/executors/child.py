"""One task in a process of its own, or in several under torchrun: started, listened to, asked to stop, and judged by its end.

The task travels in a JSON file; what happens comes back in files of JSON lines, one for each process, so that nothing is lost
when a process dies. The child's standard input is held open as long as this process lives (see `signals`).
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
from contextlib import suppress
from dataclasses import asdict
from pathlib import Path

from diffmem.distributed import LostProcessError
from diffmem.errors import DiffmemError
from diffmem.executors.pool import (
    SECONDS_TO_STOP,
    Event,
    LostTaskError,
    Task,
    event_from_json,
    event_to_json,
    throttled,
)
from diffmem.files import write_json
from diffmem.interrupt import StopRequest
from diffmem.progress import Progress

__all__ = ["EventFile", "journal", "run_child", "run_task"]

_SECONDS_BETWEEN_POLLS = 0.1
_SECONDS_BETWEEN_PROGRESS = 0.5
# torchrun gives its processes half a minute; it is not ended before it has ended them.
_SECONDS_OF_LAUNCHER = 40.0


def journal(folder: Path, rank: int) -> Callable[[Event], None]:
    """Return the function by which one of the processes of a task reports: into a file of JSON lines in the folder of the task's file.

    Args:
        folder: Of the task's file.
        rank: Which of the processes this is.
    """
    file = os.open(folder / f"events-{rank}.jsonl", os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o666)

    def write(event: Event) -> None:
        # In one call, so that a signal between two of them cannot leave half a line.
        os.write(file, json.dumps(event_to_json(event)).encode() + b"\n")

    return throttled(write, _SECONDS_BETWEEN_PROGRESS)


class EventFile:
    """A growing file of events as JSON lines, of which the last counts once it is whole.

    Args:
        path: The file; it may be missing yet.
    """

    def __init__(self, path: Path) -> None:
        self._path, self._read = path, 0

    def new(self) -> list[Event]:
        """Return the events that were written since the last call."""
        try:
            with self._path.open("rb") as stream:
                stream.seek(self._read)
                gained = stream.read()
        except OSError:
            return []
        whole = gained[: gained.rfind(b"\n") + 1]
        self._read += len(whole)
        events = []
        for line in whole.splitlines():
            with suppress(ValueError):  # a full disk cut it short
                events.append(event_from_json(json.loads(line)))
        return events


class _Reader:
    """Reads the journals of a task's processes."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._files: dict[Path, EventFile] = {}
        self.ends: list[Event] = []

    @property
    def begun(self) -> bool:
        return bool(self._files)

    def new(self) -> Iterator[Event]:
        """Yield the new events of running work; keep the others."""
        for path in sorted(self._folder.glob("events-*.jsonl")):
            for event in self._files.setdefault(path, EventFile(path)).new():
                if event.kind in ("progress", "warning"):
                    yield event
                else:
                    self.ends.append(event)


def run_task(task: Task, progress: Progress, warn: Callable[[str], None]) -> None:
    """Run a task, in this process or in as many as it asks for.

    Raises:
        DiffmemError: The task failed.
        LostTaskError: One of its processes died.
        KeyboardInterrupt: This process, or one of the task's, was asked to stop; the work is saved.
    """
    if task.processes == 1:
        task.call(progress, warn)
        return

    def report(event: Event) -> None:
        if event.kind == "warning":
            warn(event.text)
        else:
            progress(event.done, event.total, event.text)

    with StopRequest() as stop:
        end = run_child(task, report, asked=lambda: stop.requested)
    if stop.requested or end.kind == "stopped":
        raise KeyboardInterrupt
    if end.kind == "lost":
        raise LostTaskError(end.text)
    if end.error is not None:
        raise end.error


def run_child(
    task: Task,
    report: Callable[[Event], None],
    *,
    asked: Callable[[], bool] = lambda: False,
    environment: Mapping[str, str] | None = None,
) -> Event:
    """Run a task in a process of its own, or in `task.processes` under torchrun, and return how it ended.

    Args:
        report: Called with progress and warnings.
        asked: Whether the work should save and end; asked about ten times a second.
        environment: Variables to set in the child.

    Raises:
        DiffmemError: The task's file cannot be written.
    """
    with tempfile.TemporaryDirectory(prefix="diffmem-task-", ignore_cleanup_errors=True) as name:
        folder = Path(name)
        file, errors, reader = folder / "task.json", folder / "errors.txt", _Reader(folder)
        write_json(file, asdict(task))
        with errors.open("wb") as stream:
            child = subprocess.Popen(
                _command(task.processes, file),
                stdin=subprocess.PIPE,
                stdout=subprocess.DEVNULL,
                stderr=stream,
                env={**os.environ, **(environment or {})},
                start_new_session=True,  # Ctrl-C is for this process, which passes it on
            )
        try:
            seconds = SECONDS_TO_STOP + (_SECONDS_OF_LAUNCHER if task.processes > 1 else 0)
            deadline = None
            while child.poll() is None:
                for event in reader.new():
                    report(event)
                if deadline is None and asked():
                    deadline = time.monotonic() + seconds
                    child.terminate()
                elif deadline is not None and time.monotonic() >= deadline:
                    child.kill()
                time.sleep(_SECONDS_BETWEEN_POLLS)
        finally:
            _end(child)
        for event in reader.new():
            report(event)
        return _judge(
            task.key,
            reader,
            child.returncode,
            errors.read_text(errors="replace"),
            was_asked=deadline is not None,
        )


def _command(processes: int, file: Path) -> list[str]:
    program = ["-m", "diffmem.executors.task", str(file)]
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


def _judge(key: str, reader: _Reader, code: int, errors: str, *, was_asked: bool) -> Event:
    """Return what the ends of the processes mean for the task: the cause, where one of them drew the others with it.

    Args:
        reader: What the processes reported.
        code: How the process that was started here ended.
        errors: What was written to standard error.
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
    last = (errors.strip().splitlines() or ["no output"])[-1].strip()
    if reader.begun or code < 0:
        text = f"The process of the task ended unexpectedly (exit code {code}; -9 often means that memory ran out): {last}"
        return Event(key, "lost", text)
    return Event.failed(key, DiffmemError(f"The process of a task cannot start (exit code {code}): {last}"))
