"""A study: sizes -> runs -> R_mem -> EMM. The folder it leaves is enough to go on and to draw its report."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from diffmem.data import ImageSet, duplicate_groups, open_images, write_images
from diffmem.distributed import world
from diffmem.environment import versions
from diffmem.errors import UserError
from diffmem.executors.executor import default_workers, run_jobs
from diffmem.files import read_number, write_json
from diffmem.memorization import RatioRule, protocol_id
from diffmem.memorization.examples import Example
from diffmem.models import build_denoiser, count_parameters
from diffmem.progress import NO_PROGRESS, Progress
from diffmem.runs.distribution import open_distribution
from diffmem.runs.recipe import MeasureConfig, StudyRecipe
from diffmem.runs.run import Run
from diffmem.sampling import SamplerConfig
from diffmem.studies.emm import estimate_emm
from diffmem.studies.records import StudyResult

__all__ = ["Study", "add_seconds", "execute_studies", "seconds_spent", "stored_set"]

_RUNS, _DATA, _SECONDS = "runs", "data", "seconds.json"


@dataclass(frozen=True)
class _Job:
    """What a worker process needs: paths and settings, no images."""

    recipe: StudyRecipe
    training_set: Path
    heldout: Path | None
    seed: int
    store: Path
    device: str


def _run_of(job: _Job) -> Run:
    return Run(
        training_set=open_images(job.training_set),
        heldout=None if job.heldout is None else open_images(job.heldout),
        model=job.recipe.model,
        training=job.recipe.training,
        seed=job.seed,
        store=job.store,
    )


def _work(job: _Job, progress: Progress, warn: Callable[[str], None]) -> None:
    run = _run_of(job)
    run.execute(job.recipe.sampling, job.recipe.measure, device=job.device, progress=progress, warn=warn)


class Study:
    """A recipe carried out in a folder.

    Args:
        recipe: What to do.
        folder: Where results lie; made if missing.
        store: Where runs and their data lie; the folder if not given. Studies may share it: runs are named by content.
        progress: Told of images being read.

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
    ) -> None:
        self.recipe, self.folder, self.store = recipe, folder, store or folder
        self.distribution = open_distribution(recipe.data, progress)
        self.heldout = self.distribution.heldout
        self.sets = {size: self.distribution.draw(size) for size in sorted(recipe.sizes)}
        smallest = self.sets[min(self.sets)]
        if len(np.unique(duplicate_groups(smallest))) < 2:  # larger sets contain it
            raise UserError(
                f"The training set of size {len(smallest)} has only one distinct image: the rule compares the two nearest distinct"
                " images. Choose larger sizes or other images."
            )
        self.parameters = 0
        if recipe.model.is_trained:
            denoiser = build_denoiser(recipe.model, smallest.shape, smallest.num_classes)
            self.parameters = count_parameters(denoiser)

    def runs(self) -> list[Run]:
        """Return the runs of all sizes and seeds, ascending."""
        return [
            Run(images, self.heldout, self.recipe.model, self.recipe.training, seed, self.store / _RUNS)
            for images in self.sets.values()
            for seed in self.recipe.seeds
        ]

    def execute(
        self,
        *,
        device: str = "cpu",
        workers: int | None = None,
        progress: Progress = NO_PROGRESS,
        warn: Callable[[str], None] = lambda text: None,
    ) -> StudyResult:
        """Do what is not done yet and return the result; the arguments are those of `execute_studies`.

        Raises:
            DiffmemError: A run failed.
            KeyboardInterrupt: A stop was requested; everything is saved.
        """
        execute_studies([self], self.folder, device=device, workers=workers, progress=progress, warn=warn)
        return self.result(device)

    def unfinished(self) -> list[Run]:
        """Return the runs that are not trained and measured yet."""
        recipe = self.recipe
        return [run for run in self.runs() if not run.is_finished(recipe.sampling, recipe.measure)]

    def job(self, run: Run, device: str) -> _Job:
        """Return what a worker process needs to do a run; the images that it trains on are written to the store."""
        return _Job(
            recipe=self.recipe,
            training_set=stored_set(self.store, run.training_set, "train"),
            heldout=None if self.heldout is None else stored_set(self.store, self.heldout, "heldout"),
            seed=run.seed,
            store=run.store,
            device=device,
        )

    def result(self, device: str = "cpu") -> StudyResult:
        """Summarize the finished runs."""
        recipe = self.recipe
        records = [run.record(recipe.sampling, recipe.measure, self.store) for run in self.runs()]
        peaks: dict[int, list[tuple[int, int]]] = {}
        lasts: dict[int, list[tuple[int, int]]] = {}
        for record in records:
            peaks.setdefault(record.size, []).append(
                (record.peak.memorized.count, record.peak.memorized.total)
            )
            lasts.setdefault(record.size, []).append(
                (record.last.memorized.count, record.last.memorized.total)
            )
        return StudyResult(
            title=recipe.title,
            data=self.distribution.describe(),
            model=f"{recipe.model.describe()}; {self.parameters:,} parameters",
            training=recipe.training.describe(),
            sampling=(
                f"{recipe.sampling.describe()};"
                f" seeds 0 to {recipe.measure.samples - 1} at each of the evaluation points"
            ),
            protocol=protocol_id(RatioRule(recipe.measure.threshold)),
            threshold=recipe.measure.threshold,
            epsilon=recipe.measure.epsilon,
            runs=records,
            emm=estimate_emm(peaks, recipe.measure.epsilon),
            emm_last=estimate_emm(lasts, recipe.measure.epsilon),
            seconds=seconds_spent(self.folder),
            versions=versions(device),
            notes=[],
        )

    def example(self, run_id: str, count: int = 8) -> Example:
        """Return the first `count` seeds at the peak of this run, with their neighbours."""
        run = next(run for run in self.runs() if run.run_id == run_id)
        return example_of(run, self.recipe.sampling, self.recipe.measure, count)


def stored_set(store: Path, images: ImageSet, kind: str) -> Path:
    """Write a set once, named by its content, so that workers and later readers have the very images; return where it lies.

    Args:
        store: The store.
        images: The set.
        kind: 'train' or 'heldout', the beginning of its name.

    Raises:
        DiffmemError: The file cannot be written.
    """
    path = store / _DATA / f"{kind}-{images.fingerprint[:16]}.npz"
    if path.exists():
        try:
            if open_images(path).fingerprint == images.fingerprint:
                return path
        except UserError:
            pass  # damaged: written again below
    write_images(images, path)
    return path


def seconds_spent(folder: Path) -> float:
    """Return the wall-clock time of the sessions of a study so far."""
    return read_number(folder / _SECONDS, "seconds")


def add_seconds(folder: Path, seconds: float) -> None:
    """Add the time of a session, or of a part of one, to a study's.

    Raises:
        DiffmemError: The file cannot be written.
    """
    write_json(folder / _SECONDS, {"seconds": seconds_spent(folder) + seconds})


def execute_studies(
    studies: Sequence[Study],
    folder: Path,
    *,
    device: str = "cpu",
    workers: int | None = None,
    progress: Progress = NO_PROGRESS,
    warn: Callable[[str], None] = lambda text: None,
) -> None:
    """Do what is not done yet of several studies, as one pool of work; runs that they share are done once.

    Under torchrun all processes work on each run together, one run after the other.

    Args:
        studies: What to do.
        folder: Where the time spent is noted.
        device: 'cpu' or 'cuda'.
        workers: Processes; by default one per core, or one on a GPU. Not used under torchrun.
        progress: Told the work done, in images trained.
        warn: Told of damaged files that are made anew.

    Raises:
        DiffmemError: A run failed.
        KeyboardInterrupt: A stop was requested; everything is saved.
    """
    begin, here = time.monotonic(), world()
    waiting: dict[Path, tuple[Study, Run]] = {}
    for study in studies:
        for run in study.unfinished():
            recipe = study.recipe
            waiting[run.evaluation_folder(recipe.sampling, recipe.measure.samples)] = (study, run)
    costs = [run.total_units(study.recipe.sampling, study.recipe.measure) for study, run in waiting.values()]
    try:
        if waiting and here.size > 1:
            for study, run in waiting.values():
                run.execute(
                    study.recipe.sampling, study.recipe.measure, device=device, progress=progress, warn=warn
                )
        elif waiting:
            jobs = [study.job(run, device) for study, run in waiting.values()]
            count = default_workers(len(jobs), device) if workers is None else min(workers, len(jobs))
            run_jobs(jobs, _work, costs, workers=count, progress=progress, warn=warn)
    finally:
        if here.is_main:
            add_seconds(folder, time.monotonic() - begin)


def example_of(run: Run, sampling: SamplerConfig, measure: MeasureConfig, count: int) -> Example:
    """Return the first `count` seeds of a run's most memorizing snapshot with their neighbours."""
    rule = RatioRule(measure.threshold)
    stored = max(run.evaluations(sampling, measure.samples), key=lambda each: rule(each.neighbours).mean())
    images = run.images(sampling, measure.samples, stored.seen, count)
    size = len(run.training_set)
    epoch = f", epoch {stored.seen / size:.0f}" if run.model.is_trained else ""
    title = f"{size} training images{epoch}"
    return Example.of(title, images, stored.neighbours, run.training_set.images, rule)
