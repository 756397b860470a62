"""A run: one (P, M, T, seed) in a folder named by its configuration. Finished work is never done twice.

A run's folder holds `config.yaml`, `metrics.jsonl`, `snapshots/`, and `evaluations/<key>/`, where the key names how images
were generated (see `diffmem.runs.evaluations`). Under torchrun all processes make the same run and call the same
methods; the first alone writes these files, and decides what is to be done.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext, suppress
from dataclasses import dataclass
from functools import cached_property, partial
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from diffmem.distributed import world
from diffmem.errors import DiffmemError
from diffmem.folder_lock import locked_folder
from diffmem.memorization import Neighbours, RatioRule, nearest_neighbours
from diffmem.memorization.features import Features, features_key
from diffmem.memorization.frechet import Moments, feature_moments
from diffmem.models import load_denoiser
from diffmem.models.denoiser import Denoiser
from diffmem.progress import NO_PROGRESS, Progress
from diffmem.runs.evaluations import (
    EvaluationStore,
    StoredEvaluation,
    judged,
    measure_null,
    rates_by_threshold,
    read_null,
    store_frechet,
    stored_frechet,
    summary,
)
from diffmem.runs.recipe import MeasureConfig
from diffmem.runs.records import Evaluation, RunRecord
from diffmem.runs.store.repairs import repairs
from diffmem.runs.store.workers import reported_status
from diffmem.runs.trained import TrainedRun
from diffmem.sampling import SamplerConfig, discard_shards, generate, generate_resumable
from diffmem.settings import config_hash
from diffmem.training.loop import snapshot_path

__all__ = ["Run"]

_SAMPLING_BATCH = 256


@dataclass(frozen=True)
class Run(TrainedRun):
    """One training and its evaluations; the attributes are those of `TrainedRun`."""

    def evaluation_folder(self, sampling: SamplerConfig, samples: int) -> Path:
        """Where the evaluations made with this sampler and number of images lie."""
        key = config_hash({"sampling": sampling.model_dump(mode="json"), "samples": samples})
        return self.folder / "evaluations" / key

    def evaluation_store(self, sampling: SamplerConfig, samples: int) -> EvaluationStore:
        """The evaluations made with this sampler and number of images."""
        return EvaluationStore(self.evaluation_folder(sampling, samples), samples, len(self.training_set))

    def is_finished(self, sampling: SamplerConfig, measure: MeasureConfig) -> bool:
        """Whether everything that `record` needs is there and whole; images are not read."""

        def found() -> bool:
            with suppress(DiffmemError):
                self._record(sampling, measure, self.folder, self.points)
                return True
            return False

        return world().from_main(found)

    @contextmanager
    def at_work(self, progress: Progress, every: float = 1.0) -> Iterator[Progress]:
        """Hold the right to write in the folder, and yield a progress that also keeps the status there; see `locked`.

        Args:
            every: Least number of seconds between two writes of the status.
        """
        with self.locked(), reported_status(self.folder, every) as keep:

            def report(done: float, total: float, note: str = "") -> None:
                keep(
                    done, total, "training" if done < total else "sampling"
                )  # a table beside it has the rest
                progress(done, total, note)

            yield report

    def evaluate(
        self,
        seen: int,
        sampling: SamplerConfig,
        samples: int,
        features: Features | None = None,
        *,
        denoiser: Denoiser | None = None,
        device: torch.device | str = "cpu",
        progress: Progress = NO_PROGRESS,
        warn: Callable[[str], None] = print,
    ) -> None:
        """Generate from a snapshot, find the neighbours and keep both, unless it is done already.

        Args:
            seen: Images seen at the snapshot.
            samples: How many; seeds 0, 1, 2, ...
            features: What a Frechet distance to the training images is to be of; none for no distance.
            denoiser: The snapshot, if it is at hand; else it is read.
            progress: Reported the images generated.
            warn: Warned of damaged files that are made anew.

        Raises:
            DiffmemError: The snapshot is missing or damaged, or a file cannot be written.
        """
        store = self.evaluation_store(sampling, samples)

        def lacks_nothing() -> bool:
            return features is None or stored_frechet(store, seen, features) is not None

        if world().from_main(lambda: store.is_whole(seen, lambda text: None)) and lacks_nothing():
            return
        # A study and who measures one of its runs may want the same images, whose shards lie in one folder: the second waits.
        with locked_folder(store.folder, "end it", -1):
            if not world().from_main(lambda: store.is_whole(seen, warn)):
                self.generate(seen, sampling, samples, denoiser=denoiser, device=device, progress=progress)
            if lacks_nothing():
                return
            # All numbers of an evaluation are of the same images: where these are gone, it is made anew.
            if not world().from_main(lambda: store.is_whole(seen, warn, images=True)):
                self.generate(seen, sampling, samples, device=device)
            assert features is not None
            moments = partial(self.training_moments, features)
            store_frechet(store, seen, features, self.training_set.images, moments, warn)

    def generate(
        self,
        seen: int,
        sampling: SamplerConfig,
        samples: int,
        *,
        denoiser: Denoiser | None = None,
        device: torch.device | str = "cpu",
        progress: Progress = NO_PROGRESS,
    ) -> None:
        """Generate from a snapshot, find the neighbours and store both instead of what was there.

        The arguments and errors are those of `evaluate`.
        """
        self.check_distinct()
        model = self.denoiser(seen, device) if denoiser is None else denoiser
        store = self.evaluation_store(sampling, samples)
        self._evaluate_seeds(model, seen, range(samples), sampling, store, seen, progress)

    def _evaluate_seeds(
        self,
        denoiser: Denoiser,
        seen: int,
        seeds: range,
        sampling: SamplerConfig,
        store: EvaluationStore,
        name: int,
        progress: Progress = NO_PROGRESS,
    ) -> Neighbours:
        """Generate the images of some seeds, find their neighbours, and keep both in `store` under the number `name`."""
        begin, shards = time.monotonic(), store.path(name).with_suffix(".shards")
        tag = f"{self.run_id} {seen}"
        made = generate_resumable(
            denoiser, seeds, sampling, shards, tag, batch_size=_SAMPLING_BATCH, progress=progress
        )
        seconds = time.monotonic() - begin
        found = nearest_neighbours(made.images, self._references, 2, device=denoiser.device)
        neighbours = Neighbours(found.distances, self.distinct[found.indices])
        if world().is_main:
            store.write(name, made.images, made.labels, neighbours, seconds)
        world().wait()
        discard_shards(shards)
        return neighbours

    def measure_null(
        self, *, device: torch.device | str = "cpu", warn: Callable[[str], None] = print
    ) -> None:
        """Find the neighbours of the held-out images, unless it is done already.

        Args:
            warn: Warned of a damaged file that is made anew.
        """
        measure_null(self._null_path, self.heldout, self._references, device=device, warn=warn)

    @property
    def _null_path(self) -> Path:
        """Distances of the held-out images, which depend on the data alone."""
        return self.folder / f"null-{self.heldout.fingerprint[:12] if self.heldout else 'none'}.json"

    @property
    def _references(self) -> NDArray[np.uint8]:
        images = self.training_set.images
        # Without copies nothing is copied: a training set may be a memory map larger than memory.
        return images if len(self.distinct) == len(images) else images[self.distinct]

    def training_moments(self, features: Features) -> Moments:
        """Return the moments of the features of the training images, computed once: they serve every snapshot."""
        if features.key not in self._moments:
            self._moments[features.key] = feature_moments(self.training_set.images, features.compute)
        return self._moments[features.key]

    @cached_property
    def _moments(self) -> dict[str, Moments]:
        return {}

    def images_of(
        self,
        stored: StoredEvaluation,
        seen: int,
        sampling: SamplerConfig,
        wanted: int,
        *,
        device: torch.device | str = "cpu",
        warn: Callable[[str], None] = print,
    ) -> NDArray[np.uint8]:
        """Return the first images of a stored evaluation that begins with seed 0.

        Where their file is missing or damaged they are generated again from their seeds, by this process alone;
        nothing is written.

        Args:
            seen: Images seen at the snapshot.
            wanted: How many images, at most as many as it has.
            warn: Warned of a missing or damaged file.

        Returns:
            uint8 (n, C, H, W); image i has seed i.

        Raises:
            DiffmemError: The snapshot is missing where it is needed.
        """
        try:
            return stored.images[:wanted]
        except DiffmemError as error:
            warn(f"{error} Its images are generated again.")
        path = snapshot_path(self.folder, seen)
        model = load_denoiser(path, device)[0] if self.model.is_trained else self.denoiser(seen, device)
        return generate(model, range(wanted), sampling, batch_size=_SAMPLING_BATCH).images

    def sampling_units(self, sampling: SamplerConfig, measure: MeasureConfig) -> float:
        """Cost of one evaluation in images trained: a step costs about three evaluations of the network."""
        return measure.samples * sampling.image_cost

    def total_units(self, sampling: SamplerConfig, measure: MeasureConfig) -> float:
        """Cost of the whole run in images trained."""
        return self.points[-1] + len(self.points) * self.sampling_units(sampling, measure)

    def evaluations(self, sampling: SamplerConfig, samples: int) -> list[StoredEvaluation]:
        """Return the stored evaluations in the order of training; their images are read when they are asked for."""
        store = self.evaluation_store(sampling, samples)
        return [store.read(seen) for seen in self.points]

    def record(
        self,
        sampling: SamplerConfig,
        measure: MeasureConfig,
        root: Path,
        points: Sequence[int] | None = None,
        *,
        so_far: bool = False,
    ) -> RunRecord:
        """Summarize a run; thresholds are applied to the stored neighbours.

        Args:
            measure: Their number of images, the threshold, and which Frechet distance is reported.
            root: Folder that the record's path is relative to.
            points: The snapshots; all evaluation points if none.
            so_far: What is there now; where something is missing or damaged, the verdict is 'unfinished'.

        Raises:
            DiffmemError: An evaluation, its Frechet distance or the null is missing or damaged, and it is not said `so_far`.
        """
        chosen = self.points if points is None else points
        return world().from_main(lambda: self._record(sampling, measure, root, chosen, so_far))

    def _record(
        self,
        sampling: SamplerConfig,
        measure: MeasureConfig,
        root: Path,
        points: Sequence[int],
        so_far: bool = False,
    ) -> RunRecord:
        missing = suppress(DiffmemError) if so_far else nullcontext()
        store = self.evaluation_store(sampling, measure.samples)
        key = None if measure.frechet is None else features_key(measure.frechet)
        rule, evaluations, seconds = RatioRule(measure.threshold), list[Evaluation](), 0.0
        null, whole = None, False
        for seen in points:
            with missing:
                stored = store.read(seen)
                frechet = None if key is None else store.frechet(seen, key)
                found = summary(seen, stored.neighbours, rule, self.training_set, frechet=frechet)
                evaluations.append(found)
                seconds += stored.seconds
        with missing:
            null = read_null(self._null_path)
            whole = len(evaluations) == len(points)
        record = self.summarized(rule, evaluations, null, len(self.training_set), seconds, root)
        state = {} if whole else {"verdict": "unfinished", "stopped": "running"}
        return record.model_copy(update={"epochs": points[-1] / record.size, **state})

    def summarized(
        self,
        rule: RatioRule,
        evaluations: list[Evaluation],
        null: Neighbours | None,
        size: int,
        seconds: float,
        root: Path,
    ) -> RunRecord:
        """Return the record of a run with these evaluations, as one of `size` training images.

        Args:
            null: Neighbours of the held-out images; none if there are none.
            seconds: Spent on generating.
        """
        snapshots = [seen for seen in self.points if snapshot_path(self.folder, seen).exists()]
        trained = max([*snapshots, *(one.images_seen for one in evaluations)], default=0)
        return RunRecord(
            run_id=self.run_id,
            size=size,
            seed=self.seed,
            epochs=self.points[-1] / len(self.training_set),
            epochs_trained=trained / len(self.training_set),
            folder=str(self.folder.relative_to(root)),
            evaluations=evaluations,
            null=None if null is None else judged(null, rule),
            null_at_thresholds={} if null is None else rates_by_threshold(null),
            duplicates=size - len(self.distinct),
            images_trained=trained,
            training_seconds=self.training_seconds(),
            sampling_seconds=seconds,
            incidents=repairs(self.folder),
        )
