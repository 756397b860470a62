"""`audit`: everything that one audit does, from image sets and a model to its record."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from diffmem.attacks.exposure import exposure_of_model, exposure_of_samples
from diffmem.attacks.flipd_record import flipd_record
from diffmem.attacks.membership import without_model
from diffmem.auditing.detector import Instrument
from diffmem.auditing.model import infer_membership, model_record, sample
from diffmem.auditing.positive_controls import PLANTED
from diffmem.auditing.power import COUNT, measure_power
from diffmem.auditing.records import (
    AuditResult,
    CopyingRecord,
    InputRecord,
    MatchRecord,
    ModelRecord,
    Role,
)
from diffmem.auditing.replication import NULL_FROM_TRAINING, null_of, replicate
from diffmem.auditing.spaces import Aligned, FeatureSpace, align
from diffmem.auditing.time_estimate import WORTH_TELLING, project_comparison, project_sampling
from diffmem.auditing.verdict import limitations, verdict_of, verdict_without_training
from diffmem.data import CanarySet, ImageSet
from diffmem.environment import versions
from diffmem.errors import UserError
from diffmem.memorization import RatioRule, Transforms, copying_test
from diffmem.models import OpenedModel
from diffmem.progress import NO_PROGRESS, Progress, part_of, seconds_to_words
from diffmem.sampling import SamplerConfig

__all__ = ["PROBED", "Audited", "Question", "audit"]

PROBED = 128
"""Most samples that are asked about their dimension."""

C_T_FROM = 100_000
"""Training images that the C_T test looks at; of a larger set so many are drawn."""


@dataclass(frozen=True, eq=False)
class Question:
    """What is to be audited, and how.

    Attributes:
        training: The training images; none to look at the model alone.
        samples: Generated images; none to generate them from the model.
        heldout: Images of the same source that were not trained on.
        model: The model; none if samples were given.
        canaries: Marked images that the training set holds, and their control group.
        number: Samples to generate.
        sampler: How they are generated.
        first_seed: Seed of the first.
        transforms: Changes under which a sample still counts as a copy.
        features: Feature spaces in which copies are looked for, too.
        threshold: Of the ratio rules.
        target: Share of copies that is to be excluded, in (0, 1).
        private: Whether names and images stay out of the report.
        seed: Of everything random but the samples.
        title: Heading of the report.
        sources: Where each set, and the model, was read from, by role.
        device: Where to compute.
        batch_size: Images at a time.
    """

    training: ImageSet | None = None
    samples: ImageSet | None = None
    heldout: ImageSet | None = None
    model: OpenedModel | None = None
    canaries: CanarySet | None = None
    number: int = 10_000
    sampler: SamplerConfig = field(default_factory=SamplerConfig)
    first_seed: int = 0
    transforms: Transforms | None = None
    features: Sequence[FeatureSpace] = ()
    threshold: float = 1 / 3
    target: float = 0.01
    private: bool = False
    seed: int = 0
    title: str = "Does this model leak its training data?"
    sources: dict[str, str] = field(default_factory=dict)
    device: str = "cpu"
    batch_size: int = 64

    @property
    def drawn(self) -> int:
        """Samples that are generated: without training images, as many as are asked about their dimension."""
        return self.number if self.training is not None else min(self.number, PROBED)

    def __post_init__(self) -> None:
        if self.samples is None and self.model is None:
            raise UserError("Give samples or a model: an audit needs something to look at.")
        if self.samples is not None and self.model is not None:
            raise UserError("Give either samples or a model, not both: samples are generated from the model.")
        if self.training is None and self.model is None:
            raise UserError(
                "Name the training images with --train: samples alone say nothing about what they copy."
            )
        if not 0 < self.target < 1:
            raise UserError(
                f"The share of copies to exclude must lie between 0 and 1, not {self.target:g}; the default is 0.01."
            )
        classes = 0 if self.model is None or self.canaries is None else self.model.denoiser.num_labels
        if classes and self.canaries is not None and self.canaries.planted_labels is None:
            raise UserError(
                f"The model has {classes} classes and the canaries have no labels; plant them in a labelled set."
            )
        if self.model is not None and self.number < 1:
            raise UserError(f"At least 1 sample must be generated, not {self.number}.")


@dataclass(frozen=True, eq=False)
class Audited:
    """An audit with what pictures need.

    Attributes:
        result: The record.
        matches: Every flagged sample, nearest first.
        samples: The samples in the common space, uint8 (Q, C, H, W); none without training images.
        training: The training images in the common space.
        nearest: Indices of the two nearest training images of each sample, int64 (Q, 2).
        ratio: Their ratio of distances, float64 (Q,).
    """

    result: AuditResult
    matches: list[MatchRecord]
    samples: NDArray[np.uint8] | None = None
    training: NDArray[np.uint8] | None = None
    nearest: NDArray[np.int64] | None = None
    ratio: NDArray[np.float64] | None = None


def audit(
    question: Question,
    shards: Path,
    progress: Progress = NO_PROGRESS,
    tell: Callable[[str], None] = lambda line: None,
) -> Audited:
    """Do an audit.

    Args:
        question: What is asked.
        shards: Folder that keeps generated samples, so that an interrupted audit goes on where it stopped.
        progress: Told the share of the work that is done.
        tell: Told how long the work will take, before it starts, where that is long.

    Raises:
        UserError: The inputs do not fit together, or the model returns values that are not finite.
    """
    _project(question, tell)
    q, model_share = question, 0.8 if question.model is not None else 0.0
    samples, record = q.samples, None
    if q.model is not None:
        samples = sample(
            q.model, q.drawn, q.sampler, q.first_seed, shards, batch_size=q.batch_size,
            progress=part_of(progress, 0, 0.75 * model_share),
        )  # fmt: skip
        record = model_record(q.model, q.sources.get("model"), q.sampler, q.first_seed, q.drawn, q.private)
    assert samples is not None
    given: dict[Role, ImageSet | None] = {"training": q.training, "heldout": q.heldout, "samples": samples}
    sets: dict[Role, ImageSet] = {role: images for role, images in given.items() if images is not None}
    probed = _probed(q, samples, part_of(progress, 0.75 * model_share, 0.25 * model_share))
    if q.training is None:
        reasons = ["What the model itself shows, without its training images, is below; none of it is proof."]
        verdict, lines = verdict_without_training(reasons), limitations(None, None, False)
        return Audited(_result(q, sets, None, record, verdict=verdict, limitations=lines, **probed), [])
    told = part_of(progress, model_share, 1 - model_share)
    aligned = align(sets, part_of(told, 0, 0.05))
    training, heldout = aligned.sets["training"], aligned.sets.get("heldout")
    instrument = Instrument(
        training.images, aligned.protocol, q.threshold, q.transforms, q.features, device=q.device
    )
    null = null_of(instrument, None if heldout is None else heldout.images, q.seed, part_of(told, 0.05, 0.3))
    found = replicate(
        instrument, training, aligned.sets["samples"], null, target=q.target,
        first_seed=0 if q.model is None else q.first_seed, private=q.private, progress=part_of(told, 0.35, 0.4),
    )  # fmt: skip
    power = measure_power(instrument, training.images, q.seed, progress=part_of(told, 0.75, 0.15))
    criteria = [one.model_copy(update={"power": power.get(one.key, [])}) for one in found.criteria]
    copying = None
    if heldout is not None:
        copying = _copying(aligned, q.seed, q.device, part_of(told, 0.9, 0.1))
    ways = None if q.transforms is None else q.transforms.name
    result = _result(
        q,
        sets,
        aligned,
        record,
        verdict=verdict_of(criteria, found.copies, found.space, copying, q.target),
        space=found.space,
        criteria=criteria,
        copying=copying,
        copies=found.copies,
        distances=found.distances,
        limitations=limitations(found.space, ways, bool(q.features)),
        notes=[*aligned.notes, *_source_notes(training, heldout), *_canary_notes(q)],
        **probed,
    )
    nearest = found.sight.neighbours
    return Audited(
        result=result,
        matches=found.matches,
        samples=aligned.sets["samples"].images,
        training=training.images,
        nearest=nearest.indices[:, :2],
        ratio=RatioRule().ratio(nearest),
    )


def _project(q: Question, tell: Callable[[str], None]) -> None:
    """Say how long a long audit will take."""
    parts = {}
    if q.model is not None:
        parts["sampling"] = project_sampling(q.model.denoiser, q.sampler, q.drawn, q.batch_size)
    if q.training is not None:
        nulls = NULL_FROM_TRAINING if q.heldout is None else len(q.heldout)
        samples = q.number if q.samples is None else len(q.samples)
        queries = samples + min(nulls, len(q.training)) + COUNT * len(PLANTED)
        searches = 1 + (0 if q.transforms is None else len(q.transforms))
        parts["comparing"] = project_comparison(q.training.images, queries, searches, q.device)
    if sum(parts.values()) >= WORTH_TELLING:
        words = ", ".join(f"{name} about {seconds_to_words(seconds)}" for name, seconds in parts.items())
        tell(f"projected time: {words}")


def _result(
    q: Question,
    sets: dict[Role, ImageSet],
    aligned: Aligned | None,
    record: ModelRecord | None,
    **found: Any,
) -> AuditResult:
    """Return the record of what was found; without training images much of it is missing."""
    missing: dict[str, Any] = {
        "space": None,
        "criteria": [],
        "copying": None,
        "copies": None,
        "distances": [],
        "membership": None,
    }
    inputs = [
        InputRecord(
            role=role,
            source=None if q.private else q.sources.get(role),
            images=len(images),
            shape=images.shape,
            fingerprint=images.fingerprint,
            steps=[] if aligned is None else aligned.steps[role],
        )
        for role, images in sets.items()
    ]
    return AuditResult(
        title=q.title,
        private=q.private,
        seed=q.seed,
        target=q.target,
        inputs=inputs,
        model=record,
        versions=versions(q.device),
        **{**missing, **found},
    )


def _probed(q: Question, samples: ImageSet, progress: Progress) -> dict[str, Any]:
    """Return the fields of the record that a model and canaries give."""
    found: dict[str, Any] = {"exposure": []}
    if q.canaries is not None:
        found["exposure"].append(exposure_of_samples(samples, q.canaries))
    if q.model is None:
        return found
    denoiser = q.model.denoiser
    if q.training is not None:
        found["membership"] = infer_membership(
            denoiser, q.training, q.heldout, q.seed, progress=part_of(progress, 0, 0.6)
        )
    if q.canaries is not None:
        found["exposure"].append(exposure_of_model(denoiser, q.canaries, q.seed, part_of(progress, 0.6, 0.1)))
    if q.canaries is not None or q.training is None:
        found["flipd"] = flipd_record(
            denoiser, samples, q.canaries, q.seed, PROBED, progress=part_of(progress, 0.7, 0.3)
        )
    return found


def _copying(aligned: Aligned, seed: int, device: str, progress: Progress) -> CopyingRecord | None:
    """Return the C_T test, or none where there are too few images for it."""
    sets = aligned.sets
    notes: list[str] = []
    training = sets["training"]
    if len(training) > C_T_FROM:
        chosen = np.sort(
            np.random.default_rng([seed, 0x635F74]).choice(len(training), C_T_FROM, replace=False)
        )
        training = training.take(chosen, "drawn for the C_T test")
        notes.append(f"Of {C_T_FROM:,} of the training images, drawn at random.")
    try:
        found = copying_test(
            sets["samples"].images, training.images, sets["heldout"].images, seed=seed, device=device,
            progress=progress,
        )  # fmt: skip
    except UserError as error:
        # Too few images; whatever else is wrong with them was found by the criteria before.
        notes.append(str(error))
        return CopyingRecord(
            protocol=f"{aligned.protocol}/c_t", c_t=None, interval=None, z=None, nearer=None, nearer_interval=None,
            detectable_share=None, conclusion="cannot tell", notes=notes,
        )  # fmt: skip
    return CopyingRecord(
        protocol=found.name.replace("pixel-l2/uint8", aligned.protocol, 1),
        c_t=found.value,
        interval=found.interval,
        z=found.z,
        nearer=found.nearer,
        nearer_interval=found.nearer_interval,
        detectable_share=found.detectable_share,
        conclusion=found.conclusion,
        notes=notes,
    )


def _canary_notes(q: Question) -> list[str]:
    """Return a warning where the canaries were planted in another set."""
    if q.canaries is None or q.training is None or q.canaries.fingerprint == q.training.fingerprint:
        return []
    return [
        "The canaries were planted in another set than the training images that were given (their fingerprints differ): their exposure is"
        " about that set."
    ]


def _source_notes(training: ImageSet, heldout: ImageSet | None) -> list[str]:
    """Return a warning where plain statistics tell held-out from training images: the null is then of other images."""
    if heldout is None or min(len(training), len(heldout)) < 2:
        return []
    part = training.take(
        np.random.default_rng(0).permutation(len(training))[: 4 * len(heldout)], "drawn to compare sources"
    )
    return [
        f"Held-out and training images differ in {name} (area under the curve {area.value:.3f} [{area.low:.3f}, {area.high:.3f}], 0.5"
        " for one source): the null may be of another kind of images than the training set."
        for name, area in without_model(part, heldout).items()
        if not area.low <= 0.5 <= area.high
    ]
