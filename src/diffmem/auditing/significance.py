"""Whether chance explains the samples that a criterion flags: they are compared with null images, which were never copied.

Only counts decide. The scores of null images would allow to extrapolate (within a small ball, data of d dimensions have a share of about
(c / u)^d of the points below u also below c), and with 1,000 null images that would promise to tell 3 copies among 10,000 samples from
chance. On photographs it does not hold: natural near-copies, a fraction of a per mille of all images, lie where the bulk of the scores
says that there is nothing. docs/explanation/audit-criteria.md has the numbers.
"""

from __future__ import annotations

from diffmem.auditing.records import ChanceRecord

__all__ = ["chance_of", "null_images_needed", "p_words", "upper_bound"]

_RISK = 0.05
_MOST_NULL = 100_000_000


def upper_bound(count: int, total: int, risk: float = _RISK) -> float:
    """Return the one-sided upper bound of a share (Clopper and Pearson 1934): about 3 / total for 0 at 95%.

    Args:
        count: Successes.
        total: Independent trials, at least 1.
        risk: Chance that the share is above the bound.
    """
    from scipy.special import betaincinv

    return float(betaincinv(count + 1, total - count, 1 - risk)) if count < total else 1.0


def chance_of(flagged: int, total: int, null_flagged: int, null_total: int) -> ChanceRecord:
    """Compare flagged samples with flagged null images by Fisher's exact test, one-sided.

    Args:
        flagged: Samples that the criterion flags.
        total: Samples.
        null_flagged: Null images that it flags.
        null_total: Null images, at least 1.
    """
    return ChanceRecord(
        expected=total * null_flagged / null_total,
        p_value=_fisher(flagged, total, null_flagged, null_total),
    )


def p_words(p_value: float) -> str:
    """Return a p-value in words: 'p = 0.031', or 'p < 1e-300' where it is too small for a number."""
    return f"p = {p_value:.2g}" if p_value >= 1e-300 else "p < 1e-300"


def null_images_needed(flagged: int, total: int, level: float) -> int | None:
    """Return how many null images, none of them flagged, would make the flagged samples significant; none if no number does.

    Args:
        flagged: Samples that are flagged, at least 1.
        total: Samples.
        level: Largest p-value that counts.
    """
    low, high = 1, 2
    while _fisher(flagged, total, 0, high) > level:
        low, high = high, high * 2
        if high > _MOST_NULL:
            return None
    while high - low > max(1, high // 100):  # to two digits
        middle = (low + high) // 2
        low, high = (middle, high) if _fisher(flagged, total, 0, middle) > level else (low, middle)
    return high


def _fisher(flagged: int, total: int, null_flagged: int, null_total: int) -> float:
    from scipy.stats import hypergeom

    p_value = hypergeom.sf(flagged - 1, total + null_total, flagged + null_flagged, total)
    return min(1.0, float(p_value))
