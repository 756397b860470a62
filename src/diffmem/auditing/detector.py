"""The instrument: a training set prepared so that any image can be held against it by every criterion of replication.

Samples, held-out images, and copies that are planted to see what the criteria find, all pass through the same `look`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property

import numpy as np
import torch
from numpy.typing import NDArray

from diffmem.auditing.spaces import FeatureSpace
from diffmem.data import duplicate_groups
from diffmem.errors import UserError
from diffmem.memorization import (
    AdaptiveRule,
    NeighbourIndex,
    Neighbours,
    NormalizedRule,
    RatioRule,
    RepeatAwareRule,
    SimilarityRule,
    Transforms,
    nearest_neighbours,
    variant_neighbours,
)
from diffmem.memorization.authenticity import gaps_of
from diffmem.memorization.contents import taken
from diffmem.progress import NO_PROGRESS, Progress, part_of

__all__ = ["NEIGHBOURS", "Instrument", "Kind", "Sight"]

NEIGHBOURS = 50
"""Neighbours that the criteria look at, beside the image itself where it is one of the training images."""

CHANGED_NEIGHBOURS = 10
"""Neighbours that are looked at under transformations, where each takes a search of its own."""

NEAR_RMS = 0.05
"""Cut of the absolute criterion, RMS of values 0 to 1; see `NormalizedRule` on why it decides nothing."""

_IDENTICAL = 0.5
_PAIRS = 300_000_000  # of images and references in one search: what it keeps of pairs that may be near grows with them
_INDEX_FROM = 2**28  # values of all references times queries; below, an index takes longer than it saves

Pixels = NDArray[np.uint8]


@dataclass(frozen=True)
class Kind:
    """A criterion as the instrument applies it.

    Attributes:
        key: Short name.
        title: For people.
        protocol: Id: space, preprocessing, constants.
        deciding: Whether the verdict rests on it.
    """

    key: str
    title: str
    protocol: str
    deciding: bool


@dataclass(frozen=True, eq=False)
class Sight:
    """What the instrument sees of Q images. Indices refer to the training set as given.

    Attributes:
        neighbours: In pixels.
        flags: Which images each criterion calls copies, bool (Q,), by key.
        copied: The training image that each criterion compares with, int64 (Q,), by key.
        changed: The two nearest under transformations; none without any.
        variants: How images were changed to match best under transformations, Q words; empty without any.
    """

    neighbours: Neighbours
    flags: dict[str, NDArray[np.bool_]]
    copied: dict[str, NDArray[np.int64]]
    changed: Neighbours | None = None
    variants: tuple[str, ...] = ()

    def __len__(self) -> int:
        return len(self.neighbours)

    def take(self, chosen: NDArray[np.int64]) -> Sight:
        """Return what is seen of some of the images."""

        def of(found: Neighbours) -> Neighbours:
            return Neighbours(found.distances[chosen], found.indices[chosen])

        return Sight(
            of(self.neighbours),
            {key: flags[chosen] for key, flags in self.flags.items()},
            {key: copied[chosen] for key, copied in self.copied.items()},
            None if self.changed is None else of(self.changed),
            tuple(self.variants[at] for at in chosen) if self.variants else (),
        )


@dataclass(eq=False)
class Instrument:
    """A training set, prepared.

    Exact copies in it are collapsed; the first of each group stands for all.

    Args:
        training: uint8 (N, C, H, W), also memory-mapped; at least 3 distinct images.
        space: Id of the space that the images are in, for protocol ids.
        threshold: Of the ratio rules.
        transforms: Changes of a sample under which it still counts as a copy; none to compare as it is.
        features: Feature spaces in which copies are looked for, too.
        device: Where distances and features are computed.

    Attributes:
        kinds: The criteria, in order.
        kept: Indices of the distinct training images, ascending.
        occurrences: How often the training set holds each training image, int64 (N,); 0 for copies of earlier ones.

    Raises:
        UserError: The training set has fewer than 3 distinct images.
    """

    training: Pixels
    space: str
    threshold: float = 1 / 3
    transforms: Transforms | None = None
    features: Sequence[FeatureSpace] = ()
    device: torch.device | str = "cpu"
    kept: NDArray[np.int64] = field(init=False)
    occurrences: NDArray[np.int64] = field(init=False)

    def __post_init__(self) -> None:
        first = np.asarray(duplicate_groups(self.training))
        self.occurrences = np.bincount(first, minlength=len(first)).astype(np.int64)
        self.kept = np.flatnonzero(self.occurrences)
        if len(self.kept) < 3:
            raise UserError(
                f"The training set has {len(self.training)} images of which {len(self.kept)} are distinct; the criteria compare"
                " neighbours and need 3 or more. Give the whole training set."
            )
        self.references = taken(self.training, self.kept)
        self._index: NeighbourIndex | None = None
        self._feature_rows: dict[str, NDArray[np.floating]] = {}

    @property
    def count(self) -> int:
        """Neighbours that are looked at: 50, or all that a small training set has for an image of its own."""
        return min(NEIGHBOURS, len(self.kept) - 1)

    @cached_property
    def kinds(self) -> tuple[Kind, ...]:
        """The criteria, those that decide first."""
        dups = "exact-dups-collapsed"
        named = [
            Kind("identical", "Identical pixels", f"{self.space}/identical/v1", True),
            Kind("ratio", "Ratio of the two nearest (R_mem)", f"{self.space}/{self._ratio.name}/{dups}/v1", True),
            Kind("repeats", "Ratio, near-copies in the training set passed over", f"{self.space}/{self._repeats.name}/{dups}/v1", True),
        ]  # fmt: skip
        if self._adaptive is not None:
            named.append(
                Kind(
                    "adaptive",
                    "Nearest against the mean of 50",
                    f"{self.space}/{self._adaptive.name}/{dups}/v1",
                    True,
                )
            )
        if self.transforms is not None:
            way = self.transforms.name
            named.append(
                Kind(
                    "transforms", f"Ratio under changes ({way})",
                    f"{self.space}/{way}/{self._changed_repeats.name}/variant-dups-collapsed/v1", True,
                )
            )  # fmt: skip
        named.extend(
            Kind(
                one.key, f"Similarity of features ({one.title})", f"{one.protocol}/cosine>{one.threshold:g}/{dups}/v1",
                True,
            )
            for one in self.features
        )  # fmt: skip
        named += [
            Kind("near", "Near in absolute terms", f"{self.space}/{self._near.name}/v1", False),
            Kind("inauthentic", "Nearer than the training image's own neighbour (AuthPct)", f"{self.space}/authpct/{dups}/v1", False),
        ]  # fmt: skip
        return tuple(named)

    def look(
        self, images: Pixels, *, own: NDArray[np.int64] | None = None, progress: Progress = NO_PROGRESS
    ) -> Sight:
        """Hold images against the training set.

        Args:
            images: uint8 (Q, C, H, W) in the space of the training images, Q at least 1.
            own: Where the images are training images themselves, their places in `kept`, int64 (Q,): each is then held against
                all others.
            progress: Told the share of the work that is done.

        Raises:
            UserError: The images do not fit the training images.
        """
        parts = 1 + (self.transforms is not None) + len(self.features)
        width = 1 / (parts + 0.25)
        found = self._search(images, own, part_of(progress, 0, width))
        flags = {
            "identical": found.distances[:, 0] < _IDENTICAL,
            "ratio": self._ratio(found),
            "repeats": self._repeats(found),
            "near": self._near(found),
        }
        if self._adaptive is not None:
            flags["adaptive"] = self._adaptive(found)
        flags["inauthentic"] = self._inauthentic(found, own, part_of(progress, width, 0.25 * width))
        copied = dict.fromkeys(flags, self.kept[found.indices[:, 0]])
        changed: Neighbours | None = None
        variants: tuple[str, ...] = ()
        if self.transforms is not None:
            changed, variants = self._variants(images, own, part_of(progress, 1.25 * width, width))
            flags["transforms"] = self._changed_repeats(changed)
            changed = self._as_given(changed)
            copied["transforms"] = changed.indices[:, 0]
        for at, features in enumerate(self.features):
            told = part_of(progress, 1 - width * (len(self.features) - at), width)
            alike = self._similar(features, images, own, told)
            flags[features.key] = SimilarityRule(features.threshold)(alike)
            copied[features.key] = self.kept[alike.indices[:, 0]]
        return Sight(self._as_given(found), flags, copied, changed, variants)

    def _as_given(self, found: Neighbours) -> Neighbours:
        return Neighbours(found.distances, self.kept[found.indices])

    @property
    def _ratio(self) -> RatioRule:
        return RatioRule(self.threshold)

    @cached_property
    def _repeats(self) -> RepeatAwareRule:
        return RepeatAwareRule(self.references, self.threshold, self.count)

    @cached_property
    def _adaptive(self) -> AdaptiveRule | None:
        # With all of a small training set as its surroundings, an image is near to none of it.
        return AdaptiveRule(count=NEIGHBOURS) if len(self.kept) > 2 * NEIGHBOURS else None

    @cached_property
    def _changed_repeats(self) -> RepeatAwareRule:
        assert self.transforms is not None
        # Mirror images in the training set are collapsed, too: half of it may be left.
        count = min(CHANGED_NEIGHBOURS, max(2, len(self.kept) // 2 - 1))
        return RepeatAwareRule(self.transforms.window(self.references), self.threshold, count)

    @cached_property
    def _near(self) -> NormalizedRule:
        return NormalizedRule(NEAR_RMS, self.training.shape[1:])

    def _search(self, images: Pixels, own: NDArray[np.int64] | None, progress: Progress) -> Neighbours:
        work = len(images) * self.references.size
        if self._index is None and work >= _INDEX_FROM and torch.device(self.device).type == "cpu":
            self._index = NeighbourIndex.build(self.references)
        k, size, parts = self.count + (own is not None), max(1, _PAIRS // len(self.references)), []
        for start in range(0, len(images), size):
            told = part_of(progress, start / len(images), min(size, len(images) - start) / len(images))
            parts.append(
                nearest_neighbours(
                    images[start : start + size], self.references, k, index=self._index, device=self.device, progress=told
                )
            )  # fmt: skip
        found = Neighbours(
            np.concatenate([part.distances for part in parts]),
            np.concatenate([part.indices for part in parts]),
        )
        return found if own is None else _without(found, found.indices == own[:, None])

    def _inauthentic(
        self, found: Neighbours, own: NDArray[np.int64] | None, progress: Progress
    ) -> NDArray[np.bool_]:
        """Return which images are no farther from their training image than that one is from its nearest other one.

        An image that is a training image itself is no other one.
        """
        gaps = gaps_of(
            self.references, found.indices[:, 0], own=own, index=self._index, device=self.device, progress=progress
        )  # fmt: skip
        return found.distances[:, 0] <= gaps

    def _variants(
        self, images: Pixels, own: NDArray[np.int64] | None, progress: Progress
    ) -> tuple[Neighbours, tuple[str, ...]]:
        assert self.transforms is not None
        k = self._changed_repeats.count + (own is not None)
        found = variant_neighbours(
            images, self.references, k, transforms=self.transforms, device=self.device, progress=progress
        ).samples
        words = tuple(_variant_words(self.transforms, int(which)) for which in found.variant)
        if own is None:
            return found.neighbours, words
        # Where its mirror image is in the training set as well, that one stands for both: it is at distance 0.
        hit = found.neighbours.indices == own[:, None]
        hit[~hit.any(1), 0] = True
        return _without(found.neighbours, hit), words

    def _similar(
        self, space: FeatureSpace, images: Pixels, own: NDArray[np.int64] | None, progress: Progress
    ) -> Neighbours:
        if space.key not in self._feature_rows:
            self._feature_rows[space.key] = space.rows(self.references, part_of(progress, 0, 0.5))
        rows = space.rows(images, part_of(progress, 0.5, 0.4))
        known = self._feature_rows[space.key]
        found = nearest_neighbours(
            rows, known, 1 + (own is not None), metric="cosine", device=self.device, progress=part_of(progress, 0.9, 0.1)
        )  # fmt: skip
        return found if own is None else _without(found, found.indices == own[:, None])


def _without(found: Neighbours, itself: NDArray[np.bool_]) -> Neighbours:
    """Return neighbours without the one of each image that is the image itself."""
    order = np.argsort(itself, axis=1, kind="stable")[:, :-1]
    return Neighbours(
        np.take_along_axis(found.distances, order, 1), np.take_along_axis(found.indices, order, 1)
    )


def _variant_words(transforms: Transforms, which: int) -> str:
    variant = transforms.variants[which]
    words = ["mirrored"] if variant.flipped else []
    for count, more, less in ((variant.down, "down", "up"), (variant.right, "right", "left")):
        if count:
            words.append(f"{abs(count)} px {more if count > 0 else less}")
    if variant.brightness:
        words.append(f"{variant.brightness:+d} grey levels")
    return ", ".join(words) or "as is"
