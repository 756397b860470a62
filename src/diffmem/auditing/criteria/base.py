"""What a criterion of an audit is: scores of images from their neighbours, and how strict one may be with them."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar, Literal

import numpy as np
from numpy.typing import NDArray

from diffmem.memorization import Neighbours

__all__ = ["PIXELS", "SURROUNDINGS", "Batch", "Criterion", "CriterionRole", "Scores"]

Pixels = NDArray[np.uint8]
CriterionRole = Literal["deciding", "supporting"]

PIXELS = "pixels"
"""Name of the space in which every image is compared with the nearest few."""

SURROUNDINGS = "surroundings"
"""The same space, with so many neighbours that they show what is near there; finding them takes several times as long."""


@dataclass(frozen=True, eq=False)
class Batch:
    """Q images and what lies near them among the references.

    Attributes:
        images: uint8 (Q, C, H, W).
        neighbours: The nearest references by space, nearest first; indices are into the references.
        variants: How each image was changed to match best under transformations, Q texts; empty without any.
        own: Where the images are references themselves, which, int64 (Q,): they are no neighbours of their own.
    """

    images: Pixels
    neighbours: dict[str, Neighbours]
    variants: tuple[str, ...] = ()
    own: NDArray[np.int64] | None = None

    def __len__(self) -> int:
        return len(self.images)

    def take(self, chosen: NDArray[np.int64]) -> Batch:
        """Return some of the images, with what lies near them."""
        return Batch(
            self.images[chosen],
            {
                space: Neighbours(found.distances[chosen], found.indices[chosen])
                for space, found in self.neighbours.items()
            },
            tuple(self.variants[at] for at in chosen.tolist()) if self.variants else (),
            None if self.own is None else self.own[chosen],
        )

    @staticmethod
    def of(parts: Sequence[Batch]) -> Batch:
        """Return the images of several batches in one; they were searched in the same spaces, and none is of references."""
        found = {
            space: Neighbours(
                np.concatenate([one.neighbours[space].distances for one in parts]),
                np.concatenate([one.neighbours[space].indices for one in parts]),
            )
            for space in parts[0].neighbours
        }
        variants = tuple(text for one in parts for text in one.variants)
        return Batch(np.concatenate([one.images for one in parts]), found, variants)


@dataclass(frozen=True, eq=False)
class Scores:
    """What a criterion makes of Q images.

    Attributes:
        score: Smaller is more like a copy, float64 (Q,).
        copied: The reference that each image is compared with, int64 (Q,).
        distance: To that reference, in the units of the criterion's space, float64 (Q,).
    """

    score: NDArray[np.float64]
    copied: NDArray[np.int64]
    distance: NDArray[np.float64]

    def __len__(self) -> int:
        return len(self.score)

    def take(self, chosen: NDArray[np.int64] | NDArray[np.bool_]) -> Scores:
        """Return the scores of some of the images."""
        return Scores(self.score[chosen], self.copied[chosen], self.distance[chosen])

    @staticmethod
    def of(parts: Sequence[Scores]) -> Scores:
        """Return the scores of several batches in one."""
        return Scores(
            np.concatenate([one.score for one in parts]),
            np.concatenate([one.copied for one in parts]),
            np.concatenate([one.distance for one in parts]),
        )


@dataclass(frozen=True, eq=False)
class Criterion(ABC):
    """A criterion: a batch with its neighbours -> scores. A new one is a file of this folder and its test.

    Attributes:
        references: The images that neighbours are indices of, uint8 (N, C, H, W).
    """

    references: Pixels

    key: ClassVar[str]
    """Short name; unique in a detector."""
    weight: ClassVar[float] = 1.0
    """Its part of the error that all deciding criteria share, relative to the others'."""
    role: ClassVar[CriterionRole] = "deciding"
    """Whether the verdict rests on it."""
    space: ClassVar[str] = PIXELS
    """Where its neighbours lie."""
    exact_only: ClassVar[bool] = False
    """Whether it finds only exact copies, whatever the data: that it finds those says nothing of the data."""

    @property
    @abstractmethod
    def strictness(self) -> tuple[float, ...]:
        """Thresholds of the score, loosest first; fixed in advance. An image is flagged below the first, the others show how surely."""

    @property
    def all_but_identical(self) -> float | None:
        """Score below which an image that is near in grey levels, too, is taken for the same picture; none if it cannot say so."""
        return None

    @property
    def values(self) -> int | None:
        """How many grey levels its distances run over; none where they are of other things."""
        return math.prod(self.references.shape[1:])

    @property
    @abstractmethod
    def title(self) -> str:
        """Name for people."""

    @property
    @abstractmethod
    def rule(self) -> str:
        """The rule with its constants, as it stands in a protocol id."""

    @property
    def neighbours_needed(self) -> int:
        """How many neighbours it uses."""
        return 1

    def __call__(self, batch: Batch) -> Scores:
        """Score the images of a batch, each beside the nearest reference."""
        found = batch.neighbours[self.space]
        return Scores(self._score(batch), found.indices[:, 0], found.distances[:, 0])

    def _score(self, batch: Batch) -> NDArray[np.float64]:
        """Return the scores of the images of a batch, float64 (Q,), smaller for copies: the distance, unless a criterion has another."""
        return batch.neighbours[self.space].distances[:, 0]

    def flags(self, scores: Scores, rung: int = 0) -> NDArray[np.bool_]:
        """Return which images are flagged at a strictness, bool (Q,)."""
        return scores.score < self.strictness[rung]
