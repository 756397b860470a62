"""The images that an audit's galleries show, taken from what the audit held against each other."""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

from diffmem.auditing.audit import Audited
from diffmem.auditing.report.gallery import AuditImages, NearMisses
from diffmem.memorization.neighbours.contents import taken

__all__ = ["NEAR", "audit_images"]

NEAR = 10
"""Samples that are shown although they are not flagged."""


def audit_images(audited: Audited) -> AuditImages | None:
    """Return the images of the worst matches and of the nearest samples that are no matches.

    Args:
        audited: The audit with its pixels.

    Returns:
        None where nothing is to be shown: of a private audit, or of one without training images.
    """
    a = audited
    if a.result.private or a.result.copies is None:
        return None
    if a.samples is None or a.training is None or a.nearest is None or a.ratio is None:
        return None
    first = 0 if a.result.model is None else a.result.model.seeds[0]
    worst = a.result.copies.worst
    rows = np.array([match.sample - first for match in worst], np.int64)
    copied = np.array([match.training for match in worst], np.int64)
    pairs = a.nearest[rows]
    # The nearest in pixels is not always the one that a criterion names.
    other = np.where(pairs[:, 0] == copied, pairs[:, 1], pairs[:, 0])
    return AuditImages(
        samples=taken(a.samples, rows),
        nearest=taken(a.training, copied),
        second=taken(a.training, other),
        near=_near(a.samples, a.training, a.nearest, a.ratio, _shown_elsewhere(a, first), first),
    )


def _shown_elsewhere(audited: Audited, first: int) -> set[int]:
    """Return the samples that are matches, and those that are no trials: constant images, and repeats of others."""
    unjudged = [] if audited.judged is None else np.flatnonzero(~audited.judged).tolist()
    return {match.sample - first for match in audited.matches} | set(unjudged)


def _near(
    samples: NDArray[np.uint8],
    training: NDArray[np.uint8],
    nearest: NDArray[np.int64],
    ratio: NDArray[np.float64],
    flagged: set[int],
    first: int,
) -> NearMisses | None:
    order = np.argsort(ratio, kind="stable")
    rows = np.array([at for at in order.tolist() if at not in flagged][:NEAR], np.int64)
    if not len(rows):
        return None
    shown, ours, others = taken(samples, rows), *(taken(training, nearest[rows, at]) for at in (0, 1))
    gaps = shown.astype(np.float64) - ours
    return NearMisses(
        samples=shown,
        nearest=ours,
        second=others,
        numbers=[first + at for at in rows.tolist()],
        ratios=ratio[rows].tolist(),
        rms=(np.sqrt(np.square(gaps).sum(axis=(1, 2, 3))) / math.sqrt(math.prod(samples.shape[1:]))).tolist(),
    )
