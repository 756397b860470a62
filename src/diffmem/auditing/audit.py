"""`audit`: everything that one audit does, from image sets and a model to its record."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np

from diffmem.attacks.exposure import ExposureRecord, exposure_of_model, exposure_of_samples
from diffmem.attacks.flipd import FlipdConfig
from diffmem.attacks.flipd_record import FlipdRecord, flipd_record
from diffmem.auditing.compare import Comparison, compare, copies_found, distance_records
from diffmem.auditing.copying import copying_record
from diffmem.auditing.detector import CopyDetector, occurrences
from diffmem.auditing.heldout import unlike_training
from diffmem.auditing.model import check_reading, infer_membership, model_record, sample
from diffmem.auditing.notes import notes_of, reading_lines, reading_problems
from diffmem.auditing.other_readings import other_readings
from diffmem.auditing.positive_controls import POSITIVE_CONTROLS
from diffmem.auditing.power import COUNT
from diffmem.auditing.readings import compare_reading
from diffmem.auditing.records import AuditResult, InputRecord, MatchRecord, MembershipPart, ModelRecord, Role
from diffmem.auditing.request import PROBED, AuditRequest
from diffmem.auditing.spaces import Aligned, align
from diffmem.auditing.time_estimate import WORTH_TELLING, estimate_comparison, estimate_sampling
from diffmem.auditing.verdict import limitations, verdict_of, verdict_without_training
from diffmem.data import ImageSet
from diffmem.environment import versions
from diffmem.errors import UserError
from diffmem.memorization.plausibility import check_samples
from diffmem.models.denoiser import check_independent_noise
from diffmem.models.pretrained.opening import OWN_FORMAT, origin_of
from diffmem.optimum.denoising_records import DenoisingCheck
from diffmem.progress import NO_PROGRESS, Progress, Stages, parts_of
from diffmem.spread import spread
from diffmem.text import duration_text

__all__ = ["Audited", "audit"]


@dataclass(frozen=True, eq=False)
class Audited:
    """An audit with what pictures need.

    Attributes:
        result: The record.
        shown: What matches and pictures are of: the images as they were read, or as another reading has copies; none without training
            images.
    """

    result: AuditResult
    shown: Comparison | None = None

    @property
    def matches(self) -> list[MatchRecord]:
        """Every match, nearest first."""
        return [] if self.shown is None else self.shown.matches


@dataclass(frozen=True, eq=False)
class _Attacks:
    """What a model and canaries give away."""

    exposure: list[ExposureRecord] = field(default_factory=list)
    membership: MembershipPart | None = None
    flipd: FlipdRecord | None = None


def audit(
    request: AuditRequest,
    shards: Path,
    progress: Progress = NO_PROGRESS,
    report: Callable[[str], None] = lambda text: None,
) -> Audited:
    """Do an audit.

    Args:
        shards: Folder that keeps generated samples, so that an interrupted audit goes on where it stopped.
        report: Called with how long the work will take, before it starts, where that is long.

    Raises:
        UserError: The inputs do not fit together, or the model returns values that are not finite, or was read wrongly.
    """
    options = request.settled
    _estimate(request, report)
    part = 0.0 if request.model is None else 0.8
    stages = Stages(progress, check=0.05 * part, sample=0.7 * part, attack=0.25 * part, compare=1 - part)
    samples, model = request.samples, None
    if request.model is not None:
        check = _checked(request, stages.check)
        samples = sample(request.model, request.sampler, options, shards, stages.sample)
        model = model_record(request.model, request.sources.get("model"), request.sampler, options, check)
    assert samples is not None
    attacks = _attack(request, samples, stages.attack)
    if request.training is None:
        return Audited(_without_training(request, samples, model, attacks))
    return _with_training(request, samples, model, attacks, stages.compare)


def _checked(request: AuditRequest, progress: Progress) -> DenoisingCheck | None:
    """Return how the model denoises its training images; none of diffmem's own runs, which nobody can read wrongly.

    Raises:
        UserError: It was read wrongly, or is no denoiser of these images.
    """
    if request.model is None or request.training is None or origin_of(request.model).format == OWN_FORMAT:
        return None
    check = check_reading(request.model, request.training, request.options, progress)
    if check.problem is not None:
        raise UserError(check.problem)
    return check


def _without_training(
    request: AuditRequest, samples: ImageSet, model: ModelRecord | None, attacks: _Attacks
) -> AuditResult:
    reasons = ["What the model itself shows, without its training images, is below; none of it is proof."]
    options = request.options
    return AuditResult(
        title=options.title,
        private=options.private,
        seed=options.seed,
        target=options.target,
        verdict=verdict_without_training(reasons),
        inputs=_inputs(request, _sets(request, samples)),
        model=model,
        membership=attacks.membership,
        flipd=attacks.flipd,
        exposure=attacks.exposure,
        limitations=limitations(None, None, False),
        versions=versions(request.device),
    )


def _with_training(
    request: AuditRequest,
    samples: ImageSet,
    model: ModelRecord | None,
    attacks: _Attacks,
    progress: Progress,
) -> Audited:
    stages = Stages(progress, align=0.05, compare=0.75, read=0.02, reread=0.1, copying=0.08)
    options, sets = request.settled, _sets(request, samples)
    heldout, unlike = sets.get("heldout"), None
    if heldout is not None:
        unlike = unlike_training(heldout.images, sets["training"].images, samples.shape, options.seed)
    check = check_samples(
        samples.images,
        sets["training"].images,
        None if heldout is None or unlike is not None else heldout.images,
        seed=options.seed,
    )
    times = np.where(check.judged, occurrences(samples.images), 0)
    aligned = align(
        {role: one for role, one in sets.items() if role != "heldout" or unlike is None}, stages.align
    )
    training, heldout = aligned.sets["training"], aligned.sets.get("heldout")
    detector = CopyDetector(
        training.images, aligned.protocol, request.threshold, request.transforms, request.features, request.device
    )  # fmt: skip
    found = compare(
        detector, training, aligned.sets["samples"], heldout, options, times=times, progress=stages.compare
    )
    others = [
        compare_reading(one, found.found, detector, options, part)
        for one, part in parts_of(
            stages.reread, other_readings(request, samples, check, found, options.seed, stages.read)
        )
    ]
    readings = [record for _, record in others]
    copying = None
    if heldout is not None:
        copying = copying_record(aligned, options.seed, request.device, stages.copying)
    shown = found
    if not copies_found(found.criteria):
        shown = next((other for other, record in others if record.copies), found)
    elsewhere, problems = reading_problems(readings)
    around = replace(
        found.around,
        problems=[
            *(one for one in (check.record.problem, unlike) if one is not None),
            *problems,
            *found.around.problems,
        ],
        elsewhere=elsewhere,
        copying=copying,
        given=None if check.record.judged == check.record.samples else check.record.samples,
    )
    transforms = None if request.transforms is None else request.transforms.name
    result = AuditResult(
        title=options.title,
        private=options.private,
        seed=options.seed,
        target=options.target,
        verdict=verdict_of(found.criteria, shown.copies, found.space, options.target, around),
        inputs=_inputs(request, sets, aligned),
        model=model,
        space=found.space,
        sample_check=check.record,
        readings=readings,
        criteria=found.criteria,
        copying=copying,
        copies=shown.copies,
        distances=distance_records(found),
        membership=attacks.membership,
        flipd=attacks.flipd,
        exposure=attacks.exposure,
        notes=notes_of(request, aligned, check.record),
        limitations=limitations(found.space, transforms, bool(request.features)),
        versions=versions(request.device),
    )
    return Audited(result, shown)


def _sets(request: AuditRequest, samples: ImageSet) -> dict[Role, ImageSet]:
    """Return the sets that there are, by role."""
    given: dict[Role, ImageSet | None] = {
        "training": request.training,
        "heldout": request.heldout,
        "samples": samples,
    }
    return {role: images for role, images in given.items() if images is not None}


def _inputs(
    request: AuditRequest, sets: dict[Role, ImageSet], aligned: Aligned | None = None
) -> list[InputRecord]:
    private = request.options.private
    return [
        InputRecord(
            role=role,
            source=None if private else request.sources.get(role),
            images=len(images),
            shape=images.shape,
            fingerprint=images.fingerprint,
            read=reading_lines(images, private),
            steps=[] if aligned is None else aligned.steps.get(role, []),
        )
        for role, images in sets.items()
    ]


def _attack(request: AuditRequest, samples: ImageSet, progress: Progress) -> _Attacks:
    """Return what a model and canaries give away."""
    stages = Stages(progress, membership=0.6, exposure=0.1, flipd=0.3)
    canaries, seed = request.canaries, request.options.seed
    exposure = [] if canaries is None else [exposure_of_samples(samples, canaries)]
    if request.model is None:
        return _Attacks(exposure)
    denoiser, membership, flipd = request.model, None, None
    try:
        check_independent_noise(denoiser)
    except UserError as error:
        return _Attacks(exposure, MembershipPart(refused=str(error)))
    if request.training is not None:
        membership = infer_membership(
            denoiser, request.training, request.heldout, seed, progress=stages.membership
        )
    if canaries is not None:
        exposure.append(exposure_of_model(denoiser, canaries, seed, stages.exposure))
    if canaries is not None or request.training is None:
        flipd = flipd_record(denoiser, samples, canaries, PROBED, FlipdConfig(seed=seed), stages.flipd)
    return _Attacks(exposure, membership, flipd)


def _estimate(request: AuditRequest, report: Callable[[str], None]) -> None:
    """Say how long a long audit will take."""
    parts, options = {}, request.settled
    if request.model is not None:
        parts["sampling"] = estimate_sampling(request.model, request.sampler, options.num, options.batch_size)
    if request.training is not None:
        samples = options.num if request.samples is None else len(request.samples)
        parts["comparing"] = estimate_comparison(
            request.training.images,
            samples,
            0 if request.heldout is None else len(request.heldout),
            COUNT * len(POSITIVE_CONTROLS),
            leave_one_out=not options.deduplicated,
            changes=0 if request.transforms is None else len(request.transforms),
            readings=len(request.other_training) + len(request.other_samples),
            device=request.device,
        )
    if sum(parts.values()) >= WORTH_TELLING:
        texts = ", ".join(f"{name} about {duration_text(seconds)}" for name, seconds in parts.items())
        report(f"projected time{'' if spread() is None else ' on this machine alone'}: {texts}")
