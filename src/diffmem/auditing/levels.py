"""How the error of an audit is shared over its tests: by weights that are fixed in advance."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

from diffmem.auditing.criteria import Criterion

__all__ = ["DOUBT", "FALSE_ALARM", "TESTS", "TestKey", "level_of", "rung_weights"]

FALSE_ALARM = 0.01
"""Chance that any test of any deciding criterion finds copies where there are none."""

DOUBT = 2.5
"""Up to so many times its level, a p-value leaves the audit in doubt."""

TestKey = Literal["fresh", "split", "groups"]
TESTS: dict[TestKey, float] = {"fresh": 0.80, "split": 0.15, "groups": 0.05}
"""The tests with their parts of the error.

'fresh': samples beside training images, against held-out and training images beside training images. 'split': samples beside training
images, against samples beside held-out images. 'groups': how many samples lie beside the same training images.
"""

_RUNGS = (0.2, 0.35, 0.25, 0.2)
"""Parts of the steps of strictness, loosest first."""


def rung_weights(count: int) -> tuple[float, ...]:
    """Return the parts of the error of a ladder of so many steps, 1 to 4; they sum to 1."""
    some = _RUNGS[:count]
    return tuple(one / sum(some) for one in some)


def level_of(criteria: Sequence[Criterion], criterion: Criterion, rung: int, test: TestKey) -> float:
    """Return the largest p-value at which a test of one criterion at one strictness finds copies.

    Args:
        criteria: All that are applied.
        criterion: One of those that decide.
        rung: Which of its steps of strictness.
        test: Which test.
    """
    total = sum(one.weight for one in criteria if one.role == "deciding")
    part = criterion.weight / total * rung_weights(len(criterion.strictness))[rung]
    return FALSE_ALARM * TESTS[test] * part
