"""What each criterion finds among the samples: its rate beside the null, its tests, and what follows from them."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from diffmem.auditing.criteria import Criterion
from diffmem.auditing.detector import Detections
from diffmem.auditing.evidence import Evidence
from diffmem.auditing.nulls import Null
from diffmem.auditing.records import ChanceTest, CriterionRecord, Finding
from diffmem.auditing.significance import DOUBT, FALSE_ALARM, format_p, upper_bound
from diffmem.memorization.rates import Rate

__all__ = ["BY_CHANCE", "criterion_records", "samples_needed", "sharp_rungs"]

BY_CHANCE = 0.25
"""Part of the target that null images may take up: at a strictness where they take more, a flagged sample names no copy."""

_RISK = 0.05
_IN_THE_WAY = 0.02  # chance that flags by chance keep clean samples from excluding the share
_MOST_SAMPLES = 100_000_000


def samples_needed(target: float) -> int:
    """Return the number of samples, or prompts, of which none is flagged that excludes a share of copies at 95%: 299 for 1%."""
    return math.ceil(math.log(_RISK) / math.log1p(-target))


def criterion_records(
    criteria: Sequence[Criterion],
    protocols: Sequence[str],
    samples: Detections,
    null: Null,
    evidence: Evidence,
    target: float,
) -> list[CriterionRecord]:
    """Return the record of each criterion, in the order of the criteria; without power.

    Args:
        samples: What they make of the samples, of which at least one is a trial.
        null: What they make of images that were never copied.
        target: Share of copies that the audit is to exclude: a criterion that flags more null images says nothing of rare copies.
    """
    rungs = sharp_rungs(criteria, null, target, int(samples.trials.sum()), evidence.disagree)
    return [
        _record(criterion, protocol, samples, null, evidence, target, rungs.get(criterion.key))
        for criterion, protocol in zip(criteria, protocols, strict=True)
    ]


def sharp_rungs(
    criteria: Sequence[Criterion],
    null: Null,
    target: float,
    samples: int,
    disagree: Sequence[str] = (),
) -> dict[str, int]:
    """Return, for each criterion, the loosest strictness at which it flags few images by chance; none where it always flags more.

    There a flagged sample is a match, and a bound on flagged samples is one on copies. At most a quarter of the share to be excluded may
    be flagged by chance, and so few that it does not keep this many samples from excluding that share.

    Args:
        null: What they make of images that were never copied.
        samples: Samples that can be judged.
        disagree: Keys of the criteria for which held-out images alone are the null.
    """
    from scipy.special import bdtrc

    most = 0
    while upper_bound(most + 1, samples) <= target:
        most += 1
    found = {}
    for criterion in criteria:
        for rung in range(len(criterion.strictness)):
            flags = null.flags(criterion, rung, heldout_alone=criterion.key in disagree)
            share = float(flags.mean()) if len(flags) else 0.0
            if share <= BY_CHANCE * target and bdtrc(most, samples, share) <= _IN_THE_WAY:
                found[criterion.key] = rung
                break
    return found


def _rate(flags: NDArray[np.bool_]) -> Rate | None:
    return Rate(int(flags.sum()), len(flags)) if len(flags) else None


def _record(
    criterion: Criterion,
    protocol: str,
    samples: Detections,
    null: Null,
    evidence: Evidence,
    target: float,
    rung: int | None,
) -> CriterionRecord:
    total = int(samples.trials.sum())
    rate = Rate(int(samples.flags(criterion).sum()), total)
    pooled = _rate(null.flags(criterion, heldout_alone=criterion.key in evidence.disagree))
    tests = evidence.tests.get(criterion.key, [])
    sharp = samples.flags(criterion, rung or 0)
    matches = int(sharp.sum())
    bound = upper_bound(matches, total)
    finding, notes = _finding(Rate(matches, total), pooled, tests, bound, target, rung is not None)
    if not tests and pooled is not None and _more(rate, pooled):
        finding, notes = "copies", []
    return CriterionRecord(
        key=criterion.key,
        title=criterion.title,
        protocol=protocol,
        role=criterion.role,
        exact_only=criterion.exact_only,
        threshold=criterion.strictness[0],
        strictness=None if rung is None else criterion.strictness[rung],
        matches=matches,
        flagged=rate,
        null=pooled,
        null_heldout=_rate(null.of_heldout(criterion)),
        null_training=_rate(null.of_training(criterion)),
        tests=tests,
        bound=bound,
        distinct=len(np.unique(samples.scores[criterion.key].copied[sharp])),
        finding=finding,
        notes=notes,
    )


def _more(rate: Rate, null: Rate) -> bool:
    """Return whether a criterion that decides nothing flags more samples than chance does, by Fisher's exact test."""
    from scipy.stats import hypergeom

    p_value = hypergeom.sf(rate.count - 1, rate.total + null.total, rate.count + null.count, rate.total)
    return bool(rate.count) and bool(p_value <= FALSE_ALARM)


def _finding(
    rate: Rate, null: Rate | None, tests: Sequence[ChanceTest], bound: float, target: float, usable: bool
) -> tuple[Finding, list[str]]:
    """Return what follows from the counts, and why."""
    first = min(tests, key=lambda test: test.p_value / test.level, default=None)
    if first is not None and first.p_value <= first.level:
        return "copies", []
    if null is None:
        if rate.count:
            return "cannot tell", ["There are no null images: the false-positive rate is not known."]
    elif not usable:
        return "not usable", [
            f"It flags {null} of null images, and more than {BY_CHANCE * target:.2%} of them at every threshold: in"
            f" these data it cannot exclude a rate of copies of {target:.2%}."
        ]
    elif first is not None and first.events and first.p_value <= DOUBT * first.level:
        return "cannot tell", [
            f"{first.events} events of samples below {first.strictness:.3g}, {first.others} of null images; chance may explain"
            f" this ({format_p(first.p_value)}, {first.level:.2g} is needed)."
        ]
    if bound > target:
        needed = _samples_needed(target, min(rate.value, BY_CHANCE * target))
        more = "more are needed" if needed is None else f"about {needed:,} are needed"
        return "cannot tell", [
            f"{rate.total:,} samples that can be judged, {rate.count} of them flagged, exclude only rates above {bound:.2%}; {more} for"
            f" {target:.2%}."
        ]
    return "none", []


def _samples_needed(target: float, flagged: float) -> int | None:
    """Return about the number of samples that excludes a share where some are flagged by chance; none if no number does."""
    count = samples_needed(target)
    while upper_bound(round(flagged * count), count) > target:
        count = math.ceil(1.05 * count)
        if count > _MOST_SAMPLES:
            return None
    return count
