"""A search carried out in a folder: which trainings it has and waits for, and what they say together."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from functools import cached_property
from pathlib import Path
from typing import Any

from diffmem.data import ImageSet
from diffmem.distributed import world
from diffmem.environment import versions
from diffmem.errors import UserError
from diffmem.memorization import RatioRule, protocol_id
from diffmem.memorization.examples import Example
from diffmem.progress import NO_PROGRESS, Progress
from diffmem.runs.distribution import Distribution, open_distribution
from diffmem.runs.recipe import StudyRecipe
from diffmem.runs.records import RunRecord
from diffmem.studies.driver import UNFINISHED, Work, budget_state, drive, seconds_spent
from diffmem.studies.folder import write_study_folder
from diffmem.studies.onset import onset_of_runs
from diffmem.studies.records import CostRecord, LevelRecord, StudyRecord
from diffmem.studies.search.choice import Outcome
from diffmem.studies.search.cost import GridCost, grid_of_equal_precision
from diffmem.studies.search.levels import Item, Search, decision_log, follow, level_emm
from diffmem.studies.search.recipe import SearchRecipe
from diffmem.studies.search.work import SizeRun
from diffmem.studies.study import RUNS, model_text
from diffmem.studies.tasks import task_content

__all__ = ["SearchStudy"]

_WORK = "diffmem.studies.search.work:work_on_size"


_FUTILITY_NOTE = (
    "Trainings were given up early where their curves looked hopeless (search.futility); the error of that rule is"
    " not in the intervals."
)


class SearchStudy:
    """A recipe of a search carried out in a folder.

    Args:
        folder: Where the recipe and the report lie.
        store: Where runs and their data lie; the folder if not given. Studies may share it.
        progress: Reports the reading of images.

    Raises:
        UserError: The data cannot be had, the largest size cannot be drawn, or the images do not fit a model.
    """

    def __init__(
        self, recipe: SearchRecipe, folder: Path, store: Path | None = None, progress: Progress = NO_PROGRESS
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
        self._followed: list[Search] = []
        self.most: int | None = None
        for name in self.levels:
            self._set(name, recipe.sizes[1])  # what cannot be drawn is refused now, not after hours

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

    def searches(self) -> dict[str, list[Search]]:
        """Return all searches as far as they have come."""
        return follow(self.recipe, self.outcome)

    def content(self, item: Item, device: str) -> dict[str, Any]:
        """Return what a worker process needs to do a training; the images that it needs are written to the store."""
        return {**task_content(self.run(item), self.recipe, device), "level": item.level}

    def waiting(self, busy: Collection[Work]) -> list[Work]:
        """Return the trainings that the searches wait for; see `Plan`."""
        found = follow(self.recipe, lambda item: None if self._work(item) in busy else self.outcome(item))
        self._followed = [search for group in found.values() for search in group]
        items = [item for search in self._followed for item in search.waiting]
        return [work for work in map(self._work, items) if work not in busy]

    def done(self, shares: Mapping[Work, float]) -> tuple[float, float]:
        """Return how many searches are done, of how many; see `Plan`."""
        # A search usually takes four or five sizes; the part of a search that is still open is a guess.
        done = 0.0
        for one in self._followed:
            sizes: float = len(one.found.outcomes) if one.found else 0
            sizes += sum(shares.get(self._work(item), 0.0) for item in one.waiting)
            done += 1.0 if one.finished else min(0.9, sizes / 5)
        return done, float(len(self._followed))

    def spent(self, shares: Mapping[Work, float]) -> float:
        """Return what was trained and sampled, in images trained, from the records of the runs; see `Plan`."""
        units = 0.0
        for name, searches in self.searches().items():
            for item in (item for search in searches for item in search.items):
                record = self.size_record(item)
                units += record.images_trained + record.images_sampled * self.levels[name].sampling.image_cost
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
        """Train and sample until every search has its answer; the arguments and errors are those of `drive`.

        Raises:
            UserError: It was started under torchrun.
        """
        if world().size > 1:
            raise UserError(
                "A search starts its processes itself; start it without torchrun, and set executor.processes_per_run for"
                " several GPUs a training."
            )
        write_study_folder(self.folder, self.recipe, self.store)
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

    def result(self, device: str = "cpu", *, so_far: bool = False) -> StudyRecord:
        """Summarize the study as it is now, finished or not; without the times of `onset` if it is only to be `so_far`.

        Trainings that are not finished are always included.
        """
        recipe, searches = self.recipe, self.searches()
        levels = [self._level_record(name, searches[name], so_far=so_far) for name in self.levels]
        records = {Item(level.name, run.seed, run.size): run for level in levels for run in level.runs}
        finished = all(level.finished for level in levels)
        spent, text = budget_state(self)
        notes = [] if recipe.search.futility is None else [_FUTILITY_NOTE]
        return StudyRecord(
            title=recipe.title,
            plan="search",
            factor=recipe.factor,
            levels=levels,
            sizes=list(recipe.sizes),
            seeds=list(recipe.seeds),
            samples=recipe.measure.samples,
            protocol=protocol_id(RatioRule(recipe.measure.threshold)),
            threshold=recipe.measure.threshold,
            epsilon=recipe.measure.epsilon,
            confidence=recipe.search.confidence,
            tolerance=recipe.search.tolerance,
            finished=finished,
            log=[entry for group in searches.values() for entry in decision_log(group, records)],
            seconds=seconds_spent(self.folder),
            versions=versions(device),
            notes=[*notes, *([f"{UNFINISHED} ({text})"] if spent and not finished else [])],
        )

    def _level_record(self, name: str, searches: list[Search], *, so_far: bool) -> LevelRecord:
        recipe, level, grid = self.recipe, self.levels[name], self.grid(name)
        items = [item for search in searches for item in search.items]
        runs = [self.size_record(item) for item in sorted(items, key=lambda item: (item.size, item.seed))]
        return LevelRecord(
            name=name,
            settings=dict(recipe.levels[name]),
            published=recipe.published.get(name),
            data=self._distributions[name].describe(),
            model=self._models[name],
            training=level.training.describe(),
            sampling=level.sampling.describe(),
            runs=runs,
            emm=level_emm(searches, recipe),
            by_seed={search.seed: search.emm for search in searches},
            onset=None if so_far else onset_of_runs(runs, adaptive=True),
            finished=all(search.finished for search in searches),
            cost=CostRecord.of(
                runs,
                level.sampling.image_cost,
                grid_sizes=grid.sizes,
                grid_units=grid.units,
                grid_images_trained=grid.images_trained,
            ),
        )

    @cached_property
    def _models(self) -> dict[str, str]:
        smallest = self.recipe.sizes[0]
        return {
            name: model_text(level.model, self._set(name, smallest)) for name, level in self.levels.items()
        }

    def smallest_run(self, name: str) -> SizeRun:
        """Return the training of a level's smallest size with the first seed, which is made to be looked at."""
        return self.run(Item(name, self.recipe.seeds[0], self.recipe.sizes[0]))

    def grid(self, name: str) -> GridCost:
        """Return the fixed grid that a level is compared with."""
        recipe, level = self.recipe, self.levels[name]
        return grid_of_equal_precision(
            *recipe.sizes, recipe.search.tolerance, level.training.epochs, len(self.smallest_run(name).points),
            recipe.measure.samples, level.sampling.evaluations, len(recipe.seeds),
        )  # fmt: skip

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
