"""What a reader must know about the inputs of an audit, in sentences."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from diffmem.attacks.membership import without_model
from diffmem.auditing.records import ReadingRecord, Role
from diffmem.auditing.request import AuditRequest
from diffmem.auditing.spaces import Aligned
from diffmem.data import ImageSet
from diffmem.memorization.neighbours.contents import content_keys, present
from diffmem.memorization.plausibility import SampleCheckRecord

__all__ = ["notes_of", "reading_lines", "reading_problems"]

_FEWEST = 20
_DRAWN = 2000
_APART = 0.9

_NAMES: dict[Role, str] = {"training": "training images", "heldout": "held-out images", "samples": "samples"}


def notes_of(request: AuditRequest, aligned: Aligned, check: SampleCheckRecord) -> list[str]:
    """Return what a reader must know: what was read and how, what was left out, what does not fit."""
    given: dict[Role, ImageSet | None] = {
        "training": request.training,
        "heldout": request.heldout,
        "samples": request.samples,
    }
    read = [
        f"Reading the {_NAMES[role]}: {line}"
        for role, images in given.items()
        if images is not None
        for line in reading_lines(images, request.options.private)
    ]
    return [
        *read,
        *check.notes,
        *aligned.notes,
        *_source_notes(aligned.sets["training"], aligned.sets.get("heldout")),
        *_unlike_notes(aligned.sets["training"], aligned.sets["samples"]),
        *_canary_notes(request),
    ]


def reading_lines(images: ImageSet, private: bool) -> list[str]:
    """Return what reading did to a set's images, and what it skipped, a sentence each; without names in a private report."""
    return [
        f"{one.count:,} of {one.total:,} files: {one.key}, {one.choice}."
        if private
        else one.sentence.rstrip(".") + "."
        for one in images.conversions
    ]


def reading_problems(readings: Sequence[ReadingRecord]) -> tuple[list[str], list[str]]:
    """Return the copies that are found under other readings, and why samples cannot be cleared as they were read, a sentence each."""
    copies: list[str] = []
    problems: list[str] = []
    for one in readings:
        fit = (
            f"the median distance of the samples to the training images is {one.median_distance:.1f} grey levels, and"
            f" {one.usual_distance:.1f} as they were read"
        )
        if one.copies:
            copies.append(
                f"{one.copies:,} of {one.samples:,} samples copy training images under another reading, {one.text} ({fit}). {one.remedy}."
            )
        elif one.same_pictures:
            problems.append(
                f"under another reading, {one.text}, {one.same_pictures:,} of {one.samples:,} samples are nearly identical to training"
                f" images. {one.remedy}."
            )
        elif one.fits_better:
            problems.append(f"another reading fits the samples better, {one.text}: {fit}. {one.remedy}.")
    return copies, problems


def _canary_notes(request: AuditRequest) -> list[str]:
    """Return a warning where the canaries were planted in another set, or in one whose images were changed since.

    The fingerprint is that of the images in one order, and kohya's folders have their own; so the canaries are looked for.
    """
    canaries, training = request.canaries, request.training
    if canaries is None or training is None or canaries.fingerprint == training.fingerprint:
        return []
    lacking = len(canaries)
    if canaries.planted.shape[1:] == training.shape:
        lacking -= int(present(content_keys(canaries.planted), content_keys(training.images)).sum())
    if not lacking:
        return []
    return [
        f"The canaries were planted in another set than the given training images, which hold {len(canaries) - lacking:,} of"
        f" {len(canaries):,} unchanged: their exposure is about that set."
    ]


def _unlike_notes(training: ImageSet, samples: ImageSet) -> list[str]:
    """Return a warning where a plain statistic tells nearly every sample from the training images: another model's, perhaps."""
    if min(len(training), len(samples)) < _FEWEST:
        return []
    random = np.random.default_rng(0)
    some, drawn = (one.take(random.permutation(len(one))[:_DRAWN], "drawn") for one in (training, samples))
    return [
        f"Samples and training images differ in {name} (area under the curve {area.value:.3f} [{area.low:.3f}, {area.high:.3f}], 0.5 for"
        " one source): are these samples of a model of this training set?"
        for name, area in without_model(some, drawn).items()
        if area.high < 1 - _APART or area.low > _APART
    ]


def _source_notes(training: ImageSet, heldout: ImageSet | None) -> list[str]:
    """Return a warning where plain statistics separate held-out from training images: the null is then of other images."""
    if heldout is None or min(len(training), len(heldout)) < 2:
        return []
    part = training.take(
        np.random.default_rng(0).permutation(len(training))[: 4 * len(heldout)], "drawn to compare sources"
    )
    return [
        f"Held-out and training images differ in {name} (area under the curve {area.value:.3f} [{area.low:.3f}, {area.high:.3f}], 0.5"
        " for one source): the null may not be comparable with the training set."
        for name, area in without_model(part, heldout).items()
        if not area.low <= 0.5 <= area.high
    ]
