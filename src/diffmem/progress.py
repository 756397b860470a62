"""Progress of long work: a bar with the time left on a terminal, a plain line now and then elsewhere.

Work code takes a `Progress` (a callable, `NO_PROGRESS` by default) and calls it; only the command line decides what is
shown. So the library stays silent when it is used from Python.
"""

from __future__ import annotations

import sys
import threading
import time
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from types import SimpleNamespace
from typing import Protocol, TypeVar

from diffmem.text import duration_text

__all__ = ["NO_PROGRESS", "Pace", "Progress", "Stages", "part_of", "parts_of", "show_progress"]

_Item = TypeVar("_Item")
_SECONDS_TO_THE_FIRST_LINE = 10.0
_SECONDS_BETWEEN_REPEATS = 1.0


class Progress(Protocol):
    """`progress(done, total, note)`: `done` of `total` units of the work are finished; `note` says what is going on."""

    def __call__(self, done: float, total: float, note: str = "") -> None:
        """Take note of the progress."""
        ...


def NO_PROGRESS(done: float, total: float, note: str = "") -> None:  # noqa: N802 - a constant that happens to be a function
    """Report nothing."""


def part_of(progress: Progress, start: float, width: float) -> Progress:
    """Return the progress of one piece of a work, reported as shares of the whole.

    Args:
        progress: Of the whole; reported numbers from 0 to 1.
        start: Share of the whole that is done before.
        width: Share that the piece is.
    """

    def report(done: float, total: float, note: str = "") -> None:
        progress(start + width * done / max(total, 1), 1.0, note)

    return report


class Stages(SimpleNamespace):
    """The progress of a work's stages, by name: after `Stages(progress, load=1, search=8)`, `stages.search` is a `Progress`.

    Args:
        progress: Of the whole; reported numbers from 0 to 1.
        weights: What part of the time each stage takes, in any unit, in order; together above 0.
    """

    def __init__(self, progress: Progress, **weights: float) -> None:
        super().__init__(**dict(parts_of(progress, weights, list(weights.values()))))


def parts_of(
    progress: Progress, items: Iterable[_Item], weights: Sequence[float] | None = None
) -> Iterator[tuple[_Item, Progress]]:
    """Yield the items of a work that is done one after the other, each with the progress of its part.

    Args:
        progress: Of the whole; reported numbers from 0 to 1.
        items: What is done, in order.
        weights: What part of the time each takes, in any unit, together above 0; equal parts if none.
    """
    listed = list(items)
    sizes = [1.0] * len(listed) if weights is None else weights
    total, before = sum(sizes), 0.0
    for item, size in zip(listed, sizes, strict=True):
        yield item, part_of(progress, before / total, size / total)
        before += size


class Pace:
    """How long the rest of a work takes at the pace so far. Work that is resumed starts above zero: what this process does counts."""

    def __init__(self) -> None:
        self._first: tuple[float, float] | None = None

    def seconds_left(self, done: float, total: float) -> float | None:
        """Take note of the units done and return the seconds that the others take; none before there is a pace, and at the end."""
        rate = self.per_second(done)
        return (total - done) / rate if rate > 0 and total > done else None

    def per_second(self, done: float) -> float:
        """Take note of the units done and return how many a second are; 0 before there is a pace."""
        now = time.monotonic()
        if self._first is None:
            self._first = done, now
        seconds = now - self._first[1]
        return max(0.0, done - self._first[0]) / seconds if seconds > 0 else 0.0


@contextmanager
def show_progress(title: str, every: float = 60.0) -> Iterator[Progress]:
    """Show the progress of one piece of work on standard error and yield the function to call.

    On a terminal there is a bar, renewed every second. Elsewhere there is a line after the first ten seconds and then now and
    then, also where the work reports nothing for long.

    Args:
        every: Without a terminal, the number of seconds between two lines.
    """
    pace, begin = Pace(), time.monotonic()

    def text(done: float, total: float, note: str, share: str = "") -> str:
        seconds = pace.seconds_left(done, total) if total else None  # nothing was told yet
        left = "" if seconds is None else duration_text(seconds) + " left"
        return ", ".join(part for part in (share, left, note) if part)

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
                bar.update(task, completed=done, total=total, note=text(done, total, note))

            with _repeated(on_bar) as told:
                yield told
        return

    due = begin + min(_SECONDS_TO_THE_FIRST_LINE, every)

    def on_lines(done: float, total: float, note: str = "") -> None:
        nonlocal due
        line = text(done, total, note, f"{100 * done / max(total, 1e-12):.0f}%")
        if time.monotonic() >= due:
            due = time.monotonic() + every
            print(f"{title}: {line}", file=sys.stderr, flush=True)

    with _repeated(on_lines) as told:
        yield told


@contextmanager
def _repeated(progress: Progress) -> Iterator[Progress]:
    """Yield a progress that passes on what it is told, and once a second the last again: work can be silent for hours."""
    last, ended, one_at_a_time = (0.0, 0.0, ""), threading.Event(), threading.Lock()

    def tell(done: float, total: float, note: str = "") -> None:
        nonlocal last
        last = done, total, note
        with one_at_a_time:
            progress(done, total, note)

    def repeat() -> None:
        while not ended.wait(_SECONDS_BETWEEN_REPEATS):
            with one_at_a_time:
                progress(*last)

    thread = threading.Thread(target=repeat, name="progress", daemon=True)
    thread.start()
    try:
        yield tell
    finally:
        ended.set()
        thread.join()
