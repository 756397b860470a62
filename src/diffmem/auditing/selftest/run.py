"""The self-test: copies are planted in known shares among real images, and the audit must say what was planted."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from diffmem.auditing.compare import judge
from diffmem.auditing.criteria import Criterion
from diffmem.auditing.detector import CopyDetector, Detections
from diffmem.auditing.evidence import Split, weigh
from diffmem.auditing.findings import samples_needed, sharp_rungs
from diffmem.auditing.heldout import BothSides
from diffmem.auditing.nulls import Null, null_images
from diffmem.auditing.positive_controls import NEAR_COPIES, PLANTED, near_copies
from diffmem.auditing.power import Planted, detect_planted, power_records
from diffmem.auditing.records import PowerRecord, Verdict
from diffmem.auditing.selftest.checks import checked
from diffmem.auditing.selftest.coverage import coverage_of_rates
from diffmem.auditing.selftest.records import (
    DUPLICATIONS,
    MIXED,
    Duplication,
    SelfTestCriterion,
    SelfTestPart,
    SelfTestResult,
    SelfTestShare,
)
from diffmem.auditing.verdict import EXACT, Circumstances, verdict_of
from diffmem.data import ImageSet, count_of_share, duplicate_groups, hold_out
from diffmem.errors import UserError
from diffmem.memorization import Transforms
from diffmem.memorization.rates import Rate
from diffmem.progress import NO_PROGRESS, Progress, part_of

__all__ = ["SHARES", "Judge", "SelfTestResult", "self_test"]

SHARES = (0.0, 0.0005, 0.001, 0.005, 0.01, 0.1, 0.5, 1.0)

Judge = Callable[[ImageSet, ImageSet, ImageSet], Verdict]
"""Samples, training and held-out images -> the verdict of an audit."""

_TARGET = 0.01
_PLANTED = 200
_LEAST_TRAINING = 200
_DRAWS = 500
_MOST_SAMPLES = 2000
_SPLIT = 0x73706C69


@dataclass(frozen=True, eq=False)
class _Trial:
    """A training set with what is compared with it."""

    detector: CopyDetector
    training: ImageSet
    heldout: ImageSet
    fresh: ImageSet
    null: Null
    both: BothSides
    alarms: Detections
    planted: list[Planted]
    beside: dict[
        str, Detections
    ]  # what lies near held-out images: of planted copies by kind, of fresh images by ''
    near: NDArray[np.int64]
    rungs: dict[str, int]
    power: dict[str, list[PowerRecord]]


def self_test(
    images: ImageSet,
    *,
    seed: int = 0,
    samples: int | None = None,
    shares: Sequence[float] = SHARES,
    duplicated: Sequence[Duplication] = DUPLICATIONS,
    transforms: Transforms | None = None,
    judge: Judge | None = None,
    device: str = "cpu",
    progress: Progress = NO_PROGRESS,
) -> SelfTestResult:
    """Plant copies among real images, and check that the criteria and the verdict find them and nothing else.

    The images are split at random into training, held-out and fresh images. Sets of samples hold planted copies of training images in
    known shares, and fresh images.

    Args:
        images: Real images; exact copies among them are taken for one.
        seed: Of the split and of all changes; 0 or more.
        samples: Fresh images, and as many held-out ones; the rest is trained on. By default a third of the images, at most 2,000.
        shares: Of planted copies, 0 to 1.
        duplicated: Which training sets are tried, at least one.
        transforms: Changes under which copies are looked for; none for no such criterion.
        judge: Gives the verdict; by default that of an audit of these criteria.
        device: Where distances are computed.
        progress: Told the share of the work that is done.

    Raises:
        UserError: There are too few images, or a number is out of range.
    """
    if not duplicated or not shares:
        raise UserError("A self-test needs at least one kind of training set and one share of copies.")
    training, heldout, fresh = _split(images, seed, samples)
    parts = []
    for at, duplication in enumerate(duplicated):
        told = part_of(progress, at / len(duplicated), 1 / len(duplicated))
        trial = _try(duplication, training, heldout, fresh, seed, transforms, device, part_of(told, 0, 0.4))
        parts.append(_part(duplication, trial, shares, seed, judge, part_of(told, 0.4, 0.6)))
    planted = {power.detected.total for part in parts for one in part.criteria for power in one.power}
    coverage = [coverage_of_rates(count) for count in sorted({len(fresh), *planted, _DRAWS})]
    failures, notes = checked(parts, coverage, _TARGET)
    return SelfTestResult(
        seed=seed,
        shape=images.shape,
        heldout=len(heldout),
        fresh=len(fresh),
        transforms=None if transforms is None else transforms.name,
        parts=parts,
        coverage=coverage,
        failures=failures,
        notes=notes,
    )


def _split(images: ImageSet, seed: int, samples: int | None) -> tuple[ImageSet, ImageSet, ImageSet]:
    first = duplicate_groups(images.images)
    kept = np.flatnonzero(first == np.arange(len(first)))
    least = samples_needed(_TARGET)
    count = min(len(kept) // 3, _MOST_SAMPLES) if samples is None else samples
    if count < least:
        raise UserError(
            f"A self-test with {count} samples cannot say that there are no copies; it needs {least}, so {3 * least} different images"
            f" or more. There are {len(kept)}."
        )
    if len(kept) - 2 * count < _LEAST_TRAINING:
        raise UserError(
            f"{count} fresh and {count} held-out images leave {max(0, len(kept) - 2 * count)} of {len(kept)} to train on; leave at"
            f" least {_LEAST_TRAINING}: give more images, or fewer samples (at least {least})."
        )
    if len(kept) < len(images):
        images = images.take(kept, "exact copies taken out")
    training, rest = hold_out(images, 2 * count, seed)
    heldout, fresh = hold_out(rest, count, seed)
    return training, heldout, fresh


def _try(
    duplication: Duplication,
    training: ImageSet,
    heldout: ImageSet,
    fresh: ImageSet,
    seed: int,
    transforms: Transforms | None,
    device: str,
    progress: Progress,
) -> _Trial:
    rng = np.random.default_rng([seed, _SPLIT])
    count = min(_PLANTED, len(training) // 2)
    sources = np.sort(rng.choice(len(training), count, replace=False)).astype(np.int64)
    originals = training.images[sources]
    copies: list[NDArray[np.uint8]] = []
    if duplication == "exact copies":
        copies = [originals] * NEAR_COPIES
    elif duplication == "near-copies":
        copies = near_copies(originals, seed)
    pixels = np.concatenate([training.images, *copies])
    names = np.concatenate([np.arange(len(training)), *[sources] * len(copies)]).astype(np.int64)
    made = ImageSet(pixels, None, tuple(training.names[one] for one in names.tolist()))
    detector = CopyDetector(pixels, "pixel-l2/uint8", transforms=transforms, device=device)
    kinds = [kind for kind in PLANTED if duplication == "near-copies" or not kind.near_copies]
    found = detect_planted(detector, pixels, sources, kinds, seed, part_of(progress, 0, 0.5))
    null = null_images(detector, heldout.images, len(fresh), seed=seed, progress=part_of(progress, 0.5, 0.3))
    alarms = detector.detect(fresh.images, part_of(progress, 0.8, 0.1))
    both = BothSides(detector, null)
    beside = {"": both.heldout.detect(fresh.images)}
    beside |= {one.kind.key: both.heldout.detect(one.images) for one in found}
    near = detector.near_copies(np.arange(len(detector.kept)))
    rungs = sharp_rungs(detector.criteria, null, _TARGET, len(fresh), weigh(detector, alarms, null).disagree)
    return _Trial(
        detector=detector,
        training=made,
        heldout=heldout,
        fresh=fresh,
        null=null,
        both=both,
        alarms=alarms,
        planted=found,
        beside=beside,
        near=near,
        rungs=rungs,
        power=power_records(detector, pixels, found, names, rungs),
    )


def _part(
    duplication: Duplication,
    trial: _Trial,
    shares: Sequence[float],
    seed: int,
    judge: Judge | None,
    progress: Progress,
) -> SelfTestPart:
    judged = [EXACT, MIXED]
    kinds = [*judged, *(one.kind.key for one in trial.planted if one.kind.key != EXACT)]
    rows: list[SelfTestShare] = []
    for at, kind in enumerate(judged):
        for step, share in enumerate(shares):
            if not _counts(trial, share):
                continue
            told = part_of(progress, (at + step / len(shares)) / len(judged), 1 / len(judged) / len(shares))
            rows.append(_share(trial, kind, share, judge, told))
    for kind in kinds[len(judged) :]:
        rows += [_share(trial, kind, share, None, None) for share in shares if _counts(trial, share)]
    return SelfTestPart(
        duplication=duplication,
        training_images=len(trial.training),
        distinct_images=len(trial.detector.kept),
        criteria=_criteria(trial),
        shares=rows,
        found_from={kind: _found_from(trial, kind) for kind in kinds},
        false_verdicts=_false_verdicts(trial, seed),
    )


def _counts(trial: _Trial, share: float) -> bool:
    """Return whether a share is none, or of one copy at least."""
    return not share or count_of_share(len(trial.fresh), share) > 0


def _criteria(trial: _Trial) -> list[SelfTestCriterion]:
    assert trial.null.heldout is not None  # the parts are disjoint
    found = []
    for one in trial.detector.criteria:
        rung = trial.rungs.get(one.key, 0)
        null, alarms = trial.null.of_heldout(one, rung), trial.alarms.flags(one, rung)
        found.append(
            SelfTestCriterion(
                key=one.key,
                title=one.title,
                deciding=one.role == "deciding",
                usable=one.key in trial.rungs,
                exact_only=one.exact_only,
                strictness=one.strictness[rung],
                false_alarms=Rate(int(alarms.sum()), len(alarms)),
                null=Rate(int(null.sum()), len(null)),
                power=trial.power[one.key],
            )
        )
    return found


def _places(trial: _Trial, kind: str, count: int) -> list[tuple[Planted, int]]:
    """Return the planted copies of a set of samples: kinds in turn, each image as seldom as can be."""
    chosen = [one for one in trial.planted if kind in (one.kind.key, MIXED)]
    number = len(trial.planted[0].sources)
    return [(chosen[at % len(chosen)], at // len(chosen) % number) for at in range(count)]


def _share(
    trial: _Trial, kind: str, share: float, judge: Judge | None, progress: Progress | None
) -> SelfTestShare:
    """Measure one set of samples; the verdict is asked for where there is somebody to be told of the progress."""
    total = len(trial.fresh)
    count = count_of_share(total, share)
    places = _places(trial, kind, count)
    measured: dict[str, Rate] = {}
    for criterion in trial.detector.criteria:
        rung = trial.rungs.get(criterion.key, 0)
        flags = {id(one): one.found.flags(criterion, rung) for one in trial.planted}
        copies = sum(bool(flags[id(one)][at]) for one, at in places)
        alarms = int(trial.alarms.flags(criterion, rung)[: total - count].sum())
        measured[criterion.key] = Rate(copies + alarms, total)
    verdict = None
    if progress is not None:
        pixels = [*(one.images[at] for one, at in places), *trial.fresh.images[: total - count]]
        samples = ImageSet(np.stack(pixels), None, tuple(f"sample {at}" for at in range(total)))
        if judge is None:
            verdict = _audited(trial, samples, progress)
        else:
            verdict = judge(samples, trial.training, trial.heldout)
    return SelfTestShare(
        kind=kind,
        share=share,
        planted=count,
        samples=total,
        measured=measured,
        covers={key: rate.low <= count / total <= rate.high for key, rate in measured.items()},
        verdict=verdict,
    )


def _audited(trial: _Trial, samples: ImageSet, progress: Progress) -> Verdict:
    first = duplicate_groups(samples.images)
    times = np.bincount(first, minlength=len(first)).astype(np.int64)
    found = judge(
        trial.detector, trial.training, samples, trial.null, times=times, target=_TARGET, progress=progress
    )
    criteria = [one.model_copy(update={"power": trial.power[one.key]}) for one in found.criteria]
    around = Circumstances(same_pictures=len(found.evidence.same))
    return verdict_of(criteria, found.copies, found.space, _TARGET, around).verdict


def _found_from(trial: _Trial, kind: str) -> int | None:
    """Return the smallest number of copies among as many samples as there are fresh images that is found; none if not even half are.

    Numbers are doubled until copies are found, and halved in between.
    """
    most = len(trial.fresh) // 2
    low, high = 0, 1
    while not _finds(trial, kind, high):
        low, high = high, 2 * high
        if high > most:
            return None
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (low, middle) if _finds(trial, kind, middle) else (middle, high)
    return high


def _finds(trial: _Trial, kind: str, count: int) -> bool:
    """Return whether a test finds so many copies among fresh images; copies of one image count once."""
    places = _places(trial, kind, count)
    left = np.arange(len(trial.fresh) - count)
    by_kind: dict[str, list[int]] = {}
    for one, at in places:
        by_kind.setdefault(one.kind.key, []).append(at)
    chosen = [one for one in trial.planted if one.kind.key in by_kind]
    parts = {one.kind.key: np.array(by_kind[one.kind.key], np.int64) for one in chosen}
    samples = Detections.of(
        [*(one.found.take(parts[one.kind.key]) for one in chosen), trial.alarms.take(left)]
    )
    beside = Detections.of(
        [*(trial.beside[key].take(part) for key, part in parts.items()), trial.beside[""].take(left)]
    )
    first = duplicate_groups(samples.batch.images)
    judged = first == np.arange(len(first))
    times = np.bincount(first, minlength=len(first)).astype(np.int64)
    split: Split | None = trial.both.split(samples, beside)
    return bool(
        weigh(
            trial.detector, samples, trial.null, judged=judged, times=times, split=split, near=trial.near
        ).found()
    )


def _false_verdicts(trial: _Trial, seed: int) -> Rate:
    """Shuffle fresh and held-out images, and count how often the tests of fresh images find copies."""
    assert trial.null.heldout is not None
    both = Detections.of([_without_own(trial.alarms), _without_own(trial.null.heldout)])
    count = len(trial.alarms)
    rng = np.random.default_rng([seed, _SPLIT, 1])
    deciding: list[Criterion] = [one for one in trial.detector.criteria if one.role == "deciding"]
    alarms = 0
    for _ in range(_DRAWS):
        order = rng.permutation(len(both))
        null = replace(trial.null, heldout=both.take(order[count:]))
        alarms += bool(weigh(deciding, both.take(order[:count]), null, near=trial.near).found())
    return Rate(alarms, _DRAWS)


def _without_own(found: Detections) -> Detections:
    return Detections(replace(found.batch, own=None), found.scores)
