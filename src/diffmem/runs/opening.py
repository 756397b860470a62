"""A run opened from its folder alone, its training images found again."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

from diffmem.data import ImageSet, open_images
from diffmem.distributed import world
from diffmem.errors import DiffmemError, UserError
from diffmem.files import read_json, write_json
from diffmem.progress import NO_PROGRESS, Progress
from diffmem.runs.run import Run
from diffmem.runs.run_folder import RunFolder

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
        train: Its training images, any source that `open_images` reads. If none, they are searched where `remember_data`
            says and in the store of the study that the folder belongs to.
        heldout: Images for the null rate, or none.
        progress: Reported of images being read.

    Raises:
        UserError: The folder is no run's, or the training images are missing or not those of the run, or the held-out images have
            another shape.
    """
    config = RunFolder(folder).config
    images = _training_images(folder, config.data.fingerprint, train, progress)
    if heldout is not None and heldout.shape != images.shape:
        raise UserError(
            f"The held-out images have shape {heldout.shape}, the training images of {folder} {images.shape} (C, H, W); give images of"
            " one shape."
        )
    return Run(images, heldout, config.model, config.training, config.seed, folder.parent, folder)


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
    """Return the images seen at each snapshot of a run's folder, ascending; `warn` is called with other files, which are left out.

    Raises:
        UserError: There is no snapshot.
    """
    found = RunFolder(folder).snapshots
    for path in sorted((folder / "snapshots").glob("*.safetensors")):
        if not (path.stem.isdecimal() and int(path.stem) in found):
            warn(f"{path} is left out: its name is not the number of images seen.")
    if not found:
        raise UserError(f"{folder} holds no snapshots yet; train first, or name the folder of a run.")
    return found


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
