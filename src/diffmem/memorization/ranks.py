"""Two groups of distances compared by their ranks: the Mann-Whitney test, and how often one group is the nearer."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from diffmem.errors import UserError

__all__ = ["RankComparison", "compare_ranks"]


@dataclass(frozen=True)
class RankComparison:
    """How the distances of m samples compare with those of n held-out images.

    Attributes:
        samples: m.
        heldout: n.
        nearer: Share of the m n pairs in which the sample is the nearer one, ties half, 0 to 1; 0.5 without any
            difference. It estimates the probability of that.
        nearer_low: Lower end of its interval.
        nearer_high: Upper end.
    """

    samples: int
    heldout: int
    nearer: float
    nearer_low: float
    nearer_high: float

    @property
    def spread(self) -> float:
        """Standard deviation of the Mann-Whitney U where the groups do not differ, without ties."""
        return math.sqrt(self.samples * self.heldout * (self.samples + self.heldout + 1) / 12)

    @property
    def z(self) -> float:
        """The standardized U, near N(0, 1) where the groups do not differ; below 0 if the samples are nearer."""
        return self.z_of(self.nearer)

    def z_of(self, nearer: float) -> float:
        """Return the z of another share: (U - (m n / 2 - 1/2)) / spread, U being m n (1 - nearer)."""
        pairs = self.samples * self.heldout
        return (pairs * (0.5 - nearer) + 0.5) / self.spread


def compare_ranks(
    samples: NDArray[np.float64], heldout: NDArray[np.float64], confidence: float = 0.95
) -> RankComparison:
    """Compare two groups of distances.

    The interval is the score interval of Newcombe (2006, "Confidence intervals for an effect size measure based on the
    Mann-Whitney statistic. Part 2", method 5): the probabilities p with |nearer - p| <= z sqrt(V(p)), where V(p) is the
    variance of Hanley and McNeil (1982) with both sizes replaced by their mean. V(1/2) is the variance of the
    Mann-Whitney test, so the interval leaves out 1/2 exactly where the two-sided test (without continuity correction)
    rejects; and it has a width also where all samples are nearer.

    Args:
        samples: Distances of the samples, float (m,), m at least 1.
        heldout: Distances of the held-out images, float (n,), n at least 1.
        confidence: Coverage of the interval, in (0, 1).

    Raises:
        UserError: A group is empty, or the confidence is not between 0 and 1.
    """
    from scipy.special import ndtri
    from scipy.stats import rankdata

    m, n = len(samples), len(heldout)
    if m < 1 or n < 1:
        raise UserError(f"{m} samples and {n} held-out images cannot be compared; give at least one of each.")
    if not 0 < confidence < 1:
        raise UserError(f"The confidence {confidence} is not between 0 and 1; the usual value is 0.95.")
    ranks = rankdata(np.concatenate([samples, heldout]))[:m]
    u = float(ranks.sum()) - m * (m + 1) / 2  # pairs in which the sample is the farther one, ties half
    nearer = 1 - u / (m * n)
    quantile = float(ndtri((1 + confidence) / 2))
    low = 1 - _upper(1 - nearer, m, n, quantile)
    return RankComparison(m, n, nearer, min(low, nearer), max(_upper(nearer, m, n, quantile), nearer))


def _upper(share: float, m: int, n: int, quantile: float) -> float:
    """Return the largest p with p - share <= quantile * sqrt(V(p))."""
    from scipy.optimize import brentq

    if share >= 1:
        return 1.0
    balance = (m + n) / 2 - 1

    def excess(p: float) -> float:
        variance = p * (1 - p) * (1 + balance * ((1 - p) / (2 - p) + p / (1 + p))) / (m * n)
        return p - share - quantile * math.sqrt(max(variance, 0.0))

    # At `share` itself the excess is negative, but for 0 where it is 0: the end sought lies above.
    start = min(share + 1e-12, 1.0)
    return 1.0 if start >= 1 or excess(start) >= 0 else float(brentq(excess, start, 1.0, xtol=1e-12))
