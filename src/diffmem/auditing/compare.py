"""Samples against training images: all that an audit does with pixels."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from diffmem.auditing.criteria import PIXELS, Criterion
from diffmem.auditing.detector import CopyDetector, Detections
from diffmem.auditing.evidence import Evidence, flagged_references, weigh
from diffmem.auditing.findings import criterion_records, sharp_rungs
from diffmem.auditing.heldout import MOST_NEAR, HeldoutCheck, check_heldout, near_share
from diffmem.auditing.matches import copies_of, matches_of
from diffmem.auditing.nulls import Null, null_images
from diffmem.auditing.power import measure_power
from diffmem.auditing.records import CopiesRecord, CriterionRecord, DistanceRecord, MatchRecord, SpaceRecord
from diffmem.auditing.request import AuditOptions
from diffmem.auditing.significance import heldout_needed, level_of
from diffmem.auditing.verdict import Circumstances
from diffmem.data import ImageSet
from diffmem.memorization import Neighbours, RatioRule
from diffmem.progress import NO_PROGRESS, Progress, Stages

__all__ = ["Comparison", "compare", "copies_found", "distance_records", "judge"]


_BINS = 50
_NONE = Neighbours(np.zeros((0, 1)), np.zeros((0, 1), np.int64))


@dataclass(frozen=True, eq=False)
class Comparison:
    """What comes of samples beside training images.

    Attributes:
        detector: Of the training images.
        training: These.
        samples: In the same space.
        found: What the criteria make of the samples.
        null: What they make of images that were never copied.
        evidence: All tests.
        space: The space and the null.
        criteria: In the detector's order.
        copies: All matches in numbers.
        matches: Every match, nearest first.
        used: How strict each criterion that names single copies is, by key: its step of strictness.
        around: What else bears on the verdict.
    """

    detector: CopyDetector
    training: ImageSet
    samples: ImageSet
    found: Detections
    null: Null
    evidence: Evidence
    space: SpaceRecord
    criteria: list[CriterionRecord]
    copies: CopiesRecord
    matches: list[MatchRecord]
    used: dict[str, int]
    around: Circumstances


def judge(
    detector: CopyDetector,
    training: ImageSet,
    samples: ImageSet,
    null: Null,
    options: AuditOptions,
    *,
    times: NDArray[np.int64],
    progress: Progress = NO_PROGRESS,
) -> Comparison:
    """Apply every criterion to the samples, with a null that is known; without power.

    Args:
        times: How often the samples hold each image, at its first position, int64 (Q,); 0 for those that are no trials.
    """
    stages = Stages(progress, detect=0.8, heldout=0.2)
    found = detector.detect(samples.images, stages.detect, times=times)
    check = check_heldout(detector, found, null, stages.heldout)
    near = (
        detector.near_copies(flagged_references(detector.criteria, found, null))
        if null.exchangeable
        else None
    )
    evidence = weigh(detector.criteria, found, null, split=check.split, near=near)
    records: list[CriterionRecord] = []
    if found.trials.any():
        protocols = [detector.protocol(one) for one in detector.criteria]
        records = criterion_records(detector.criteria, protocols, found, null, evidence, options.target)
    used = _used(detector.criteria, null, evidence, records, options.target, int(found.trials.sum()))
    matches = matches_of(detector, training, samples, found, used, options)
    near_heldout, near_training = near_share(null, detector.criteria)
    problems, said = _about_heldout(check, null, near_heldout, near_training, samples, copies_found(records))
    return Comparison(
        detector=detector,
        training=training,
        samples=samples,
        found=found,
        null=null,
        evidence=evidence,
        space=SpaceRecord(
            protocol=detector.space,
            shape=training.shape,
            training_images=len(training),
            distinct_images=len(detector.distinct),
            null_heldout=null.fresh,
            null_training=null.drawn(PIXELS),
            deduplicated=not null.exchangeable,
            disagree=evidence.disagree,
            heldout_overlap=int(null.overlap.sum()),
            heldout_near=near_heldout,
            heldout_copied=check.copied,
        ),
        criteria=records,
        copies=copies_of(detector, training, matches, options.private),
        matches=matches,
        used=used,
        around=Circumstances(
            problems=problems,
            said=said,
            same_pictures=len(evidence.same),
            heldout_needed=_needed(detector.criteria, evidence, null, int(found.trials.sum())),
        ),
    )


def compare(
    detector: CopyDetector,
    training: ImageSet,
    samples: ImageSet,
    heldout: ImageSet | None,
    options: AuditOptions,
    *,
    times: NDArray[np.int64],
    progress: Progress = NO_PROGRESS,
) -> Comparison:
    """Compare images that were never copied with the training set, judge the samples, and measure what the criteria would find.

    The arguments are those of `judge`; held-out images are in the same space, none without.
    """
    stages = Stages(progress, null=0.5, judge=0.3, power=0.2)
    fresh = None if heldout is None else heldout.images
    deduplicated = bool(options.deduplicated)
    null = null_images(
        detector, fresh, len(samples), deduplicated=deduplicated, seed=options.seed, progress=stages.null
    )
    found = judge(detector, training, samples, null, options, times=times, progress=stages.judge)
    rungs = sharp_rungs(
        detector.criteria, null, options.target, int((times > 0).sum()), found.evidence.disagree
    )
    power = measure_power(detector, training.images, options.seed, rungs=rungs, progress=stages.power)
    criteria = [one.model_copy(update={"power": power.get(one.key, [])}) for one in found.criteria]
    return replace(found, criteria=criteria)


def copies_found(criteria: Sequence[CriterionRecord]) -> bool:
    """Return whether a deciding criterion finds copies."""
    return any(one.role == "deciding" and one.finding == "copies" for one in criteria)


def _used(
    criteria: Sequence[Criterion],
    null: Null,
    evidence: Evidence,
    records: Sequence[CriterionRecord],
    target: float,
    samples: int,
) -> dict[str, int]:
    """Return how strict each criterion is that names single copies, by key.

    One that flags many images by chance may find that there are copies, but not which. It is used only where no other finds them.
    """
    deciding = {one.key for one in criteria if one.role == "deciding"}
    sharp = {
        key: rung
        for key, rung in sharp_rungs(criteria, null, target, samples, evidence.disagree).items()
        if key in deciding
    }
    found = {one.key for one in records if one.finding == "copies" and one.key in deciding}
    if not found or found & sharp.keys():
        return sharp
    for one in criteria:
        if one.key in found:
            steps = {test.strictness for test in evidence.tests[one.key] if test.p_value <= test.level}
            sharp[one.key] = max(at for at, step in enumerate(one.strictness) if step in steps)
    return sharp


def _about_heldout(
    check: HeldoutCheck,
    null: Null,
    near: float | None,
    near_training: float | None,
    samples: ImageSet,
    copies: bool,
) -> tuple[list[str], list[str]]:
    """Return why the held-out images are no null, and what to say of them beside the verdict, a sentence each."""
    problems: list[str] = []
    said: list[str] = []
    overlap = int(null.overlap.sum())
    if check.copied:
        kind = "identical" if check.identical == check.copied else "nearly identical"
        images = "1 sample is" if check.copied == 1 else f"{check.copied:,} of {len(samples):,} samples are"
        sentence = f"{images} {kind} to held-out images and to no training image"
        if check.seen:
            swapped = (
                " Were --train and --heldout swapped, or is one set given under two names?"
                if not copies and 2 * check.copied >= len(samples)
                else ""
            )
            problems.append(
                f"{sentence}: the model was trained on them, so they are not held out.{swapped} Add them to the training images, and give"
                " others that were not trained on."
            )
        else:
            said.append(f"{sentence}: chance may explain as many.")
    if near is not None and near > MOST_NEAR:
        problems.append(
            f"{near:.0%} of the held-out images have a near-copy in the training set: they are not independent, for example because one"
            " clip, patient or burst is in both sets. Split by clip or patient, not by frame."
        )
    elif near is None and near_training is not None and near_training > MOST_NEAR:
        problems.append(
            f"{near_training:.0%} of the training images have a near-copy among the others, so they do not show how near fresh images come."
            " Give held-out images of other clips or patients (--heldout)."
        )
    if overlap:
        part = f"All {overlap:,}" if overlap == len(null.overlap) else f"{overlap:,} of {len(null.overlap):,}"
        sentence = f"{part} held-out images are identical to training images; they were left out of the null."
        (problems if near is None and overlap == len(null.overlap) else said).append(
            sentence + (" Give two different sets." if overlap == len(null.overlap) else "")
        )
    return problems, said


def _needed(criteria: Sequence[Criterion], evidence: Evidence, null: Null, samples: int) -> int | None:
    """Return how many held-out images would decide what samples are that are all but identical to training images."""
    if not len(evidence.same) or not samples:
        return None
    found = []
    for one in criteria:
        if one.all_but_identical is None or one.key not in evidence.tests:
            continue
        rung = max(at for at, step in enumerate(one.strictness) if step >= one.all_but_identical)
        level = level_of(criteria, one, rung, "fresh")
        events, drawn = len(evidence.same), null.drawn(one.space)
        needed = heldout_needed(events, samples, null.fresh, null.distinct, drawn, level)
        if needed is not None:
            found.append(needed)
    return min(found, default=None)


def distance_records(found: Comparison) -> list[DistanceRecord]:
    """Return histograms of ratios (where there are two training images) and of distances."""
    null = [one.batch.neighbours[PIXELS] for one in found.null.parts(PIXELS)]
    samples = found.found.batch.neighbours[PIXELS]
    scale = math.sqrt(math.prod(found.space.shape))
    rms = [
        np.concatenate([one.distances[:, 0] / scale for one in part]) for part in ([samples], [_NONE, *null])
    ]
    top = max(1.0, math.ceil(max(float(part.max(initial=0.0)) for part in rms)))
    records = [_histogram("rms", rms, top)]
    if samples.k > 1:
        rule = RatioRule()
        known = [rule.ratio(one) for one in null if one.k > 1]
        ratios = [rule.ratio(samples), np.concatenate([np.zeros(0), *known])]
        records.insert(0, _histogram("ratio", ratios, 1.0))
    return records


def _histogram(
    quantity: Literal["ratio", "rms"], parts: list[NDArray[np.float64]], end: float
) -> DistanceRecord:
    edges = np.linspace(0, end, _BINS + 1)
    samples, null = (np.histogram(part, edges)[0].tolist() for part in parts)
    return DistanceRecord(
        quantity=quantity, edges=edges.tolist(), samples=samples, null=null if len(parts[1]) else []
    )
