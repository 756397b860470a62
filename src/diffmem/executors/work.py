"""A task done from where it was taken to: in this process, or in those that torchrun starts."""

from __future__ import annotations

import importlib
from collections.abc import Callable

from diffmem.executors.pool import Event, LostTaskError, Task
from diffmem.progress import Progress

__all__ = ["call", "perform"]


def call(task: Task, progress: Progress, warn: Callable[[str], None]) -> None:
    """Call the task's function here."""
    module, _, name = task.function.partition(":")
    getattr(importlib.import_module(module), name)(task.content, progress, warn)


def perform(task: Task, progress: Progress, warn: Callable[[str], None]) -> None:
    """Do a task, in this process or in as many as it wants.

    Raises:
        DiffmemError: The task failed.
        LostTaskError: One of its processes died.
        KeyboardInterrupt: This process, or one of the task's, was asked to stop; the work is saved.
    """
    if task.processes == 1:
        call(task, progress, warn)
        return
    from diffmem.executors.child import run_child
    from diffmem.interrupt import StopRequest

    def told(event: Event) -> None:
        if event.kind == "warning":
            warn(event.text)
        else:
            progress(event.done, event.total, event.text)

    with StopRequest() as stop:
        end = run_child(task, told, asked=lambda: stop.requested)
    if stop.requested or end.kind == "stopped":
        raise KeyboardInterrupt
    if end.kind == "lost":
        raise LostTaskError(end.text)
    if end.error is not None:
        raise end.error
