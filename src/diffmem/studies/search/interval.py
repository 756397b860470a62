"""EMM of a level with its interval, from the searches of one or several seeds."""

from __future__ import annotations

import math
from collections.abc import Mapping

import numpy as np

from diffmem.studies.emm import ONE_RUN_PER_SIZE
from diffmem.studies.records import EmmRecord
from diffmem.studies.search.choice import Outcome, Replay, SizeRule, bracketed

__all__ = ["emm_of_seed", "emm_of_seeds"]


def emm_of_seed(found: Replay, rule: SizeRule) -> EmmRecord:
    """Return EMM of one search.

    The interval is the bracket of certain verdicts: R_mem reaches 1 - epsilon at its lower end and does not at its upper end,
    both at once at the confidence of the search, and EMM lies between if R_mem falls with N. No other shape is assumed of the
    curve. The value is where the rates, made non-increasing, cross 1 - epsilon, interpolated in their logits.
    """
    status, low, high, value = found.status, found.below, found.above, None
    notes = [found.note] if found.note else []
    rise = _clear_rise(found.outcomes)
    if rise:
        notes.append(
            f"R_mem is certainly higher at N = {rise[1]:,} than at N = {rise[0]:,}: it does not fall with the number of"
            " training images there, as the interval assumes."
        )
    if status in ("above largest", "below smallest"):
        low = high = None
    elif status == "not monotone":
        notes.append(
            "A larger size certainly memorizes while a smaller one certainly does not: R_mem does not fall with"
            " the number of training images here, and EMM is not one number."
        )
        low, high = low or rule.smallest, high or rule.largest
    elif status == "estimated":
        if low is None:
            notes.append(f"The interval reaches below the smallest size, {rule.smallest:,}.")
        if high is None:
            notes.append(f"The interval reaches above the largest size, {rule.largest:,}.")
        low, high = low or rule.smallest, high or rule.largest
        value = min(max(bracketed(found.outcomes, rule.target_rate), low), high)
    return EmmRecord(
        status=status, value=value, low=low, high=high, bracket=None if low is None or high is None else (low, high),
        epsilon=rule.epsilon, method="bracket of sizes that certainly do and do not memorize", notes=notes,
    )  # fmt: skip


def _clear_rise(outcomes: Mapping[int, Outcome]) -> tuple[int, int] | None:
    """Return two sizes at whose larger one R_mem is certainly higher; none if there are none."""
    sizes = sorted(outcomes)
    rises = (
        (small, large)
        for i, small in enumerate(sizes)
        for large in sizes[i + 1 :]
        if outcomes[large].low > outcomes[small].high
    )
    return next(rises, None)


def emm_of_seeds(seeds: Mapping[int, EmmRecord], rule: SizeRule, confidence: float = 0.95) -> EmmRecord:
    """Return EMM of a level from the searches of its seeds.

    With one seed it is that search's. With several, ln EMM is averaged over seeds; its interval is Student's t for the
    variation between runs, widened at each end by the mean distance to the ends of the brackets, for the sampling.

    Args:
        seeds: Seed -> EMM of its search.
        confidence: Coverage of the interval, in (0, 1).
    """
    from scipy.special import stdtrit

    found = list(seeds.values())
    if not found:
        return EmmRecord(status="no runs", epsilon=rule.epsilon)
    if len(found) == 1:
        if found[0].status != "estimated":
            return found[0]
        return found[0].model_copy(update={"notes": [*found[0].notes, ONE_RUN_PER_SIZE]})
    states = {one.status for one in found}
    notes = list(dict.fromkeys(note for one in found for note in one.notes))
    if not states.isdisjoint(("unfinished", "not monotone")):
        return EmmRecord(
            status="unfinished" if "unfinished" in states else "not monotone",
            low=min((one.low for one in found if one.low is not None), default=None),
            high=max((one.high for one in found if one.high is not None), default=None),
            epsilon=rule.epsilon, method=found[0].method, notes=notes,
        )  # fmt: skip
    if len(states) == 1 and states <= {"above largest", "below smallest"}:
        return found[0].model_copy(update={"notes": notes})
    numbers = []
    for one in found:
        if one.value and one.low and one.high:
            numbers.append((one.value, one.low, one.high))
            continue
        side, edge = "below the smallest", float(rule.smallest)
        if one.status == "above largest":
            side, edge = "above the largest", float(rule.largest)
        numbers.append((edge, edge, edge))
        notes.append(f"The EMM of some seeds is {side} size, {edge:,.0f}; it entered as that size.")
    count, logarithms = len(found), np.log(numbers)
    deviation = float(logarithms[:, 0].std(ddof=1))
    spread = float(stdtrit(count - 1, (1 + confidence) / 2)) * deviation / math.sqrt(count)
    value, low, high = np.exp(logarithms.mean(axis=0) + np.array([0, -spread, spread])).tolist()
    notes.append(
        f"{count} seeds: the interval covers sampling and the variation between runs, whose standard deviation is"
        f" {math.expm1(deviation):.0%} of EMM."
    )
    if high / low > rule.ratio**1.05:
        notes.append("Runs vary more than the tolerance allows; more seeds would narrow the interval.")
    return EmmRecord(
        status="estimated", value=min(max(value, low), high), low=low, high=high,
        bracket=(math.floor(low), math.ceil(high)), epsilon=rule.epsilon,
        method=f"mean of ln EMM over {count} seeds, Student's t, widened by the brackets of the seeds",
        notes=list(dict.fromkeys(notes)),
    )  # fmt: skip
