"""Does a result show what the paper found? Each claim becomes a difference of R_mem with an interval, and a verdict.

R_mem is the peak over a run's evaluation points, in percentage points. A claim compares runs that differ in one thing alone:
pairs (or chains) with the same training-set size and seed are blocks, and the mean difference over blocks has a t interval of
95%, cut at what a difference of rates can be; changes that agree better than their samples allow do so by chance, and count as spread as
those allow. Fewer than three blocks show nothing: how far two trainings differ by their seeds alone
is then unknown, or known from one difference.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from diffmem.memorization.rates import Rate
from diffmem.paper.experiment import ClaimRule
from diffmem.paper.records import ClaimRecord, ExperimentLevel, Verdict
from diffmem.runs.records import RunRecord
from diffmem.text import count_text

__all__ = ["judge"]

_Runs = Mapping[tuple[int, int], RunRecord]
"""The runs of a level by their block: size and seed."""

_FEWEST = 3  # blocks: of two the t interval is 6 times as wide as of three
_FLOOR = 5.0  # points; closer to 0 or 100% two procedures look the same whatever they are


def judge(rule: ClaimRule, levels: Sequence[ExperimentLevel]) -> ClaimRecord | None:
    """Return whether the levels of an experiment show a claim.

    Returns:
        'shown' or 'opposite' if the interval of the difference excludes zero (for 'same': if it lies within or beyond the
        margin; for 'at_least': if the interval of the rate does), else 'cannot tell', as always for fewer than three pairs. None if the
        levels, sizes or epochs that the claim compares were not run.
    """
    by_name = {level.paper_name: {(run.size, run.seed): run for run in level.runs} for level in levels}
    here = {level.paper_name: level.name for level in levels}
    if rule.at_least is not None:
        return _at_least(
            rule,
            {here[name]: (by_name[name], percent) for name, percent in rule.at_least.items() if name in here},
        )
    names = [name for name in rule.rising or rule.same or by_name if name in by_name]
    rows = _rows(rule, [by_name[name] for name in names])
    if not rows:
        return None
    changes = np.array([_trend(row) for row in rows])
    verdict: Verdict = "cannot tell"
    if rule.same is not None:
        peaks = [100 * rate.value for row in rows for rate in row]
        if max(peaks) < _FLOOR or min(peaks) > 100 - _FLOOR:
            end = "0" if max(peaks) < 50 else "100"
            numbers = f"all rates lie within {_FLOOR:g} points of {end}%: no room to differ"
            return ClaimRecord(claim=rule.text, verdict=verdict, numbers=numbers)
        where = f"from {here[names[0]]} to {here[names[1]]}; 'same' means within {rule.margin:g} points"
    else:
        where = {
            None: f"from {here[names[0]]} to {here[names[-1]]}",
            "sizes": "from the smallest to the largest size",
            "epochs": "from the first to the last evaluation point",
        }[rule.along]
    mean = float(changes.mean())
    if len(rows) < _FEWEST:
        pairs = count_text(len(rows), "pair", "pairs")
        numbers = f"{mean:+.1f} points {where}: {pairs} of size and seed {'is' if len(rows) == 1 else 'are'} not enough to tell"
        return ClaimRecord(claim=rule.text, verdict=verdict, numbers=numbers)
    low, high = _interval(changes, math.sqrt(np.mean([_variance(row) for row in rows])))
    if rule.same is not None:
        if -rule.margin < low and high < rule.margin:
            verdict = "shown"
        elif low > rule.margin or high < -rule.margin:
            verdict = "opposite"
    elif low > 0 or high < 0:
        verdict = "shown" if rule.either_way or (mean < 0) == (rule.along == "sizes") else "opposite"
    numbers = f"{mean:+.1f} points [{low:+.1f}, {high:+.1f}] {where} (t interval over {len(rows)} pairs of size and seed)"
    return ClaimRecord(claim=rule.text, verdict=verdict, numbers=numbers)


def _rows(rule: ClaimRule, levels: Sequence[_Runs]) -> list[list[Rate]]:
    """Return the rates that are compared, a row of two or more for each block."""
    if rule.along == "epochs":
        runs = [run for level in levels for run in level.values() if len(run.evaluations) > 1]
        return [[run.evaluations[0].memorized, run.evaluations[-1].memorized] for run in runs]
    if rule.along == "sizes":
        seeds = [(level, seed) for level in levels for seed in sorted({seed for _, seed in level})]
        rows = [
            [level[block].peak.memorized for block in sorted(level) if block[1] == seed]
            for level, seed in seeds
        ]
    else:
        shared = sorted(set.intersection(*map(set, levels))) if levels else []
        rows = [[level[block].peak.memorized for level in levels] for block in shared]
    return [row for row in rows if len(row) > 1]


def _weights(count: int) -> NDArray[np.float64]:
    """Return what each of so many rates counts in the change along their chain, by its least-squares line, in points."""
    centred = np.arange(count) - (count - 1) / 2
    return np.asarray(100 * (count - 1) * centred / (centred @ centred))


def _trend(rates: Sequence[Rate]) -> float:
    """Return the change along a chain in points: for two rates their difference."""
    change = float(_weights(len(rates)) @ [rate.value for rate in rates])
    return min(100.0, max(-100.0, change))


def _variance(rates: Sequence[Rate]) -> float:
    """Return the variance of the change that sampling alone makes, in points squared, with rates of (count + 1) / (total + 2)."""
    shares = np.array([(rate.count + 1) / (rate.total + 2) for rate in rates])
    totals = np.array([rate.total for rate in rates])
    return float(_weights(len(rates)) ** 2 @ (shares * (1 - shares) / totals))


def _interval(changes: NDArray[np.float64], least: float) -> tuple[float, float]:
    """Return the t interval of the mean of three changes or more, in points, of which none exceeds 100.

    Args:
        least: Their standard deviation, where they agree better than that.
    """
    from scipy.stats import t

    spread = max(float(changes.std(ddof=1)), least)
    half = float(t.ppf(0.975, len(changes) - 1)) * spread / math.sqrt(len(changes))
    mean = float(changes.mean())
    return max(-100.0, mean - half), min(100.0, mean + half)


def _at_least(rule: ClaimRule, levels: Mapping[str, tuple[_Runs, float]]) -> ClaimRecord | None:
    verdicts: list[Verdict] = []
    numbers = []
    for name, (runs, percent) in levels.items():
        for run in runs.values():
            rate = run.peak.memorized
            value, low, high = 100 * rate.value, 100 * rate.low, 100 * rate.high
            verdicts.append("shown" if value >= percent else "opposite" if high < percent else "cannot tell")
            numbers.append(
                f"{name}, {run.size} images, seed {run.seed}: {value:.1f}% [{low:.1f}, {high:.1f}] of {rate.total}"
            )
    if not verdicts:
        return None
    worst = min(verdicts, key=("opposite", "cannot tell", "shown").index)
    return ClaimRecord(claim=rule.text, verdict=worst, numbers="; ".join(numbers))
