"""A training set prepared so that any image can be held against it by every criterion.

Samples, held-out images, training images against each other, and copies that are planted to see what the criteria find, all pass
through the same `search` and `judge`.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property

import numpy as np
import torch
from numpy.typing import NDArray

from diffmem.auditing.criteria import (
    NEIGHBOURS,
    PIXELS,
    SURROUNDINGS,
    Batch,
    Criterion,
    Scores,
    choose_criteria,
)
from diffmem.auditing.criteria.changed import CHANGED, Changed
from diffmem.auditing.spaces import FeatureSpace
from diffmem.data import duplicate_groups
from diffmem.memorization import (
    NeighbourIndex,
    Neighbours,
    Transforms,
    index_helps,
    nearest_neighbours,
    variant_neighbours,
)
from diffmem.memorization.neighbours.contents import taken
from diffmem.progress import NO_PROGRESS, Progress, part_of, parts_of
from diffmem.spread import spread

__all__ = ["CopyDetector", "Detections", "joined", "occurrences"]

_PAIRS = 150_000_000  # of images and references in one search: what it keeps of pairs that may be near grows with them
_INDEX_FROM = 2**28  # values of all references times queries; below, an index takes longer than it saves
_AROUND = 3  # neighbours of a reference that are remembered: one may be the image that is compared

Pixels = NDArray[np.uint8]


@dataclass(frozen=True, eq=False)
class Detections:
    """What the criteria make of Q images.

    Attributes:
        batch: The images with their neighbours.
        scores: By key of the criterion; of those whose space was searched.
        times: How many images each stands for, int64 (Q,): of samples see `occurrences`; 0 for those that are no trials.
    """

    batch: Batch
    scores: dict[str, Scores]
    times: NDArray[np.int64]

    def __len__(self) -> int:
        return len(self.batch)

    @property
    def trials(self) -> NDArray[np.bool_]:
        """Which images are trials, bool (Q,)."""
        return self.times > 0

    def take(self, chosen: NDArray[np.int64]) -> Detections:
        """Return what was found of some of the images."""
        scores = {key: scores.take(chosen) for key, scores in self.scores.items()}
        return Detections(self.batch.take(chosen), scores, self.times[chosen])

    @staticmethod
    def of(parts: Sequence[Detections]) -> Detections:
        """Return what was found of several batches in one."""
        return Detections(
            Batch.of([one.batch for one in parts]),
            {key: Scores.of([one.scores[key] for one in parts]) for key in parts[0].scores},
            np.concatenate([one.times for one in parts]),
        )

    def flags(self, criterion: Criterion, rung: int = 0) -> NDArray[np.bool_]:
        """Return which trials a criterion flags at a strictness, bool (Q,)."""
        return criterion.flags(self.scores[criterion.key], rung) & self.trials


def occurrences(images: Pixels) -> NDArray[np.int64]:
    """Return how often images hold each of them, int64 (N,): at its first position; 0 for repeats of earlier ones."""
    first = np.asarray(duplicate_groups(images))
    return np.bincount(first, minlength=len(first)).astype(np.int64)


@dataclass(eq=False)
class CopyDetector:
    """A training set, prepared. Exact copies in it are collapsed; the first of each group stands for all.

    Args:
        training: uint8 (N, C, H, W), also memory-mapped; at least 1.
        space: Id of the space that the images are in, for protocol ids.
        threshold: Of the ratio rules.
        transforms: Changes of a sample under which it still counts as a copy; none to compare as it is.
        features: Feature spaces in which copies are looked for, too.
        device: Where distances and features are computed.

    Attributes:
        distinct: Indices of the distinct training images, ascending: what `Scores.copied` refers to is a position in it.
        occurrences: How often the training set holds each training image, int64 (N,); 0 for copies of earlier ones.
        references: The distinct training images.
        criteria: That are applied, those that decide first.
    """

    training: Pixels
    space: str
    threshold: float = 1 / 3
    transforms: Transforms | None = None
    features: Sequence[FeatureSpace] = ()
    device: torch.device | str = "cpu"
    distinct: NDArray[np.int64] = field(init=False)
    occurrences: NDArray[np.int64] = field(init=False)

    def __post_init__(self) -> None:
        self.occurrences = occurrences(self.training)
        self.distinct = np.flatnonzero(self.occurrences)
        self.references = taken(self.training, self.distinct)
        self._index: NeighbourIndex | None = None
        self._feature_rows: dict[str, NDArray[np.floating]] = {}
        self._around = np.full((len(self.distinct), _AROUND), np.nan)
        self._around_of = np.zeros((len(self.distinct), _AROUND), np.int64)

    @cached_property
    def criteria(self) -> tuple[Criterion, ...]:
        """The criteria, those that decide first."""
        return choose_criteria(self.references, self.gaps, self.threshold, self.transforms, self.features)

    @property
    def spaces(self) -> tuple[str, ...]:
        """The spaces in which criteria compare, the cheapest first."""
        return tuple(dict.fromkeys(one.space for one in self.criteria))

    def protocol(self, criterion: Criterion) -> str:
        """Return the id of a criterion: space, preprocessing and constants."""
        network = next((one.protocol for one in self.features if one.key == criterion.space), None)
        return f"{network or self.space}/{criterion.rule}"

    def detect(
        self, images: Pixels, progress: Progress = NO_PROGRESS, *, times: NDArray[np.int64] | None = None
    ) -> Detections:
        """Search and judge in one call; `times` as of `Detections`, 1 if left out."""
        found = self.judge(self.search(images, progress=progress))
        return found if times is None else replace(found, times=times)

    def judge(self, batch: Batch) -> Detections:
        """Apply every criterion whose space was searched; each image is a trial."""
        scores = {one.key: one(batch) for one in self.criteria if one.space in batch.neighbours}
        return Detections(batch, scores, np.ones(len(batch), np.int64))

    def search(
        self,
        images: Pixels,
        *,
        own: NDArray[np.int64] | None = None,
        spaces: Collection[str] | None = None,
        progress: Progress = NO_PROGRESS,
    ) -> Batch:
        """Find what lies near images in the training set.

        Args:
            images: uint8 (Q, C, H, W) in the space of the training images, Q at least 1.
            own: Where the images are distinct training images themselves, which, int64 (Q,): each is then compared with all others.
            spaces: Where to search; everywhere if left out.

        Raises:
            UserError: The images do not fit the training images.
        """
        wanted = [one for one in self.spaces if spaces is None or one in spaces]
        found: dict[str, Neighbours] = {}
        variants: tuple[str, ...] = ()
        for space, here in parts_of(progress, wanted):
            if space == SURROUNDINGS or (space == PIXELS and SURROUNDINGS not in wanted):
                found[space] = self._pixels(
                    images, own, here, NEIGHBOURS if space == SURROUNDINGS else _AROUND
                )
            elif space == PIXELS:
                continue  # the nearest of the surroundings
            elif space == CHANGED:
                found[space], variants = self._changed(images, own, here)
            else:
                found[space] = self._similar(space, images, own, here)
        if PIXELS in wanted and SURROUNDINGS in wanted:
            found[PIXELS] = found[SURROUNDINGS]
        return Batch(images, found, variants, own)

    def near_copies(self, which: NDArray[np.int64]) -> NDArray[np.int64]:
        """Return pairs of references that are near-copies of each other, int64 (n, 2), of which at least one is named.

        Two are, if they are nearer to each other than the threshold of the ratio rules times the median of the surroundings.

        Args:
            which: References, int64 (m,).
        """
        asked = np.unique(which)
        if not len(asked) or len(self.references) < _AROUND:
            return np.zeros((0, 2), np.int64)
        found = self._pixels(taken(self.references, asked), asked, NO_PROGRESS, NEIGHBOURS)
        near = found.distances < self.threshold * np.median(found.distances, axis=1)[:, None]
        return np.stack([np.repeat(asked, near.sum(1)), found.indices[near]], axis=1)

    def gaps(self, chosen: NDArray[np.int64], own: NDArray[np.int64] | None) -> NDArray[np.float64]:
        """Return the distance of references to their nearest other one, float64 (n,); those known from a search are not searched again.

        Args:
            chosen: Which references, int64 (n,), repeats allowed.
            own: For each, one that does not count as another either.
        """
        missing = np.unique(chosen[np.isnan(self._around[chosen, 0])])
        if len(missing):
            self._keep_around(
                missing, self._pixels(taken(self.references, missing), missing, NO_PROGRESS, _AROUND)
            )
        distances, indices = self._around[chosen], self._around_of[chosen]
        if own is None:
            return np.asarray(distances[:, 0])
        return np.take_along_axis(distances, np.argmin(indices == own[:, None], axis=1)[:, None], 1)[:, 0]

    def _keep_around(self, which: NDArray[np.int64], found: Neighbours) -> None:
        width = min(_AROUND, found.k)
        self._around[which, :width] = found.distances[:, :width]
        self._around_of[which, :width] = found.indices[:, :width]
        self._around_of[which, width:] = which[:, None]  # never asked for as another one
        self._around[which, width:] = np.inf

    def _pixels(
        self, images: Pixels, own: NDArray[np.int64] | None, progress: Progress, count: int
    ) -> Neighbours:
        work = len(images) * self.references.size
        alone = spread() is None  # else each shard has an index, where it is searched
        if (
            alone
            and self._index is None
            and work >= _INDEX_FROM
            and index_helps(self.references, self.device)
        ):
            self._index = NeighbourIndex.build(self.references)
        k = min(count + (own is not None), len(self.references))
        size = max(1, _PAIRS // len(self.references) if self._index is not None else len(images))
        blocks = [images[start : start + size] for start in range(0, len(images), size)]
        parts = [
            nearest_neighbours(
                block, self.references, k, index=self._index, device=self.device, progress=part
            )
            for block, part in parts_of(progress, blocks, [len(block) for block in blocks])
        ]
        found = Neighbours(
            np.concatenate([part.distances for part in parts]),
            np.concatenate([part.indices for part in parts]),
        )
        if own is None:
            return found
        found = _without(found, found.indices == own[:, None])
        self._keep_around(own, found)
        return found

    def _changed(
        self, images: Pixels, own: NDArray[np.int64] | None, progress: Progress
    ) -> tuple[Neighbours, tuple[str, ...]]:
        assert self.transforms is not None
        rule = next(one for one in self.criteria if isinstance(one, Changed))
        found = variant_neighbours(
            images, self.references, rule.count + (own is not None), transforms=self.transforms, device=self.device, progress=progress
        )  # fmt: skip
        texts = tuple(_variant_text(self.transforms, int(which)) for which in found.variant)
        if own is None:
            return found.neighbours, texts
        # Where its mirror image is in the training set as well, that one stands for both: it is at distance 0.
        hit = found.neighbours.indices == own[:, None]
        hit[~hit.any(1), 0] = True
        return _without(found.neighbours, hit), texts

    def _similar(
        self, key: str, images: Pixels, own: NDArray[np.int64] | None, progress: Progress
    ) -> Neighbours:
        space = next(one for one in self.features if one.key == key)
        if key not in self._feature_rows:
            self._feature_rows[key] = space.rows(self.references, part_of(progress, 0, 0.5))
        rows = space.rows(images, part_of(progress, 0.5, 0.4))
        known = self._feature_rows[key]
        k = min(2 + (own is not None), len(known))
        found = nearest_neighbours(
            rows, known, k, metric="cosine", device=self.device, progress=part_of(progress, 0.9, 0.1)
        )
        return found if own is None else _without(found, found.indices == own[:, None])


def joined(one: Batch, other: Batch, references: int) -> Batch:
    """Return the neighbours of the same images among the references of two detectors together.

    Args:
        one: Found among the first references.
        other: Found among the second ones.
        references: Number of the first; the second ones follow.
    """
    found = {}
    for space in one.neighbours.keys() & other.neighbours.keys():
        mine, theirs = one.neighbours[space], other.neighbours[space]
        distances = np.concatenate([mine.distances, theirs.distances], axis=1)
        indices = np.concatenate([mine.indices, theirs.indices + references], axis=1)
        # What is farther than the last known one of a side may lie beyond an unknown one of it.
        k = max(mine.k, theirs.k)
        order = np.argsort(distances, axis=1, kind="stable")[:, :k]
        found[space] = Neighbours(
            np.take_along_axis(distances, order, 1), np.take_along_axis(indices, order, 1)
        )
    return Batch(one.images, found, one.variants)


def _without(found: Neighbours, itself: NDArray[np.bool_]) -> Neighbours:
    """Return neighbours without the one of each image that is the image itself."""
    order = np.argsort(itself, axis=1, kind="stable")[:, :-1]
    return Neighbours(
        np.take_along_axis(found.distances, order, 1), np.take_along_axis(found.indices, order, 1)
    )


def _variant_text(transforms: Transforms, which: int) -> str:
    variant = transforms.variants[which]
    texts = ["mirrored"] if variant.flipped else []
    for count, more, less in ((variant.down, "down", "up"), (variant.right, "right", "left")):
        if count:
            texts.append(f"{abs(count)} px {more if count > 0 else less}")
    if variant.brightness:
        texts.append(f"{variant.brightness:+d} grey levels")
    return ", ".join(texts) or "as is"
