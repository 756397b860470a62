"""The ratio under changes of the sample: mirrored, shifted, brightened copies."""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import cached_property
from typing import ClassVar

import numpy as np

from diffmem.auditing.criteria.repeats import Repeats
from diffmem.memorization import RepeatAwareRule, Transforms

__all__ = ["CHANGED", "CHANGED_NEIGHBOURS", "Changed"]

CHANGED = "changed pixels"
"""Name of the space of images under transformations."""

CHANGED_NEIGHBOURS = 10
"""Neighbours that are used under transformations, where each takes a search of its own."""


@dataclass(frozen=True, eq=False)
class Changed(Repeats):
    """The ratio, near-copies skipped, of the best match under changes of the sample.

    Attributes:
        transforms: The changes.
    """

    count: int = CHANGED_NEIGHBOURS
    transforms: Transforms = field(default_factory=lambda: Transforms(True))

    key: ClassVar[str] = "transforms"
    weight: ClassVar[float] = 2.0
    space: ClassVar[str] = CHANGED

    @cached_property
    def _decide(self) -> RepeatAwareRule:
        return RepeatAwareRule(self.transforms.window(self.references), self.threshold, self.count)

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
