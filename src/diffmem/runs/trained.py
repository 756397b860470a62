"""A run as far as training goes: its identity, the folder that is named by it, the snapshots in it."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext, suppress
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import torch
import yaml
from numpy.typing import NDArray

from diffmem.data import ImageSet, duplicate_groups
from diffmem.distributed import world
from diffmem.errors import UserError
from diffmem.files import is_whole, read_number, write_json, write_text
from diffmem.folder_lock import locked_folder
from diffmem.models import build_denoiser, load_denoiser
from diffmem.models.config import ModelConfig
from diffmem.models.denoiser import Denoiser
from diffmem.models.weights import read_tensors
from diffmem.optimum.optimum import Optimum
from diffmem.progress import NO_PROGRESS, Progress
from diffmem.runs.run_folder import CONFIG_FILE, RunFolder
from diffmem.settings import config_hash
from diffmem.training import Trainer, Training, TrainingConfig, training_snapshots
from diffmem.training.loop import snapshot_path
from diffmem.training.schedule import evaluation_images

__all__ = ["TrainedRun", "snapshots_together"]

_FORMAT = 2  # part of every run's hash: raised when the same configuration comes to mean another computation
_SECONDS_TO_WAIT = 30.0


@dataclass(frozen=True)
class TrainedRun:
    """One training: its identity, its folder and its snapshots.

    Attributes:
        training_set: The training images, labelled if the model is conditional.
        heldout: Images for the null rate, or none.
        model: The model M.
        training: The procedure T.
        seed: Seed of weights, order and noise.
        store: Folder in which runs lie.
        own_folder: The run's folder, if it is not the one in the store that is named by its configuration.

    Raises:
        UserError: The seed is no whole number, or not one that torch takes.
    """

    training_set: ImageSet
    heldout: ImageSet | None
    model: ModelConfig
    training: TrainingConfig
    seed: int
    store: Path
    own_folder: Path | None = None

    def __post_init__(self) -> None:
        if not isinstance(self.seed, int) or not -(2**63) <= self.seed < 2**64:
            raise UserError(
                f"The seed {self.seed!r} is not a whole number from -2^63 to 2^64 - 1; use for example 0, 1, 2."
            )

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
        """Hash of the configuration: the name of the run's folder.

        How long is trained and where snapshots are taken do not count: they do not change what a step does, so a longer
        training goes on from a shorter one.
        """
        training = {k: v for k, v in self.config["training"].items() if k not in ("epochs", "evaluations")}
        return config_hash({**self.config, "training": training})

    @property
    def folder(self) -> Path:
        """Where the run lies."""
        return self.own_folder or self.store / self.run_id

    @cached_property
    def points(self) -> list[int]:
        """Images seen at each evaluation point: 0 alone for the optimum, which is not trained."""
        if not self.model.is_trained:
            return [0]
        return evaluation_images(self.training, len(self.training_set))

    @cached_property
    def distinct(self) -> NDArray[np.int64]:
        """Indices of the training images that are no copies of earlier ones, among which neighbours are searched."""
        groups = duplicate_groups(self.training_set)
        return np.flatnonzero(groups == np.arange(len(groups)))

    def locked(self) -> AbstractContextManager[None]:
        """Hold the right to write in the folder, which one job has at a time; another one may be just ending.

        Raises:
            BusyFolderError: On entering: another process has held it for half a minute; the error names it.
            DiffmemError: On entering: the folder cannot be written or its file system knows no locks.
        """
        return locked_folder(self.folder, "end it", _SECONDS_TO_WAIT)

    def write_config(self) -> None:
        """Write what the run is into its folder; where it was trained for longer already, that is kept."""
        if not world().is_main:
            return
        with suppress(UserError):  # there is none, or it is damaged
            if RunFolder(self.folder).config.training.epochs > self.training.epochs:
                return
        write_text(self.folder / CONFIG_FILE, yaml.safe_dump(self.config, sort_keys=False))

    @property
    def _time_path(self) -> Path:
        return self.folder / "time.json"

    def fit(
        self,
        *,
        device: torch.device | str = "cpu",
        progress: Progress = NO_PROGRESS,
        warn: Callable[[str], None] = print,
    ) -> Path:
        """Train, unless all snapshots are there, and return the last snapshot; see `training_snapshots`, and `locked`."""
        there = world().from_main(
            lambda: all(snapshot_path(self.folder, seen).exists() for seen in self.points)
        )
        if not there:  # what cannot be trained is refused before there is a folder
            self.check_distinct()
            with torch.device(
                "meta"
            ):  # the shape of the network alone; its numbers are drawn once, by the training
                build_denoiser(self.model, self.training_set.shape, self.training_set.num_classes)
        with nullcontext() if there else self.locked():
            for _ in self.training_snapshots(device=device, progress=progress, warn=warn):
                pass
        return snapshot_path(self.folder, self.points[-1])

    def training_snapshots(
        self,
        *,
        device: torch.device | str = "cpu",
        progress: Progress = NO_PROGRESS,
        warn: Callable[[str], None] = print,
    ) -> Iterator[tuple[int, Denoiser]]:
        """Train, unless all snapshots are there, and yield the images seen and the averaged denoiser at each evaluation point.

        Who leaves the loop ends the training there; a later call goes on from this point, which it yields again.

        Args:
            progress: Reported the images seen.
            warn: Warned of damaged files that are made anew.

        Raises:
            DiffmemError: Training diverged or a file cannot be written.
            KeyboardInterrupt: A stop was requested; the state is saved.
        """
        for _, seen, denoiser in snapshots_together([self], [progress], device=device, warn=warn):
            yield seen, denoiser

    def prepared(
        self, device: torch.device | str, progress: Progress, warn: Callable[[str], None]
    ) -> Training | None:
        """Return the training, whose folder then says what it is; none if all snapshots are there."""
        self.check_distinct()

        def all_whole() -> bool:
            whole = [self.is_whole_snapshot(seen, warn) for seen in self.points]
            return all(whole)  # only now: all are checked, as damaged ones are removed

        if world().from_main(all_whole):
            return None
        self.write_config()
        images = self.training_set
        denoiser = build_denoiser(self.model, images.shape, images.num_classes, self.seed)
        trainer = Trainer(denoiser, images.images, images.labels, self.training, self.seed, device)
        return Training(trainer, self.model, self.folder, self.run_id, progress, warn)

    def denoiser(self, seen: int, device: torch.device | str = "cpu") -> Denoiser:
        """Return the model after so many images; under torchrun the first process reads it for all.

        Raises:
            DiffmemError: The snapshot is missing or damaged.
        """
        if not self.model.is_trained:
            return Optimum(self.training_set, conditional=self.training_set.labels is not None, device=device)
        return world().from_main(lambda: load_denoiser(snapshot_path(self.folder, seen))[0]).to(device)

    def training_seconds(self) -> float:
        """Time spent on training so far; of a time in which several were trained together, an equal share."""
        return read_number(self._time_path, "training_seconds")

    def write_training_seconds(self, seconds: float) -> None:
        """Keep the time spent on training so far."""
        if world().is_main:
            write_json(self._time_path, {"training_seconds": seconds})

    def check_distinct(self) -> None:
        """Refuse a training set in which no image has two neighbours.

        Raises:
            UserError: It has fewer than two distinct images.
        """
        if len(self.distinct) < 2:
            raise UserError(
                f"The training set has {len(self.training_set)} images, but only {len(self.distinct)}"
                " distinct: the rule compares the two nearest distinct images. Choose other images."
            )

    def is_whole_snapshot(self, seen: int, warn: Callable[[str], None]) -> bool:
        """Whether a snapshot is there and can be read; a damaged one is removed, with a warning.

        Args:
            seen: Images seen at the snapshot.
            warn: Warned of a damaged one, which is to be made anew.

        Raises:
            UserError: It is whole, but of a network that this version does not know: hours of training are not thrown away for that.
        """
        path = snapshot_path(self.folder, seen)
        if is_whole(path, lambda: load_denoiser(path), warn=lambda text: None):
            return True
        if is_whole(path, lambda: read_tensors(path), warn):
            raise UserError(
                f"{path} is whole, but not of a network that this version knows: go on with the version of diffmem that wrote it, or"
                " delete it to train it again."
            )
        path.unlink(missing_ok=True)
        return False


_Run = TypeVar("_Run", bound=TrainedRun)


def snapshots_together(
    runs: Sequence[_Run],
    progress: Sequence[Progress],
    *,
    device: torch.device | str = "cpu",
    warn: Callable[[str], None] = print,
) -> Iterator[tuple[_Run, int, Denoiser]]:
    """Train several runs as a group; yield run, images seen and averaged denoiser at the evaluation points of each.

    Runs of which all snapshots are there are left out. See `training_snapshots` of a run, and of `diffmem.training`.

    Args:
        progress: For each run, reported the images that it has seen.

    Raises:
        UserError: The runs cannot be trained as a group.
        DiffmemError: Training diverged or a file cannot be written.
        KeyboardInterrupt: A stop was requested; the states are saved.
    """
    trainings: dict[Training, _Run] = {}
    for run, report in zip(runs, progress, strict=True):
        training = run.prepared(device, report, warn)
        if training is not None:
            trainings[training] = run
    seconds = {training: run.training_seconds() for training, run in trainings.items()}
    begun = time.monotonic()
    for training in training_snapshots(list(trainings)):
        run, trainer = trainings[training], training.trainer
        elapsed = time.monotonic() - begun
        seconds = {one: before + elapsed / len(seconds) for one, before in seconds.items()}
        run.write_training_seconds(seconds[training])
        if trainer.seen == trainer.total:
            del seconds[training]
        yield run, trainer.seen, trainer.ema
        begun = time.monotonic()  # what was spent elsewhere does not count
