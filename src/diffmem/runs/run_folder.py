"""A run opened from its folder alone: what `config.yaml` says, the snapshots that are there, the training images found again."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import yaml

from diffmem.data import ImageSet, open_images
from diffmem.distributed import world
from diffmem.errors import DiffmemError, UserError
from diffmem.files import read_json, write_json
from diffmem.models.config import ModelConfig
from diffmem.progress import NO_PROGRESS, Progress
from diffmem.runs.run import Run
from diffmem.settings import validated
from diffmem.training import TrainingConfig

__all__ = ["open_run", "remember_data", "snapshots_of"]

_DATA_FILE = "data.json"


def open_run(
    folder: Path,
    train: str | None = None,
    heldout: ImageSet | None = None,
    progress: Progress = NO_PROGRESS,
) -> Run:
    """Open a run made by `diffmem train` or a study, wherever its folder lies now.

    Args:
        folder: The run's folder.
        train: Its training images, any source that `open_images` reads. If none, they are looked for where `remember_data`
            says and in the store of the study that the folder belongs to.
        heldout: Images for the null rate, or none.
        progress: Told of images being read.

    Raises:
        UserError: The folder is no run's, or the training images are missing or not those of the run.
    """
    config = _config(folder)
    where = f"{folder / 'config.yaml'}"
    images = _training_images(folder, str(config["data"]["fingerprint"]), train, progress)
    return Run(
        training_set=images,
        heldout=heldout,
        model=validated(ModelConfig, config["model"], where),
        training=validated(TrainingConfig, config["training"], where),
        seed=int(config["seed"]),
        store=folder.parent,
        place=folder,
    )


def remember_data(folder: Path, source: str) -> None:
    """Write into a run's folder where its training images lie, so that it can be measured without naming them."""
    if not world().is_main:
        return
    path, note = Path(source), folder / _DATA_FILE
    content = {"train": str(path.resolve()) if path.exists() else source}
    with suppress(DiffmemError):  # a note that is damaged is written again
        if note.exists() and read_json(note) == content:
            return
    write_json(note, content)


def snapshots_of(folder: Path, warn: Callable[[str], None] = print) -> list[int]:
    """Return the images seen at each snapshot of a folder, ascending, read from the names of the files.

    Args:
        folder: The run's folder.
        warn: Told of files whose names are no numbers; they are left out.

    Raises:
        UserError: There is no snapshot.
    """
    found = []
    for path in sorted((folder / "snapshots").glob("*.safetensors")):
        if path.stem.isascii() and path.stem.isdecimal():
            found.append(int(path.stem))
        else:
            warn(f"{path} is left out: its name is not the number of images seen.")
    if not found:
        raise UserError(f"{folder} holds no snapshots yet; train first, or name the folder of a run.")
    return sorted(found)


def _config(folder: Path) -> dict[str, Any]:
    path = folder / "config.yaml"
    if not path.is_file():
        raise UserError(
            f"{folder} is not the folder of a run: it holds no config.yaml. Runs lie in the folder that was given"
            " to diffmem train --out, and in runs/ of a study."
        )
    try:
        config = yaml.safe_load(path.read_text("utf-8"))
        _ = config["data"]["fingerprint"], config["model"], config["training"], int(config["seed"])
    except (OSError, UnicodeDecodeError, yaml.YAMLError, KeyError, TypeError, ValueError) as error:
        raise UserError(f"{path} does not describe a run: {' '.join(str(error).split())}.") from error
    checked: dict[str, Any] = config
    return checked


def _training_images(folder: Path, fingerprint: str, train: str | None, progress: Progress) -> ImageSet:
    if train is not None:
        return _matching(open_images(train, progress=progress), train, fingerprint)
    candidates = [str(folder.resolve().parents[1] / "data" / f"train-{fingerprint[:16]}.npz")]
    path = folder / _DATA_FILE
    if path.exists():
        with suppress(DiffmemError, KeyError, TypeError):  # it only saves the user the option
            candidates.insert(0, str(read_json(path)["train"]))
    for source in candidates:
        try:
            return _matching(open_images(source, progress=progress), source, fingerprint)
        except UserError:
            continue
    raise UserError(
        f"The training images of {folder} were not found (fingerprint {fingerprint[:16]}); name them with --train."
    )


def _matching(images: ImageSet, source: str, fingerprint: str) -> ImageSet:
    """Return the set of this fingerprint: as it is, or without its labels."""
    for each in (images, images.with_labels(None, None, "without labels")):
        if each.fingerprint == fingerprint:
            return each
    raise UserError(
        f"{source} is not the training set of this run: its fingerprint is {images.fingerprint[:16]}, the run's is"
        f" {fingerprint[:16]}. Give the very images that it was trained on."
    )
