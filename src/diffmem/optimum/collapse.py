"""The noise level at which the optimum collapses onto one training image: predicted from moments, and read off a curve.

For n points of a Gaussian of variances v_1..v_d, seen through noise of level sigma, the own image of a noisy point holds half of
the posterior weight where the entropy of the points balances the information left in the noisy point,

    log n = (1/2) sum_i log(1 + v_i / sigma^2).                                                             (1)

The right side is the mutual information of a point and its noisy version, so this is the capacity of a Gaussian channel. With
d equal variances s^2 it has the solution sigma_c = s / sqrt(n^(2/d) - 1), the condensation of Biroli, Bonnaire, de Bortoli
and Mezard (2024, arXiv 2402.18491).
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from diffmem.errors import UserError

__all__ = [
    "bootstrap_crossing",
    "collapse_isotropic",
    "collapse_of_spectrum",
    "crossing",
    "isotropic_moments",
]


def isotropic_moments(variances: NDArray[np.float64]) -> tuple[float, float]:
    """Return the dimension and the standard deviation of the round Gaussian with the same tr C and tr C^2.

    The dimension is the participation ratio d = (tr C)^2 / tr C^2, and s^2 = tr C / d.

    Args:
        variances: Eigenvalues of the covariance, (r,), at least one and all positive.
    """
    total, squares = float(variances.sum()), float(np.square(variances).sum())
    dimension = total**2 / squares
    return dimension, math.sqrt(total / dimension)


def collapse_isotropic(count: int, dimension: float, scale: float) -> float:
    """Return sigma_c = s / sqrt(n^(2/d) - 1).

    Args:
        count: Number of points n, at least 2.
        dimension: d, positive.
        scale: s, in the unit of the result.
    """
    if count < 2 or not dimension > 0 or not scale > 0:
        raise UserError(
            f"A collapse needs 2 points or more, and a positive dimension and scale; not {count}, {dimension:g} and {scale:g}."
        )
    return scale / math.sqrt(math.expm1(2 * math.log(count) / dimension))


def collapse_of_spectrum(count: int, variances: NDArray[np.float64]) -> float:
    """Return the sigma that solves equation (1) for all variances, without a single dimension.

    Args:
        count: Number of points n, at least 2.
        variances: Eigenvalues of the covariance, (r,), at least one and all positive.
    """
    from scipy.optimize import brentq

    if count < 2 or not len(variances) or not bool((variances > 0).all()):
        raise UserError(
            f"A collapse needs 2 points or more and positive variances; there are {count} points and {len(variances)} variances."
        )

    def surplus(log_sigma: float) -> float:
        return float(0.5 * np.log1p(variances * math.exp(-2 * log_sigma)).sum()) - math.log(count)

    # Each variance alone, and all of them as one, bracket the root.
    low = 0.5 * math.log(float(variances.max()) / math.expm1(2 * math.log(count)))
    high = 0.5 * math.log(float(variances.sum()) / (2 * math.log(count))) + 1e-9
    return math.exp(float(brentq(surplus, low - 1e-9, high, xtol=1e-12)))


def crossing(sigmas: Sequence[float], values: Sequence[float], level: float = 0.5) -> float | None:
    """Return where a falling curve last crosses a level, linear between the points in log sigma.

    Args:
        sigmas: Noise levels, ascending.
        values: The curve at each.
        level: What is crossed.

    Returns:
        The sigma, or none if the curve is not at the level or above it and then below it.
    """
    above = np.flatnonzero(np.asarray(values) >= level)
    if not len(above) or above[-1] == len(values) - 1:
        return None
    at = int(above[-1])
    share = (values[at] - level) / (values[at] - values[at + 1])
    return math.exp(math.log(sigmas[at]) + share * (math.log(sigmas[at + 1]) - math.log(sigmas[at])))


def bootstrap_crossing(
    sigmas: Sequence[float],
    samples: NDArray[np.float64],
    level: float = 0.5,
    draws: int = 1000,
    seed: int = 0,
) -> tuple[float | None, float | None]:
    """Return the 95% interval of where the mean of some curves crosses a level, by resampling the curves.

    Args:
        sigmas: Noise levels, ascending.
        samples: A curve in each column, (sigmas, samples).
        level: What is crossed.
        draws: Number of resamples.
        seed: Seed of the resampling.

    Returns:
        The 2.5% and 97.5% quantiles; an end is none where resampled curves do not cross there.
    """
    count = samples.shape[1]
    weights = np.random.default_rng(seed).multinomial(count, np.full(count, 1 / count), size=draws)
    curves = samples @ weights.T / count
    # A curve that stays above the level crosses beyond the last sigma, one below it before the first.
    beyond = {True: math.inf, False: 0.0}
    found = []
    for curve in curves.T:
        at = crossing(sigmas, curve.tolist(), level)
        found.append(beyond[bool(curve[-1] >= level)] if at is None else at)
    ends = np.sort(found)[[int(0.025 * (draws - 1)), math.ceil(0.975 * (draws - 1))]]
    return tuple(float(end) if 0 < end < math.inf else None for end in ends)  # type: ignore[return-value]
