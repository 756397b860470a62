"""What the index knows of a run, read from its folder; the folders of a store."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from diffmem.errors import DiffmemError, UserError
from diffmem.progress import NO_PROGRESS, Progress
from diffmem.runs.run_folder import CONFIG_FILE, RunFolder
from diffmem.runs.store.repairs import REPAIRS_FILE
from diffmem.runs.store.workers import STATUS_FILE
from diffmem.training.schedule import evaluation_images

__all__ = ["RUNS", "RunEntry", "read_entries", "read_entry", "run_names"]

RUNS = "runs"
"""The folder of a store that holds the runs' folders."""

_BOOKKEEPING = {STATUS_FILE, REPAIRS_FILE}


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

    A folder that is no run yet (it holds no configuration and no snapshots) is skipped.

    Args:
        names: Names of folders among its runs.
        warn: Warned of folders that do not describe a run; they are left out.
        progress: Reported the folders read: every file is asked for its size, which takes a while on a network.
    """
    entries, wanted = [], list(names)
    for done, name in enumerate(wanted):
        folder = store / RUNS / name
        progress(done, len(wanted), name)
        if (folder / CONFIG_FILE).exists() or (folder / "snapshots").exists():
            try:
                entries.append(read_entry(folder))
            except UserError as error:
                warn(f"{error} It is left out.")
    return entries


def read_entry(folder: Path) -> RunEntry:
    """Read what is known of a run from its folder: its configuration, and the names, sizes and times of its files.

    Snapshots are not opened: whether they are whole is found when they are used.

    Raises:
        UserError: The folder does not describe a run.
    """
    run = RunFolder(folder)
    config, total, seen, snapshots = run.config, 0, 0, run.snapshots
    if config.model.is_trained:
        total = evaluation_images(config.training, config.data.size)[-1]
        seen = min(total, max([0, *snapshots, *(one["images_seen"] for one in run.metrics)]))
    bytes_, updated = _measured(folder)
    state: Literal["new", "training", "trained"] = "training" if seen else "new"
    if not config.model.is_trained or total in snapshots:
        state = "trained"
    return RunEntry(
        run_id=folder.name,
        size=config.data.size,
        seed=config.seed,
        fingerprint=config.data.fingerprint,
        model=config.model.describe(),
        training=config.training.describe() if config.model.is_trained else "none",
        state=state,
        images_seen=seen,
        images_total=total,
        updated=updated,
        bytes=bytes_,
    )


def _measured(folder: Path) -> tuple[int, float]:
    """Return the bytes of all files below a folder, and when the newest that is the run's own was changed."""
    total, newest, left = 0, 0.0, [folder]
    while left:
        with suppress(OSError), os.scandir(left.pop()) as found:
            for each in found:
                if each.is_dir(follow_symlinks=False):
                    left.append(Path(each.path))
                    continue
                with suppress(OSError):  # a process that works in it removed it just now
                    about = each.stat(follow_symlinks=False)
                    total += about.st_size
                    if not each.name.startswith(".") and each.name not in _BOOKKEEPING:
                        newest = max(newest, about.st_mtime)
    return total, newest
