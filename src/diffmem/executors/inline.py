"""The pool that works in this process: one task after the other, each while the pool is polled."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable
from functools import partial

from diffmem.executors.child import run_task
from diffmem.executors.pool import Event, Pool, Task, outcome

__all__ = ["InlinePool"]


class InlinePool(Pool):
    """A pool whose `poll` does the next task, however long that takes, and returns what it reported.

    An interrupt of the work leaves `poll` as KeyboardInterrupt, when the work has saved.

    Args:
        on_event: Called with progress and warnings as they come; without it, `poll` returns the warnings and the last progress.
    """

    slots = 1

    def __init__(self, on_event: Callable[[Event], None] | None = None) -> None:
        self._on_event = on_event
        self._waiting: deque[Task] = deque()

    def submit(self, task: Task) -> None:
        """Take a task; see `Pool`."""
        self._waiting.append(task)

    def poll(self, seconds: float) -> list[Event]:
        """Do the next task and return what it reported; without one, wait.

        Raises:
            KeyboardInterrupt: A stop was requested; the work is saved.
        """
        if not self._waiting:
            time.sleep(seconds)
            return []
        task, events = self._waiting.popleft(), list[Event]()
        end = outcome(task.key, partial(run_task, task), self._on_event or events.append)
        warnings = [event for event in events if event.kind == "warning"]
        return [*warnings, *[event for event in events if event.kind == "progress"][-1:], end]

    def stop(self) -> None:
        """Forget the tasks that wait; none runs outside of `poll`."""
        self._waiting.clear()
