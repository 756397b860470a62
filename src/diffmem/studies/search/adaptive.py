"""A study in a folder that chooses its trainings as it goes: what its plans have in common."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Collection, Mapping
from functools import cached_property
from pathlib import Path
from typing import Any, Generic, TypeVar

from diffmem.data import ImageSet
from diffmem.distributed import world
from diffmem.errors import UserError
from diffmem.memorization.examples import Example
from diffmem.progress import NO_PROGRESS, Progress
from diffmem.runs.distribution import Distribution, open_distribution
from diffmem.runs.recipe import StudyRecipe
from diffmem.runs.records import RunRecord
from diffmem.studies.driver import Work, budget_state, drive
from diffmem.studies.folder import study_at_work
from diffmem.studies.records import StudyRecord
from diffmem.studies.search.choice import Outcome
from diffmem.studies.search.levels import Item
from diffmem.studies.search.recipe import AdaptiveRecipe
from diffmem.studies.search.work import SizeRun
from diffmem.studies.study import RUNS, model_text
from diffmem.studies.tasks import task_content

__all__ = ["AdaptiveStudy"]

_Recipe = TypeVar("_Recipe", bound=AdaptiveRecipe)
_WORK = "diffmem.studies.search.work:work_on_size"


class AdaptiveStudy(ABC, Generic[_Recipe]):
    """A recipe carried out in a folder, whose trainings are sampled until they are decided, and say which are next.

    Args:
        folder: Where the recipe and the report lie.
        store: Where runs and their data lie; the folder if not given. Studies may share it.
        progress: Reports the reading of images.

    Raises:
        UserError: The data cannot be had, the largest size cannot be drawn, or the images do not fit a model.
    """

    def __init__(
        self,
        recipe: _Recipe,
        folder: Path,
        store: Path | None = None,
        progress: Progress = NO_PROGRESS,
    ) -> None:
        self.recipe, self.folder, self.store = recipe, folder, store or folder
        self.executor, self.budget = recipe.executor, recipe.budget
        self.levels: dict[str, StudyRecipe] = {name: recipe.level(name) for name in recipe.levels}
        self._distributions: dict[str, Distribution] = {
            name: open_distribution(level.data, progress) for name, level in self.levels.items()
        }
        self._sets: dict[tuple[str, int], ImageSet] = {}
        self._runs: dict[Item, SizeRun] = {}
        self._outcomes: dict[Item, Outcome] = {}
        self._records: dict[Item, RunRecord] = {}
        self._works: dict[Item, Work] = {}
        self.most: int | None = None
        for name in self.levels:
            self._set(name, max(recipe.sizes))  # what cannot be drawn is refused now, not after hours

    @abstractmethod
    def items(self) -> list[Item]:
        """Return every training that was chosen so far."""

    @abstractmethod
    def waiting(self, busy: Collection[Work]) -> list[Work]:
        """Return the trainings that are waited for; see `Plan`."""

    @abstractmethod
    def done(self, shares: Mapping[Work, float]) -> tuple[float, float]:
        """Return how much is done, and of how much; see `Plan`."""

    @abstractmethod
    def result(self, device: str = "cpu", *, so_far: bool = False) -> StudyRecord:
        """Summarize the study as it is now, finished or not."""

    def _set(self, level: str, size: int) -> ImageSet:
        key = (self.levels[level].data.model_dump_json(), size)
        if key not in self._sets:
            self._sets[key] = self._distributions[level].draw(size)
        return self._sets[key]

    def run(self, item: Item) -> SizeRun:
        """Return a training of this study."""
        if item not in self._runs:
            level = self.levels[item.level]
            self._runs[item] = SizeRun(
                training_set=self._set(item.level, item.size),
                heldout=self._distributions[item.level].heldout,
                model=level.model,
                training=level.training,
                seed=item.seed,
                store=self.store / RUNS,
                recipe=self.recipe,
                level=level,
            )
        return self._runs[item]

    def outcome(self, item: Item) -> Outcome | None:
        """Return what a training says; none if it is not done. What is known is read once."""
        if item not in self._outcomes:
            run = self.run(item)
            found = run.outcome() if run.folder.is_dir() else None
            if found is None:
                return None
            self._outcomes[item] = found
        return self._outcomes[item]

    def content(self, item: Item, device: str) -> dict[str, Any]:
        """Return what a worker process needs to do a training; the images that it needs are written to the store."""
        return {**task_content(self.run(item), self.recipe, device), "level": item.level}

    def spent(self, shares: Mapping[Work, float]) -> float:
        """Return what was trained and sampled, in images trained, from the records of the runs; see `Plan`."""
        units = 0.0
        for item in self.items():
            record = self.size_record(item)
            units += (
                record.images_trained + record.images_sampled * self.levels[item.level].sampling.image_cost
            )
        return units

    def _work(self, item: Item) -> Work:
        if item not in self._works:
            self._works[item] = Work(
                name=f"{item.level}, N = {item.size:,}, seed {item.seed}",
                run=self.run(item),
                function=_WORK,
                content=lambda device: self.content(item, device),
                is_done=lambda: self.outcome(item) is not None,
            )
        return self._works[item]

    def execute(
        self,
        *,
        device: str = "cpu",
        progress: Progress = NO_PROGRESS,
        warn: Callable[[str], None] = lambda text: None,
    ) -> None:
        """Train and sample until every level has its answer; the arguments and errors are those of `drive`.

        Raises:
            UserError: It was started under torchrun.
            BusyFolderError: Another process is at it.
        """
        if world().size > 1:
            raise UserError(
                "Such a study starts its processes itself; start it without torchrun, and set executor.processes_per_run for"
                " several GPUs a training."
            )
        with study_at_work(self.folder, self.recipe, self.store):
            drive(self, device=device, progress=progress, warn=warn)

    def size_record(self, item: Item) -> RunRecord:
        """Return what a training did and says, finished or not; a final one is read once."""
        if item in self._records:
            return self._records[item]
        record = self.run(item).size_record(item.size, self.store)
        if item in self._outcomes:
            self._records[item] = record
        return record

    def spent_text(self) -> str:
        """Return what is spent of what the study may spend, in words; '' without a budget."""
        return budget_state(self)[1]

    @cached_property
    def _models(self) -> dict[str, str]:
        smallest = self.recipe.sizes[0]
        return {
            name: model_text(level.model, self._set(name, smallest)) for name, level in self.levels.items()
        }

    def smallest_run(self, name: str) -> SizeRun:
        """Return the training of a level's smallest size with the first seed, which is made to be looked at."""
        return self.run(Item(name, self.recipe.seeds[0], self.recipe.sizes[0]))

    def example(self, item: Item, count: int = 8, *, warn: Callable[[str], None] = print) -> Example | None:
        """Return the first images of a training's most memorizing point with their neighbours; none before there are any."""
        run = self.run(item)
        shares = [hits / total if total else -1.0 for hits, total in run.counts()]
        best = max(range(len(shares)), key=shares.__getitem__)
        if shares[best] < 0:
            return None
        seen, sampling = run.points[best], self.levels[item.level].sampling
        part = run.parts.read(seen)[0]
        images = run.images_of(part, seen, sampling, min(count, len(part.neighbours)), warn=warn)
        title = f"{item.size:,} training images, epoch {run.epochs[best]:,.0f}"
        return Example.of(title, images, part.neighbours, run.training_set.images, run.memorized)
