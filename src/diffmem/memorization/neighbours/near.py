"""All pairs of a set that are no farther from each other than a radius, exactly: near-duplicates.

Projections on a direction are no farther apart than what is projected. So with the references sorted by their first
projection, each is compared only with those that follow within the radius there; first by the bounds of an index, then
exactly.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from itertools import combinations
from pathlib import Path
from typing import Any
from uuid import uuid4

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from diffmem.errors import DiffmemError, UserError
from diffmem.files import atomic_path
from diffmem.memorization.neighbours.index import NeighbourIndex
from diffmem.memorization.neighbours.rows import UNIT, Images, Rows, array_of, full_precision
from diffmem.memorization.neighbours.search import PIECE_BYTES, Best
from diffmem.memorization.neighbours.shards import kept, place_for, read_found, shards_of, taken_from
from diffmem.memorization.neighbours.sketch import ceilings, projection_error
from diffmem.progress import NO_PROGRESS, Progress
from diffmem.spread import Piece, Spread
from diffmem.threads import dealt, even_parts

__all__ = ["NearPairs", "pairs_within"]

FEW = 48  # directions of an index that is built in passing
BLOCK = 256  # references that are compared with their followers together
TILE = 4096  # of the followers at a time
MANY = 1 << 14  # pairs that are decided together
MOST_PAIRS = 1 << 22  # pairs that are held at once: 24 bytes each, and twice as much while they are sorted

_Found = tuple[NDArray[np.int64], NDArray[np.float64]]
_NONE: _Found = (np.empty((0, 2), np.int64), np.empty(0))


@dataclass(frozen=True, eq=False)
class NearPairs:
    """All pairs of a set within a radius.

    Attributes:
        pairs: Two different positions in the set, the lower first, int64 (M, 2), in ascending order.
        distances: Euclidean distance of each pair, float64 (M,), over all pixel values; for uint8 images in grey levels.
    """

    pairs: NDArray[np.int64]
    distances: NDArray[np.float64]

    def __post_init__(self) -> None:
        if self.pairs.dtype != np.int64 or self.pairs.shape != (len(self.distances), 2):
            raise DiffmemError(f"Pairs must be int64 (M, 2), not {self.pairs.dtype} {self.pairs.shape}.")

    def __len__(self) -> int:
        return len(self.pairs)


def pairs_within(
    references: Any,
    radius: float,
    *,
    index: NeighbourIndex | None = None,
    progress: Progress = NO_PROGRESS,
) -> NearPairs:
    """Find all pairs of references at a Euclidean distance of at most `radius` over all pixel values, exactly.

    Inside `spreading`, a large search without an index is done in pieces elsewhere, with the same result.

    Args:
        references: An `ImageSet`, or images (N, ...), uint8 or floating point, numpy (also memory-mapped) or torch.
        radius: The largest distance, 0 or more; for uint8 images in grey levels. One grey level in every value of a
            3 x 32 x 32 image is sqrt(3072), about 55.
        index: An index of the references; without one, one is made in passing.
        progress: Reports the number of references that have been compared with all others.

    Raises:
        UserError: The radius is negative or not finite, so many pairs lie within it that they do not fit the memory, or
            the images are neither uint8 nor finite floating-point numbers.
    """
    if not (np.isfinite(radius) and radius >= 0):
        raise UserError(f"radius = {radius} must be a finite number, 0 or more.")
    rows = Rows(array_of(references), "the references")
    place = place_for(rows, rows) if index is None else None
    if place is not None:
        return _in_shards(rows, radius, place, array_of(references), progress)
    if index is None:
        index = NeighbourIndex.build(rows.images, directions=FEW)
    else:
        index.check(rows)
    with full_precision():
        return _together(_Join(rows, radius, index).run(progress))


def _together(found: list[_Found]) -> NearPairs:
    pairs, distances = (np.concatenate(column) for column in zip(*found, strict=True))
    order = np.lexsort((pairs[:, 1], pairs[:, 0]))
    return NearPairs(pairs[order], distances[order])


def _in_shards(rows: Rows, radius: float, place: Spread, source: Images, progress: Progress) -> NearPairs:
    """Find the pairs in pieces: one for every two shards, which finds those between them."""
    shards, name = shards_of(rows, 2), uuid4().hex[:16]
    known = kept(rows, source, place)
    cells = list(combinations(range(len(shards)), 2)) or [(0, 0)]
    files = [place.folder / f"found-{name}-{number}.npz" for number in range(len(cells))]
    content = {"references": known, "radius": radius}
    try:
        place.run(
            [
                Piece(
                    "diffmem.memorization.neighbours.near:pairs_piece",
                    # What lies within a shard is found once: with the next shard, and of the last with the one before.
                    {**content, "shards": [shards[one], shards[other]], "out": str(file), "within": [
                        other == one + 1, one == other - 1 == len(shards) - 2]},
                )
                for (one, other), file in zip(cells, files, strict=True)
            ],
            progress,
        )  # fmt: skip
        found = []
        for file in files:
            pairs, distances = read_found(file)
            found.append((pairs, distances))
            if sum(map(len, (one for _, one in found))) > MOST_PAIRS:
                raise _too_many(radius)
        return _together([_NONE, *found])
    finally:
        for path in files:
            path.unlink(missing_ok=True)


def pairs_piece(content: dict[str, Any], progress: Progress, warn: Callable[[str], None]) -> None:
    """Find the pairs between two shards, and within those that are asked for, and write them.

    Raises:
        UserError: There are too many.
        DiffmemError: A file is missing, or holds something else than where the search was split.
    """
    images, ranges = taken_from(content["references"]), content["shards"]
    (start, stop), (first, last) = ranges
    single = start == first
    positions = np.arange(start, stop) if single else np.concatenate([np.arange(*one) for one in ranges])
    near = single or stop == first
    rows = images[start:last] if near else np.concatenate([images[start:stop], images[first:last]])
    found = pairs_within(rows, content["radius"], progress=progress)
    pairs = positions[found.pairs]
    keep = np.ones(len(pairs), bool)
    for (start, stop), within in zip(ranges, content["within"], strict=True):
        if not (single or within):
            keep &= ~((pairs >= start) & (pairs < stop)).all(axis=1)
    with atomic_path(Path(content["out"])) as temporary, temporary.open("wb") as stream:
        np.savez(stream, pairs=pairs[keep], distances=found.distances[keep])


class _Join:
    """A search for pairs: references sorted by their first projection, and their sketches in that order."""

    def __init__(self, rows: Rows, radius: float, index: NeighbourIndex) -> None:
        self.radius, self.total = radius, 0
        self.tools = Best(rows, rows, 1, max(1, PIECE_BYTES // rows.dim))
        positions = (index.order >= 0).nonzero()[:, 0]
        positions = positions[index.sketch.second[positions, 0].argsort(stable=True)]
        self.order = index.order[positions]
        self.right, self.left = index.sketch[positions], index.sketch[positions]
        self.left.to_queries()
        self.along = self.right.second[:, 0].double().contiguous()
        norms = self.right.norms
        square = torch.tensor(radius * radius * (1 + 1e-12), dtype=torch.float64)
        self.ceiling = ceilings(square, norms, rows.dim, index.cuts.third)
        largest = float(norms.max()) ** 0.5
        # Projections are shorter than what is projected; they and the centred values are rounded.
        self.window = 1.001 * (radius + 2 * largest * (projection_error(rows.dim, 1) + 2 * UNIT))

    def run(self, progress: Progress) -> list[_Found]:
        """Return the pairs and distances, in parts."""
        count, done, found = len(self.order), 0, [_NONE]
        for part, some in dealt(self.block, even_parts(count, BLOCK)):
            found += some
            done += part.stop - part.start
            progress(done, count, "near pairs")
        return found

    def block(self, part: slice) -> tuple[slice, list[_Found]]:
        """Compare some references with those that follow in the order."""
        end = int(torch.searchsorted(self.along, self.along[part.stop - 1] + self.window, right=True))
        found = []
        for first in range(part.start, end, TILE):
            last = min(first + TILE, end)
            bound = torch.mm(self.left.second[part], self.right.second[first:last].T)
            row, column = (bound <= self.ceiling[part, None]).nonzero().unbind(1)
            bound = bound[row, column]
            row, column = row + part.start, column + first
            later = row < column
            row, column, bound = row[later], column[later], bound[later]
            for at in range(0, len(row), MANY):
                some = slice(at, at + MANY)
                found.append(self.decide(row[some], column[some], bound[some]))
        return part, found

    def decide(self, row: Tensor, column: Tensor, bound: Tensor) -> _Found:
        """Return which pairs of positions lie within the radius, by the third bounds and then exactly."""
        bound = bound + torch.linalg.vecdot(self.left.third[row], self.right.third[column])
        possible = bound <= self.ceiling[row]
        pairs = torch.stack([self.order[row[possible]], self.order[column[possible]]], 1).sort(1).values
        distances = np.sqrt(self.tools.exact(pairs[:, 0], pairs[:, 1]))
        inside = distances <= self.radius
        self.total += int(inside.sum())
        if self.total > MOST_PAIRS:
            raise _too_many(self.radius)
        return pairs.numpy()[inside], distances[inside]


def _too_many(radius: float) -> UserError:
    return UserError(
        f"More than {MOST_PAIRS:,} pairs lie within radius {radius:g}, which is the limit that keeps their"
        " memory below 0.3 GB; choose a smaller radius, or leave out exact copies first."
    )
