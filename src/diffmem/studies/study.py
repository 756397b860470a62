"""A study: sizes -> runs -> R_mem -> EMM. The folder it leaves is enough to go on and to draw its report."""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from diffmem.data import ImageSet, duplicate_groups, open_images, write_images
from diffmem.distributed import world
from diffmem.environment import versions
from diffmem.errors import UserError
from diffmem.executors.processes import default_workers, run_jobs
from diffmem.files import read_number, write_json
from diffmem.memorization import RatioRule, protocol_id
from diffmem.memorization.examples import Example
from diffmem.models import ModelConfig, build_denoiser, count_parameters
from diffmem.progress import NO_PROGRESS, Progress
from diffmem.runs.distribution import open_distribution
from diffmem.runs.recipe import StudyRecipe
from diffmem.runs.run import Run
from diffmem.studies.emm import estimate_emm
from diffmem.studies.records import StudyResult

__all__ = ["RUNS", "Study", "add_seconds", "execute_studies", "model_text", "seconds_spent", "stored_set"]

RUNS, _DATA, _SECONDS = "runs", "data", "seconds.json"


@dataclass(frozen=True)
class _Job:
    """What a worker process needs: paths and settings, no images."""

    recipe: StudyRecipe
    training_set: Path
    heldout: Path | None
    seed: int
    store: Path
    device: str


def _run_job(job: _Job, progress: Progress, warn: Callable[[str], None]) -> None:
    run = Run(
        training_set=open_images(job.training_set),
        heldout=None if job.heldout is None else open_images(job.heldout),
        model=job.recipe.model,
        training=job.recipe.training,
        seed=job.seed,
        store=job.store,
    )
    run.execute(job.recipe.sampling, job.recipe.measure, device=job.device, progress=progress, warn=warn)


class Study:
    """A recipe carried out in a folder.

    Args:
        folder: Where results lie; made if missing.
        store: Where runs and their data lie; the folder if not given. Studies may share it: runs are named by content.
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
        self.model = model_text(recipe.model, smallest)

    def runs(self) -> list[Run]:
        """Return the runs of all sizes and seeds, ascending."""
        return [
            Run(images, self.heldout, self.recipe.model, self.recipe.training, seed, self.store / RUNS)
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
        peaks: dict[int, list[tuple[int, int]]] = defaultdict(list)
        lasts: dict[int, list[tuple[int, int]]] = defaultdict(list)
        for record in records:
            for counts, found in ((peaks, record.peak), (lasts, record.last)):
                counts[record.size].append((found.memorized.count, found.memorized.total))
        return StudyResult(
            title=recipe.title,
            data=self.distribution.describe(),
            model=self.model,
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
        sampling, measure = self.recipe.sampling, self.recipe.measure
        rule = RatioRule(measure.threshold)
        evaluations = run.evaluations(sampling, measure.samples)
        best = max(evaluations, key=lambda each: rule(each.neighbours).mean())
        size = len(run.training_set)
        epoch = f", epoch {best.seen / size:.0f}" if run.model.is_trained else ""
        images = run.images(sampling, measure.samples, best.seen, count)
        return Example.of(
            f"{size} training images{epoch}", images, best.neighbours, run.training_set.images, rule
        )


def model_text(model: ModelConfig, images: ImageSet) -> str:
    """Return a model in words, with its number of parameters where it is trained on such images.

    Raises:
        UserError: The images do not fit the model.
    """
    parameters = 0
    if model.is_trained:
        parameters = count_parameters(build_denoiser(model, images.shape, images.num_classes))
    return f"{model.describe()}; {parameters:,} parameters"


def stored_set(store: Path, images: ImageSet, kind: str) -> Path:
    """Write a set once, named by its content, so that workers and later readers have the very images; return where it lies.

    Args:
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
        folder: Where the time spent is noted.
        device: 'cpu' or 'cuda'.
        workers: Processes; by default one per core, or one on a GPU. Not used under torchrun.
        progress: Reports the work done, in images trained.
        warn: Gets a message for each damaged file that is made anew.

    Raises:
        DiffmemError: A run failed.
        KeyboardInterrupt: A stop was requested; everything is saved.
    """
    begin, here = time.monotonic(), world()
    waiting: dict[Path, tuple[Study, Run]] = {}
    for study in studies:
        sampling, measure = study.recipe.sampling, study.recipe.measure
        for run in study.runs():
            if not run.is_finished(sampling, measure):
                waiting[run.evaluation_folder(sampling, measure.samples)] = (study, run)
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
            run_jobs(jobs, _run_job, costs, workers=count, progress=progress, warn=warn)
    finally:
        if here.is_main:
            add_seconds(folder, time.monotonic() - begin)
