"""The self-test: copies are planted in known shares among real images, and the audit must say what was planted."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from diffmem.auditing.detector import Instrument, Sight
from diffmem.auditing.positive_controls import NEAR_COPIES, PLANTED, near_copies
from diffmem.auditing.power import Planted, look_at_planted, power_records
from diffmem.auditing.records import PowerRecord, Verdict
from diffmem.auditing.replication import Null, level_of, null_of, replicate, samples_needed
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
from diffmem.auditing.significance import chance_of
from diffmem.auditing.verdict import EXACT, verdict_of
from diffmem.data import ImageSet, count_of_share, duplicate_groups, hold_out
from diffmem.errors import UserError
from diffmem.memorization import Rate, Transforms
from diffmem.memorization.records import RateRecord, rate_record
from diffmem.progress import NO_PROGRESS, Progress, part_of

__all__ = ["SHARES", "Judge", "SelfTestResult", "self_test"]

SHARES = (0.0, 0.001, 0.01, 0.1, 0.5, 1.0)

Judge = Callable[[ImageSet, ImageSet, ImageSet], Verdict]
"""Samples, training and held-out images -> the verdict of an audit."""

_TARGET = 0.01
_PLANTED = 200
_LEAST_TRAINING = 200
_DRAWS = 2000
_MOST_SAMPLES = 2000
_SPLIT = 0x73706C69


@dataclass(frozen=True, eq=False)
class _Trial:
    """A training set with what is held against it."""

    instrument: Instrument
    training: ImageSet
    heldout: ImageSet
    fresh: ImageSet
    null: Null
    alarms: Sight
    planted: list[Planted]
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
        raise UserError(
            "A self-test needs at least one kind of training set and one share of planted copies."
        )
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
    instrument = Instrument(pixels, "pixel-l2/uint8", transforms=transforms, device=device)
    kinds = [kind for kind in PLANTED if duplication == "near-copies" or not kind.near_copies]
    found = look_at_planted(instrument, pixels, sources, kinds, seed, part_of(progress, 0, 0.6))
    return _Trial(
        instrument=instrument,
        training=made,
        heldout=heldout,
        fresh=fresh,
        null=null_of(instrument, heldout.images, seed, part_of(progress, 0.6, 0.2)),
        alarms=instrument.look(fresh.images, progress=part_of(progress, 0.8, 0.2)),
        planted=found,
        power=power_records(instrument, pixels, found, names),
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
            told = part_of(progress, (at + step / len(shares)) / len(judged), 1 / len(judged) / len(shares))
            rows.append(_share(trial, kind, share, judge, told))
    for kind in kinds[len(judged) :]:
        rows += [_share(trial, kind, share, None, None) for share in shares]
    return SelfTestPart(
        duplication=duplication,
        training_images=len(trial.training),
        distinct_images=len(trial.instrument.kept),
        criteria=_criteria(trial),
        shares=rows,
        found_from={kind: _found_from(trial, [one for one in rows if one.kind == kind]) for kind in kinds},
        false_verdicts=rate_record(_false_verdicts(trial, seed)),
    )


def _criteria(trial: _Trial) -> list[SelfTestCriterion]:
    assert trial.null.sight is not None  # the parts are disjoint
    found = []
    for kind in trial.instrument.kinds:
        null, alarms = trial.null.sight.flags[kind.key], trial.alarms.flags[kind.key]
        null_rate = Rate(int(null.sum()), len(null))
        found.append(
            SelfTestCriterion(
                key=kind.key,
                title=kind.title,
                deciding=kind.deciding,
                usable=null_rate.value <= _TARGET,
                false_alarms=rate_record(Rate(int(alarms.sum()), len(alarms))),
                null=rate_record(null_rate),
                power=trial.power[kind.key],
            )
        )
    return found


def _share(
    trial: _Trial, kind: str, share: float, judge: Judge | None, progress: Progress | None
) -> SelfTestShare:
    """Measure one set of samples; the verdict is asked for where there is somebody to be told of the progress."""
    total = len(trial.fresh)
    count = count_of_share(total, share)
    chosen = [one for one in trial.planted if kind in (one.kind.key, MIXED)]
    number = len(trial.planted[0].sources)
    places = [(at % len(chosen), at // len(chosen) % number) for at in range(count)]
    measured: dict[str, RateRecord] = {}
    for criterion in trial.instrument.kinds:
        copies = sum(bool(chosen[of].flags[criterion.key][at]) for of, at in places)
        alarms = int(trial.alarms.flags[criterion.key][: total - count].sum())
        measured[criterion.key] = rate_record(Rate(copies + alarms, total))
    verdict = None
    if progress is not None:
        pixels = [*(chosen[of].images[at] for of, at in places), *trial.fresh.images[: total - count]]
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
    found = replicate(
        trial.instrument, trial.training, samples, trial.null, target=_TARGET, progress=progress
    )
    criteria = [one.model_copy(update={"power": trial.power[one.key]}) for one in found.criteria]
    return verdict_of(criteria, found.copies, found.space, None, _TARGET).verdict


def _found_from(trial: _Trial, rows: Sequence[SelfTestShare]) -> float | None:
    """Return the smallest share from which on, at all larger ones too, a deciding criterion finds copies beyond chance."""
    smallest = None
    for row in sorted(rows, key=lambda one: -one.planted):
        flagged = {key: rate.count for key, rate in row.measured.items()}
        if not _beyond_chance(trial, flagged, row.samples):
            break
        smallest = row.share
    return smallest


def _beyond_chance(trial: _Trial, flagged: dict[str, int], total: int) -> bool:
    assert trial.null.sight is not None
    deciding = [kind.key for kind in trial.instrument.kinds if kind.deciding]
    level = level_of(trial.instrument)
    nulls = {key: int(trial.null.sight.flags[key].sum()) for key in deciding}
    return any(
        flagged[key] and _p_value(flagged[key], total, nulls[key], len(trial.null.sight)) <= level
        for key in deciding
    )


def _false_verdicts(trial: _Trial, seed: int) -> Rate:
    """Shuffle fresh and held-out images, and count how often copies are found."""
    assert trial.null.sight is not None
    deciding = [kind.key for kind in trial.instrument.kinds if kind.deciding]
    level = level_of(trial.instrument)
    both = np.stack(
        [np.concatenate([trial.alarms.flags[key], trial.null.sight.flags[key]]) for key in deciding]
    )
    total, count = both.shape[1], len(trial.alarms)
    rng = np.random.default_rng([seed, _SPLIT, 1])
    alarms = 0
    for _ in range(_DRAWS):
        chosen = rng.permutation(total)[:count]
        flagged = both[:, chosen].sum(1)
        left = both.sum(1) - flagged
        alarms += any(
            bool(one) and _p_value(int(one), count, int(other), total - count) <= level
            for one, other in zip(flagged, left, strict=True)
        )
    return Rate(alarms, _DRAWS)


@lru_cache(maxsize=4096)
def _p_value(flagged: int, total: int, null_flagged: int, null_total: int) -> float:
    return chance_of(flagged, total, null_flagged, null_total).p_value
