"""The driver of a search: gives trainings to a pool as the searches ask for them, until all have their answer.

It keeps nothing that the folders do not: a driver that is killed leaves a study that the same command goes on with.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

from diffmem.distributed import world
from diffmem.errors import DiffmemError, UserError
from diffmem.executors.open import open_pool
from diffmem.executors.pool import Event, Pool, Task
from diffmem.folder_lock import BusyFolderError
from diffmem.interrupt import StopRequest
from diffmem.progress import NO_PROGRESS, Progress
from diffmem.runs.store.folders import read_entry
from diffmem.runs.store.index import RunIndex
from diffmem.studies.search.choice import Outcome
from diffmem.studies.search.levels import Item, Search, follow
from diffmem.studies.search.study import SearchStudy
from diffmem.studies.study import add_seconds
from diffmem.training.loop import STATE_FILE

__all__ = ["run_search"]

_WORK = "diffmem.studies.search.work:work_on_size"
_SECONDS_BETWEEN_BEATS = 10.0
_SECONDS_BETWEEN_CHECKS = 2.0
_MOST_LOSSES = 5  # in a row, of one training that comes no further


def run_search(
    study: SearchStudy,
    *,
    device: str = "cpu",
    progress: Progress = NO_PROGRESS,
    warn: Callable[[str], None] = lambda text: None,
) -> None:
    """Train and sample until every search of the study has its answer.

    Trainings that another study on the same store works on are waited for, and used.

    Args:
        device: 'cpu' or 'cuda'.
        progress: Reports how many searches are done, in parts, of all.
        warn: Gets a message for each damaged file that is made anew, worker that died, lease taken over.

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
    study.write_recipe()
    with StopRequest() as stop, stop.at_once(), RunIndex(study.store, warn=warn) as index:
        driver = _Driver(study, index, device, progress, warn)
        try:
            with open_pool(
                study.recipe.executor, device=device, folder=study.folder, on_event=driver.on_event
            ) as pool:
                driver.drive(pool)
        finally:
            driver.note_time()


class _Driver:
    def __init__(
        self,
        study: SearchStudy,
        index: RunIndex,
        device: str,
        progress: Progress,
        warn: Callable[[str], None],
    ) -> None:
        self._study, self._index, self._device = study, index, device
        self._progress, self._warn = progress, warn
        self._active: dict[str, Item] = {}
        self._losses: dict[
            str, tuple[int, object]
        ] = {}  # run id -> how often in a row it was lost, how far it was
        self._note = self._waiting = ""
        self._searches: list[Search] = []
        self._beaten = self._noted = time.monotonic()

    def note_time(self) -> None:
        """Add the time since it was last noted to the study's: now and then, so that a killed driver's is not lost."""
        now = time.monotonic()
        add_seconds(self._study.folder, now - self._noted)
        self._noted = now

    def drive(self, pool: Pool) -> None:
        """Go on until nothing is waited for."""
        stale = True
        checked = 0.0
        while True:
            if stale or time.monotonic() - checked > _SECONDS_BETWEEN_CHECKS:
                found = follow(self._study.recipe, self._outcome)
                self._searches = [one for group in found.values() for one in group]
                stale, checked = False, time.monotonic()
            waiting = [item for search in self._searches for item in search.waiting]
            if not waiting and not self._active:
                self._report()
                return
            self._fill(pool, waiting)
            if self._active:
                for event in pool.poll(1.0):
                    self.on_event(event)
                    stale = stale or event.kind == "finished"
            else:
                time.sleep(1.0)  # another study works on all that is waited for
            self._beat()
            self._waiting = pool.waiting
            self._report()

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
            if (
                self._study.outcome(item) is not None
            ):  # another study ended it between our check and our claim
                self._index.release(run.run_id)
                continue
            processes = self._study.recipe.executor.processes_per_run
            pool.submit(Task(run.run_id, _WORK, self._study.content(item, self._device), processes))
            self._active[run.run_id] = item

    def on_event(self, event: Event) -> None:
        """Take note of what became of a training."""
        item = self._active.get(event.key)
        if item is None:
            return
        if event.kind == "progress":
            self._note = f"{item.level}: {event.text}"
            self._beat()
            self._report()
        elif event.kind == "warning":
            self._warn(f"{item.level}, N = {item.size:,}: {event.text}")
        elif event.kind == "failed" and not isinstance(event.error, BusyFolderError):
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
        count, before = self._losses.get(event.key, (0, None))
        reached = _how_far(self._study.run(item).folder)
        count = count + 1 if reached == before else 1
        self._losses[event.key] = (count, reached)
        if count >= _MOST_LOSSES:
            raise DiffmemError(
                f"The worker of the training of {item.size:,} images ({item.level}, seed {item.seed}) died {count}"
                f" times without coming further: {event.text} Finished work is kept."
            )
        self._warn(
            f"{item.level}, N = {item.size:,}: {event.text} The training resumes from its last saved state."
        )

    def _beat(self) -> None:
        if time.monotonic() - self._beaten > _SECONDS_BETWEEN_BEATS:
            self._beaten = time.monotonic()
            self.note_time()
            for run_id in self._index.beat():
                self._warn(
                    f"The lease of run {run_id} was taken over by another study; its lock still keeps both apart."
                )

    def _report(self) -> None:
        # A search usually takes four or five sizes; the part of a search that is still open is a guess.
        done = sum(
            1.0 if one.finished else min(0.9, len(one.found.outcomes) / 5) if one.found else 0.0
            for one in self._searches
        )
        self._progress(done, float(len(self._searches)), "; ".join(filter(None, (self._note, self._waiting))))


def _how_far(folder: Path) -> tuple[int, int]:
    """Return something that changes whenever the training in this folder comes further."""
    state, files = folder / STATE_FILE, sum(1 for _ in folder.glob("evaluations/**/*.npz"))
    return (state.stat().st_mtime_ns if state.exists() else 0, files)
