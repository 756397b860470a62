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
from diffmem.memorization.neighbours.cascade import index_pays
from diffmem.memorization.neighbours.contents import (
    Keys,
    check_images,
    content_keys,
    distinct,
    taken,
)
from diffmem.memorization.neighbours.index import NeighbourIndex
from diffmem.memorization.neighbours.neighbours import Neighbours, nearest_neighbours
from diffmem.memorization.neighbours.rows import Rows
from diffmem.progress import NO_PROGRESS, Progress, part_of
from diffmem.spread import spread

__all__ = ["Transforms", "Variant", "VariantNeighbours", "variant_neighbours"]

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
    windows of the same size at all positions in the sample. No pixel is made up, and an image that is shifted by no more is
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


FLIPPED = Transforms()
"""Mirror images alone."""


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


def variant_neighbours(
    samples: Pixels,
    training: Pixels,
    k: int = 2,
    *,
    transforms: Transforms = FLIPPED,
    device: torch.device | str | None = None,
    progress: Progress = NO_PROGRESS,
) -> VariantNeighbours:
    """Find the k nearest distinct training images of each sample over all variants.

    Training images that equal an earlier one in the window, or (with `flip`) its mirror image, are collapsed: a set that
    was augmented by mirroring holds each image twice, and the ratio rule would miss its copies. It takes one exact search
    per variant.

    Every variant is one more chance of a near image without copying: a rule flags more fresh images than without
    transformations, up to `len(transforms)` times as many. Only a null of held-out images with the same variants says by how
    much.

    Args:
        samples: Generated images, uint8 (Q, C, H, W).
        training: The whole training set, uint8 (N, C, H, W).
        k: Number of neighbours.
        transforms: The variants; mirror images alone if left out.
        device: Where distances are computed.
        progress: Reports the share of the work that is done.

    Raises:
        UserError: The arrays are not uint8 images of one shape, there are no samples, the shift is above a quarter of the
            shorter side, or the training set has fewer than k distinct images.
    """
    check_images({"training images": training, "samples": samples})
    side = min(training.shape[2:])
    if 4 * transforms.shift > side:
        raise UserError(
            f"A shift of {transforms.shift} pixels is above a quarter of {side}, the shorter side; choose at most "
            f"{side // 4}."
        )
    windows = contiguous(transforms.window(training)) if transforms.shift else training
    originals = np.sort(distinct(_keys(windows, transforms.flip)))
    if not 1 <= k <= len(originals):
        raise UserError(
            f"k = {k} neighbours were asked for, and the {len(training)} training images hold {len(originals)} that differ "
            f"under {transforms.name}; give at least {max(k, 1)} distinct images, or choose k in 1..{len(originals)}."
        )
    references = taken(windows, originals)
    index = None
    on_cpu = device is None or torch.device(device).type == "cpu"
    searched = len(transforms) * len(samples)
    alone = spread() is None  # else each shard has an index, where it is searched
    if (
        alone
        and on_cpu
        and len(transforms) > 1
        and index_pays(searched, Rows(references, "the references"), k)
    ):
        index = NeighbourIndex.build(references, progress=part_of(progress, 0, 0))
    best, which = None, np.zeros(len(samples), np.int64)
    for at, changed in enumerate(transforms.apply(samples)):
        part = part_of(progress, at / len(transforms), 1 / len(transforms))
        found = nearest_neighbours(changed, references, k, index=index, device=device, progress=part)
        if best is None:
            best = found
            continue
        which[found.distances[:, 0] < best.distances[:, 0]] = at
        best = _joined(best, found)
    assert best is not None  # there is at least the unchanged sample
    return VariantNeighbours(Neighbours(best.distances, originals[best.indices]), which)


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
