"""A search carried out in a folder: which trainings it has and waits for, and what they say together."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence

from diffmem.environment import versions
from diffmem.memorization import RatioRule, protocol_id
from diffmem.studies.driver import UNFINISHED, Work, budget_state, seconds_spent
from diffmem.studies.onset import onset_of_runs
from diffmem.studies.records import CostRecord, LevelRecord, StudyRecord
from diffmem.studies.search.adaptive import AdaptiveStudy
from diffmem.studies.search.cost import GridCost, grid_of_equal_precision
from diffmem.studies.search.levels import Item, Search, decision_log, follow, level_emm
from diffmem.studies.search.recipe import SearchRecipe

__all__ = ["SearchStudy"]

_FUTILITY_NOTE = (
    "Trainings were given up early where their curves looked hopeless (search.futility); the error of that rule is"
    " not in the intervals."
)


class SearchStudy(AdaptiveStudy[SearchRecipe]):
    """A recipe of a search carried out in a folder; arguments and errors are those of `AdaptiveStudy`."""

    _followed: Sequence[Search] = ()

    def searches(self) -> dict[str, list[Search]]:
        """Return all searches as far as they have come."""
        return follow(self.recipe, self.outcome)

    def items(self) -> list[Item]:
        """Return every training that was chosen so far."""
        return [item for searches in self.searches().values() for search in searches for item in search.items]

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

    def result(self, device: str = "cpu", *, so_far: bool = False) -> StudyRecord:
        """Summarize the study as it is now, finished or not; without the times of `onset` if it is only to be `so_far`.

        Trainings that are not finished are always included.
        """
        recipe, searches = self.recipe, self.searches()
        levels = [self._level_record(name, searches[name], so_far=so_far) for name in self.levels]
        records = {Item(level.name, run.seed, run.size): run for level in levels for run in level.runs}
        finished = all(level.finished for level in levels)
        spent, text = budget_state(self)
        notes = recipe.remarks() + ([] if recipe.search.futility is None else [_FUTILITY_NOTE])
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

    def grid(self, name: str) -> GridCost:
        """Return the fixed grid that a level is compared with."""
        recipe, level = self.recipe, self.levels[name]
        return grid_of_equal_precision(
            *recipe.sizes, recipe.search.tolerance, level.training.epochs, len(self.smallest_run(name).points),
            recipe.measure.samples, level.sampling.evaluations, len(recipe.seeds),
        )  # fmt: skip
