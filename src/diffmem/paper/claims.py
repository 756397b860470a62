"""Does a result show what the paper found? Each claim becomes a difference of R_mem with an interval, and a verdict.

R_mem is the peak over a run's evaluation points, in percentage points. A claim compares runs that differ in one thing alone:
pairs (or chains) with the same training-set size and seed are blocks, and the mean difference over blocks has a t interval of
95%. With one block only, the interval is that of two binomial counts (Newcombe's), which leaves the variation between runs out.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import numpy as np

from diffmem.memorization.rates import Rate
from diffmem.paper.experiment import ClaimRule
from diffmem.paper.records import ClaimRecord, LevelRecord
from diffmem.runs.records import RunRecord

__all__ = ["judge"]

_Block = tuple[int, int]
_FLOOR = 5.0  # points; closer to 0 or 100% two procedures look the same whatever they are


def judge(rule: ClaimRule, levels: Sequence[LevelRecord]) -> ClaimRecord | None:
    """Return whether the levels of an experiment show a claim.

    Args:
        rule: The claim.
        levels: The levels that were run.

    Returns:
        'shown' or 'opposite' if the interval of the difference excludes zero (for 'same': if it lies within or beyond the
        margin; for 'at_least': if the interval of the rate does), else 'cannot tell'. None if the levels, sizes or epochs that the
        claim compares were not run.
    """
    by_name = {level.paper_name: _blocks(level) for level in levels}
    if rule.at_least is not None:
        return _at_least(rule, by_name)
    if rule.rising is not None:
        chain = [name for name in rule.rising if name in by_name]
        if len(chain) < 2:
            return None
        return _changes(rule, _along(chain, by_name), f"from {chain[0]} to {chain[-1]}", wanted=1)
    if rule.same is not None:
        if not set(rule.same) <= set(by_name):
            return None
        return _same(rule, _along(list(rule.same), by_name))
    if rule.along == "sizes":
        return _changes(rule, _over_sizes(by_name), "from the smallest to the largest size", wanted=-1)
    return _changes(rule, _over_epochs(by_name), "from the first to the last evaluation point", wanted=1)


def _blocks(level: LevelRecord) -> dict[_Block, RunRecord]:
    return {(run.size, run.seed): run for run in level.study.runs}


def _untold(rule: ClaimRule, why: str) -> ClaimRecord:
    return ClaimRecord(claim=rule.text, verdict="cannot tell", numbers=why)


_Change = tuple[float, Rate, Rate]
"""How much R_mem changes, in points, and the rates at both ends."""


def _trend(values: Sequence[float]) -> float:
    """Return the change along a chain by its least-squares line: for two values their difference."""
    places = np.arange(len(values), dtype=np.float64)
    return float(np.polyfit(places, np.array(values), 1)[0] * (len(values) - 1))


def _along(chain: Sequence[str], by_name: Mapping[str, Mapping[_Block, RunRecord]]) -> list[_Change]:
    shared = sorted(set.intersection(*(set(by_name[name]) for name in chain)))
    runs = [[by_name[name][block] for name in chain] for block in shared]
    return [_chained(row) for row in runs]


def _chained(row: Sequence[RunRecord]) -> _Change:
    peaks = [run.peak.memorized for run in row]
    return _trend([100 * rate.value for rate in peaks]), peaks[0], peaks[-1]


def _over_sizes(by_name: Mapping[str, Mapping[_Block, RunRecord]]) -> list[_Change]:
    changes = []
    for blocks in by_name.values():
        for seed in sorted({seed for _, seed in blocks}):
            row = [blocks[block] for block in sorted(blocks) if block[1] == seed]
            if len(row) > 1:
                changes.append(_chained(row))
    return changes


def _over_epochs(by_name: Mapping[str, Mapping[_Block, RunRecord]]) -> list[_Change]:
    changes = []
    for blocks in by_name.values():
        for run in blocks.values():
            if len(run.evaluations) > 1:
                first, last = run.evaluations[0].memorized, run.evaluations[-1].memorized
                changes.append((100 * (last.value - first.value), first, last))
    return changes


def _interval(changes: Sequence[_Change], alone: str = "pair") -> tuple[float, float, float, str]:
    """Return mean, low, high, and in words what the interval is made of; `alone`: what a single change is one of."""
    values = np.array([value for value, _, _ in changes])
    mean = float(values.mean())
    if len(values) > 1:
        from scipy.stats import t

        half = float(t.ppf(0.975, len(values) - 1) * values.std(ddof=1) / math.sqrt(len(values)))
        return mean, mean - half, mean + half, f"t interval over {len(values)} pairs of size and seed"
    _, first, last = changes[0]
    low, high = _newcombe(_wilson(first), _wilson(last))
    return mean, low, high, f"one {alone}: sampling error only"


def _newcombe(first: Rate, last: Rate) -> tuple[float, float]:
    """Return the interval of last - first in points, from the intervals of both (Newcombe 1998, method 10)."""
    difference = last.value - first.value
    low = difference - math.hypot(last.value - last.low, first.high - first.value)
    high = difference + math.hypot(last.high - last.value, first.value - first.low)
    return 100 * low, 100 * high


def _wilson(told: Rate) -> Rate:
    return Rate(told.count, told.total, method="wilson")


def _text(mean: float, low: float, high: float, where: str, basis: str) -> str:
    return f"{mean:+.1f} points [{low:+.1f}, {high:+.1f}] {where} ({basis})"


def _changes(rule: ClaimRule, changes: Sequence[_Change], where: str, wanted: int) -> ClaimRecord | None:
    if not changes:
        return None
    mean, low, high, basis = _interval(changes, "run" if rule.along == "epochs" else "pair")
    verdict = "cannot tell"
    if low > 0 or high < 0:
        verdict = "shown" if rule.either_way or (mean > 0) == (wanted > 0) else "opposite"
    return ClaimRecord.model_validate(
        {"claim": rule.text, "verdict": verdict, "numbers": _text(mean, low, high, where, basis)}
    )


def _same(rule: ClaimRule, changes: Sequence[_Change]) -> ClaimRecord | None:
    if not changes or rule.same is None:
        return None
    mean, low, high, basis = _interval(changes)
    peaks = [100 * rate.value for _, *pair in changes for rate in pair]
    if max(peaks) < _FLOOR or min(peaks) > 100 - _FLOOR:
        return _untold(
            rule,
            f"all rates lie within {_FLOOR:g} points of {'0' if max(peaks) < 50 else '100'}%: no room to differ",
        )
    verdict = "cannot tell"
    if -rule.margin < low and high < rule.margin:
        verdict = "shown"
    elif low > rule.margin or high < -rule.margin:
        verdict = "opposite"
    where = f"from {rule.same[0]} to {rule.same[1]}; 'same' means within {rule.margin:g} points"
    return ClaimRecord.model_validate(
        {"claim": rule.text, "verdict": verdict, "numbers": _text(mean, low, high, where, basis)}
    )


def _at_least(rule: ClaimRule, by_name: Mapping[str, Mapping[_Block, RunRecord]]) -> ClaimRecord | None:
    verdicts, words = [], []
    for name, percent in (rule.at_least or {}).items():
        for run in by_name.get(name, {}).values():
            told = run.peak.memorized
            verdicts.append(
                "shown"
                if 100 * told.value >= percent
                else "opposite"
                if 100 * told.high < percent
                else "cannot tell"
            )
            words.append(
                f"{name}, {run.size} images: {100 * told.value:.1f}% [{100 * told.low:.1f}, {100 * told.high:.1f}]"
                f" of {told.total}"
            )
    if not verdicts:
        return None
    worst = next((one for one in ("opposite", "cannot tell") if one in verdicts), "shown")
    return ClaimRecord.model_validate({"claim": rule.text, "verdict": worst, "numbers": "; ".join(words)})
