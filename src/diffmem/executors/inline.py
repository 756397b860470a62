"""The pool that works in this process: one task after the other, each while the pool is polled."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable

from diffmem.executors.pool import Event, Pool, Task, carried_out
from diffmem.executors.work import perform

__all__ = ["InlinePool"]


class InlinePool(Pool):
    """A pool whose `poll` does the next task, however long that takes, and returns what it told.

    An interrupt of the work leaves `poll` as KeyboardInterrupt, when the work has saved.

    Args:
        told: Told of progress and warnings as they come; without it, `poll` returns the warnings and the last progress.
    """

    slots = 1

    def __init__(self, told: Callable[[Event], None] | None = None) -> None:
        self._told = told
        self._waiting: deque[Task] = deque()

    def submit(self, task: Task) -> None:
        """Take a task; see `Pool`."""
        self._waiting.append(task)

    def poll(self, seconds: float) -> list[Event]:
        """Do the next task and return what it told; without one, wait.

        Raises:
            KeyboardInterrupt: A stop was requested; the work is saved.
        """
        if not self._waiting:
            time.sleep(seconds)
            return []
        task, told, last = self._waiting.popleft(), list[Event](), list[Event]()

        def tell(event: Event) -> None:
            if self._told is not None:
                self._told(event)
            elif event.kind == "progress":
                last[:] = [event]
            else:
                told.append(event)

        def progress(done: float, total: float, note: str = "") -> None:
            tell(Event(task.key, "progress", note, done, total))

        end = carried_out(
            task.key,
            lambda: perform(task, progress, lambda text: tell(Event(task.key, "warning", text))),
        )
        return [*told, *last, end]

    def stop(self) -> None:
        """Forget the tasks that wait; none runs outside of `poll`."""
        self._waiting.clear()
