"""EMM from R_mem at several sizes: monotone interpolation with an interval.

EMM_epsilon(P, M, T) is the largest training-set size N with E[R_mem] >= 1 - epsilon (Gu et al. 2023, section
2.3). R_mem falls with N, so the measured rates are first made non-increasing (weighted isotonic regression),
then interpolated linearly in log N.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from diffmem.studies.records import EmmRecord

__all__ = ["ONE_RUN_PER_SIZE", "crossing", "estimate_emm", "non_increasing", "so_far"]

_REPLICATES = 4000
ONE_RUN_PER_SIZE = "One run per size: the interval covers sampling error, not the variation between runs."
"""What is said beside every interval of EMM from one run per size."""


def non_increasing(
    values: Sequence[float] | NDArray[np.float64], weights: NDArray[np.float64] | None = None
) -> NDArray[np.float64]:
    """Return the non-increasing values that are nearest to the given ones (weighted least squares)."""
    from scipy.optimize import isotonic_regression

    return np.asarray(isotonic_regression(values, weights=weights, increasing=False).x)


def crossing(sizes: Sequence[int], fit: NDArray[np.float64], level: float) -> float:
    """Return the size at which a non-increasing fit falls through `level`, linear in log N.

    Args:
        sizes: Ascending training-set sizes.
        fit: Its value at each, from `non_increasing`.

    Returns:
        The size; infinity if the fit is at or above the level at the largest size, 0 if it is below it at the
        smallest.
    """
    if fit[-1] >= level:
        return math.inf
    if fit[0] < level:
        return 0.0
    last = int(np.flatnonzero(fit >= level)[-1])
    share = (fit[last] - level) / (fit[last] - fit[last + 1])
    size = math.exp((1 - share) * math.log(sizes[last]) + share * math.log(sizes[last + 1]))
    return float(min(max(size, sizes[last]), sizes[last + 1]))  # rounding must not leave the bracket


def estimate_emm(
    counts: Mapping[int, Sequence[tuple[int, int]]],
    epsilon: float = 0.1,
    confidence: float = 0.95,
    seed: int = 0,
) -> EmmRecord:
    """Estimate EMM with an interval.

    The interval is a bootstrap over what was random: with one run per size, the samples; with several, the
    runs too (drawn with replacement). Each rate is drawn twice: low from Beta(count, total - count + 1), high
    from Beta(count + 1, total - count), whose quantiles are the exact limits of Clopper and Pearson (1934).
    The lower end of the interval comes from the low draws and the upper end from the high ones, so that it is
    no narrower than its confidence allows (one posterior for both covers 92% where 95% are asked).

    Args:
        counts: For each size, (memorized, total) of each of its runs.
        epsilon: The rate that R_mem falls through is 1 - epsilon.
        confidence: Coverage of the interval.
        seed: Seed of the bootstrap; the same counts give the same interval.

    Returns:
        The estimate, or on which side of the sizes it is. An end of the interval beyond the sizes is given as the extreme
        size, with a note. An EMM outside the sizes has the end of its interval at the other side where that is not
        certain: how far it may reach into the sizes.
    """
    sizes = sorted(counts)
    if not sizes:
        return EmmRecord(status="no runs", epsilon=epsilon)
    target_rate = 1 - epsilon
    method = (
        f"isotonic fit, linear in log N; {confidence:.0%} interval from {_REPLICATES} bootstrap replicates"
    )
    pooled = np.array([sum(c for c, _ in counts[s]) / sum(t for _, t in counts[s]) for s in sizes])
    weights = np.array([float(sum(t for _, t in counts[s])) for s in sizes])
    fit = non_increasing(pooled, weights)
    value = crossing(sizes, fit, target_rate)
    notes = []
    rises = [i for i in range(len(sizes) - 1) if pooled[i + 1] > pooled[i]]
    if any(_clearly_rises(counts[sizes[i]], counts[sizes[i + 1]]) for i in rises):
        notes.append(
            "R_mem is not monotone in the size beyond sampling error; the monotone fit averages over it."
        )
    rng = np.random.Generator(np.random.PCG64(seed))
    ends = np.empty((_REPLICATES, 2))
    for r in range(_REPLICATES):
        drawn = np.array([_redraw(counts[size], rng) for size in sizes])
        ends[r] = [crossing(sizes, non_increasing(rates, weights), target_rate) for rates in drawn.T]
    tail = (1 - confidence) / 2
    low = min(float(np.quantile(ends[:, 0], tail, method="nearest")), value)
    high = max(float(np.quantile(ends[:, 1], 1 - tail, method="nearest")), value)
    if low == 0 < value:
        notes.append(f"The interval reaches below the smallest size, {sizes[0]}.")
    if high == math.inf > value:
        notes.append(f"The interval reaches above the largest size, {sizes[-1]}.")
    if low < high and all(len(runs) == 1 for runs in counts.values()):
        notes.append(ONE_RUN_PER_SIZE)
    within = [float(min(max(end, sizes[0]), sizes[-1])) for end in (low, high)]
    if value in (0, math.inf):
        above = value > 0
        return EmmRecord(
            status="above largest" if above else "below smallest",
            low=within[0] if above and low < high else None,
            high=None if above or low == high else within[1],
            epsilon=epsilon,
            method=method,
            notes=notes,
        )
    last = int(np.flatnonzero(fit >= target_rate)[-1])
    return EmmRecord(
        status="estimated",
        value=value,
        low=within[0],
        high=within[1],
        bracket=(sizes[last], sizes[last + 1]),
        epsilon=epsilon,
        method=method,
        notes=notes,
    )


def _redraw(runs: Sequence[tuple[int, int]], rng: np.random.Generator) -> tuple[float, float]:
    """Return a low and a high draw of the rate of these runs."""
    chosen = rng.integers(len(runs), size=len(runs)) if len(runs) > 1 else [0]
    low = high = samples = 0.0
    for i in chosen:
        count, total = runs[i]
        # Gamma variates with a common rate make the pair Beta(count, total - count + 1) <= Beta(count + 1, total - count).
        hits, misses, either = rng.gamma(count), rng.gamma(total - count), rng.gamma(1)
        whole = hits + misses + either
        low += total * hits / whole
        high += total * (hits + either) / whole
        samples += total
    return low / samples, high / samples


def _clearly_rises(smaller: Sequence[tuple[int, int]], larger: Sequence[tuple[int, int]]) -> bool:
    """Whether R_mem is higher at the larger size by more than sampling error (Fisher, one-sided 1%)."""
    from scipy.stats import fisher_exact

    (a, n), (b, m) = ((sum(c for c, _ in runs), sum(t for _, t in runs)) for runs in (smaller, larger))
    return bool(fisher_exact([[b, m - b], [a, n - a]], alternative="greater").pvalue < 0.01)


def so_far(emm: EmmRecord, sizes: Sequence[int]) -> EmmRecord:
    """Return what the EMM of some runs says where others are still to come: 'unfinished', and what it lies between so far.

    Args:
        sizes: Those that were trained.
    """
    ends: dict[str, float | None] = {"low": emm.low, "high": emm.high}
    if emm.status == "above largest":
        ends = {"low": emm.low or float(max(sizes)), "high": None}
    elif emm.status == "below smallest":
        ends = {"low": None, "high": emm.high or float(min(sizes))}
    return emm.model_copy(update={"status": "unfinished", "value": None, **ends})
