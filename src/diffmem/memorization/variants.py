"""Neighbours under transformations: a sample that is a mirrored, shifted or brightened training image is still a copy.

The distance of a sample to a training image becomes the smallest over the variants of the sample; each is exact. All else
stays: criteria read the neighbours as ever.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from itertools import product
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray

from diffmem.data.storage import contiguous
from diffmem.errors import UserError
from diffmem.memorization.criteria import Criterion
from diffmem.memorization.neighbours.cascade import index_pays
from diffmem.memorization.neighbours.contents import (
    Keys,
    common_space,
    content_keys,
    distinct,
    present,
    taken,
)
from diffmem.memorization.neighbours.index import NeighbourIndex
from diffmem.memorization.neighbours.neighbours import Neighbours, nearest_neighbours
from diffmem.memorization.rates import USUAL, Intervals, Rate
from diffmem.progress import NO_PROGRESS, Progress, part_of

__all__ = [
    "Transforms",
    "Variant",
    "VariantNeighbours",
    "VariantRates",
    "VariantSearch",
    "variant_neighbours",
]

Pixels = NDArray[np.uint8]


class Variant(NamedTuple):
    """How a sample is changed before it is compared.

    Attributes:
        flipped: Whether it is mirrored, left to right; this comes first.
        down: How many pixels lower its content lies than the training image's.
        right: How many pixels farther to the right.
        brightness: Grey levels that are added to every value, clipped at 0 and 255; this comes last.
    """

    flipped: bool
    down: int
    right: int
    brightness: int


@dataclass(frozen=True)
class Transforms:
    """Which variants of a sample are compared.

    Shifts compare windows: the middle of the training image, without a margin of `shift` pixels on each side, with the
    windows of the same size at all places in the sample. No pixel is made up, and an image that is shifted by no more is
    found at distance 0; a thin border is seen by no variant.

    Attributes:
        flip: Whether mirror images count.
        shift: Largest shift in pixels, down and right, either way; at most a quarter of the shorter side.
        brightness: Grey levels to try adding to the sample, beside 0.
    """

    flip: bool = True
    shift: int = 0
    brightness: tuple[int, ...] = ()

    def __post_init__(self) -> None:
        if self.shift < 0:
            raise UserError(
                f"The shift {self.shift} is negative; give the largest shift in pixels, 0 or more."
            )
        wrong = [step for step in self.brightness if not 0 < abs(step) <= 255]
        if wrong or len(set(self.brightness)) < len(self.brightness):
            raise UserError(
                f"The brightness steps {self.brightness} must be different whole numbers in -255..255; 0 is always tried."
            )

    @cached_property
    def variants(self) -> tuple[Variant, ...]:
        """All variants, the unchanged sample first."""
        moves = sorted(
            product(range(-self.shift, self.shift + 1), repeat=2), key=lambda move: (move != (0, 0), move)
        )
        flips = (False, True) if self.flip else (False,)
        return tuple(
            Variant(flipped, down, right, step)
            for step in (0, *self.brightness)
            for flipped in flips
            for down, right in moves
        )

    def __len__(self) -> int:
        """Number of variants, and of searches; a null rate can grow by up to this factor."""
        return len(self.variants)

    @property
    def name(self) -> str:
        """The transformations with their constants, as they stand in a protocol id, for example 'flip+shift2'."""
        steps = ",".join(str(step) for step in self.brightness)
        named = {"flip": self.flip, f"shift{self.shift}": self.shift > 0, f"brightness{steps}": bool(steps)}
        return "+".join(name for name, used in named.items() if used) or "as-is"

    def window(self, images: Pixels, down: int = 0, right: int = 0) -> Pixels:
        """Return a view of the windows that are compared, (N, C, H - 2 shift, W - 2 shift), moved from the middle."""
        height, width = images.shape[-2:]
        top, left = self.shift + down, self.shift + right
        return images[..., top : top + height - 2 * self.shift, left : left + width - 2 * self.shift]

    def apply(self, images: Pixels) -> Iterator[Pixels]:
        """Yield the windows of all images under each variant, in the order of `variants`, uint8."""
        for variant in self.variants:
            changed = self.window(
                images[..., ::-1] if variant.flipped else images, variant.down, variant.right
            )
            if variant.brightness:
                changed = (changed.astype(np.int16) + variant.brightness).clip(0, 255).astype(np.uint8)
            yield np.ascontiguousarray(changed)


@dataclass(frozen=True, eq=False)
class VariantNeighbours:
    """The nearest training images of each of Q images under transformations.

    Attributes:
        neighbours: The k training images with the smallest distances over all variants, in grey levels over the pixels of
            the window. Indices refer to the training set as given.
        variant: Which variant is nearest to the nearest training image, int64 (Q,), a position in `Transforms.variants`;
            of equally near ones the first.
    """

    neighbours: Neighbours
    variant: NDArray[np.int64]


@dataclass(frozen=True, eq=False)
class VariantRates:
    """What a criterion says of the neighbours under transformations.

    Attributes:
        memorized: Which samples count as copies, bool (Q,).
        rate: The share of them.
        null: The share of held-out images that the same rule flags, with the same variants; None without any.
        name: Protocol id: the space, the transformations, the rule.
    """

    memorized: NDArray[np.bool_]
    rate: Rate
    null: Rate | None
    name: str


@dataclass(frozen=True, eq=False)
class VariantSearch:
    """Neighbours under transformations of the samples and, for the null, of held-out images.

    Every variant is one more chance of a near image without copying. So a rule flags more held-out images than without
    transformations, up to `len(transforms)` times as many; only a null that was found with the same variants tells by
    how much.

    Attributes:
        transforms: The variants.
        samples: Neighbours of the samples.
        heldout: Neighbours of the held-out images that are no training images; None if there are none.
        heldout_overlap: How many held-out images equal a training image in its window, or its mirror image where
            those count; they are left out.
        training_images: Training images as given, copies included.
        duplicates: Training images that were left out as such copies of an earlier one.
        shape: Of the windows, (C, H, W).
    """

    transforms: Transforms
    samples: VariantNeighbours
    heldout: VariantNeighbours | None
    heldout_overlap: int
    training_images: int
    duplicates: int
    shape: tuple[int, ...]

    def rates(self, criterion: Criterion, intervals: Intervals = USUAL) -> VariantRates:
        """Apply a criterion to the samples and to the held-out images."""
        memorized = criterion(self.samples.neighbours)
        null = None if self.heldout is None else intervals.rate(criterion(self.heldout.neighbours))
        name = f"pixel-l2/uint8/{self.transforms.name}/{criterion.name}/variant-dups-collapsed/v1"
        return VariantRates(memorized, intervals.rate(memorized), null, name)


def variant_neighbours(
    samples: Pixels,
    training: Pixels,
    k: int = 2,
    *,
    heldout: Pixels | None = None,
    transforms: Transforms | None = None,
    device: torch.device | str | None = None,
    progress: Progress = NO_PROGRESS,
) -> VariantSearch:
    """Find the k nearest distinct training images of each sample, and of each held-out image, over all variants.

    Training images that equal an earlier one in the window, or (with `flip`) its mirror image, are collapsed: a set that
    was augmented by mirroring holds each image twice, and the ratio rule would miss its copies. It takes one exact search
    per variant.

    Args:
        samples: Generated images, uint8 (Q, C, H, W).
        training: The whole training set, uint8 (N, C, H, W).
        k: Number of neighbours.
        heldout: Images of the same distribution that were not trained on, uint8 (M, C, H, W).
        transforms: The variants; mirror images alone if none.
        device: Where distances are computed.
        progress: Told the share of the work that is done.

    Raises:
        UserError: The arrays are not uint8 images of one shape, there are no samples, the shift is above a quarter of the
            shorter side, or the training set has fewer than k distinct images.
    """
    transforms = Transforms() if transforms is None else transforms
    named = {"training images": training, "samples": samples}
    if heldout is not None and len(heldout):
        named["held-out images"] = heldout
    common_space(named, "euclidean", None)
    if training.dtype != np.uint8 or training.ndim != 4:
        raise UserError(
            f"Variants are made of uint8 images (N, C, H, W), not of {training.dtype} {training.shape}; convert them."
        )
    side = min(training.shape[2:])
    if 4 * transforms.shift > side:
        raise UserError(
            f"A shift of {transforms.shift} pixels is above a quarter of {side}, the shorter side; choose at most "
            f"{side // 4}."
        )
    windows = contiguous(transforms.window(training)) if transforms.shift else training
    keys = _keys(windows, transforms.flip)
    originals = np.sort(distinct(keys))
    if not 1 <= k <= len(originals):
        raise UserError(
            f"k = {k} neighbours were asked for, and the {len(training)} training images hold {len(originals)} that differ "
            f"under {transforms.name}; give at least {max(k, 1)} distinct images, or choose k in 1..{len(originals)}."
        )
    references = taken(windows, originals)
    fresh, overlap = None, 0
    if heldout is not None and len(heldout):
        both = _keys(transforms.window(heldout), transforms.flip)
        new = ~present(both, keys)
        overlap = int((~new).sum())
        fresh = heldout[new] if new.any() else None
    counts = [len(samples), 0 if fresh is None else len(fresh)]
    index = None
    on_cpu = device is None or torch.device(device).type == "cpu"
    dim = int(np.prod(references.shape[1:]))
    if on_cpu and len(transforms) > 1 and index_pays(len(transforms) * sum(counts), len(references), dim, k):
        index = NeighbourIndex.build(references, progress=lambda done, total, note="": progress(0, 1, note))

    def search(images: Pixels, start: float, width: float) -> VariantNeighbours:
        step = width / len(transforms)
        best, which = None, np.zeros(len(images), np.int64)
        for at, changed in enumerate(transforms.apply(images)):
            part = part_of(progress, start + step * at, step)
            found = nearest_neighbours(changed, references, k, index=index, device=device, progress=part)
            if best is None:
                best = found
                continue
            which[found.distances[:, 0] < best.distances[:, 0]] = at
            best = _joined(best, found)
        assert best is not None  # there is at least the unchanged sample
        return VariantNeighbours(Neighbours(best.distances, originals[best.indices]), which)

    share = counts[0] / sum(counts)
    return VariantSearch(
        transforms=transforms,
        samples=search(samples, 0.0, share),
        heldout=None if fresh is None else search(fresh, share, 1 - share),
        heldout_overlap=overlap,
        training_images=len(training),
        duplicates=len(training) - len(originals),
        shape=references.shape[1:],
    )


def _keys(windows: Pixels, flip: bool) -> Keys:
    """Return the keys of images; with `flip` the smaller one of an image and its mirror image."""
    keys = content_keys(windows)
    if not flip:
        return keys
    other = content_keys(windows[..., ::-1])
    smaller = (other[:, 0] < keys[:, 0]) | ((other[:, 0] == keys[:, 0]) & (other[:, 1] < keys[:, 1]))
    return np.where(smaller[:, None], other, keys)


def _joined(one: Neighbours, other: Neighbours) -> Neighbours:
    """Return the k references with the smallest of two distances.

    If a reference is among the k nearest by the smallest distance, it is so by the variant that has this distance: there,
    no other can be before it that is not before it here. So the k of each variant are enough.
    """
    distances = np.concatenate([one.distances, other.distances], 1)
    indices = np.concatenate([one.indices, other.indices], 1)
    order = np.lexsort((distances, indices), axis=1)
    distances, indices = np.take_along_axis(distances, order, 1), np.take_along_axis(indices, order, 1)
    distances[:, 1:][indices[:, 1:] == indices[:, :-1]] = np.inf
    order = np.lexsort((indices, distances), axis=1)[:, : one.k]
    return Neighbours(np.take_along_axis(distances, order, 1), np.take_along_axis(indices, order, 1))
