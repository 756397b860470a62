"""The galleries of an audit, from the images that it compared."""

from __future__ import annotations

import numpy as np

from diffmem.auditing.audit import Audited
from diffmem.auditing.criteria import PIXELS
from diffmem.auditing.report.gallery import AuditGallery, near_gallery, worst_gallery
from diffmem.memorization import RatioRule
from diffmem.memorization.neighbours.contents import taken

__all__ = ["NEAR", "audit_images"]

NEAR = 10
"""Samples that are shown although they are not flagged."""


def audit_images(audited: Audited) -> dict[str, AuditGallery]:
    """Return the galleries 'worst', of the worst matches, and 'near', of the nearest samples that are no matches, as far as there are any.

    There are none of a private audit, or of one without training images.
    """
    result, shown = audited.result, audited.shown
    if shown is None or result.private or result.copies is None:
        return {}
    first = 0 if result.model is None else result.model.seeds[0]
    samples, training = shown.samples.images, shown.training.images
    nearest = shown.found.batch.neighbours[PIXELS]
    pairs = shown.detector.distinct[nearest.indices[:, [0, min(1, nearest.k - 1)]]]
    galleries = {}
    worst = result.copies.worst
    if worst:
        rows = np.array([match.sample - first for match in worst])
        copied = np.array([match.training for match in worst])
        # The nearest in pixels is not always the one that a criterion names.
        other = np.where(pairs[rows, 0] == copied, pairs[rows, 1], pairs[rows, 0])
        galleries["worst"] = worst_gallery(
            worst, taken(samples, rows), taken(training, copied), taken(training, other)
        )
    ratio = RatioRule().ratio(nearest) if nearest.k > 1 else np.ones(len(nearest))
    # What is no match may still be no trial: constant images, and repeats of others.
    left = shown.found.trials
    left[[match.sample - first for match in shown.matches]] = False
    rows = np.argsort(ratio, kind="stable")
    rows = rows[left[rows]][:NEAR]
    if len(rows):
        ours, others = (taken(training, pairs[rows, at]) for at in (0, 1))
        galleries["near"] = near_gallery(
            (first + rows).tolist(), ratio[rows].tolist(), taken(samples, rows), ours, others
        )
    return galleries
