"""How well scores separate members from non-members: the area under the curve, and a threshold judged on other images.

The scores of each side are independent draws. Higher means more like a member; an area below a half stays below it.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from diffmem.errors import UserError
from diffmem.memorization.rates import Rate, check_confidence
from diffmem.memorization.records import Record

__all__ = ["Area", "Operating", "area_under_curve", "check_counts", "images_needed", "operating_point"]

# The normal theory behind DeLong's variance fails where fewer pairs than this go against the rest.
_FEW_PAIRS = 5


class Area(Record):
    """The area under the receiver operating characteristic with its interval: 1 separates, 0.5 is chance.

    It is the share of pairs of a member and a non-member in which the member scores higher; equal scores count half.
    """

    value: float
    low: float
    high: float
    members: int
    nonmembers: int
    confidence: float
    method: str = Field(description="How the interval was computed: 'delong' or 'pairs'.")


def area_under_curve(
    members: NDArray[np.float64], nonmembers: NDArray[np.float64], confidence: float = 0.95
) -> Area:
    """Return the area under the receiver operating characteristic with its interval.

    The interval is that of Clopper and Pearson for A (1 - A) / V trials, the number of independent pairs that would be as
    uncertain as the estimate A with its variance V (DeLong et al. 1988, Biometrics 44): 'delong'. Where of min(m, n) pairs fewer
    than 5 would go the rarer way, V is itself unknown, and 0 for sets that are apart; then it is that of min(m, n) trials,
    as V is at most A (1 - A) / min(m, n) (van Dantzig 1951): 'pairs', too wide rather than too narrow. A is the mean over all ways to
    form that many separate pairs, each of which is binomial. By simulation with normal scores, 95% intervals cover in 94% of draws or more.

    Args:
        members: Scores (m,), m at least 2.
        nonmembers: Scores (n,), n at least 2.
        confidence: In (0, 1).

    Raises:
        UserError: There are fewer than two scores of a kind, or they are not finite.
    """
    from scipy.special import betaincinv
    from scipy.stats import rankdata

    _check(members, nonmembers)
    check_confidence(confidence)
    m, n = len(members), len(nonmembers)
    ranks = rankdata(np.concatenate([members, nonmembers]))
    above = (ranks[:m] - rankdata(members)) / n  # of each member: the share of non-members below it
    below = 1 - (ranks[m:] - rankdata(nonmembers)) / m  # of each non-member: the share of members above it
    value = min(1.0, max(0.0, float(above.mean())))
    variance = float(above.var(ddof=1) / m + below.var(ddof=1) / n)
    trials, method = float(min(m, n)), "pairs"
    if min(value, 1 - value) * trials >= _FEW_PAIRS and variance > 0:
        trials, method = max(trials, value * (1 - value) / variance), "delong"
    wins, tail = value * trials, (1 - confidence) / 2
    low = float(betaincinv(wins, trials - wins + 1, tail)) if value > 0 else 0.0
    high = float(betaincinv(wins + 1, trials - wins, 1 - tail)) if value < 1 else 1.0
    return Area(
        value=value, low=min(low, value), high=max(high, value), members=m, nonmembers=n, confidence=confidence, method=method
    )  # fmt: skip


@dataclass(frozen=True)
class Operating:
    """A threshold that one half of the images chose, and what it does to the other half.

    Attributes:
        threshold: Images with a score above it are called members.
        found: Share of the members of the other half that are above it: the true-positive rate.
        false: Share of the non-members of the other half that are above it: the false-positive rate.
    """

    threshold: float
    found: Rate
    false: Rate


def images_needed(fpr: float, confidence: float = 0.95) -> int:
    """Return how many members, and how many non-members, are needed to judge a threshold at a false-positive rate.

    In the half that judges, if no non-member at all is above the threshold, the interval of the false-positive rate must end at
    `fpr` or below: log((1 - confidence) / 2) / log(1 - fpr) non-members, 368 for 1% and 36 for 10%. As many members: with
    fewer, not even finding none of them would show that members are found no more often than that. The half that chooses needs
    less, 1 / fpr - 1: the highest of n scores is exceeded by the next one with probability 1 / (n + 1).

    Args:
        fpr: The false-positive rate, in (0, 0.5].
        confidence: Of the interval.

    Returns:
        The number of each kind, both halves together: 736 for 1%.

    Raises:
        UserError: The rate is outside its range.
    """
    if not 0 < fpr <= 0.5:
        raise UserError(f"The false-positive rate must be above 0 and at most 0.5, not {fpr:g}.")
    return 2 * math.ceil(math.log((1 - confidence) / 2) / math.log1p(-fpr))


def check_counts(members: int, nonmembers: int, fpr: float, remark: str = "") -> None:
    """Refuse too few images to report a true-positive rate at a false-positive rate.

    Args:
        remark: What else to say, for example that copies were removed.

    Raises:
        UserError: A number is below `images_needed`; it names both, why, and the smallest usual rate that these images allow.
    """
    needed, least = images_needed(fpr), min(members, nonmembers)
    if least >= needed:
        return
    usual = next(
        (rate for rate in (0.02, 0.05, 0.1, 0.2) if rate > fpr and images_needed(rate) <= least), None
    )
    instead = (
        "" if usual is None else f", or ask for {100 * usual:g}% false positives, for which these are enough"
    )
    raise UserError(
        f"There are {members} distinct members and {nonmembers} distinct non-members; a true-positive rate at {100 * fpr:g}% false"
        f" positives needs {needed} of each, half to choose the threshold and half to judge it: of fewer than {needed // 2} images, not"
        f" even none above the threshold would show, at 95% confidence, a rate of at most {100 * fpr:g}%. Give more images{instead}."
        f"{' ' * bool(remark)}{remark}"
    )


def operating_point(
    members: NDArray[np.float64], nonmembers: NDArray[np.float64], fpr: float = 0.01, seed: int = 0
) -> Operating:
    """Choose a threshold on one half of the non-members; report both rates on the other half of both kinds.

    The threshold is the k-th highest of n scores of non-members, k the whole part of fpr (n + 1): another non-member is above it with
    probability k / (n + 1) at most. The members of the first half choose nothing: the direction of the score is fixed.
    Halves are drawn by the seed.

    Args:
        members: Scores (m,).
        nonmembers: Scores (n,).
        fpr: The false-positive rate wanted, in (0, 0.5].

    Raises:
        UserError: There are fewer scores of a kind than `images_needed`, or they are not finite.
    """
    _check(members, nonmembers)
    check_counts(len(members), len(nonmembers), fpr)
    rng = np.random.default_rng([seed, 0x6D656D])
    chosen_by, judged = np.array_split(nonmembers[rng.permutation(len(nonmembers))], 2)
    found = np.array_split(members[rng.permutation(len(members))], 2)[1]
    k = math.floor(fpr * (len(chosen_by) + 1) + 1e-9)
    threshold = float(np.sort(chosen_by)[-k])
    return Operating(
        threshold,
        Rate(int((found > threshold).sum()), len(found)),
        Rate(int((judged > threshold).sum()), len(judged)),
    )


def _check(members: NDArray[np.float64], nonmembers: NDArray[np.float64]) -> None:
    for scores, kind in ((members, "members"), (nonmembers, "non-members")):
        if scores.ndim != 1 or len(scores) < 2 or not np.isfinite(scores).all():
            raise UserError(
                f"The scores of {kind} must be two or more finite numbers, not {scores.shape} values"
                f" of which {int(np.isfinite(scores).sum())} are finite."
            )
