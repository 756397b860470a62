"""Samples against training images: all that an audit does with pixels."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace

import numpy as np
from numpy.typing import NDArray

from diffmem.auditing.criteria import PIXELS, Criterion
from diffmem.auditing.detector import CopyDetector, Detections
from diffmem.auditing.evidence import Evidence, flagged_references, weigh
from diffmem.auditing.findings import criterion_records, sharp_rungs
from diffmem.auditing.heldout import MOST_NEAR, HeldoutCheck, check_heldout, near_share
from diffmem.auditing.levels import level_of
from diffmem.auditing.matches import copies_of, matches_of
from diffmem.auditing.nulls import Null, null_images
from diffmem.auditing.power import measure_power
from diffmem.auditing.records import CopiesRecord, CriterionRecord, MatchRecord, SpaceRecord
from diffmem.auditing.significance import heldout_needed
from diffmem.data import ImageSet
from diffmem.progress import NO_PROGRESS, Progress, part_of

__all__ = ["Comparison", "compare", "judge"]


@dataclass(frozen=True, eq=False)
class Comparison:
    """What comes of samples beside training images.

    Attributes:
        space: The space and the null.
        criteria: In the detector's order.
        copies: All matches in numbers.
        matches: Every match, nearest first.
        found: What the criteria make of the samples.
        null: What they make of images that were never copied.
        evidence: All tests.
        problems: Why the held-out images, or the training images in their place, are no null, a sentence each.
        said: What stands beside the verdict, a sentence each.
        heldout_needed: Held-out images that would decide what samples are that are all but identical to training images.
    """

    space: SpaceRecord
    criteria: list[CriterionRecord]
    copies: CopiesRecord
    matches: list[MatchRecord]
    found: Detections
    null: Null
    evidence: Evidence
    problems: list[str] = field(default_factory=list)
    said: list[str] = field(default_factory=list)
    heldout_needed: int | None = None

    @property
    def copies_found(self) -> bool:
        """Whether a deciding criterion finds copies."""
        return any(one.role == "deciding" and one.finding == "copies" for one in self.criteria)


def judge(
    detector: CopyDetector,
    training: ImageSet,
    samples: ImageSet,
    null: Null,
    *,
    times: NDArray[np.int64],
    target: float = 0.01,
    first_seed: int = 0,
    private: bool = False,
    progress: Progress = NO_PROGRESS,
) -> Comparison:
    """Apply every criterion to the samples, with a null that is known; without power.

    Args:
        detector: Of the training images.
        training: The training images, for names.
        samples: In the same space.
        null: Images that were never copied.
        times: How often the samples hold each image, at its first place, int64 (Q,); 0 for those that are no trials.
        target: Share of copies that the audit is to exclude.
        first_seed: Number of the first sample.
        private: Whether names are left out.
        progress: Told the share of the work that is done.
    """
    judged = times > 0
    found = detector.detect(samples.images, part_of(progress, 0, 0.8))
    check = check_heldout(detector, found, null, times, part_of(progress, 0.8, 0.2))
    near = (
        detector.near_copies(flagged_references(detector.criteria, found, null))
        if null.exchangeable
        else None
    )
    evidence = weigh(detector, found, null, judged=judged, times=times, split=check.split, near=near)
    protocols = [detector.protocol(one) for one in detector.criteria]
    records: list[CriterionRecord] = []
    if judged.any():
        records = criterion_records(detector.criteria, protocols, found, judged, null, evidence, target)
    used = _used(detector.criteria, null, evidence, records, target, int(judged.sum()))
    matches = matches_of(detector, training, samples, found, used, times, first_seed, private)
    near_heldout, near_training = near_share(null, detector.criteria)
    compared = null.training.get(PIXELS)
    problems, said = _about_heldout(
        check,
        null,
        near_heldout,
        near_training,
        samples,
        any(one.finding == "copies" and one.role == "deciding" for one in records),
    )
    return Comparison(
        space=SpaceRecord(
            protocol=detector.space,
            shape=training.shape,
            training_images=len(training),
            distinct_images=len(detector.kept),
            null_heldout=0 if null.heldout is None else len(null.heldout),
            null_training=0 if compared is None else len(compared),
            deduplicated=not null.exchangeable,
            disagree=evidence.disagree,
            heldout_overlap=int(null.overlap.sum()),
            heldout_near=near_heldout,
            heldout_copied=check.copied,
        ),
        criteria=records,
        copies=copies_of(detector, training, matches, private),
        matches=matches,
        found=found,
        null=null,
        evidence=evidence,
        problems=problems,
        said=said,
        heldout_needed=_needed(detector.criteria, evidence, null, int(judged.sum())),
    )


def compare(
    detector: CopyDetector,
    training: ImageSet,
    samples: ImageSet,
    heldout: ImageSet | None,
    *,
    times: NDArray[np.int64],
    deduplicated: bool = False,
    target: float = 0.01,
    first_seed: int = 0,
    private: bool = False,
    seed: int = 0,
    progress: Progress = NO_PROGRESS,
) -> Comparison:
    """Look at images that were never copied, judge the samples, and measure what the criteria would find; see `judge`.

    Args:
        detector: Of the training images.
        training: The training images.
        samples: In the same space.
        heldout: In the same space; none without.
        times: As for `judge`.
        deduplicated: Whether near-copies were removed from the training set.
        target: As for `judge`.
        first_seed: As for `judge`.
        private: As for `judge`.
        seed: Of all that is drawn.
        progress: Told the share of the work that is done.
    """
    fresh = None if heldout is None else heldout.images
    null = null_images(
        detector,
        fresh,
        len(samples),
        deduplicated=deduplicated,
        seed=seed,
        progress=part_of(progress, 0, 0.5),
    )
    found = judge(
        detector, training, samples, null, times=times, target=target, first_seed=first_seed, private=private,
        progress=part_of(progress, 0.5, 0.3),
    )  # fmt: skip
    rungs = sharp_rungs(detector.criteria, null, target, int((times > 0).sum()), found.evidence.disagree)
    power = measure_power(detector, training.images, seed, rungs=rungs, progress=part_of(progress, 0.8, 0.2))
    criteria = [one.model_copy(update={"power": power.get(one.key, [])}) for one in found.criteria]
    return replace(found, criteria=criteria)


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
                " Were --train and --heldout swapped?"
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
    fresh = 0 if null.heldout is None else len(null.heldout)
    found = []
    for one in criteria:
        if one.all_but_identical is None or one.key not in evidence.tests:
            continue
        compared = null.training.get(one.space)
        rung = max(at for at, step in enumerate(one.strictness) if step >= one.all_but_identical)
        needed = heldout_needed(
            len(evidence.same), samples, fresh, null.distinct, 0 if compared is None else len(compared),
            level_of(criteria, one, rung, "fresh"),
        )  # fmt: skip
        if needed is not None:
            found.append(needed)
    return min(found, default=None)
