"""`audit`: everything that one audit does, from image sets and a model to its record."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from diffmem.attacks.exposure import ExposureRecord, exposure_of_model, exposure_of_samples
from diffmem.attacks.flipd_record import FlipdRecord, flipd_record
from diffmem.auditing.again import Looked, Reread, Shown, look_again
from diffmem.auditing.compare import Comparison, compare
from diffmem.auditing.copying import copying_record
from diffmem.auditing.detector import CopyDetector
from diffmem.auditing.distances import distance_records
from diffmem.auditing.model import infer_membership, model_record, sample
from diffmem.auditing.notes import notes_of, reading_lines, reading_problems
from diffmem.auditing.positive_controls import PLANTED
from diffmem.auditing.power import COUNT
from diffmem.auditing.records import (
    AuditResult,
    CopiesRecord,
    CopyingRecord,
    InputRecord,
    MatchRecord,
    MembershipPart,
    ModelRecord,
    ReadingRecord,
    Role,
)
from diffmem.auditing.request import PROBED, AuditRequest
from diffmem.auditing.spaces import Aligned, align
from diffmem.auditing.time_estimate import WORTH_TELLING, estimate_comparison, estimate_sampling
from diffmem.auditing.verdict import Circumstances, limitations, verdict_of, verdict_without_training
from diffmem.data import ImageSet, duplicate_groups, fit_images
from diffmem.environment import versions
from diffmem.memorization import RatioRule
from diffmem.memorization.plausibility import SampleCheck, check_samples
from diffmem.progress import NO_PROGRESS, Progress, part_of
from diffmem.text import duration_text

__all__ = ["Audited", "audit"]


@dataclass(frozen=True, eq=False)
class Audited:
    """An audit with what pictures need.

    Attributes:
        result: The record.
        matches: Every match, nearest first.
        samples: The samples in the common space, uint8 (Q, C, H, W); none without training images.
        training: The training images in the common space.
        nearest: Indices of the two nearest training images of each sample, int64 (Q, 2); twice the same where there is one.
        ratio: Their ratio of distances, float64 (Q,).
        judged: Which samples are trials, bool (Q,).
    """

    result: AuditResult
    matches: list[MatchRecord]
    samples: NDArray[np.uint8] | None = None
    training: NDArray[np.uint8] | None = None
    nearest: NDArray[np.int64] | None = None
    ratio: NDArray[np.float64] | None = None
    judged: NDArray[np.bool_] | None = None


@dataclass(frozen=True, eq=False)
class _Probes:
    """What a model and canaries give away."""

    exposure: list[ExposureRecord] = field(default_factory=list)
    membership: MembershipPart | None = None
    flipd: FlipdRecord | None = None


def audit(
    request: AuditRequest,
    shards: Path,
    progress: Progress = NO_PROGRESS,
    report: Callable[[str], None] = lambda line: None,
) -> Audited:
    """Do an audit.

    Args:
        request: What is asked.
        shards: Folder that keeps generated samples, so that an interrupted audit goes on where it stopped.
        progress: Told the share of the work that is done.
        report: Told how long the work will take, before it starts, where that is long.

    Raises:
        UserError: The inputs do not fit together, or the model returns values that are not finite.
    """
    _estimate(request, report)
    part = 0.8 if request.model is not None else 0.0
    samples, record = request.samples, None
    if request.model is not None:
        samples = sample(
            request.model, request.drawn, request.sampler, request.first_seed, shards, batch_size=request.batch_size,
            progress=part_of(progress, 0, 0.75 * part),
        )  # fmt: skip
        record = model_record(
            request.model,
            request.sources.get("model"),
            request.sampler,
            request.first_seed,
            request.drawn,
            request.private,
        )
    assert samples is not None
    probes = _probe(request, samples, part_of(progress, 0.75 * part, 0.25 * part))
    if request.training is None:
        return Audited(_without_training(request, samples, record, probes), [])
    return _with_training(
        request, request.training, samples, record, probes, part_of(progress, part, 1 - part)
    )


def _without_training(
    request: AuditRequest, samples: ImageSet, record: ModelRecord | None, probes: _Probes
) -> AuditResult:
    reasons = ["What the model itself shows, without its training images, is below; none of it is proof."]
    given: dict[Role, ImageSet | None] = {"heldout": request.heldout, "samples": samples}
    return AuditResult(
        title=request.title,
        private=request.private,
        seed=request.seed,
        target=request.target,
        verdict=verdict_without_training(reasons),
        inputs=_inputs(request, {role: images for role, images in given.items() if images is not None}, None),
        model=record,
        space=None,
        criteria=[],
        copying=None,
        copies=None,
        distances=[],
        membership=probes.membership,
        flipd=probes.flipd,
        exposure=probes.exposure,
        limitations=limitations(None, None, False),
        versions=versions(request.device),
    )


def _with_training(
    request: AuditRequest,
    training: ImageSet,
    samples: ImageSet,
    record: ModelRecord | None,
    probes: _Probes,
    progress: Progress,
) -> Audited:
    given: dict[Role, ImageSet | None] = {
        "training": training,
        "heldout": request.heldout,
        "samples": samples,
    }
    sets: dict[Role, ImageSet] = {role: images for role, images in given.items() if images is not None}
    check = check_samples(
        samples.images,
        training.images,
        None if request.heldout is None else request.heldout.images,
        seed=request.seed,
    )
    times = _times(samples, check)
    aligned = align(sets, part_of(progress, 0, 0.05))
    detector = CopyDetector(
        aligned.sets["training"].images, aligned.protocol, request.threshold, request.transforms, request.features, request.device
    )  # fmt: skip
    heldout = aligned.sets.get("heldout")
    found = compare(
        detector, aligned.sets["training"], aligned.sets["samples"], heldout, times=times,
        deduplicated=request.near_copies_removed, target=request.target,
        first_seed=request.first_number, private=request.private, seed=request.seed,
        progress=part_of(progress, 0.05, 0.75),
    )  # fmt: skip
    rereads = _rereads(request, training, samples, check, times, part_of(progress, 0.8, 0.02))
    readings: list[ReadingRecord] = []
    elsewhere: Looked | None = None
    for at, one in enumerate(rereads):
        looked = look_again(
            one, found.found, deduplicated=request.near_copies_removed, threshold=request.threshold,
            first_seed=request.first_number, private=request.private, seed=request.seed,
            device=request.device, progress=part_of(progress, 0.82 + 0.1 * at / len(rereads), 0.1 / len(rereads)),
        )  # fmt: skip
        readings.append(looked.record)
        if looked.record.copies and elsewhere is None and not found.copies_found:
            elsewhere = looked  # what is matched, and what pictures show, is then of this reading
    copying = None
    if heldout is not None:
        copying = copying_record(aligned, request.seed, request.device, part_of(progress, 0.92, 0.08))
    shown = elsewhere or Shown(detector, aligned.sets["training"], aligned.sets["samples"], found)
    result = _result(
        request, sets, aligned, record, probes, check, found, shown.found.copies, readings, copying
    )
    nearest = shown.found.found.batch.neighbours["pixels"]
    two = nearest.indices[:, [0, min(1, nearest.k - 1)]]
    return Audited(
        result=result,
        matches=shown.found.matches,
        samples=shown.samples.images,
        training=shown.training.images,
        nearest=shown.detector.kept[two],
        ratio=RatioRule().ratio(nearest) if nearest.k > 1 else np.ones(len(nearest)),
        judged=times > 0,
    )


def _result(
    request: AuditRequest,
    sets: dict[Role, ImageSet],
    aligned: Aligned,
    record: ModelRecord | None,
    probes: _Probes,
    check: SampleCheck,
    found: Comparison,
    copies: CopiesRecord,
    readings: list[ReadingRecord],
    copying: CopyingRecord | None,
) -> AuditResult:
    elsewhere, problems = reading_problems(readings)
    around = Circumstances(
        problems=[*([check.record.problem] if check.record.problem else []), *problems, *found.problems],
        same_pictures=len(found.evidence.same),
        heldout_needed=found.heldout_needed,
        elsewhere=elsewhere,
        said=found.said,
        copying=copying,
        given=None if check.record.judged == check.record.samples else check.record.samples,
    )
    transforms = None if request.transforms is None else request.transforms.name
    return AuditResult(
        title=request.title,
        private=request.private,
        seed=request.seed,
        target=request.target,
        verdict=verdict_of(found.criteria, copies, found.space, request.target, around),
        inputs=_inputs(request, sets, aligned),
        model=record,
        space=found.space,
        sample_check=check.record,
        readings=readings,
        criteria=found.criteria,
        copying=copying,
        copies=copies,
        distances=distance_records(found),
        membership=probes.membership,
        flipd=probes.flipd,
        exposure=probes.exposure,
        notes=notes_of(request, aligned, check.record),
        limitations=limitations(found.space, transforms, bool(request.features)),
        versions=versions(request.device),
    )


def _inputs(request: AuditRequest, sets: dict[Role, ImageSet], aligned: Aligned | None) -> list[InputRecord]:
    return [
        InputRecord(
            role=role,
            source=None if request.private else request.sources.get(role),
            images=len(images),
            shape=images.shape,
            fingerprint=images.fingerprint,
            read=reading_lines(images, request.private),
            steps=[] if aligned is None else aligned.steps[role],
        )
        for role, images in sets.items()
    ]


def _times(samples: ImageSet, check: SampleCheck) -> NDArray[np.int64]:
    """Return how often the samples hold each image that is a trial, at its first place; 0 elsewhere."""
    first = duplicate_groups(samples.images)
    return np.where(check.judged, np.bincount(first, minlength=len(first)), 0).astype(np.int64)


def _rereads(
    request: AuditRequest,
    training: ImageSet,
    samples: ImageSet,
    check: SampleCheck,
    times: NDArray[np.int64],
    progress: Progress,
) -> list[Reread]:
    """Return the other readings of values, of files and of unequal shapes under which the samples are to be looked at, too."""
    found = []
    if check.reinterpreted is not None and check.record.reading is not None:
        values = ImageSet(check.reinterpreted, samples.labels, samples.names)
        found.append(
            Reread(
                f"samples with their {check.record.reading}",
                "Write the samples in the range 0 to 255",
                training,
                values,
                times,
            )
        )
    for other in request.other_training:
        found.append(Reread(other.text, other.remedy, other.open(progress), samples, times))
    _, height, width = training.shape
    if height != width and samples.shape[1] == samples.shape[2]:
        side = samples.shape[1]
        for fit in ("stretch", "pad"):
            said = f"{'stretched' if fit == 'stretch' else 'padded'} to {side} x {side} pixels"
            found.append(
                Reread(
                    f"training images {said}", f"--train-read fit={fit} --train-read resolution={side}",
                    fit_images(training, fit, side, progress), samples, times,
                )
            )  # fmt: skip
    return found


def _probe(request: AuditRequest, samples: ImageSet, progress: Progress) -> _Probes:
    """Return what a model and canaries give away."""
    exposure: list[ExposureRecord] = []
    if request.canaries is not None:
        exposure.append(exposure_of_samples(samples, request.canaries))
    if request.model is None:
        return _Probes(exposure)
    denoiser, membership, flipd = request.model, None, None
    if request.training is not None:
        membership = infer_membership(
            denoiser, request.training, request.heldout, request.seed, progress=part_of(progress, 0, 0.6)
        )
    if request.canaries is not None:
        exposure.append(
            exposure_of_model(denoiser, request.canaries, request.seed, part_of(progress, 0.6, 0.1))
        )
    if request.canaries is not None or request.training is None:
        flipd = flipd_record(
            denoiser, samples, request.canaries, request.seed, PROBED, progress=part_of(progress, 0.7, 0.3)
        )
    return _Probes(exposure, membership, flipd)


def _estimate(request: AuditRequest, report: Callable[[str], None]) -> None:
    """Say how long a long audit will take."""
    parts = {}
    if request.model is not None:
        parts["sampling"] = estimate_sampling(
            request.model, request.sampler, request.drawn, request.batch_size
        )
    if request.training is not None:
        samples = request.number if request.samples is None else len(request.samples)
        parts["comparing"] = estimate_comparison(
            request.training.images,
            samples,
            0 if request.heldout is None else len(request.heldout),
            COUNT * len(PLANTED),
            leave_one_out=not request.near_copies_removed,
            changes=0 if request.transforms is None else len(request.transforms),
            readings=len(request.other_training),
            device=request.device,
        )
    if sum(parts.values()) >= WORTH_TELLING:
        texts = ", ".join(f"{name} about {duration_text(seconds)}" for name, seconds in parts.items())
        report(f"projected time: {texts}")
