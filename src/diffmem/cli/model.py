"""`diffmem model info`."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from diffmem.cli.options import NO_MODEL_OPTIONS, ModelOptions
from diffmem.errors import UserError
from diffmem.progress import show_progress

if TYPE_CHECKING:
    from diffmem.data import ImageSet
    from diffmem.models import Denoiser

__all__ = ["model_info"]


def model_info(
    path: Path,
    /,
    *,
    opening: ModelOptions = NO_MODEL_OPTIONS,
    check: str | None = None,
    lora: str | None = None,
) -> None:
    """Say what was read from a model: its layout, its images, its noise levels, and what its results rest on.

    Nothing in the model is executed, and nothing is generated.

    Example: diffmem model info checkpoints/checkpoint-500

    Example: diffmem model info sdxl --lora my-lora.safetensors:0.8

    Args:
        path: A run's folder (its last snapshot), a snapshot (.safetensors), an EDM network pickle or run folder, or a diffusers folder;
            or a checkpoint of another trainer; see docs/how-to/open-a-model.md.
        check: Training images, anything that `diffmem data build` reads: how well does the model denoise them, as it was read, and would
            another reading be better? Exit code 2 if so. A checkpoint that does not tell the size of its images gets theirs. A
            text-to-image model is given their captions.
        lora: FILE.safetensors or FILE.safetensors:WEIGHT, merged into a text-to-image model; refused if any tensor fits nothing.
    """
    from diffmem.api.inputs import as_images
    from diffmem.models import open_model
    from diffmem.models.denoiser import model_text
    from diffmem.models.pretrained.text_folder import is_text_folder

    images = None if check is None else as_images(check)
    if lora is not None or is_text_folder(path):
        _text_model_info(path, opening, images, lora)
        return
    sides = None if images is None else images.shape[1:]
    model = open_model(path, device="cpu", suggested=sides, **opening.details())
    print(model_text(model))
    if images is not None:
        _check(model, images)


def _text_model_info(path: Path, opening: ModelOptions, images: ImageSet | None, lora: str | None) -> None:
    """Say what was read from a text-to-image model; with images, by their captions."""
    import numpy as np

    from diffmem.models import open_text_model
    from diffmem.models.denoiser import model_text
    from diffmem.models.pretrained.text_model import prompts_of
    from diffmem.optimum.denoising_error import IMAGES

    replace(opening, resolution=None).refuse("a text-to-image model has none of these")
    shown: ImageSet | None = None
    prompts: tuple[str, ...] = ("",)
    if images is not None:  # as many as are checked, so that no other caption is encoded
        drawn = np.random.default_rng(0).permutation(len(images))[:IMAGES]
        shown, prompts = prompts_of(images.take(np.sort(drawn), "drawn to check the model"))
    size = opening.details()["resolution"]
    model = open_text_model(path, prompts, lora=lora, size=size, device="cpu").denoiser
    print(model_text(model))
    if shown is not None:
        _check(model, shown)


def _check(model: Denoiser, images: ImageSet) -> None:
    from diffmem.auditing.model import check_reading
    from diffmem.auditing.request import AuditOptions
    from diffmem.console import console
    from diffmem.optimum.report.denoising_report import denoising_table

    with show_progress("Checking") as progress:
        found = check_reading(model, images, AuditOptions(), progress)
    if found.points:
        console().print(denoising_table(found))
    print(found.sentence)
    if found.problem is not None:
        raise UserError(found.problem)
