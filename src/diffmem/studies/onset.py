"""How long a model may be trained on N images before it copies: when R_mem reaches 1%, 10% and 90%, against N.

R_mem grows with training, so the time of a run lies between the last evaluation that is certainly below the line and the first
one that is certainly at or above it. Over sizes the times follow a power law in N whose exponent is near 1 in the experiments of
Bonnaire et al. (2025, arXiv 2505.17638), while the time to good images hardly depends on N; what lies between the two is the
window in which a model is good and does not copy yet.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray
from scipy.special import logit

from diffmem.errors import UserError
from diffmem.memorization.rates import check_confidence
from diffmem.runs.records import RunRecord
from diffmem.studies.emm import crossing, non_increasing
from diffmem.studies.growth import Posterior, power_law
from diffmem.studies.onset_records import (
    Curve,
    Growth,
    Interval,
    LineTimes,
    OnsetRecord,
    RunTime,
    SizeTime,
    TimeAt,
    Times,
)
from diffmem.studies.search.confidence import log_evidence_above, log_evidence_below
from diffmem.text import count_text

__all__ = ["LINES", "Curve", "curve_of", "onset", "onset_of_runs", "predicted", "run_time"]

LINES = (0.01, 0.1, 0.9)
"""The shares of copies whose times are reported."""

BEYOND = 10
"""How many times the largest size trained a prediction may reach, and how far below the smallest."""

_FEWEST_RUNS = 3
_BAND = 13
_METHOD = (
    "interval-censored regression of ln t on ln N with a normal scatter of runs; flat priors in the exponent, the scale and ln"
    " scatter (0.1 to 20)"
)


def onset(
    curves: Sequence[Curve],
    lines: Sequence[float] = LINES,
    *,
    adaptive: bool = False,
    frechet_of: str | None = None,
    confidence: float = 0.95,
) -> OnsetRecord:
    """Return when training reaches each line, for every run and size, and how that grows with N.

    Args:
        curves: One for each run; those without an evaluation after training began are left out.
        lines: Shares of copies, each in (0, 1).
        adaptive: Whether the number of images at a point depends on what was seen there, as in a search: then tests are used that
            hold however often one looks (see `confidence`).
        frechet_of: What the Frechet distances are of.
        confidence: Of all intervals, in (0, 1).

    Raises:
        UserError: A line or the confidence is not between 0 and 1.
    """
    check_confidence(confidence)
    evaluated = [curve for curve in curves if any(seen > 0 and total for seen, _, _, total in curve.points)]
    ordered = sorted(evaluated, key=lambda curve: (curve.size, curve.seed))
    worst = max((curve for curve in ordered if curve.null), key=lambda curve: curve.null or 0.0, default=None)
    chance = 0.0 if worst is None else worst.null or 0.0
    found = []
    for line in lines:
        runs = [run_time(curve, line, adaptive=adaptive, confidence=confidence) for curve in ordered]
        found.append(LineTimes(line=line, near_chance=line <= 2 * chance, **dict(_times(runs, confidence))))
    near = " and ".join(f"{100 * line.line:.4g}%" for line in found if line.near_chance)
    notes = []
    if near and worst is not None:
        notes.append(
            f"With {worst.size:,} training images the rule also flags {100 * chance:.2g}% of held-out images, which are not copies:"
            f" {near} does not show when copying begins."
        )
    best = [time for time in map(_best, ordered) if time is not None]
    return OnsetRecord(
        lines=found,
        best_frechet=_times(best, confidence) if best else None,
        frechet_of=frechet_of if best else None,
        confidence=confidence,
        notes=notes,
    )


def run_time(curve: Curve, line: float, *, adaptive: bool = False, confidence: float = 0.95) -> RunTime:
    """Return when one run reaches a line.

    The times that its counts allow are all gaps between evaluations that no evaluation speaks against: one after the gap that is
    certainly below the line, or one before it that is certainly at or above. At the true gap either happens with probability
    1 - confidence at most: each side may err by half of that, of which the nearest evaluation has half, the next a quarter, and so
    on, so that the number of evaluations does not matter. The value is where the rates, made non-decreasing, reach the line, linear
    in their logits against the logarithm of images seen.

    Args:
        curve: R_mem over training; evaluations before the first image are ignored.
        line: The share of copies.
        adaptive: See `onset`.
        confidence: Of the interval.

    Raises:
        UserError: The line is not between 0 and 1.
    """
    if not 0 < line < 1:
        raise UserError(f"The line {line} is not a share of copies between 0 and 1; 0.01 stands for 1%.")
    points = [(seen, hits, total) for seen, _, hits, total in curve.points if seen > 0 and total > 0]
    below, above = _evidence([(hits, total) for _, hits, total in points], line, adaptive)
    first, last, note = _gaps(below, above, math.log(2 / (1 - confidence)))
    low = float(points[first - 1][0]) if first else None
    high = float(points[last][0]) if last < len(points) else None
    return RunTime(
        size=curve.size, seed=curve.seed, per_epoch=curve.per_epoch, value=_interpolated(points, line, low, high), low=low,
        high=high, note=note,
    )  # fmt: skip


def _evidence(
    counts: Sequence[tuple[int, int]], line: float, adaptive: bool
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return -ln of the chance, at a rate of `line`, of so few memorized images, and of so many."""
    from scipy.special import bdtr, bdtrc

    if adaptive:
        return (
            np.array([log_evidence_below(hits, total, line) for hits, total in counts]),
            np.array([log_evidence_above(hits, total, line) for hits, total in counts]),
        )
    hits, totals = np.array(counts, dtype=np.int64).reshape(-1, 2).T
    few, many = bdtr(hits, totals, line), np.where(hits > 0, bdtrc(hits - 1, totals, line), 1.0)
    return -np.log(np.maximum(few, 1e-300)), -np.log(np.maximum(many, 1e-300))


def _gaps(below: NDArray[np.float64], above: NDArray[np.float64], bar: float) -> tuple[int, int, str]:
    """Return the first and the last gap that the evaluations allow, gap i before evaluation i, and a caveat.

    Args:
        below: Evidence of each evaluation that it is below the line.
        above: Evidence that it is at or above.
        bar: The evidence that one side needs if one evaluation had all of its error.
    """
    count = len(below)
    gaps, evaluations = np.arange(count + 1)[:, None], np.arange(count)[None, :]
    after = evaluations - gaps  # 0 for the evaluation next after the gap, -1 for the one before it
    needed = bar + math.log(2) * np.where(after >= 0, after + 1, -after)
    against = np.where(after >= 0, below >= needed, above >= needed).any(axis=1)
    allowed = np.flatnonzero(~against)
    if len(allowed):
        return int(allowed[0]), int(allowed[-1]), ""
    # R_mem certainly falls again: the first time that it was certainly at the line.
    reached = int(np.flatnonzero(above >= bar + math.log(2))[0])
    earlier = np.flatnonzero(below[:reached] >= bar + math.log(2))
    return (int(earlier[-1]) + 1 if len(earlier) else 0), reached, "R_mem falls below the line again later"


def _interpolated(
    points: Sequence[tuple[int, int, int]], line: float, low: float | None, high: float | None
) -> float | None:
    """Return where the rates, made non-decreasing, reach the line, within the interval; none if they do not."""
    if not points:
        return None
    logits = [float(logit((hits + 0.5) / (total + 1))) for _, hits, total in points]
    fit = non_increasing([-one for one in logits], np.array([float(total) for _, _, total in points]))
    value = crossing([seen for seen, _, _ in points], fit, -float(logit(line)))
    if not 0 < value < math.inf:
        return None
    return min(max(value, low or 0.0), high or math.inf)


def _best(curve: Curve) -> RunTime | None:
    """Return when the Frechet distance is least: between the evaluations on both sides of the best one."""
    found = [(float(seen), distance) for seen, distance in curve.frechet if seen > 0]
    if not found:
        return None
    best = min(range(len(found)), key=lambda index: found[index][1])
    return RunTime(
        size=curve.size, seed=curve.seed, per_epoch=curve.per_epoch, value=found[best][0],
        low=found[best - 1][0] if best else None,
        high=found[best + 1][0] if best + 1 < len(found) else None,
    )  # fmt: skip


def _times(runs: Sequence[RunTime], confidence: float) -> Times:
    """Return the times of runs, of sizes, and their law."""
    growth, unknown = None, _why_unknown(runs)
    if not unknown:
        growth = _growth(runs, confidence)
    return Times(runs=list(runs), sizes=_by_size(runs, confidence), growth=growth, unknown=unknown)


def _closed(run: RunTime) -> bool:
    return None not in (run.value, run.low, run.high)


def _by_size(runs: Sequence[RunTime], confidence: float) -> list[SizeTime]:
    """Return the times of the sizes.

    With several runs: the mean of ln t, Student's t with the scatter that the runs of all sizes have around their means (one seed
    alone cannot tell its scatter), widened at each end by the mean distance to the ends of the runs' intervals.
    """
    from scipy.special import stdtrit

    groups: dict[int, list[RunTime]] = defaultdict(list)
    for run in runs:
        groups[run.size].append(run)
    logarithms = {
        size: np.log([[run.value or 1, run.low or 1, run.high or 1] for run in same])
        for size, same in groups.items()
        if all(map(_closed, same))
    }
    freedom = sum(len(values) - 1 for values in logarithms.values())
    squares = sum(float(((values[:, 0] - values[:, 0].mean()) ** 2).sum()) for values in logarithms.values())
    found = []
    for size, same in groups.items():
        value, low, high = _united(same)
        if size in logarithms:
            spread = 0.0
            if freedom:
                spread = float(stdtrit(freedom, (1 + confidence) / 2)) * math.sqrt(
                    squares / freedom / len(same)
                )
            ends = logarithms[size].mean(axis=0) + np.array([0, -spread, spread])
            value, low, high = (float(one) for one in np.exp(ends))
        found.append(
            SizeTime(size=size, runs=len(same), per_epoch=same[0].per_epoch, value=value, low=low, high=high)
        )
    return sorted(found, key=lambda one: one.size)


def _united(runs: Sequence[RunTime]) -> tuple[float | None, float | None, float | None]:
    """Return what runs of one size allow together, where some are open at one side."""
    lows, highs = [run.low for run in runs], [run.high for run in runs]
    low = None if None in lows else min(one for one in lows if one is not None)
    high = None if None in highs else max(one for one in highs if one is not None)
    return (runs[0].value if len(runs) == 1 else None), low, high


def _why_unknown(runs: Sequence[RunTime]) -> str:
    """Return why there is no law; '' if there is one."""
    known = [run for run in runs if _closed(run)]
    sizes = {run.size for run in known}
    if len(sizes) >= 2 and len(known) >= _FEWEST_RUNS:
        return ""
    if not runs:
        return "cannot tell: no run has been evaluated"
    if all(run.low is None for run in runs):
        return (
            "cannot tell: every run may be there before its first evaluation; evaluate earlier, sample more images at each evaluation,"
            " or train on more images"
        )
    if all(run.high is None for run in runs):
        return "cannot tell: no run is certainly there; train longer or on fewer images"
    return (
        f"cannot tell how it grows: a time between two evaluations is known of {count_text(len(known), 'run')} of"
        f" {count_text(len(sizes), 'size')}, and {_FEWEST_RUNS} runs of 2 sizes are needed"
    )


def _posterior(runs: Sequence[RunTime]) -> Posterior:
    told = [run for run in runs if run.low is not None or run.high is not None]
    return power_law(
        [math.log(run.size) for run in told],
        [-math.inf if run.low is None else math.log(run.low) for run in told],
        [math.inf if run.high is None else math.log(run.high) for run in told],
    )


def _shares(confidence: float) -> tuple[float, float, float]:
    return 0.5, (1 - confidence) / 2, (1 + confidence) / 2


def _interval(values: Sequence[float]) -> Interval:
    value, low, high = values
    return Interval(value=value, low=low, high=high)


def _growth(runs: Sequence[RunTime], confidence: float) -> Growth:
    posterior, shares = _posterior(runs), _shares(confidence)
    sizes = [run.size for run in runs]
    band = np.geomspace(min(sizes) / 1.3, 3 * max(sizes), _BAND)
    medians = posterior.medians(posterior.centre, shares)
    return Growth(
        exponent=_interval(posterior.exponents(shares)),
        reference=math.exp(posterior.centre),
        scale=_interval([math.exp(one) for one in medians]),
        scatter=_interval(posterior.scatters(shares)),
        runs=len(runs),
        open_runs=sum(not _closed(run) for run in runs),
        sizes=(min(sizes), max(sizes)),
        band=[_time_at(posterior, float(size), shares) for size in band],
        method=_METHOD,
    )


def _time_at(posterior: Posterior, size: float, shares: Sequence[float]) -> TimeAt:
    value, low, high = np.exp(posterior.predictions(math.log(size), shares)).tolist()
    return TimeAt(size=size, value=value, low=low, high=high)


def predicted(times: Times, sizes: Sequence[float], confidence: float = 0.95) -> Mapping[float, TimeAt]:
    """Return when one more run on so many images would get there, with its prediction interval.

    Args:
        times: Of the runs that are known.
        sizes: Numbers of training images, trained or not.
        confidence: Of the intervals, in (0, 1).

    Raises:
        UserError: There is no law, or a size is more than ten times the largest one trained, or less than a tenth of the
            smallest: cannot tell.
    """
    check_confidence(confidence)
    if times.growth is None:
        raise UserError(f"Without a power law there is no prediction: {times.unknown}.")
    smallest, largest = times.growth.sizes
    for size in sizes:
        if not smallest / BEYOND <= size <= largest * BEYOND:
            raise UserError(
                f"Cannot tell for {size:,.0f} images: the trained sizes go from {smallest:,} to {largest:,}, and a prediction more than"
                f" {BEYOND} times beyond them would be a guess. Train a size nearer to it."
            )
    posterior = _posterior(times.runs)
    return {size: _time_at(posterior, float(size), _shares(confidence)) for size in sizes}


def curve_of(run: RunRecord) -> Curve:
    """Return what a run of a study says."""
    points = [
        (one.images_seen, one.epoch, one.memorized.count, one.memorized.total) for one in run.evaluations
    ]
    frechet = [(one.images_seen, one.frechet) for one in run.evaluations if one.frechet is not None]
    return Curve(run.size, run.seed, points, frechet, None if run.null is None else run.null.value)


def onset_of_runs(
    runs: Sequence[RunRecord],
    lines: Sequence[float] = LINES,
    *,
    adaptive: bool = False,
    confidence: float = 0.95,
) -> OnsetRecord:
    """Return when the runs of a study reach each line; arguments and errors are those of `onset`.

    Args:
        adaptive: Whether they are those of a search.
        confidence: Of the intervals.
    """
    found = [one.frechet_of for run in runs for one in run.evaluations if one.frechet_of is not None]
    curves = [curve_of(run) for run in runs]
    return onset(
        curves, lines, adaptive=adaptive, frechet_of=found[0] if found else None, confidence=confidence
    )
