"""A power law through times that are known between two evaluations alone: interval-censored regression with a scatter of runs.

ln t = a + b ln N + sigma e with e standard normal, for every run. Of a run only low < t <= high is known (high infinite where the
time was not reached), so its likelihood is the probability of that interval. The posterior for priors that are flat in a, b and
ln sigma, with sigma between 0.1 and 20, is integrated on a grid. For times that are known exactly its intervals are those of
Student's t (Box and Tiao 1973, section 2.7), which cover as often as they say however few the runs are.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

__all__ = ["Posterior", "power_law"]

Array = NDArray[np.float64]

_SCATTERS = np.geomspace(0.1, 20.0, 32)
_NEGLIGIBLE = 1e-7  # share of the posterior that a point of the grid must hold to count


@dataclass(frozen=True, eq=False)
class Posterior:
    """Weighted values of the law's parameters; the weights add up to 1.

    Attributes:
        centre: ln N at which `at` is the logarithm of the median time.
        at: ln t there, (K,).
        exponent: b, (K,).
        scatter: sigma, (K,).
        weight: (K,).
        steps: Distances of neighbouring points of the grid in `at` and in `exponent`, (2, K).
    """

    centre: float
    at: Array
    exponent: Array
    scatter: Array
    weight: Array
    steps: Array

    def exponents(self, shares: Sequence[float]) -> list[float]:
        """Return the quantiles of the exponent."""
        return [self._quantile(self.exponent, 0.5 * self.steps[1], share) for share in shares]

    def scatters(self, shares: Sequence[float]) -> list[float]:
        """Return the quantiles of the scatter."""
        order = np.argsort(self.scatter, kind="stable")
        values, below = self.scatter[order], np.cumsum(self.weight[order])
        return [float(values[min(int(np.searchsorted(below, share)), len(values) - 1)]) for share in shares]

    def medians(self, log_size: float, shares: Sequence[float]) -> list[float]:
        """Return the quantiles of the logarithm of the median time at a size."""
        away = log_size - self.centre
        step = 0.5 * np.hypot(self.steps[0], away * self.steps[1])
        return [self._quantile(self.at + self.exponent * away, step, share) for share in shares]

    def predictions(self, log_size: float, shares: Sequence[float]) -> list[float]:
        """Return the quantiles of the logarithm of the time of one more run at a size."""
        centres = self.at + self.exponent * (log_size - self.centre)
        return [self._quantile(centres, self.scatter, share) for share in shares]

    def _quantile(self, centres: Array, widths: Array, share: float) -> float:
        """Return a quantile of the mixture of normal distributions around these centres."""
        from scipy.optimize import brentq
        from scipy.special import ndtr

        def excess(value: float) -> float:
            return float(self.weight @ ndtr((value - centres) / widths)) - share

        ends = float((centres - 9 * widths).min()), float((centres + 9 * widths).max())
        return float(brentq(excess, *ends, xtol=1e-5))


def power_law(log_sizes: Sequence[float], lows: Sequence[float], highs: Sequence[float]) -> Posterior:
    """Return what runs say of the law.

    Args:
        log_sizes: ln N of each run; at least two different ones among the runs with two finite ends.
        lows: The logarithm of the time that each run certainly passed before; -inf if unknown.
        highs: The logarithm of the time by which it certainly was there; inf if unknown.
    """
    sizes, low, high = np.asarray(log_sizes), np.asarray(lows), np.asarray(highs)
    known = np.isfinite(low) & np.isfinite(high)
    centre = float(sizes[known].mean())
    away = sizes - centre
    middles, half = (low[known] + high[known]) / 2, (high - low)[known] / 2
    slope = float(away[known] @ middles / (away[known] @ away[known]))
    width = np.sqrt(_SCATTERS**2 + float((half**2).mean()) / 3)
    count, spread = int(known.sum()), float(away[known] @ away[known])
    ones = np.ones_like(_SCATTERS)
    means = np.stack([middles.mean() * ones, slope * ones])
    deviations = np.stack([width / np.sqrt(count), width / np.sqrt(spread)])

    def likelihood(at: Array, exponent: Array) -> Array:
        total = np.zeros_like(at)
        for x, one_low, one_high in zip(away, low, high, strict=True):
            total += _log_probability(at + exponent * x, one_low, one_high)
        return total

    # Where the posterior lies is found on a coarse grid, for each scatter; then it is integrated there.
    for reach, places in ((7.0, 13), (4.5, 13), (4.5, 25)):
        grid = _weighted(means, deviations, reach, places, likelihood)
        means, deviations = grid.pop("means"), grid.pop("deviations")
    kept = grid["weight"] > _NEGLIGIBLE
    found = {name: value[..., kept] for name, value in grid.items()}
    found["weight"] = found["weight"] / found["weight"].sum()
    return Posterior(centre, **found)


def _weighted(
    means: Array, deviations: Array, reach: float, places: int, likelihood: Callable[[Array, Array], Array]
) -> dict[str, Any]:
    """Return the posterior on a grid, and its means and standard deviations for each scatter."""
    z = np.linspace(-reach, reach, places)
    shape = (len(_SCATTERS), places, places)
    at = np.broadcast_to((means[0, :, None] + z * deviations[0, :, None])[:, :, None], shape)
    exponent = np.broadcast_to((means[1, :, None] + z * deviations[1, :, None])[:, None, :], shape)
    logarithm = likelihood(at, exponent)
    logarithm = logarithm + np.log(deviations[0] * deviations[1])[:, None, None]
    inside = np.exp(logarithm - logarithm.max(axis=(1, 2), keepdims=True))
    inside /= inside.sum(axis=(1, 2), keepdims=True)
    weight = np.exp(logarithm - logarithm.max())
    new_means = np.stack([(inside * values).sum(axis=(1, 2)) for values in (at, exponent)])
    squares = np.stack(
        [
            (inside * (values - mean[:, None, None]) ** 2).sum(axis=(1, 2))
            for values, mean in zip((at, exponent), new_means, strict=True)
        ]
    )
    step = z[1] - z[0]
    return {
        "at": at.ravel(),
        "exponent": exponent.ravel(),
        "scatter": np.broadcast_to(_SCATTERS[:, None, None], shape).ravel(),
        "weight": (weight / weight.sum()).ravel(),
        "steps": np.stack(
            [np.broadcast_to((step * one)[:, None, None], shape).ravel() for one in deviations]
        ),
        "means": new_means,
        # Where all lies at one point, the grid was too coarse: it shrinks by no more than a step.
        "deviations": np.maximum(np.sqrt(squares), deviations * step / 2),
    }


def _log_probability(centres: Array, low: float, high: float) -> Array:
    """Return the logarithm of the probability of an interval, for each centre and scatter of the grid."""
    from scipy.special import ndtr

    scatter = _SCATTERS[:, None, None]
    below, above = (low - centres) / scatter, (high - centres) / scatter
    flip = below > 0  # far in the upper tail the lower one is exact
    chance = ndtr(np.where(flip, -below, above)) - ndtr(np.where(flip, -above, below))
    return np.asarray(np.log(np.maximum(chance, 1e-300)))
