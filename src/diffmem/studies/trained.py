"""A run as far as training goes: its identity, the folder that is named by it, the snapshots in it."""

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
from diffmem.distributed import world
from diffmem.errors import DiffmemError, UserError
from diffmem.files import read_number, write_json, write_text
from diffmem.models import build_denoiser, load_denoiser
from diffmem.models.config import ModelConfig
from diffmem.models.denoiser import Denoiser
from diffmem.models.optimum import Optimum
from diffmem.progress import NO_PROGRESS, Progress
from diffmem.studies.recipe import config_hash
from diffmem.training import Trainer, TrainingConfig, train
from diffmem.training.loop import snapshot_path
from diffmem.training.schedule import evaluation_images

__all__ = ["TrainedRun", "agreed"]

_FORMAT = 2  # part of every run's hash: raised when the same configuration comes to mean another computation


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
        place: The run's own folder, if it is not the one in the store that is named by its configuration.
    """

    training_set: ImageSet
    heldout: ImageSet | None
    model: ModelConfig
    training: TrainingConfig
    seed: int
    store: Path
    place: Path | None = None

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
        return self.store / self.run_id if self.place is None else self.place

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

    def write_config(self) -> None:
        """Write what the run is into its folder; where it was trained for longer already, that is kept."""
        path = self.folder / "config.yaml"
        if world().is_first and _epochs_of(path) <= self.training.epochs:
            write_text(path, yaml.safe_dump(self.config, sort_keys=False))

    @property
    def _time_path(self) -> Path:
        return self.folder / "time.json"

    def fit(
        self,
        *,
        device: torch.device | str = "cpu",
        on_snapshot: Callable[[Trainer], object] = lambda trainer: None,
        progress: Progress = NO_PROGRESS,
        warn: Callable[[str], None] = print,
    ) -> Path:
        """Train, unless all snapshots are there; return the last snapshot.

        Args:
            device: Where to train.
            on_snapshot: Called at each evaluation point with the averaged denoiser in place; training ends there if it
                returns True.
            progress: Told the images seen.
            warn: Told of damaged files that are made anew.

        Raises:
            DiffmemError: Training diverged or a file cannot be written.
            KeyboardInterrupt: A stop was requested; the state is saved.
        """
        self.check_distinct()

        def all_whole() -> bool:
            whole = [self.is_whole_snapshot(seen, warn) for seen in self.points]
            return all(whole)  # only now: all are looked at, as damaged ones are removed

        if not agreed(all_whole):
            first = world().is_first
            self.write_config()
            shape, classes = self.training_set.shape, self.training_set.num_classes
            denoiser = build_denoiser(self.model, shape, classes, self.seed)
            images, labels = self.training_set.images, self.training_set.labels
            trainer = Trainer(denoiser, images, labels, self.training, self.seed, device)
            start, spent, elsewhere = time.monotonic(), self.training_seconds(), [0.0]

            def at_snapshot(trainer: Trainer) -> bool:
                begin = time.monotonic()
                if first:
                    seconds = spent + begin - start - elsewhere[0]
                    write_json(self._time_path, {"training_seconds": seconds})
                enough = on_snapshot(trainer)
                elsewhere[0] += time.monotonic() - begin
                return enough is True

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

    def denoiser(self, seen: int, device: torch.device | str = "cpu") -> Denoiser:
        """Return the model after so many images; under torchrun the first process reads it for all.

        Raises:
            DiffmemError: The snapshot is missing or damaged.
        """
        if not self.model.is_trained:
            return Optimum(self.training_set, conditional=self.training_set.labels is not None, device=device)
        here = world()
        read = load_denoiser(snapshot_path(self.folder, seen))[0] if here.is_first else None
        shared = here.share(read)
        if shared is None:  # what the first process shares is never none
            raise DiffmemError(f"The snapshot {snapshot_path(self.folder, seen)} was not shared.")
        return shared.to(device)

    def training_seconds(self) -> float:
        """Time spent on training so far."""
        return read_number(self._time_path, "training_seconds")

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
        """Whether a snapshot is there and can be read; a damaged one is told and removed.

        Args:
            seen: Images seen at the snapshot.
            warn: Told of a damaged one, which is to be made anew.
        """
        path = snapshot_path(self.folder, seen)
        if not path.exists():
            return False
        try:
            load_denoiser(path)
        except DiffmemError as error:
            warn(f"{error} It is regenerated.")
            path.unlink()
            return False
        return True


def _epochs_of(path: Path) -> float:
    """Return the epochs in a run's configuration; 0 if it is missing or damaged."""
    try:
        return float(yaml.safe_load(path.read_text("utf-8"))["training"]["epochs"])
    except (OSError, UnicodeDecodeError, yaml.YAMLError, KeyError, TypeError, ValueError):
        return 0.0


def agreed(check: Callable[[], bool]) -> bool:
    """Ask the first process, whose disk decides, and return its answer in every process."""
    here = world()
    return here.share(check() if here.is_first else False)
