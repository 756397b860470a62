"""A study: sizes -> runs -> R_mem -> EMM. The folder it leaves is enough to go on and to draw its report."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Collection, Mapping, Sequence
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

import numpy as np

from diffmem.data import ImageSet, duplicate_groups
from diffmem.distributed import world
from diffmem.errors import DiffmemError, UserError
from diffmem.memorization import RatioRule
from diffmem.memorization.examples import Example
from diffmem.memorization.rates import Rate
from diffmem.models import ModelConfig, build_denoiser, count_parameters
from diffmem.progress import NO_PROGRESS, Progress
from diffmem.runs.distribution import open_distribution
from diffmem.runs.evaluations import StoredEvaluation
from diffmem.runs.recipe import StudyRecipe
from diffmem.runs.records import RunRecord
from diffmem.runs.run import Run
from diffmem.runs.together import execute_together
from diffmem.studies.driver import Reached, Work, budget_state, drive, timed
from diffmem.studies.emm import estimate_emm
from diffmem.studies.emm import so_far as so_far_emm
from diffmem.studies.groups import Member, planned_groups
from diffmem.studies.onset import onset_of_runs
from diffmem.studies.records import CostRecord, EmmRecord, LevelRecord
from diffmem.studies.tasks import WORK, task_content

__all__ = [
    "RUNS",
    "Grid",
    "Study",
    "model_text",
]

RUNS = "runs"


class Study:
    """The recipe of one level in a folder: its runs, and what they say together.

    Args:
        folder: Where results lie; made if missing.
        store: Where runs and their data lie; the folder if not given. Studies may share it: runs are named by content.
        level: What messages call the level, where there are several.
        progress: Reports the reading of images.

    Raises:
        UserError: The data cannot be had, a size cannot be drawn, or the images do not fit the model.
    """

    def __init__(
        self,
        recipe: StudyRecipe,
        folder: Path,
        progress: Progress = NO_PROGRESS,
        *,
        store: Path | None = None,
        level: str = "",
    ) -> None:
        self.recipe, self.folder, self.store, self._level = recipe, folder, store or folder, level
        self.distribution = open_distribution(recipe.data, progress)
        self.heldout = self.distribution.heldout
        self.sets = {size: self.distribution.draw(size) for size in sorted(recipe.sizes)}
        smallest = self.sets[min(self.sets)]
        if len(np.unique(duplicate_groups(smallest))) < 2:  # larger sets contain it
            raise UserError(
                f"The training set of size {len(smallest)} has only one distinct image: the rule compares the two nearest distinct"
                " images. Choose larger sizes or other images."
            )
        self.model = model_text(recipe.model, smallest)

    def runs(self) -> list[Run]:
        """Return the runs of all sizes and seeds, ascending."""
        return [
            Run(images, self.heldout, self.recipe.model, self.recipe.training, seed, self.store / RUNS)
            for images in self.sets.values()
            for seed in self.recipe.seeds
        ]

    def work(self, run: Run) -> Work:
        """Return a run as something to be done."""
        recipe = self.recipe
        return Work(
            name=f"{self._level and f'{self._level}, '}N = {len(run.training_set):,}, seed {run.seed}",
            run=run,
            function=WORK,
            content=lambda device: task_content(run, recipe, device),
            is_done=lambda: run.is_finished(recipe.sampling, recipe.measure),
            units=run.total_units(recipe.sampling, recipe.measure),
        )

    def level_record(self, name: str, of: StudyRecipe, *, so_far: bool = False) -> LevelRecord:
        """Summarize the runs; EMM is that of those that are finished.

        Args:
            name: Of the level that this study is.
            of: The recipe that has the level.
            so_far: Include runs that are not finished.
        """
        recipe, runs, missing = self.recipe, list[RunRecord](), 0
        for run in self.runs():
            record = run.record(recipe.sampling, recipe.measure, self.store, so_far=True)
            missing += record.verdict is not None
            if so_far or record.verdict is None:
                runs.append(record)

        def emm(rate: Callable[[RunRecord], Rate]) -> EmmRecord:
            counts: dict[int, list[tuple[int, int]]] = defaultdict(list)
            for run in runs:
                if run.verdict is None:
                    counts[run.size].append((rate(run).count, rate(run).total))
            found = estimate_emm(counts, recipe.measure.epsilon)
            return so_far_emm(found, list(counts)) if missing else found

        return LevelRecord(
            name=name,
            settings=of.levels.get(name, {}),
            published=of.published.get(name),
            data=self.distribution.describe(),
            model=self.model,
            training=recipe.training.describe(),
            sampling=(
                f"{recipe.sampling.describe()};"
                f" seeds 0 to {recipe.measure.samples - 1} at each of the evaluation points"
            ),
            runs=runs,
            emm=emm(lambda run: run.peak.memorized),
            emm_last=emm(lambda run: run.last.memorized),
            onset=None if so_far else onset_of_runs(runs),
            finished=not missing,
            cost=CostRecord.of(runs, recipe.sampling.image_cost),
        )

    def example(self, run_id: str, count: int = 8, *, warn: Callable[[str], None] = print) -> Example | None:
        """Return the first `count` seeds at the peak of this run, with their neighbours; none before there is an evaluation."""
        run = next(run for run in self.runs() if run.run_id == run_id)
        sampling, measure = self.recipe.sampling, self.recipe.measure
        rule = RatioRule(measure.threshold)
        store, stored = run.evaluation_store(sampling, measure.samples), list[StoredEvaluation]()
        for seen in run.points:
            with suppress(DiffmemError):  # not there yet
                stored.append(store.read(seen))
        if not stored:
            return None
        best = max(stored, key=lambda each: rule(each.neighbours).mean())
        size = len(run.training_set)
        epoch = f", epoch {best.seen / size:,.0f}" if run.model.is_trained else ""
        images = run.images_of(best, best.seen, sampling, min(measure.samples, count), warn=warn)
        title = f"{size:,} training images{epoch}"
        return Example.of(title, images, best.neighbours, run.training_set.images, rule)


def model_text(model: ModelConfig, images: ImageSet) -> str:
    """Return a model in words, with its number of parameters where it is trained on such images.

    Raises:
        UserError: The images do not fit the model.
    """
    parameters = 0
    if model.is_trained:
        parameters = count_parameters(build_denoiser(model, images.shape, images.num_classes))
    return f"{model.describe()}; {parameters:,} parameters"


class Grid:
    """All runs of several studies on one store that are not finished, longest first; those that they share are done once; see `Plan`.

    Args:
        folder: Where the time spent is noted.
    """

    def __init__(self, studies: Sequence[Study], folder: Path) -> None:
        first = studies[0].recipe
        self.folder, self.store, self.executor, self.budget = (
            folder,
            studies[0].store,
            first.executor,
            first.budget,
        )
        works: dict[tuple[Path, tuple[int, ...]], Work] = {}
        self._recipes: dict[Work, StudyRecipe] = {}
        for study in studies:
            for run in study.runs():
                where = run.evaluation_folder(study.recipe.sampling, study.recipe.measure.samples)
                # A longer training is the same run, with other evaluation points.
                self._recipes[works.setdefault((where, tuple(run.points)), study.work(run))] = study.recipe
        self._left = sorted(works.values(), key=lambda work: -work.units)
        every = sum(work.units for work in works.values())
        self.most: int | None = len(self.waiting(()))
        self._units = sum(work.units for work in self._left)
        self._before = every - self._units

    def execute(
        self,
        *,
        device: str = "cpu",
        progress: Progress = NO_PROGRESS,
        warn: Callable[[str], None] = lambda text: None,
    ) -> None:
        """Do what is not done yet, as one pool of work, until the budget is spent.

        Trainings run where the executor of the first study's recipe says. Under torchrun all processes work on each run together,
        one run after the other.

        Args:
            device: 'cpu', 'cuda' or 'cuda:N'.
            progress: Reports the work done, in images trained.
            warn: Gets a message for each damaged file that is made anew, worker that died, lease taken over.

        Raises:
            UserError: The executor does not fit this machine.
            DiffmemError: A run failed.
            KeyboardInterrupt: A stop was requested; everything is saved.
        """
        if world().size > 1:
            self._execute_together(device, progress, warn)
        else:
            self._group(device)
            drive(self, device=device, progress=progress, warn=warn)

    def _group(self, device: str) -> None:
        """Plan which runs are trained together, or go on as planned; see `planned_groups`."""
        firsts: dict[str, Work] = {}
        for work in sorted(self._recipes, key=lambda work: -work.units):
            firsts.setdefault(work.run.run_id, work)
        members = [Member(work.run, work.units) for work in firsts.values()]
        plan = planned_groups(members, self.executor, device, self.folder)
        places = {
            run_id: (number, place)
            for number, ids in enumerate(plan.groups)
            for place, run_id in enumerate(ids)
        }

        def placed(index: int, work: Work) -> tuple[int, int]:
            """Return the group of a training and its place there; of a second length of a run, a group of its own."""
            run_id = work.run.run_id
            return places[run_id] if work is firsts[run_id] else (len(plan.groups) + index, 0)

        def grouped(work: Work, group: int) -> Work:
            return replace(
                work, group=group, content=lambda name: {**work.content(name), "threads": plan.threads}
            )

        order = sorted((placed(index, work), index, work) for index, work in enumerate(self._left))
        self._left = [grouped(work, group) for (group, _), _, work in order]
        self.most = len({work.group for work in self._left})

    def waiting(self, busy: Collection[Work]) -> list[Work]:
        """Return the runs that are not finished; see `Plan`."""
        self._left = [work for work in self._left if work in busy or not work.is_done()]
        return [work for work in self._left if work not in busy]

    def done(self, shares: Mapping[Work, float]) -> tuple[float, float]:
        """Return how much was done since the grid was planned, and of how much, in images trained; see `Plan`."""
        left = sum(work.units * (1 - shares.get(work, 0.0)) for work in self._left)
        return self._units - left, self._units

    def spent(self, shares: Mapping[Work, float]) -> float:
        """Return what was trained and sampled, in images trained; see `Plan`."""
        return self._before + self.done(shares)[0]

    def _execute_together(self, device: str, progress: Progress, warn: Callable[[str], None]) -> None:
        """Do one run after the other, all processes of torchrun each, until the budget is spent."""
        note_time = timed(self.folder)
        for work in list(self._left):
            spent, text = world().from_main(lambda: budget_state(self))
            if spent:
                warn(f"The budget is spent ({text}). The same command with a larger budget goes on.")
                return
            reached, recipe = Reached(), self._recipes[work]

            def tell(
                done: float, total: float, note: str = "", work: Work = work, at: Reached = reached
            ) -> None:
                at.take(done, total, note)
                progress(*self.done({work: at.share}), f"{work.name}: {at}")

            try:
                job = (work.run, recipe.sampling, recipe.measure)
                execute_together([job], device=device, progress=tell, warn=warn)
            finally:
                if world().is_main:
                    note_time()
            self._left = [other for other in self._left if other is not work]
