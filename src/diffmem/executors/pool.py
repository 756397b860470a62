"""What a study asks of the pool that its tasks run in: take tasks, report what becomes of them, stop."""

from __future__ import annotations

import importlib
import json
import time
import traceback
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any, Literal, Protocol, Self

from diffmem.errors import DiffmemError
from diffmem.progress import Progress

__all__ = [
    "SECONDS_TO_STOP",
    "BugError",
    "Event",
    "LostTaskError",
    "Pool",
    "Task",
    "event_from_json",
    "event_to_json",
    "outcome",
    "throttled",
]

SECONDS_TO_STOP = 60.0
"""How long work that was asked to save and end has for it."""


class LostTaskError(DiffmemError):
    """What worked on a task died; the task can be done again."""


class BugError(DiffmemError):
    """An error that nobody foresaw, in one line.

    Attributes:
        trace: The traceback.
    """

    trace: str = ""

    @classmethod
    def of(cls, trace: str) -> BugError:
        """Return the error that says the last line of a traceback and keeps all of it."""
        lines = trace.strip().splitlines() or ["unknown error"]
        error = cls(
            f"A task ended unexpectedly: {lines[-1].strip()}. This is a bug in diffmem or in a package that it uses, not a mistake in"
            " your settings; please report it. Finished work is kept."
        )
        error.trace = trace
        return error


@dataclass(frozen=True)
class Task:
    """One computation, described so that it can be sent to another machine.

    Attributes:
        key: Names the task, for example the run's id.
        function: 'package.module:name' of a function `name(content, progress, warn)`. It returns nothing: what it makes, it writes to
            disk. It raises `DiffmemError` if it fails, and KeyboardInterrupt if it was stopped and has saved.
        content: What the function is given; JSON.
        processes: Above 1, the function is called in so many processes that torchrun starts on one machine.

    Raises:
        TypeError: The content is not JSON.
        ValueError: It has numbers that are not finite.
    """

    key: str
    function: str
    content: dict[str, Any]
    processes: int = 1

    def __post_init__(self) -> None:
        # What the function is given does not depend on where it runs.
        object.__setattr__(self, "content", json.loads(json.dumps(self.content, allow_nan=False)))

    def call(self, progress: Progress, warn: Callable[[str], None]) -> None:
        """Call the function here."""
        module, _, name = self.function.partition(":")
        getattr(importlib.import_module(module), name)(self.content, progress, warn)


@dataclass(frozen=True)
class Event:
    """What a pool reports of a task.

    Attributes:
        key: The task's.
        kind: 'progress' and 'warning' while it runs; then one of 'finished'; 'failed' (it would fail again); 'lost' (what worked on it
            died) and 'stopped' (it was cut off, and saved), after which it is worth submitting the task again.
        text: The note of a progress, the warning, or what happened.
        done: Units done, of a progress.
        total: All units, of a progress.
        error: Of 'failed': what the function raised.
    """

    key: str
    kind: Literal["progress", "warning", "finished", "failed", "lost", "stopped"]
    text: str = ""
    done: float = 0.0
    total: float = 0.0
    error: DiffmemError | None = None

    @classmethod
    def failed(cls, key: str, error: DiffmemError) -> Event:
        """Return the end of a task that raised an error; its text is the traceback, where the error has one."""
        return cls(key, "failed", getattr(error, "trace", "") or str(error), error=error)


def event_to_json(event: Event) -> dict[str, Any]:
    """Return an event as JSON; of an error, module and name of its class and its text are kept."""
    error = None
    if event.error is not None:
        # A class of this package, so that it is found elsewhere.
        known = next(each for each in type(event.error).__mro__ if each.__module__.startswith("diffmem."))
        error = [known.__module__, known.__name__, str(event.error)]
    return {**asdict(replace(event, error=None)), "error": error}


def event_from_json(content: Mapping[str, Any]) -> Event:
    """Return the event that `event_to_json` described."""
    error = None if content["error"] is None else _error_from_json(content["error"])
    if isinstance(error, BugError):
        error.trace = content["text"]
    return Event(**{**content, "error": error})


def _error_from_json(content: Sequence[str]) -> DiffmemError:
    module, name, text = content
    error: type[DiffmemError] = getattr(importlib.import_module(module), name)
    try:
        return error(text)
    except TypeError:  # its constructor takes something else
        return error.__new__(error, text)


class Pool(Protocol):
    """Where tasks run. A context manager: leaving it stops what still runs.

    Attributes:
        slots: How many tasks it works on at once; more may be submitted and wait.
    """

    slots: int

    def submit(self, task: Task) -> None:
        """Take a task; it starts when a slot is free, in the order of submission."""
        ...

    def poll(self, seconds: float) -> list[Event]:
        """Return what happened since the last call; waits at most so many seconds for an event."""
        ...

    @property
    def waiting(self) -> str:
        """What tasks that were submitted wait for beside a free slot, and why; '' if they do not, or that is unknown."""
        return ""

    def stop(self) -> None:
        """Ask all work to save and end, wait for it, and end what has not after a minute; again, it does nothing."""
        ...

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *details: object) -> None:
        self.stop()


def outcome(
    key: str, run: Callable[[Progress, Callable[[str], None]], None], report: Callable[[Event], None]
) -> Event:
    """Run a task and return its end; an interrupt passes through.

    Args:
        run: `run(progress, warn)`.
        report: Called with what it reports meanwhile.
    """

    def progress(done: float, total: float, note: str = "") -> None:
        report(Event(key, "progress", note, done, total))

    try:
        run(progress, lambda text: report(Event(key, "warning", text)))
    except LostTaskError as error:
        return Event(key, "lost", str(error))
    except DiffmemError as error:
        return Event.failed(key, error)
    except Exception:
        return Event.failed(key, BugError.of(traceback.format_exc()))
    return Event(key, "finished")


def throttled(report: Callable[[Event], None], seconds: float) -> Callable[[Event], None]:
    """Return a function that passes events on, of progress what comes so many seconds after the last."""
    last = -seconds

    def pass_on(event: Event) -> None:
        nonlocal last
        if event.kind == "progress":
            if time.monotonic() - last < seconds:
                return
            last = time.monotonic()
        report(event)

    return pass_on
