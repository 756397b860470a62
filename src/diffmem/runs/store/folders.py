"""What the index knows of a run, read from its folder; the folders of a store."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import yaml

from diffmem.errors import DiffmemError, UserError
from diffmem.models.config import ModelConfig
from diffmem.progress import NO_PROGRESS, Progress
from diffmem.settings import validated
from diffmem.training.config import TrainingConfig
from diffmem.training.loop import METRICS_FILE
from diffmem.training.schedule import evaluation_images

__all__ = ["RUNS", "RunEntry", "read_entries", "read_entry", "run_names"]

RUNS = "runs"
"""The folder of a store that holds the runs' folders."""

_BOOKKEEPING = {"status.json", "incidents.json"}


@dataclass(frozen=True)
class RunEntry:
    """What is known of one run.

    Attributes:
        run_id: Hash of its configuration, the name of its folder.
        size: Number of training images N.
        seed: Seed of weights, order and noise.
        fingerprint: Content hash of the training images.
        model: The model M in words.
        training: The procedure T in words.
        state: 'new' before anything of the training is on the disk, 'trained' when the last snapshot is there (or nothing
            is to be trained), else 'training', whether a process works on it now or not.
        images_seen: Images trained on so far, at least; 0 to `images_total`.
        images_total: Images of the whole training.
        updated: When something of it last changed, seconds since 1970.
        bytes: Size of its folder.
    """

    run_id: str
    size: int
    seed: int
    fingerprint: str
    model: str
    training: str
    state: Literal["new", "training", "trained"]
    images_seen: int
    images_total: int
    updated: float
    bytes: int


def run_names(store: Path) -> list[str]:
    """Return the names of all folders among a store's runs, ascending; empty without any.

    Raises:
        DiffmemError: The folder of the runs cannot be read.
    """
    try:
        with os.scandir(store / RUNS) as found:
            return sorted(each.name for each in found if not each.name.startswith(".") and each.is_dir())
    except (FileNotFoundError, NotADirectoryError):
        return []
    except OSError as error:
        raise DiffmemError(f"Cannot read {store / RUNS}: {error.strerror or error}.") from error


def read_entries(
    store: Path, names: Iterable[str], warn: Callable[[str], None], progress: Progress = NO_PROGRESS
) -> list[RunEntry]:
    """Read the entries of several runs.

    A folder that is no run yet (it holds no configuration and no snapshots) is passed over.

    Args:
        store: The store.
        names: Names of folders among its runs.
        warn: Told of folders that do not describe a run; they are left out.
        progress: Told the folders read: every file is looked at for its size, which takes a while on a network.
    """
    entries, wanted = [], list(names)
    for done, name in enumerate(wanted):
        folder = store / RUNS / name
        progress(done, len(wanted), name)
        if (folder / "config.yaml").exists() or (folder / "snapshots").exists():
            try:
                entries.append(read_entry(folder))
            except UserError as error:
                warn(f"{error} It is left out.")
    return entries


def read_entry(folder: Path) -> RunEntry:
    """Read what is known of a run from its folder: its configuration, and the names, sizes and times of its files.

    Snapshots are not opened: whether they are whole is found when they are used.

    Args:
        folder: The run's folder.

    Raises:
        UserError: The folder does not describe a run.
    """
    config = _config(folder)
    size, where = int(config["data"]["size"]), str(folder / "config.yaml")
    model = validated(ModelConfig, config["model"], where)
    training = validated(TrainingConfig, config["training"], where)
    total, seen, snapshots = 0, 0, _snapshots(folder)
    if model.is_trained:
        total = evaluation_images(training, size)[-1]
        seen = min(total, max(snapshots | {_images_in_metrics(folder)}))
    bytes_, updated = _measured(folder)
    state: Literal["new", "training", "trained"] = "training" if seen else "new"
    if not model.is_trained or total in snapshots:
        state = "trained"
    return RunEntry(
        run_id=folder.name,
        size=size,
        seed=int(config["seed"]),
        fingerprint=str(config["data"]["fingerprint"]),
        model=model.describe(),
        training=training.describe() if model.is_trained else "none",
        state=state,
        images_seen=seen,
        images_total=total,
        updated=updated,
        bytes=bytes_,
    )


def _config(folder: Path) -> dict[str, Any]:
    path = folder / "config.yaml"
    try:
        config = yaml.safe_load(path.read_text("utf-8"))
        _ = int(config["seed"]), int(config["data"]["size"]), config["data"]["fingerprint"]
        _ = config["model"], config["training"]
        if int(config["data"]["size"]) < 1:
            raise ValueError("its training set has no image")
    except FileNotFoundError as error:
        raise UserError(f"{folder} is not the folder of a run: it holds no config.yaml.") from error
    except (OSError, yaml.YAMLError, KeyError, TypeError, ValueError, OverflowError) as error:
        raise UserError(f"{path} does not describe a run: {' '.join(str(error).split())}.") from error
    checked: dict[str, Any] = config
    return checked


def _snapshots(folder: Path) -> set[int]:
    """Return the images seen at each snapshot, by the names of the files."""
    names = [path.stem for path in (folder / "snapshots").glob("*.safetensors")]
    return {int(name) for name in names if name.isascii() and name.isdecimal()}


def _images_in_metrics(folder: Path) -> int:
    """Return the images seen at the last whole line of the metrics, which are written with the state."""
    seen = 0
    try:
        for line in (folder / METRICS_FILE).read_text("utf-8").splitlines():
            seen = max(seen, int(json.loads(line)["images_seen"]))
    except (OSError, KeyError, TypeError, ValueError, OverflowError):
        pass  # not there yet, or a line cut short by a crash: those before it count
    return seen


def _measured(folder: Path) -> tuple[int, float]:
    """Return the bytes of all files below a folder, and when the newest that is the run's own was changed."""
    total, newest, left = 0, 0.0, [folder]
    while left:
        try:
            with os.scandir(left.pop()) as found:
                for each in found:
                    if each.is_dir(follow_symlinks=False):
                        left.append(Path(each.path))
                        continue
                    about = each.stat(follow_symlinks=False)
                    total += about.st_size
                    if not each.name.startswith(".") and each.name not in _BOOKKEEPING:
                        newest = max(newest, about.st_mtime)
        except OSError:
            continue  # a process that works in it removed something just now
    return total, newest
