"""Progress of long work: a bar with the time left on a terminal, a plain line now and then elsewhere.

Work code takes a `Progress` (a callable, `NO_PROGRESS` by default) and calls it; only the command line decides what is
shown. So the rooms of the library stay silent when they are used from Python.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Protocol

from diffmem.text import duration_text

__all__ = ["NO_PROGRESS", "Progress", "part_of", "show_progress"]


class Progress(Protocol):
    """`progress(done, total, note)`: `done` of `total` units of the work are finished; `note` says what is going on."""

    def __call__(self, done: float, total: float, note: str = "") -> None:
        """Take note of the progress."""
        ...


def NO_PROGRESS(done: float, total: float, note: str = "") -> None:  # noqa: N802 - a constant that happens to be a function
    """Report nothing."""


def part_of(progress: Progress, start: float, width: float) -> Progress:
    """Return the progress of one piece of a work, told as shares of the whole.

    Args:
        progress: Of the whole; told numbers from 0 to 1.
        start: Share of the whole that is done before.
        width: Share that the piece is.
    """

    def told(done: float, total: float, note: str = "") -> None:
        progress(start + width * done / max(total, 1), 1.0, note)

    return told


@contextmanager
def show_progress(title: str, every: float = 10.0) -> Iterator[Progress]:
    """Show the progress of one piece of work on standard error and yield the function to call.

    Args:
        title: What is being done.
        every: Without a terminal, the least number of seconds between two lines.
    """
    start = time.monotonic()
    first: list[float] = []

    def left(done: float, total: float) -> str:
        # Work that is resumed starts above zero: the rate counts only what this process did.
        gained = done - first[0]
        if gained <= 0 or total <= done:
            return ""
        return duration_text((time.monotonic() - start) * (total - done) / gained) + " left"

    if sys.stderr.isatty():
        from rich.progress import BarColumn, TextColumn
        from rich.progress import Progress as Bar

        from diffmem.console import console

        columns = (
            TextColumn("{task.description}", markup=False),
            BarColumn(),
            TextColumn("{task.percentage:>3.0f}%"),
            TextColumn("{task.fields[note]}", markup=False),
        )
        # What is printed meanwhile passes by the bar, but not where it goes to a file.
        redirect = sys.stdout.isatty()
        with Bar(*columns, console=console(stderr=True), transient=True, redirect_stdout=redirect) as bar:
            task = bar.add_task(title, total=1.0, note="")

            def on_bar(done: float, total: float, note: str = "") -> None:
                first[:] = first or [done]
                words = ", ".join(part for part in (left(done, total), note) if part)
                bar.update(task, completed=done, total=total, note=words)

            yield on_bar
        return

    last = [start]

    def on_lines(done: float, total: float, note: str = "") -> None:
        first[:] = first or [done]
        now = time.monotonic()
        if now - last[0] >= every:
            last[0] = now
            words = ", ".join(
                part for part in (f"{100 * done / max(total, 1e-12):.0f}%", left(done, total), note) if part
            )
            print(f"{title}: {words}", file=sys.stderr, flush=True)

    yield on_lines
