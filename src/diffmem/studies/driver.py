"""The driver of a study: gives trainings to a pool as a plan asks for them, until it asks for none.

It keeps nothing that the folders do not: a driver that is killed leaves a study that the same command goes on with.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from diffmem.errors import DiffmemError, UserError
from diffmem.executors.config import ExecutorConfig
from diffmem.executors.open import open_pool
from diffmem.executors.pool import BugError, Event, Pool, Task
from diffmem.files import appears, read_number, write_json
from diffmem.folder_lock import BusyFolderError
from diffmem.interrupt import StopRequest
from diffmem.progress import NO_PROGRESS, Pace, Progress
from diffmem.runs.recipe import BudgetConfig
from diffmem.runs.run import Run
from diffmem.runs.store.folders import read_entry
from diffmem.runs.store.index import RunIndex
from diffmem.text import count_text, duration_text
from diffmem.training.loop import STATE_FILE

__all__ = ["UNFINISHED", "Plan", "Reached", "Work", "budget_state", "drive", "seconds_spent", "timed"]

_SECONDS_BETWEEN_BEATS = 10.0
_SECONDS_BETWEEN_CHECKS = 2.0
_MOST_LOSSES = 5  # in a row, of one training that comes no further
_SECONDS_FILE = "seconds.json"

UNFINISHED = "unfinished: budget spent"
"""What the record of a study says that was ended by its budget, before how much that was."""


@dataclass(frozen=True, eq=False)
class Work:
    """One training that a plan asks for.

    Attributes:
        name: For people: its level, size and seed.
        run: Its run, whose folder one process at a time works in.
        function: Does it, 'package.module:name' (see `Task`).
        content: Returns what that function is given for a device, as JSON; writes the images that it needs into the store.
        is_done: Whether it has left all that the plan needs.
        units: Expected cost, in images trained.
        group: Trainings of one group are given to a worker together, those that are waited for at that time and that nobody
            else works on; their function is then given {'runs': the contents}. None for a training by itself.
    """

    name: str
    run: Run
    function: str
    content: Callable[[str], dict[str, Any]]
    is_done: Callable[[], bool]
    units: float = 1.0
    group: int | None = None


class Reached:
    """How far a training is, by what it reports."""

    def __init__(self) -> None:
        self._pace, self._done, self._total, self._text = Pace(), 0.0, 0.0, ""

    def take(self, done: float, total: float, text: str = "") -> None:
        """Take note of a report: images of all images, and what is going on."""
        self._done, self._total, self._text = done, total, text
        self._pace.per_second(done)

    @property
    def share(self) -> float:
        """The share that is done, 0 to 1."""
        return min(1.0, self._done / max(self._total, 1e-12))

    @property
    def per_second(self) -> float:
        """Images a second."""
        return self._pace.per_second(self._done)

    def __str__(self) -> str:
        left = self._pace.seconds_left(self._done, self._total)
        parts = [f"{self._done:,.0f} of {self._total:,.0f} images, {self.per_second:,.0f} a second"]
        parts += [] if left is None else [f"{duration_text(left)} left"]
        return ", ".join([*parts, *filter(None, [self._text])])


@dataclass(eq=False)
class _Task:
    """Trainings that were given to a worker together.

    Attributes:
        works: The trainings.
        reached: How far they are; none before the first report.
    """

    works: list[Work]
    reached: Reached | None = None

    @property
    def key(self) -> str:
        """The run of the first."""
        return self.works[0].run.run_id

    @property
    def name(self) -> str:
        """The name of the first, and how many others there are."""
        others = len(self.works) - 1
        return self.works[0].name + (f" and {count_text(others, 'other')}" if others else "")

    @property
    def folders(self) -> list[Path]:
        """The folders of the runs."""
        return [work.run.folder for work in self.works]


class Plan(Protocol):
    """Which trainings a study needs: a function of what those that have ended say.

    Attributes:
        folder: Of the study.
        store: Where its runs lie.
        executor: Where trainings run.
        most: How many can be waited for at once; none if that is not known.
        budget: What it may spend; none for all that it takes.
    """

    folder: Path
    store: Path
    executor: ExecutorConfig
    most: int | None
    budget: BudgetConfig | None

    def waiting(self, busy: Collection[Work]) -> list[Work]:
        """Return what is waited for now, the most urgent first.

        Args:
            busy: What is worked on: it is not done yet, and its files need not be read.
        """
        ...

    def done(self, shares: Mapping[Work, float]) -> tuple[float, float]:
        """Return how much of the study is done, and of how much, as of the last call of `waiting`.

        Args:
            shares: What is worked on -> the share of it that is done, 0 to 1.
        """
        ...

    def spent(self, shares: Mapping[Work, float]) -> float:
        """Return what was trained and sampled, in images trained; of what is worked on, the share that is done."""
        ...


def budget_state(plan: Plan, shares: Mapping[Work, float] | None = None) -> tuple[bool, str]:
    """Return whether a study's budget is spent, and what is spent of it, in words; '' without a budget."""
    if plan.budget is None:
        return False, ""
    spent = plan.spent(shares or {}), seconds_spent(plan.folder) / 3600
    return plan.budget.is_spent(*spent), plan.budget.describe(*spent)


def seconds_spent(folder: Path) -> float:
    """Return the wall-clock time of the sessions of a study so far."""
    return read_number(folder / _SECONDS_FILE, "seconds")


def timed(folder: Path) -> Callable[[], None]:
    """Return a function that adds the time since it was last called, or made, to a study's.

    Called now and then, so that the time of a killed driver is not lost. It raises `DiffmemError` if the file cannot be written.
    """
    noted = time.monotonic()

    def note() -> None:
        nonlocal noted
        now = time.monotonic()
        write_json(folder / _SECONDS_FILE, {"seconds": seconds_spent(folder) + now - noted})
        noted = now

    return note


def drive(
    plan: Plan,
    *,
    device: str = "cpu",
    progress: Progress = NO_PROGRESS,
    warn: Callable[[str], None] = lambda text: None,
) -> None:
    """Have done what a plan asks for, until it asks for nothing or its budget is spent.

    Trainings that another study on the same store works on are waited for, and used.

    Args:
        device: 'cpu', 'cuda' or 'cuda:N'.
        progress: Reports how much of the study is done.
        warn: Gets a message for each damaged file that is made anew, worker that died, lease taken over, and when the budget ends.

    Raises:
        UserError: The executor does not fit this machine.
        DiffmemError: A training failed, or its worker died again and again.
        KeyboardInterrupt: A stop was requested; everything is saved.
    """
    with StopRequest() as stop, stop.at_once(), RunIndex(plan.store, warn=warn) as index:
        driver = _Driver(plan, index, device, progress, warn)
        try:
            if not plan.waiting(()) or driver.may_not_begin():
                return
            with open_pool(
                plan.executor, device=device, folder=plan.folder, most=plan.most, on_event=driver.on_event
            ) as pool:
                driver.drive(pool)
        finally:
            driver.note_time()


class _Driver:
    def __init__(
        self, plan: Plan, index: RunIndex, device: str, progress: Progress, warn: Callable[[str], None]
    ) -> None:
        self._plan, self._index, self._progress, self._warn = plan, index, progress, warn
        # A worker sees its own GPUs alone.
        self._device = device if plan.executor.kind == "inline" else device.partition(":")[0]
        self._active: dict[str, _Task] = {}
        self._losses: dict[str, tuple[int, object]] = {}  # how often in a row it was lost, how far it was
        self._newest: _Task | None = None
        self._waits, self._elsewhere, self._told = "", 0, False
        self._beaten = time.monotonic()
        self.note_time = timed(plan.folder)

    def drive(self, pool: Pool) -> None:
        """Go on until nothing is waited for."""
        waiting, stale, checked = list[Work](), True, 0.0
        while True:
            if stale or time.monotonic() - checked > _SECONDS_BETWEEN_CHECKS:
                waiting = self._plan.waiting([work for task in self._active.values() for work in task.works])
                stale, checked = False, time.monotonic()
            self._report()
            ended = not waiting or self.may_not_begin()
            if ended and not self._active:
                return
            if not ended:
                self._fill(pool, waiting)
            if self._active:
                for event in pool.poll(1.0):
                    self.on_event(event)
                    stale = stale or event.kind not in ("progress", "warning")
            else:
                time.sleep(1.0)  # another study works on all that is waited for
            self._beat()
            self._waits = pool.waiting

    def _fill(self, pool: Pool, waiting: list[Work]) -> None:
        """Submit what is waited for, as far as there is room and nobody else works on it."""
        self._elsewhere = 0
        busy = {work.run.run_id for task in self._active.values() for work in task.works}
        tried = set[Work]()
        for first in waiting:
            if len(self._active) >= pool.slots:
                return
            together = [first]
            if first.group is not None:
                together = [work for work in waiting if work.group == first.group]
            works = []
            for work in together:
                run_id = work.run.run_id
                if work in tried or run_id in busy:
                    continue
                tried.add(work)
                if not self._index.claim(run_id, str(self._plan.folder)):
                    self._elsewhere += 1
                elif work.is_done():  # another study ended it between our check and our claim
                    self._index.release(run_id)
                else:
                    works.append(work)
                    busy.add(run_id)
            if works:
                task = _Task(works)
                self._active[task.key] = task
                pool.submit(self._described(task))

    def _described(self, task: _Task) -> Task:
        first, processes = task.works[0], self._plan.executor.processes_per_run
        contents = [work.content(self._device) for work in task.works]
        content = contents[0] if first.group is None else {"runs": contents}
        return Task(task.key, first.function, content, processes)

    def may_not_begin(self) -> bool:
        """Return whether the budget is spent, and say so when it is first seen."""
        spent, text = budget_state(self._plan, self._shares())
        if spent and not self._told:
            self._warn(
                f"The budget is spent ({text}): no further training begins, those at work are finished. The same command with a"
                " larger budget goes on."
            )
        self._told = self._told or spent
        return spent

    def _at_work(self) -> list[tuple[_Task, Reached]]:
        """Return the tasks that have reported, and how far they are."""
        return [(task, task.reached) for task in self._active.values() if task.reached is not None]

    def _shares(self) -> dict[Work, float]:
        return {work: reached.share for task, reached in self._at_work() for work in task.works}

    def on_event(self, event: Event) -> None:
        """Take note of what became of a training."""
        task = self._active.get(event.key)
        if task is None:
            return
        if event.kind == "progress":
            task.reached = task.reached or Reached()
            task.reached.take(event.done, event.total, event.text)
            self._newest = task
            self._beat()
            self._report()
        elif event.kind == "warning":
            self._warn(f"{task.name}: {event.text}")
        elif event.kind == "failed" and not isinstance(event.error, BusyFolderError):
            if isinstance(event.error, BugError):
                print(event.error.trace, file=sys.stderr)
            raise event.error or DiffmemError(event.text)
        else:
            del self._active[event.key]
            if event.kind == "failed":  # what a killed driver left still saves: tried again when it has ended
                self._warn(f"{task.name}: {event.text}")
            if event.kind == "finished":
                self._losses.pop(event.key, None)
                self._finished(task)
            elif event.kind == "lost":
                self._lost(task, event)
            for work in task.works:
                self._index.release(work.run.run_id)

    def _finished(self, task: _Task) -> None:
        for work in task.works:
            if not appears(work.is_done, self._beat):
                raise DiffmemError(
                    f"The training {work.name} ended, but its results are not in {work.run.folder}: do the workers write to"
                    " another disk than this one?"
                )
            with suppress(UserError):
                self._index.note(read_entry(work.run.folder))

    def _lost(self, task: _Task, event: Event) -> None:
        count, before = self._losses.get(event.key, (0, None))
        reached = [_how_far(folder) for folder in task.folders]
        count = count + 1 if reached == before else 1
        self._losses[event.key] = (count, reached)
        if count >= _MOST_LOSSES:
            raise DiffmemError(
                f"The worker of the training {task.name} died {count} times without coming further: {event.text} Finished"
                " work is kept: the same command resumes from there."
            )
        self._warn(f"{task.name}: {event.text} The training resumes from its last saved state.")

    def _beat(self) -> None:
        if time.monotonic() - self._beaten > _SECONDS_BETWEEN_BEATS:
            self._beaten = time.monotonic()
            self.note_time()
            for run_id in self._index.beat():
                self._warn(
                    f"The lease of run {run_id} was taken over by another study; its lock still keeps both apart."
                )

    def _report(self) -> None:
        self._progress(*self._plan.done(self._shares()), "; ".join(filter(None, self._note())))

    def _note(self) -> Iterator[str]:
        """Yield in words how many trainings are at work, how far the one is that reported last, and what others wait for."""
        at_work = self._at_work()
        starting = sum(len(task.works) for task in self._active.values() if task.reached is None)
        if len(at_work) > 1:
            rate = sum(reached.per_second for _, reached in at_work)
            count = sum(len(task.works) for task, _ in at_work)
            yield f"{count} trainings at work, {rate:,.0f} images a second"
        for task, reached in at_work:
            if task is self._newest:
                yield f"{task.name}: {reached}"
        if self._waits or starting:
            yield self._waits or f"{count_text(starting, 'training')} not begun yet"
        if self._elsewhere and not self._active:
            yield f"waiting for {count_text(self._elsewhere, 'training')} of other studies on the same store"


def _how_far(folder: Path) -> tuple[int, int]:
    """Return something that changes whenever the training in this folder comes further."""
    state, files = folder / STATE_FILE, sum(1 for _ in folder.glob("evaluations/**/*.npz"))
    return (state.stat().st_mtime_ns if state.exists() else 0, files)
