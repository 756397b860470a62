"""A run: one (P, M, T, seed) in a folder named by its configuration. Finished work is never done twice.

A run's folder holds `config.yaml`, `metrics.jsonl`, `snapshots/`, and `evaluations/<key>/`, where the key
names how images were generated: for each snapshot the images, labels, and neighbours, from which any
threshold can be answered.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
import yaml
from numpy.typing import NDArray

from diffmem.data import ImageSet, duplicate_groups
from diffmem.errors import DiffmemError, UserError
from diffmem.files import atomic_path, read_json, read_number, write_json, write_text
from diffmem.memorization import Neighbours, Rate, RatioRule, nearest_neighbours
from diffmem.models import Preconditioned, build_denoiser, load_denoiser
from diffmem.models.config import ModelConfig
from diffmem.progress import NO_PROGRESS, Progress
from diffmem.sampling import SamplerConfig, discard_shards, generate_resumable
from diffmem.studies.recipe import MeasureConfig, config_hash
from diffmem.studies.results import Evaluation, RateRecord, RunRecord
from diffmem.training import Trainer, TrainingConfig, train
from diffmem.training.loop import snapshot_path
from diffmem.training.schedule import evaluation_images

__all__ = ["Run", "StoredEvaluation", "rate_record"]

_FORMAT = 1  # part of every run's hash: raised when the same configuration comes to mean another computation
_SAMPLING_BATCH = 256


def rate_record(rate: Rate) -> RateRecord:
    """Turn a rate into its record."""
    return RateRecord(
        count=rate.count, total=rate.total, value=rate.value, low=rate.low, high=rate.high, method=rate.method
    )


@dataclass(frozen=True)
class StoredEvaluation:
    """What was generated from one snapshot, and its neighbours in the training set.

    Attributes:
        seen: Images seen at the snapshot.
        images: Generated images, uint8 (Q, C, H, W); image i has seed i.
        neighbours: Their two nearest distinct training images.
        seconds: Time spent on generating.
    """

    seen: int
    images: NDArray[np.uint8]
    neighbours: Neighbours
    seconds: float


@dataclass(frozen=True)
class Run:
    """One training and its evaluations.

    Attributes:
        training_set: The training images, labelled if the model is conditional.
        heldout: Images for the null rate, or none.
        model: The model M.
        training: The procedure T.
        seed: Seed of weights, order and noise.
        store: Folder in which runs lie.
    """

    training_set: ImageSet
    heldout: ImageSet | None
    model: ModelConfig
    training: TrainingConfig
    seed: int
    store: Path

    @cached_property
    def config(self) -> dict[str, Any]:
        """The resolved configuration, defaults included."""
        return {
            "format": _FORMAT,
            "data": {"fingerprint": self.training_set.fingerprint, "size": len(self.training_set)},
            "model": self.model.model_dump(mode="json"),
            "training": self.training.model_dump(mode="json"),
            "seed": self.seed,
        }

    @cached_property
    def run_id(self) -> str:
        """Hash of the configuration: the name of the run's folder."""
        return config_hash(self.config)

    @property
    def folder(self) -> Path:
        """Where the run lies."""
        return self.store / self.run_id

    @cached_property
    def points(self) -> list[int]:
        """Images seen at each evaluation point."""
        return evaluation_images(self.training, len(self.training_set))

    @cached_property
    def _distinct(self) -> NDArray[np.int64]:
        groups = duplicate_groups(self.training_set)
        return np.flatnonzero(groups == np.arange(len(groups)))

    def evaluation_folder(self, sampling: SamplerConfig, samples: int) -> Path:
        """Where the evaluations made with this sampler and number of images lie."""
        return (
            self.folder
            / "evaluations"
            / config_hash({"sampling": sampling.model_dump(mode="json"), "samples": samples})
        )

    def is_finished(self, sampling: SamplerConfig, measure: MeasureConfig) -> bool:
        """Whether everything that `record` needs is there and whole."""
        try:
            self._null_distances()
            self.evaluations(sampling, measure.samples)
        except DiffmemError:
            return False
        return True

    @property
    def _null_path(self) -> Path:
        """Distances of the held-out images, which depend on the data alone."""
        return self.folder / f"null-{self.heldout.fingerprint[:12] if self.heldout else 'none'}.json"

    def execute(
        self,
        sampling: SamplerConfig,
        measure: MeasureConfig,
        *,
        device: torch.device | str = "cpu",
        progress: Progress = NO_PROGRESS,
        warn: Callable[[str], None] = print,
    ) -> None:
        """Train and evaluate whatever is not done yet.

        Args:
            sampling: How images are generated.
            measure: How many.
            device: Where to train and sample.
            progress: Told units of work, in images trained (generating counts by its network evaluations).
            warn: Told of damaged files that are made anew.

        Raises:
            DiffmemError: Training diverged or a file cannot be written.
            KeyboardInterrupt: A stop was requested; the state is saved.
        """
        place = torch.device(device)
        sampling_units = self.sampling_units(sampling, measure)
        units = self.total_units(sampling, measure)
        folder = self.evaluation_folder(sampling, measure.samples)
        done_points = [0]

        def tell(seen: float, evaluated: float | None = None) -> None:
            evaluated = done_points[0] if evaluated is None else evaluated
            note = f"N={len(self.training_set)}, epoch {seen / len(self.training_set):.0f}"
            progress(seen + sampling_units * evaluated, units, note)

        def evaluate(denoiser: Preconditioned, seen: int) -> None:
            path, begun = folder / f"{seen:010d}.npz", done_points[0]
            if not self._is_whole(path, warn):
                self._evaluate(
                    denoiser, seen, sampling, measure.samples, path,
                    lambda done, total, note="": tell(seen, begun + done / total),
                )  # fmt: skip
            done_points[0] = self.points.index(seen) + 1
            tell(seen)

        self.fit(
            device=place,
            on_snapshot=lambda trainer: evaluate(trainer.ema, trainer.seen),
            progress=lambda done, total, note="": tell(done),
            warn=warn,
        )
        for seen in self.points:
            if not self._is_whole(folder / f"{seen:010d}.npz", warn):
                denoiser, _, _ = load_denoiser(snapshot_path(self.folder, seen), place)
                evaluate(denoiser, seen)
        self._measure_null(place, warn)

    def fit(
        self,
        *,
        device: torch.device | str = "cpu",
        on_snapshot: Callable[[Trainer], None] = lambda trainer: None,
        progress: Progress = NO_PROGRESS,
        warn: Callable[[str], None] = print,
    ) -> Path:
        """Train, unless all snapshots are there; return the last snapshot.

        Args:
            device: Where to train.
            on_snapshot: Called at each evaluation point with the averaged denoiser in place.
            progress: Told the images seen.
            warn: Told of damaged files that are made anew.

        Raises:
            DiffmemError: Training diverged or a file cannot be written.
            KeyboardInterrupt: A stop was requested; the state is saved.
        """
        if len(self._distinct) < 2:
            raise UserError(
                f"The training set has {len(self.training_set)} images, but only {len(self._distinct)}"
                " distinct: the rule compares the two nearest distinct images. Choose other images."
            )
        whole = [
            self._is_whole_snapshot(seen, warn) for seen in self.points
        ]  # all of them: damaged ones are removed
        if not all(whole):
            write_text(self.folder / "config.yaml", yaml.safe_dump(self.config, sort_keys=False))
            shape, classes = self.training_set.shape, self.training_set.num_classes
            denoiser = build_denoiser(self.model, shape, classes, self.seed)
            images, labels = self.training_set.images, self.training_set.labels
            trainer = Trainer(denoiser, images, labels, self.training, self.seed, device)
            start, spent, elsewhere = time.monotonic(), self._seconds(), [0.0]

            def at_snapshot(trainer: Trainer) -> None:
                begin = time.monotonic()
                write_json(self._time_path, {"training_seconds": spent + begin - start - elsewhere[0]})
                on_snapshot(trainer)
                elsewhere[0] += time.monotonic() - begin

            train(
                trainer,
                self.model,
                self.folder,
                self.run_id,
                on_snapshot=at_snapshot,
                warn=warn,
                progress=progress,
            )
        return snapshot_path(self.folder, self.points[-1])

    @property
    def _time_path(self) -> Path:
        return self.folder / "time.json"

    def sampling_units(self, sampling: SamplerConfig, measure: MeasureConfig) -> float:
        """Cost of one evaluation in images trained: a step costs about three evaluations of the network."""
        return measure.samples * sampling.evaluations / 3

    def total_units(self, sampling: SamplerConfig, measure: MeasureConfig) -> float:
        """Cost of the whole run in images trained."""
        return self.points[-1] + len(self.points) * self.sampling_units(sampling, measure)

    def _seconds(self) -> float:
        return read_number(self._time_path, "training_seconds")

    def _is_whole_snapshot(self, seen: int, warn: Callable[[str], None]) -> bool:
        path = snapshot_path(self.folder, seen)
        if not path.exists():
            return False
        try:
            load_denoiser(path)
        except DiffmemError as error:
            warn(f"{error} It is made anew.")
            path.unlink()
            return False
        return True

    def _is_whole(self, path: Path, warn: Callable[[str], None]) -> bool:
        if not path.exists():
            return False
        try:
            self._load(path)
        except DiffmemError as error:
            warn(f"{error} It is made anew.")
            path.unlink()
            return False
        return True

    def _evaluate(
        self,
        denoiser: Preconditioned,
        seen: int,
        sampling: SamplerConfig,
        samples: int,
        path: Path,
        progress: Progress,
    ) -> None:
        start = time.monotonic()
        shards = path.with_suffix(".shards")
        tag = f"{self.run_id} {seen}"
        made = generate_resumable(
            denoiser, range(samples), sampling, shards, tag, batch_size=_SAMPLING_BATCH, progress=progress
        )
        seconds = time.monotonic() - start
        references = self.training_set.images[self._distinct]
        found = nearest_neighbours(made.images, references, 2, device=denoiser.device)
        with atomic_path(path) as temporary, temporary.open("wb") as stream:
            np.savez(
                stream,
                seen=np.int64(seen),
                images=made.images,
                labels=np.array([] if made.labels is None else made.labels, dtype=np.int64),
                distances=found.distances,
                indices=self._distinct[found.indices],
                seconds=np.float64(seconds),
            )
        discard_shards(shards)

    def _load(self, path: Path) -> StoredEvaluation:
        try:
            with np.load(path, allow_pickle=False) as held:
                neighbours = Neighbours(held["distances"], held["indices"])
                return StoredEvaluation(int(held["seen"]), held["images"], neighbours, float(held["seconds"]))
        except Exception as error:  # a damaged archive raises errors of many kinds
            raise DiffmemError(f"{path} is damaged ({error}); it was not used.") from error

    def _null_distances(self) -> NDArray[np.float64]:
        path = self._null_path
        try:
            return np.array(read_json(path)["distances"], dtype=np.float64).reshape(-1, 2)
        except (KeyError, TypeError, ValueError) as error:
            raise DiffmemError(f"{path} is damaged ({error}); it was not used.") from error

    def _measure_null(self, device: torch.device, warn: Callable[[str], None]) -> None:
        if self._null_path.exists():
            try:
                self._null_distances()
                return
            except DiffmemError as error:
                warn(f"{error} It is made anew.")
        content: dict[str, Any] = {"distances": []}
        if self.heldout is not None:
            found = nearest_neighbours(
                self.heldout.images, self.training_set.images[self._distinct], 2, device=device
            )
            fresh = found.distances[:, 0] > 0  # an image of the training set says nothing about fresh ones
            content = {"distances": found.distances[fresh].tolist()}
        write_json(self._null_path, content)

    def evaluations(self, sampling: SamplerConfig, samples: int) -> list[StoredEvaluation]:
        """Return the stored evaluations in the order of training."""
        folder = self.evaluation_folder(sampling, samples)
        return [self._load(folder / f"{seen:010d}.npz") for seen in self.points]

    def record(self, sampling: SamplerConfig, measure: MeasureConfig, root: Path) -> RunRecord:
        """Summarize a finished run; thresholds are applied to the stored neighbours.

        Args:
            sampling: The sampler of the evaluations.
            measure: Their number of images, and the threshold.
            root: Folder that the record's path is relative to.
        """
        rule, size = RatioRule(measure.threshold), len(self.training_set)
        evaluations, seconds = [], 0.0
        for stored in self.evaluations(sampling, measure.samples):
            flagged = rule(stored.neighbours)
            nearest = stored.neighbours.distances[:, 0]
            evaluations.append(
                Evaluation(
                    epoch=stored.seen / size,
                    images_seen=stored.seen,
                    memorized=rate_record(Rate(int(flagged.sum()), len(flagged))),
                    mean_nearest_distance=float(nearest.mean() / np.sqrt(np.prod(self.training_set.shape))),
                    distinct_replicated=len(np.unique(stored.neighbours.indices[flagged, 0])),
                )
            )
            seconds += stored.seconds
        null = None
        distances = self._null_distances()
        if len(distances):
            flagged = rule(Neighbours(distances, np.tile(np.arange(2), (len(distances), 1))))
            null = rate_record(Rate(int(flagged.sum()), len(flagged)))
        return RunRecord(
            run_id=self.run_id,
            size=size,
            seed=self.seed,
            epochs=self.points[-1] / size,
            folder=str(self.folder.relative_to(root)),
            evaluations=evaluations,
            null=null,
            duplicates=size - len(self._distinct),
            training_seconds=self._seconds(),
            sampling_seconds=seconds,
        )
