"""Similarity of the features of a network."""

from __future__ import annotations

from dataclasses import dataclass

from diffmem.auditing.criteria.base import Criterion
from diffmem.auditing.spaces import FeatureSpace
from diffmem.memorization import SimilarityRule

__all__ = ["Similar"]


@dataclass(frozen=True, eq=False)
class Similar(Criterion):
    """One minus the cosine similarity to the most similar training image, in the features of a network.

    Stricter than the threshold of the network's authors are a half and a quarter of its distance from 1.

    Attributes:
        features: The network, how images are prepared for it, and its threshold.
    """

    features: FeatureSpace

    @property
    def strictness(self) -> tuple[float, ...]:
        """Thresholds of one minus the similarity."""
        far = 1 - self.features.threshold
        return far, far / 2, far / 4

    @property
    def key(self) -> str:  # type: ignore[override]  # one class serves every network
        """Short name: that of the network."""
        return self.features.key

    @property
    def space(self) -> str:  # type: ignore[override]
        """Where its neighbours lie: the features of the network."""
        return self.key

    @property
    def values(self) -> None:
        """Distances are of features."""
        return None

    @property
    def title(self) -> str:
        """Name for people."""
        return f"Similarity of features ({self.features.title})"

    @property
    def rule(self) -> str:
        """The rule with its constants; the network's own id stands for the space."""
        return f"{SimilarityRule(self.features.threshold).name}/exact-dups-collapsed/v1"
