"""The gap of a run's folder: its training images, its last snapshot, its held-out images, and its R_mem if it was measured.

And that of a model made elsewhere, with the images that its user names.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import torch
from pydantic import ValidationError

from diffmem.data import ImageSet, open_images
from diffmem.distributed import world
from diffmem.errors import DiffmemError, UserError
from diffmem.files import read_json, write_json
from diffmem.memorization import RatioRule
from diffmem.memorization.rates import Rate
from diffmem.models import Denoiser, Latent, Preconditioned, origin_of
from diffmem.models.denoiser import model_text
from diffmem.optimum.curves import balanced_indices
from diffmem.optimum.denoising_error import denoising_check
from diffmem.optimum.gap import GapSettings, curve_of, gap_errors
from diffmem.optimum.gap_records import GapInputs, RunGap
from diffmem.optimum.gaussian import GaussianDenoiser
from diffmem.optimum.optimum import Optimum
from diffmem.progress import NO_PROGRESS, Progress, parts_of
from diffmem.runs.evaluations import EvaluationStore, judged
from diffmem.runs.opening import open_run, snapshots_of
from diffmem.runs.run import Run
from diffmem.sampling import SamplerConfig
from diffmem.settings import config_hash
from diffmem.spread import Piece, Spread
from diffmem.threads import one_thread

__all__ = [
    "GapSettings",
    "gap_piece",
    "gaps_elsewhere",
    "heldout_of",
    "measure_gap",
    "measure_model_gap",
    "stored_rmem",
]


def measure_gap(
    folder: Path,
    settings: GapSettings,
    *,
    train: str | None = None,
    heldout: ImageSet | None = None,
    cache: Path | None = None,
    device: torch.device | str = "cpu",
    progress: Progress = NO_PROGRESS,
) -> RunGap:
    """Measure the gap of a run's last snapshot.

    Args:
        settings: What is measured.
        train: Its training images; if none, they are searched as `open_run` does.
        heldout: Held-out images; if none, those of the study that the run belongs to, if it kept them.
        cache: Folder in which the result is kept, and found if it is there.
        progress: Reported of work done.

    Raises:
        UserError: The folder is no run's, its images are not found, or the held-out images have another shape.
        DiffmemError: The snapshot is damaged, or the model's values are not finite.
    """
    if not folder.is_dir():
        raise UserError(
            f"There is no folder {folder}; name the folder of a run, made by diffmem train or a study."
        )
    run = open_run(folder, train, heldout)
    seen = snapshots_of(folder)[-1] if run.model.is_trained else run.points[-1]
    fresh = heldout_of(run) if heldout is None else heldout
    key = {"run": run.config, "seen": seen}
    found = _kept(
        cache,
        run.run_id,
        lambda: _key(key, fresh, settings),
        lambda: RunGap(
            run_id=run.run_id,
            folder="",
            images=len(run.training_set),
            conditional=run.training_set.labels is not None,
            images_seen=seen,
            epoch=seen / len(run.training_set),
            rmem=None,
            **_measured(run.denoiser(seen, device), run.training_set, fresh, settings, progress),
        ),
    )
    progress(1, 1)
    rmem = stored_rmem(folder, seen, len(run.training_set))
    return found.model_copy(update={"folder": str(folder), "rmem": rmem})


def gaps_elsewhere(
    place: Spread, folders: Sequence[Path], settings: GapSettings, content: dict[str, Any], progress: Progress
) -> list[RunGap]:
    """Measure the gaps of runs, each in a piece of its own with one thread.

    Args:
        content: train, heldout (None, or what `open_images` reads, as text) and cache (an absolute path), as of `measure_gap`.

    Raises:
        DiffmemError: A worker fails, or writes to another disk.
    """
    files = [place.folder / f"gap-{at}.json" for at in range(len(folders))]
    chosen = {**asdict(settings), "sampling": settings.sampling.model_dump(mode="json")}
    place.run(
        [
            Piece(
                "diffmem.runs.gap_run:gap_piece",
                {**content, "folder": str(folder.resolve()), "settings": chosen, "device": place.device, "out": str(file)},
            )
            for folder, file in zip(folders, files, strict=True)
        ],
        progress,
    )  # fmt: skip
    found = [RunGap.model_validate(read_json(file)) for file in files]
    return [
        one.model_copy(update={"folder": str(folder)}) for one, folder in zip(found, folders, strict=True)
    ]


def gap_piece(content: dict[str, Any], progress: Progress, warn: Callable[[str], None]) -> None:
    """Measure the gap of one run, for `gaps_elsewhere`."""
    values = content["settings"]
    sigmas = None if values["sigmas"] is None else tuple(values["sigmas"])
    settings = GapSettings(**{**values, "sigmas": sigmas, "sampling": SamplerConfig(**values["sampling"])})
    fresh = None if content["heldout"] is None else open_images(content["heldout"])
    with one_thread():
        found = measure_gap(
            Path(content["folder"]), settings, train=content["train"], heldout=fresh, cache=Path(content["cache"]),
            device=content["device"], progress=progress,
        )  # fmt: skip
    write_json(Path(content["out"]), found.model_dump(mode="json"))


def measure_model_gap(
    model: Denoiser,
    images: ImageSet,
    settings: GapSettings,
    *,
    heldout: ImageSet | None = None,
    cache: Path | None = None,
    progress: Progress = NO_PROGRESS,
) -> RunGap:
    """Measure the gap of a model made elsewhere.

    Args:
        model: Any that denoises pixels.
        images: Its whole training set, as the model saw it; of a model with classes, with their numbers as labels.
        settings: What is measured.
        heldout: Images of the same source that it was not trained on.
        cache: Folder in which the result is kept, and found if it is there.
        progress: Reported of work done.

    Raises:
        UserError: The model denoises latents, the images have another shape, or have not the labels of its classes; or it
            was surely not read as it was trained, see `denoising_check`.
        DiffmemError: The model's values are not finite.
    """
    origin = origin_of(model)
    if isinstance(model, Latent):
        raise UserError("The model denoises latents; its gap to the optimum of images is not defined.")
    for what, given in (("training", images), ("held-out", heldout)):
        if given is not None and given.shape != model.image_shape:
            raise UserError(
                f"The {what} images have shape {given.shape}, the model makes {model.image_shape} (C, H, W); give them as the model saw"
                " them."
            )
    if model.num_labels and (images.labels is None or int(images.labels.max()) >= model.num_labels):
        raise UserError(
            f"The model has {model.num_labels} classes and the training images have {images.num_classes or 'no'}; give them with the"
            " labels that the model was trained with."
        )
    if not model.num_labels:
        images = images.with_labels(None, None, "without labels")

    def measured() -> RunGap:
        check = denoising_check(model, images, seed=settings.seed)
        if check.problem is not None:
            raise UserError(check.problem)
        found = _measured(model, images, heldout, settings, progress)
        found["notes"] = [model_text(model), check.sentence, *found["notes"]]
        return RunGap(
            run_id=origin.digest[:16],
            folder="",
            images=len(images),
            conditional=images.labels is not None,
            images_seen=None,
            epoch=None,
            rmem=None,
            **found,
        )

    key = {"model": origin.digest, "notes": list(origin.notes), "images": images.fingerprint}
    found = _kept(cache, f"model-{origin.digest[:16]}", lambda: _key(key, heldout, settings), measured)
    progress(1, 1)
    return found.model_copy(update={"folder": str(origin.path or origin.name)})


def _kept(cache: Path | None, name: str, key: Callable[[], str], measure: Callable[[], RunGap]) -> RunGap:
    """Return what the cache keeps, or else what is measured, which it then keeps."""
    if cache is None:
        return measure()
    path = cache / f"{name}-{key()}.json"
    cached = _read(path)
    found = cached or measure()
    if cached is None and world().is_main:
        write_json(path, found.model_dump(mode="json"))
    return found


def _key(of: dict[str, Any], fresh: ImageSet | None, settings: GapSettings) -> str:
    content = {
        "format": 1,
        **of,
        "heldout": None if fresh is None else fresh.fingerprint,
        "sigmas": settings.sigmas,
        "samples": settings.samples,
        "sampling": settings.sampling.model_dump(mode="json"),
        "seed": settings.seed,
    }
    return config_hash(content)


def _read(path: Path) -> RunGap | None:
    """Return a stored result; none if it is missing or damaged, which only costs its time."""
    with suppress(DiffmemError, ValidationError):
        return RunGap.model_validate(read_json(path))
    return None


def _measured(
    denoiser: Denoiser,
    images: ImageSet,
    fresh: ImageSet | None,
    settings: GapSettings,
    progress: Progress,
) -> dict[str, Any]:
    """Return the curves of a denoiser, conditional if its training images have labels, and the notes."""
    notes = []
    optimum = Optimum(images, conditional=images.labels is not None, device=denoiser.device)
    gaussian = GaussianDenoiser.from_images(images, device=denoiser.device)
    weight = denoiser.preconditioning.loss_weight if isinstance(denoiser, Preconditioned) else None
    kinds: list[tuple[GapInputs, ImageSet | None, int]] = [("training", images, settings.samples)]
    if fresh is not None:
        fresh = _unseen(fresh, images)
    if fresh is None:
        notes.append("There are no held-out images: give them with --heldout.")
    else:
        # A held-out image that is used twice would count as two in the standard errors.
        kinds.append(("heldout", fresh, min(settings.samples, len(fresh))))
    kinds.append(("trajectory", None, settings.samples))
    curves = []
    for (kind, clean, samples), part in parts_of(progress, kinds):
        labels = None  # of the training images in the order in which they are used: held-out images and states get them too
        if images.labels is not None:
            labels = images.labels[balanced_indices(len(images), samples, settings.seed)]
        errors = gap_errors(
            denoiser,
            optimum,
            gaussian,
            clean,
            replace(settings, samples=samples),
            labels=labels,
            progress=part,
        )
        curves.append(curve_of(kind, errors, weight))
    return {"curves": curves, "notes": notes}


def _unseen(fresh: ImageSet, images: ImageSet) -> ImageSet | None:
    """Return the images that are not in the training set; none if all are."""
    known = {image.tobytes() for image in images.images}
    new = [index for index, image in enumerate(fresh.images) if image.tobytes() not in known]
    return fresh.take(new, "not in the training set") if new else None


def heldout_of(run: Run) -> ImageSet | None:
    """Return the held-out images of the study that a run belongs to; none if it has none or they are gone."""
    store = run.folder.resolve().parents[1] / "data"
    for null in sorted(run.folder.glob("null-*.json")):
        mark = null.stem.removeprefix("null-")
        for path in sorted(store.glob(f"heldout-{mark}*.npz")):
            with suppress(UserError):
                images = open_images(path)
                if images.fingerprint.startswith(mark) and images.shape == run.training_set.shape:
                    return images
    return None


def stored_rmem(folder: Path, seen: int, references: int) -> Rate | None:
    """Return R_mem at d1 / d2 < 1/3 of the largest stored evaluation of a snapshot; none if it was not measured.

    Args:
        seen: Images seen at the snapshot.
        references: Number of training images.
    """
    found: list[Rate] = []
    for path in sorted(folder.glob(f"evaluations/*/{seen:010d}.npz")):
        with suppress(DiffmemError):
            stored = EvaluationStore(path.parent, None, references).read(seen)
            found.append(judged(stored.neighbours, RatioRule()))
    return max(found, key=lambda rate: rate.total) if found else None
