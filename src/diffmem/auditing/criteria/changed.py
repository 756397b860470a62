"""The ratio under changes of the sample: mirrored, shifted, brightened copies."""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import cached_property
from typing import ClassVar

import numpy as np

from diffmem.auditing.criteria.base import Batch, Criterion, Scores
from diffmem.auditing.criteria.ratio import SAME_PICTURE, ratio_strictness
from diffmem.memorization import RepeatAwareRule, Transforms

__all__ = ["CHANGED", "CHANGED_NEIGHBOURS", "Changed"]

CHANGED = "changed pixels"
"""Name of the space of images under transformations."""

CHANGED_NEIGHBOURS = 10
"""Neighbours that are looked at under transformations, where each takes a search of its own."""


@dataclass(frozen=True, eq=False)
class Changed(Criterion):
    """The ratio, near-copies passed over, of the best match under changes of the sample.

    Attributes:
        transforms: The changes.
        threshold: Below which an image is a copy, in (0, 1].
        count: Neighbours that are looked at, at least 2.
    """

    transforms: Transforms = field(default_factory=lambda: Transforms(True))
    threshold: float = 1 / 3
    count: int = CHANGED_NEIGHBOURS

    key: ClassVar[str] = "transforms"
    weight: ClassVar[float] = 2.0
    space: ClassVar[str] = CHANGED

    def __post_init__(self) -> None:
        object.__setattr__(self, "strictness", ratio_strictness(self.threshold))

    @cached_property
    def _decide(self) -> RepeatAwareRule:
        return RepeatAwareRule(self.transforms.window(self.references), self.threshold, self.count)

    @property
    def all_but_identical(self) -> float:
        """Score below which an image that is near in grey levels, too, is taken for the same picture."""
        return min(self.threshold, SAME_PICTURE)

    @property
    def values(self) -> int:
        """How many grey levels its distances run over: those of the window that shifts leave."""
        return int(np.prod(self.transforms.window(self.references[:1]).shape[1:]))

    @property
    def title(self) -> str:
        """Name for people."""
        return f"Ratio under changes ({self.transforms.name})"

    @property
    def rule(self) -> str:
        """The rule with its constants."""
        return f"{self.transforms.name}/{self._decide.name}/variant-dups-collapsed/v1"

    @property
    def neighbours_needed(self) -> int:
        """How many neighbours it looks at."""
        return self.count

    def __call__(self, batch: Batch) -> Scores:
        """Score the images of a batch."""
        copied, distance = self._nearest(batch)
        return Scores(self._decide.ratio(batch.neighbours[self.space]), copied, distance)
