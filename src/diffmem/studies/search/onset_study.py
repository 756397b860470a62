"""A search, in a folder, of the time until training on so many images copies: seeds are added until it is known well enough."""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass

from diffmem.environment import versions
from diffmem.memorization import RatioRule, protocol_id
from diffmem.runs.records import RunRecord
from diffmem.studies.driver import UNFINISHED, Work, budget_state, seconds_spent
from diffmem.studies.onset import onset_of_runs
from diffmem.studies.onset_records import LineTimes, OnsetRecord
from diffmem.studies.records import CostRecord, EmmRecord, LevelRecord, LogEntry, StudyRecord
from diffmem.studies.search.adaptive import AdaptiveStudy
from diffmem.studies.search.levels import Item
from diffmem.studies.search.recipe import OnsetRecipe
from diffmem.text import count_text

__all__ = ["OnsetStudy", "SizeSearch"]


@dataclass(frozen=True)
class SizeSearch:
    """The trainings on one size of a level, as far as they were chosen.

    Attributes:
        seeds: Of the trainings, in the order of choice.
        waiting: Those that are not done.
        decisions: What each round of trainings said, in words.
    """

    level: str
    size: int
    seeds: tuple[int, ...]
    waiting: tuple[int, ...]
    decisions: tuple[str, ...]

    @property
    def items(self) -> list[Item]:
        """Every training that was chosen so far."""
        return [Item(self.level, seed, self.size) for seed in self.seeds]


class OnsetStudy(AdaptiveStudy[OnsetRecipe]):
    """A recipe of `plan: onset` carried out in a folder; arguments and errors are those of `AdaptiveStudy`.

    Each training ends when R_mem is certainly at the line. The time of a size is the mean over its seeds (of the logarithm), and seeds
    are added until the interval of that mean is as narrow as the tolerance asks for, one of them has not reached the line at the end of
    its training, their own times are known too badly for more of them to help, or there are as many as allowed.
    """

    _found: Sequence[SizeSearch] = ()

    def sizes(self, busy: Collection[Work] = ()) -> list[SizeSearch]:
        """Return the trainings of every level and size as far as they are chosen, a function of what those that are done say.

        Args:
            busy: What is worked on: it is not done yet.
        """

        def is_done(item: Item) -> bool:
            return self._work(item) not in busy and self.outcome(item) is not None

        return [self._size(name, size, is_done) for name in self.levels for size in sorted(self.recipe.sizes)]

    def _size(self, level: str, size: int, is_done: Callable[[Item], bool]) -> SizeSearch:
        seeds, decisions = list(self.recipe.seeds), list[str]()
        while True:
            waiting = [seed for seed in seeds if not is_done(Item(level, seed, size))]
            if waiting:
                return SizeSearch(level, size, tuple(seeds), tuple(waiting), tuple(decisions))
            more, text = self._more(
                size, seeds, [self.size_record(Item(level, seed, size)) for seed in seeds]
            )
            decisions.append(f"N = {size:,}: {text}")
            if not more:
                return SizeSearch(level, size, tuple(seeds), (), tuple(decisions))
            seeds += more

    def _more(self, size: int, seeds: list[int], runs: list[RunRecord]) -> tuple[list[int], str]:
        """Return the seeds that follow, and what is known and done, in words."""
        rule, percent = self.recipe.onset, f"{100 * self.recipe.onset.line:.4g}%"
        times = self.line_times(runs)
        (time,) = times.sizes
        many = f"{count_text(len(runs), 'training')}, "
        if time.low is None:
            return [], f"{many}R_mem may reach {percent} before the first evaluation; no more follow"
        if time.high is None:
            return [], f"{many}R_mem does not certainly reach {percent} in all of them; no more follow"
        low, high = time.low / size, time.high / size
        known = f"{many}{percent} between epochs {low:,.4g} and {high:,.4g}"
        if math.sqrt(high / low) - 1 <= rule.tolerance:
            return [], f"{known}, which is narrow enough"
        best = min(run.high / run.low for run in times.runs if run.low and run.high)
        within = math.sqrt(best) - 1
        if within > rule.tolerance:
            return [], (
                f"{known}; no more follow, as no training's own time is known better than within {within:.0%}: evaluations nearer together"
                " (training.evaluations.per_doubling) or with more images (measure.samples) would help, more trainings would not"
            )
        more = self.recipe.seeds_after(seeds)
        return more, f"{known}; {f'{len(more)} more' if more else 'no more are allowed'}"

    def line_times(self, runs: list[RunRecord]) -> LineTimes:
        """Return when trainings on one size reach the line, and their mean."""
        return self._onset(runs).lines[0]

    def _onset(self, runs: list[RunRecord]) -> OnsetRecord:
        return onset_of_runs(runs, [self.recipe.onset.line], adaptive=True, confidence=self.recipe.confidence)

    def items(self) -> list[Item]:
        """Return every training that was chosen so far."""
        return [item for size in self.sizes() for item in size.items]

    def waiting(self, busy: Collection[Work]) -> list[Work]:
        """Return the trainings that are waited for, of the largest sizes first; see `Plan`."""
        self._found = self.sizes(busy)
        items = [
            Item(size.level, seed, size.size)
            for size in sorted(self._found, key=lambda one: -one.size)
            for seed in size.waiting
        ]
        return [work for work in map(self._work, items) if work not in busy]

    def done(self, shares: Mapping[Work, float]) -> tuple[float, float]:
        """Return how many of the trainings that were chosen so far are done; see `Plan`."""
        chosen = sum(len(size.seeds) for size in self._found)
        done = chosen - sum(len(size.waiting) for size in self._found)
        # The share of the images: most trainings end earlier.
        return done + sum(shares.values()), float(chosen)

    def result(self, device: str = "cpu", *, so_far: bool = False) -> StudyRecord:
        """Summarize the study as it is now, finished or not; without the times of `onset` if it is only to be `so_far`.

        Trainings that are not finished are always included.
        """
        recipe, sizes = self.recipe, self.sizes()
        finished = not any(size.waiting for size in sizes)
        spent, text = budget_state(self)
        return StudyRecord(
            title=recipe.title,
            plan="onset",
            factor=recipe.factor,
            levels=[
                self._level_record(name, [size for size in sizes if size.level == name], so_far=so_far)
                for name in self.levels
            ],
            sizes=sorted(recipe.sizes),
            seeds=sorted({seed for size in sizes for seed in size.seeds}),
            samples=recipe.measure.samples,
            protocol=protocol_id(RatioRule(recipe.measure.threshold)),
            threshold=recipe.measure.threshold,
            epsilon=1 - recipe.onset.line,
            confidence=recipe.onset.confidence,
            tolerance=recipe.onset.tolerance,
            finished=finished,
            log=[LogEntry(level=size.level, text=f"{text}.") for size in sizes for text in size.decisions],
            seconds=seconds_spent(self.folder),
            versions=versions(device),
            notes=[*recipe.remarks(), *([f"{UNFINISHED} ({text})"] if spent and not finished else [])],
        )

    def _level_record(self, name: str, sizes: list[SizeSearch], *, so_far: bool) -> LevelRecord:
        recipe, level = self.recipe, self.levels[name]
        items = [item for size in sizes for item in size.items]
        runs = [self.size_record(item) for item in sorted(items, key=lambda item: (item.size, item.seed))]
        return LevelRecord(
            name=name,
            settings=dict(recipe.levels[name]),
            data=self._distributions[name].describe(),
            model=self._models[name],
            training=level.training.describe(),
            sampling=level.sampling.describe(),
            runs=runs,
            emm=EmmRecord(status="not asked for", epsilon=1 - recipe.onset.line),
            onset=None if so_far else self._onset(runs),
            finished=not any(size.waiting for size in sizes),
            cost=CostRecord.of(runs, level.sampling.image_cost),
        )
