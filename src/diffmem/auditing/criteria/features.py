"""Similarity of the features of a network."""

from __future__ import annotations

from dataclasses import dataclass

from diffmem.auditing.criteria.base import Batch, Criterion, Scores
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

    features: FeatureSpace | None = None

    def __post_init__(self) -> None:
        assert self.features is not None
        far = 1 - self.features.threshold
        object.__setattr__(self, "strictness", (far, far / 2, far / 4))

    @property
    def key(self) -> str:  # type: ignore[override]  # one class serves every network
        """Short name: that of the network."""
        assert self.features is not None
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
        assert self.features is not None
        return f"Similarity of features ({self.features.title})"

    @property
    def rule(self) -> str:
        """The rule with its constants; the network's own id stands for the space."""
        assert self.features is not None
        return f"{SimilarityRule(self.features.threshold).name}/exact-dups-collapsed/v1"

    def __call__(self, batch: Batch) -> Scores:
        """Score the images of a batch."""
        copied, distance = self._nearest(batch)
        return Scores(distance, copied, distance)
