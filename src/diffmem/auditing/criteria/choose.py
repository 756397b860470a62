"""Which criteria an audit applies to a training set."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from diffmem.auditing.criteria.adaptive import Adaptive
from diffmem.auditing.criteria.base import Criterion
from diffmem.auditing.criteria.changed import CHANGED_NEIGHBOURS, Changed
from diffmem.auditing.criteria.features import Similar
from diffmem.auditing.criteria.identical import Identical
from diffmem.auditing.criteria.inauthentic import Gaps, Inauthentic
from diffmem.auditing.criteria.near import Near
from diffmem.auditing.criteria.ratio import Ratio
from diffmem.auditing.criteria.repeats import Repeats
from diffmem.auditing.spaces import FeatureSpace
from diffmem.memorization import Transforms

__all__ = ["NEIGHBOURS", "choose_criteria"]

NEIGHBOURS = 50
"""Neighbours that the criteria use, beside the image itself where it is one of the references."""

_COMPARABLE = 3  # references from which on a ratio of two neighbours means something for a reference, too


def choose_criteria(
    references: NDArray[np.uint8],
    gaps: Gaps,
    threshold: float = 1 / 3,
    transforms: Transforms | None = None,
    features: Sequence[FeatureSpace] = (),
    count: int = NEIGHBOURS,
) -> tuple[Criterion, ...]:
    """Return the criteria that make sense with so many references, those that decide first.

    With one or two references there is no second neighbour to compare with: identity, features and nearness are left.

    Args:
        references: Distinct images, uint8 (N, C, H, W).
        gaps: Distances of references to their nearest other one.
        threshold: Of the ratio rules.
        transforms: Changes under which copies are looked for, too.
        features: Feature spaces in which copies are looked for, too.
        count: Most neighbours that are used.
    """
    number = len(references)
    neighbours = min(count, number - 1)
    found: list[Criterion] = [Identical(references)]
    if number >= _COMPARABLE:
        found += [Ratio(references, threshold), Repeats(references, threshold, neighbours)]
        # With all of a small training set as its surroundings, an image is near to none of it.
        if number > 2 * count:
            found.append(Adaptive(references, count))
        if transforms is not None:
            # Mirror images in the training set are collapsed, too: half of it may be left.
            few = min(CHANGED_NEIGHBOURS, max(2, number // 2 - 1))
            found.append(Changed(references, threshold, few, transforms))
    found += [Similar(references, one) for one in features]
    found.append(Near(references))
    if number >= _COMPARABLE:
        found.append(Inauthentic(references, gaps))
    return tuple(found)
