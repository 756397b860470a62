"""The driver of a search: gives trainings to a pool as the searches ask for them, until all have their answer.

It keeps nothing that the folders do not: a driver that is killed leaves a study that the same command goes on with.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from diffmem.distributed import world
from diffmem.errors import DiffmemError, UserError
from diffmem.progress import NO_PROGRESS, Progress
from diffmem.studies.executors.config import open_pool
from diffmem.studies.executors.pool import Event, Pool, Task
from diffmem.studies.search.choice import Outcome
from diffmem.studies.search.levels import Item, Search, follow
from diffmem.studies.search.study import SearchStudy
from diffmem.studies.store.folders import read_entry
from diffmem.studies.store.index import RunIndex
from diffmem.studies.store.lock import BusyRunError
from diffmem.studies.study import add_seconds
from diffmem.training.interrupt import StopRequest
from diffmem.training.loop import STATE_FILE

__all__ = ["carry_out_search"]

_WORK = "diffmem.studies.search.work:work_on_size"
_SECONDS_BETWEEN_BEATS = 10.0
_SECONDS_BETWEEN_LOOKS = 2.0
_MOST_LOSSES = 5  # in a row, of one training that comes no further


@dataclass
class _Losses:
    """How often work on a training died without having come further."""

    count: int = 0
    mark: object = None


def carry_out_search(
    study: SearchStudy,
    *,
    device: str = "cpu",
    progress: Progress = NO_PROGRESS,
    warn: Callable[[str], None] = lambda text: None,
) -> None:
    """Train and sample until every search of the study has its answer.

    Trainings that another study on the same store works on are waited for, and used.

    Args:
        study: What to do.
        device: 'cpu' or 'cuda'.
        progress: Told how many searches are done, in parts, of all.
        warn: Told of damaged files that are made anew, of workers that died, of leases taken over.

    Raises:
        UserError: It was started under torchrun, or the executor does not fit this machine.
        DiffmemError: A training failed, or its worker died again and again.
        KeyboardInterrupt: A stop was requested; everything is saved.
    """
    if world().size > 1:
        raise UserError(
            "A search starts its processes itself; start it without torchrun, and set executor.processes_per_run for"
            " several GPUs a training."
        )
    study.write_place()
    clock = _Clock(study)
    try:
        with StopRequest() as stop, stop.at_once(), RunIndex(study.store, warn=warn) as index:
            driver = _Driver(study, index, device, clock, progress, warn)
            with open_pool(
                study.recipe.executor, device=device, folder=study.folder, told=driver.told
            ) as pool:
                driver.drive(pool)
    finally:
        clock.note()


class _Clock:
    """Adds the time of this session to the study's, now and then, so that a killed driver's is not lost."""

    def __init__(self, study: SearchStudy) -> None:
        self._study, self._noted = study, time.monotonic()

    def note(self) -> None:
        """Add the time since it was last noted."""
        now = time.monotonic()
        add_seconds(self._study.folder, now - self._noted)
        self._noted = now


class _Driver:
    def __init__(
        self,
        study: SearchStudy,
        index: RunIndex,
        device: str,
        clock: _Clock,
        progress: Progress,
        warn: Callable[[str], None],
    ) -> None:
        self._study, self._index, self._device, self._clock = study, index, device, clock
        self._progress, self._warn = progress, warn
        self._active: dict[str, Item] = {}
        self._losses: dict[str, _Losses] = {}
        self._note = ""
        self._searches: list[Search] = []
        self._beaten = time.monotonic()

    def drive(self, pool: Pool) -> None:
        """Go on until nothing is waited for."""
        stale = True
        looked = 0.0
        while True:
            if stale or time.monotonic() - looked > _SECONDS_BETWEEN_LOOKS:
                found = follow(self._study.recipe, self._outcome)
                self._searches = [one for group in found.values() for one in group]
                stale, looked = False, time.monotonic()
            waiting = [item for search in self._searches for item in search.waiting]
            if not waiting and not self._active:
                self._tell()
                return
            self._fill(pool, waiting)
            if self._active:
                for event in pool.poll(1.0):
                    self.told(event)
                    stale = stale or event.kind == "finished"
            else:
                time.sleep(1.0)  # another study works on all that is waited for
            self._beat()
            self._tell()

    def _outcome(self, item: Item) -> Outcome | None:
        """Return what a training says; what our workers are at has no outcome yet, and its files need not be read."""
        return None if item in self._active.values() else self._study.outcome(item)

    def _fill(self, pool: Pool, waiting: list[Item]) -> None:
        """Submit what is waited for, as far as there is room and nobody else works on it."""
        for item in waiting:
            if len(self._active) >= pool.slots:
                return
            run = self._study.run(item)
            if run.run_id in self._active or not self._index.claim(run.run_id, str(self._study.folder)):
                continue
            if self._study.outcome(item) is not None:  # another study ended it between our look and our claim
                self._index.release(run.run_id)
                continue
            self._submit(pool, item)

    def _submit(self, pool: Pool, item: Item) -> None:
        run = self._study.run(item)
        processes = self._study.recipe.executor.processes_per_run
        pool.submit(Task(run.run_id, _WORK, self._study.content(item, self._device), processes))
        self._active[run.run_id] = item

    def told(self, event: Event) -> None:
        """Take note of what became of a training."""
        item = self._active.get(event.key)
        if item is None:
            return
        if event.kind == "progress":
            self._note = f"{item.level}: {event.text}"
            self._beat()
            self._tell()
        elif event.kind == "warning":
            self._warn(f"{item.level}, N = {item.size:,}: {event.text}")
        elif event.kind == "failed" and not isinstance(event.error, BusyRunError):
            raise event.error or DiffmemError(event.text)
        else:
            del self._active[event.key]
            if event.kind == "failed":  # what a killed driver left still saves: tried again when it has ended
                self._warn(f"{item.level}, N = {item.size:,}: {event.text}")
            if event.kind == "finished":
                self._losses.pop(event.key, None)
                self._finished(item)
            elif event.kind == "lost":
                self._lost(item, event)
            self._index.release(event.key)

    def _finished(self, item: Item) -> None:
        run = self._study.run(item)
        if self._study.outcome(item) is None:
            raise DiffmemError(
                f"The training of {item.size:,} images ({item.level}, seed {item.seed}) ended, but its verdict is not in"
                f" {run.folder}: do the workers write to another disk than this one?"
            )
        with suppress(UserError):
            self._index.note(read_entry(run.folder))

    def _lost(self, item: Item, event: Event) -> None:
        run, losses = self._study.run(item), self._losses.setdefault(event.key, _Losses())
        mark = _how_far(run.folder)
        losses.count = losses.count + 1 if mark == losses.mark else 1
        losses.mark = mark
        if losses.count >= _MOST_LOSSES:
            raise DiffmemError(
                f"The worker of the training of {item.size:,} images ({item.level}, seed {item.seed}) died {losses.count}"
                f" times without coming further: {event.text} Finished work is kept."
            )
        self._warn(
            f"{item.level}, N = {item.size:,}: {event.text} The training resumes from its last saved state."
        )

    def _beat(self) -> None:
        if time.monotonic() - self._beaten > _SECONDS_BETWEEN_BEATS:
            self._beaten = time.monotonic()
            self._clock.note()
            for run_id in self._index.beat():
                self._warn(
                    f"The lease of run {run_id} was taken over by another study; its lock still keeps both apart."
                )

    def _tell(self) -> None:
        # A search usually takes four or five sizes; the part of a search that is still open is a guess.
        done = sum(
            1.0 if one.finished else min(0.9, len(one.found.outcomes) / 5) if one.found else 0.0
            for one in self._searches
        )
        self._progress(done, float(len(self._searches)), self._note)


def _how_far(folder: Path) -> tuple[int, int]:
    """Return something that changes whenever the training in this folder comes further."""
    state, files = folder / STATE_FILE, sum(1 for _ in folder.glob("evaluations/**/*.npz"))
    return (state.stat().st_mtime_ns if state.exists() else 0, files)
