"""What a model itself gives away: membership inference, and the samples that it makes."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from diffmem.attacks.asking import NotFiniteError
from diffmem.attacks.membership import membership
from diffmem.attacks.roc import images_needed
from diffmem.attacks.scores import Attack
from diffmem.auditing.records import MembershipPart, ModelRecord
from diffmem.auditing.request import AuditOptions
from diffmem.data import ImageSet, grayscale, resize, rgb
from diffmem.errors import UserError
from diffmem.models import Denoiser, origin_of
from diffmem.models.denoiser import model_text, pixel_shape_of
from diffmem.optimum.denoising_error import denoising_check
from diffmem.optimum.denoising_records import DenoisingCheck
from diffmem.progress import NO_PROGRESS, Progress, parts_of
from diffmem.sampling import BrokenModelError, SamplerConfig, generate_resumable

__all__ = [
    "FALSE_POSITIVES",
    "as_the_model_sees",
    "check_reading",
    "infer_membership",
    "model_record",
    "sample",
]

FALSE_POSITIVES = 0.01
"""The false-positive rate at which membership inference is reported."""

_SPARE = 64
"""Images beyond the number needed, in case some are copies of others."""

_CHECKED = 4096
"""Training images that a model is checked against: of them, mean and covariance are taken."""

_ATTACKS: tuple[Attack, ...] = ("loss", "secmi", "pia")


def check_reading(
    denoiser: Denoiser,
    training: ImageSet,
    options: AuditOptions,
    progress: Progress = NO_PROGRESS,
) -> DenoisingCheck:
    """Measure the denoising error of a model on training images; see `denoising_check`.

    Args:
        denoiser: The model.
        training: Its training images, of any size; they are brought to the model's.
        options: Its seed draws the images and the noise; its batch size.

    Raises:
        UserError: The model returns values that are not finite, or the images cannot be brought to its size.
    """
    drawn = np.random.default_rng([options.seed, 0x63686563]).permutation(len(training))[:_CHECKED]
    seen = as_the_model_sees(training.take(np.sort(drawn), "drawn to check the model"), denoiser)
    return denoising_check(
        denoiser, seen, seed=options.seed, batch_size=options.batch_size, progress=progress
    )


def sample(
    denoiser: Denoiser,
    config: SamplerConfig,
    options: AuditOptions,
    shards: Path,
    progress: Progress = NO_PROGRESS,
) -> ImageSet:
    """Generate the samples of an audit, one per seed; labels are drawn from the seeds.

    An interrupted call goes on where it stopped. The shards stay until `discard_shards`.

    Raises:
        UserError: The model returns values that are not finite.
    """
    seeds = range(options.first_seed, options.first_seed + options.num)
    tag = f"audit {origin_of(denoiser).digest} {config.model_dump_json()}"
    try:
        made = generate_resumable(
            denoiser, seeds, config, shards, tag, batch_size=options.batch_size, progress=progress
        )
    except BrokenModelError as error:
        raise UserError(str(error)) from error  # in an audit, the model is the user's input
    names = tuple(f"seed {seed}" for seed in seeds)
    return ImageSet(made.images, made.labels, names, None, (config.describe(),))


def model_record(
    denoiser: Denoiser,
    source: str | None,
    config: SamplerConfig,
    options: AuditOptions,
    check: DenoisingCheck | None = None,
) -> ModelRecord:
    """Return the record of a model and its samples."""
    origin = origin_of(denoiser)
    return ModelRecord(
        source=None if options.private else source,
        kind=origin.format,
        text=model_text(denoiser, options.private),
        digest=origin.digest,
        sampling=config.describe(),
        seeds=(options.first_seed, options.first_seed + options.num - 1),
        notes=list(origin.notes),
        check=check,
    )


def as_the_model_sees(images: ImageSet, denoiser: Denoiser, progress: Progress = NO_PROGRESS) -> ImageSet:
    """Return images at the resolution and with the channels of a model.

    Raises:
        UserError: The model's images are not square and of another size.
    """
    channels, height, width = pixel_shape_of(denoiser)
    if images.shape[1:] != (height, width):
        if height != width:
            raise UserError(
                f"The model makes images of {height} x {width} pixels and the set has {images.shape[1]} x {images.shape[2]}; bring the"
                " set to the model's size."
            )
        images = resize(images, height, progress)
    if images.shape[0] != channels:
        images = grayscale(images) if channels == 1 else rgb(images)
    return images


def infer_membership(
    denoiser: Denoiser,
    training: ImageSet,
    heldout: ImageSet | None,
    seed: int,
    most: int | None = None,
    progress: Progress = NO_PROGRESS,
) -> MembershipPart:
    """Attack the model with its training images and held-out ones, or say what is missing.

    Args:
        heldout: Images of the same source that it was not trained on.
        seed: Which images are drawn, and the noise.
        most: Most images of each kind; none for as many as are needed, and some more.

    Raises:
        UserError: The model returns values that are not finite.
    """
    needed = images_needed(FALSE_POSITIVES)
    have = {"training": len(training), "held-out": 0 if heldout is None else len(heldout)}
    short = {kind: count for kind, count in have.items() if count < needed}
    if short or heldout is None:
        given = " and ".join(f"{count:,} {kind} images" for kind, count in have.items())
        return MembershipPart(
            refused=f"There are {given}; a true-positive rate at {FALSE_POSITIVES:.0%} false positives needs {needed} of each;"
            " with fewer even a perfect attack could not show it. Give more."
        )
    classes = denoiser.num_labels
    if classes:
        for kind, images in (("training", training), ("held-out", heldout)):
            if images.labels is None or int(images.labels.max()) >= classes:
                return MembershipPart(
                    refused=f"The model has {classes} classes and the {kind} images have {images.num_classes or 'no'}; an attack needs"
                    " the class that the model was trained with. Give labelled sets."
                )
    rng = np.random.default_rng([seed, 0x6D656D62])
    count = needed + _SPARE if most is None else most
    drawn = []
    for images in (training, heldout):
        chosen = np.sort(rng.choice(len(images), min(count, len(images)), replace=False))
        drawn.append(as_the_model_sees(images.take(chosen, "drawn for membership inference"), denoiser))
    attacks = []
    for attack, part in parts_of(progress, _ATTACKS):
        try:
            attacks.append(
                membership(
                    denoiser, drawn[0], drawn[1], attack, fpr=FALSE_POSITIVES, seed=seed, progress=part
                )
            )
        except NotFiniteError:
            raise
        except UserError as error:
            return MembershipPart(attacks=attacks, refused=f"{attack}: {error}")
    return MembershipPart(attacks=attacks)
