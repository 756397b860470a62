"""What a search asks of the place where its tasks run: take tasks, tell what becomes of them, stop."""

from __future__ import annotations

import importlib
import json
import traceback
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from types import TracebackType
from typing import Any, Literal, Protocol, Self

from diffmem.errors import DiffmemError

__all__ = [
    "SECONDS_TO_STOP",
    "BugError",
    "Event",
    "LostTaskError",
    "Pool",
    "Task",
    "carried_out",
    "error_from_json",
    "error_to_json",
]

SECONDS_TO_STOP = 60.0
"""How long work that was asked to save and end has for it."""


class LostTaskError(DiffmemError):
    """What worked on a task died; the task can be done again."""


class BugError(DiffmemError):
    """An error that nobody foresaw, told in one line.

    Attributes:
        trace: The traceback.
    """

    trace: str = ""

    @classmethod
    def of(cls, trace: str, where: str = "A task ended unexpectedly") -> BugError:
        """Return the error that tells the last line of a traceback and keeps all of it."""
        lines = trace.strip().splitlines() or ["unknown error"]
        error = cls(
            f"{where}: {lines[-1].strip()}. This is a bug in diffmem or in a package that it uses, not a mistake in"
            " your settings; please report it. Finished work is kept."
        )
        error.trace = trace
        return error


@dataclass(frozen=True)
class Task:
    """One piece of work, described so that it can be sent to another machine.

    Attributes:
        key: Names the task, for example the run's id.
        function: 'package.module:name' of a function `work(content, progress, warn)`. It returns nothing: what it makes, it writes to
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


@dataclass(frozen=True)
class Event:
    """What a pool tells of a task.

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


def error_to_json(error: DiffmemError) -> list[str]:
    """Return what an error is, to be made again elsewhere: module and name of its class, and its words."""
    # A class of this package, so that it is found there.
    kind = next(each for each in type(error).__mro__ if each.__module__.startswith("diffmem."))
    return [kind.__module__, kind.__name__, str(error)]


def error_from_json(content: Sequence[str]) -> DiffmemError:
    """Return the error that `error_to_json` described; of what it carries, the words alone."""
    module, name, words = content
    kind: type[DiffmemError] = getattr(importlib.import_module(module), name)
    try:
        return kind(words)
    except TypeError:  # its constructor takes something else
        return kind.__new__(kind, words)


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
        """Return what happened since the last call; waits at most so many seconds for something to tell."""
        ...

    def stop(self) -> None:
        """Ask all work to save and end, wait for it, and end what has not after a minute; again, it does nothing."""
        ...

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()


def carried_out(key: str, call: Callable[[], None]) -> Event:
    """Call and return what came of it; an interrupt passes through.

    Args:
        key: Of the task that is done by the call.
        call: Does it.
    """
    try:
        call()
    except LostTaskError as error:
        return Event(key, "lost", str(error))
    except DiffmemError as error:
        return Event(key, "failed", getattr(error, "trace", "") or str(error), error=error)
    except Exception:
        bug = BugError.of(traceback.format_exc())
        return Event(key, "failed", bug.trace, error=bug)
    return Event(key, "finished")
