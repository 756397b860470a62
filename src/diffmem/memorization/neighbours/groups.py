"""Groups of exact copies and near-duplicates inside a set of images."""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from diffmem.data.duplicates import duplicate_groups
from diffmem.data.storage import gather
from diffmem.errors import UserError
from diffmem.memorization.neighbours.near import pairs_within
from diffmem.progress import NO_PROGRESS, Progress

__all__ = ["DuplicateGroups", "near_duplicates"]

_MOST_COPY_PAIRS = 1 << 20  # 24 megabytes
_MOST_MEASURED = 2048  # members of a group whose largest distance is measured
_MOST_PRODUCTS = 10**11  # multiplications for it: a few seconds
_COLUMNS = 4096


@dataclass(frozen=True, eq=False)
class DuplicateGroups:
    """Images that belong together because a chain of near pairs joins them; images alone are in no group.

    Distances are in grey levels RMS: the Euclidean distance over all C H W pixel values, divided by sqrt(C H W). So
    images that differ by one grey level in every value are 1 apart.

    Attributes:
        count: Images of the set, N.
        radius: Two images at most this far apart are a near pair.
        members: Positions in the set of each group's images, int64 (m,) ascending, m at least 2; groups in the order of
            their first images.
        gaps: For each group, the distance of each of its images to the nearest other one, float64 (m,), at most
            `radius`.
        widest: Largest distance between any two images of each group, float64 (G,). It can be above `radius`, as a
            chain of near pairs can be long. NaN where it was not measured, in groups of more than 2,048 different
            images or of very large ones.
    """

    count: int
    radius: float
    members: tuple[NDArray[np.int64], ...]
    gaps: tuple[NDArray[np.float64], ...]
    widest: NDArray[np.float64]

    def __len__(self) -> int:
        return len(self.members)

    @cached_property
    def nearest(self) -> NDArray[np.float64]:
        """Smallest distance between two images of each group, float64 (G,)."""
        return np.array([gaps.min() for gaps in self.gaps], np.float64)

    @cached_property
    def distinct(self) -> NDArray[np.int64]:
        """The images that are left if each group keeps its first one, int64 ascending.

        No two of them are a near pair: near pairs are always in one group.
        """
        inside = np.ones(self.count, bool)
        for members in self.members:
            inside[members[1:]] = False
        return np.flatnonzero(inside)

    @property
    def removed(self) -> int:
        """How many images are left out of `distinct`."""
        return self.count - len(self.distinct)

    def by_size(self) -> list[int]:
        """Return the numbers of the groups, the largest first and, of equal size, the nearest first."""
        sizes = [len(members) for members in self.members]
        return sorted(range(len(self)), key=lambda group: (-sizes[group], self.nearest[group], group))


def near_duplicates(
    images: NDArray[np.uint8], radius: float = 1.0, *, progress: Progress = NO_PROGRESS
) -> DuplicateGroups:
    """Find all pairs of images at most `radius` apart, exactly, and the groups that they join (single linkage).

    A group is a connected component of the graph of near pairs: copies of copies belong together, and a chain can join
    images that are further apart than the radius. Groups do not depend on the order of the images, and those of a
    larger radius are unions of those of a smaller one.

    Exact copies are found by their hashes; where there are many, one image stands for them in the search, so that even
    a set of one image a million times makes no pairs. Images may be memory-mapped.

    Args:
        images: uint8 (N, ...).
        radius: In grey levels RMS, 0 to 255; see `DuplicateGroups`. 0 finds exact copies alone. Changing every value by
            at most 1, as rounding does, moves an image by at most 1.
        progress: Called now and then.

    Raises:
        UserError: The radius is outside of 0 to 255, the images are not uint8, or so many pairs are near that they do
            not fit into memory.
    """
    if not 0 <= radius <= 255:
        raise UserError(f"The radius must lie between 0 and 255 grey levels, not {radius:g}.")
    leaders = duplicate_groups(images, progress)
    alone = leaders == np.arange(len(images))
    copies = np.flatnonzero(~alone)
    sizes = np.bincount(leaders)
    searched = np.flatnonzero(alone) if int((sizes * (sizes - 1)).sum()) // 2 > _MOST_COPY_PAIRS else None
    size = math.sqrt(math.prod(images.shape[1:]))
    pairs, distances = np.empty((0, 2), np.int64), np.empty(0)
    if radius > 0:
        rows = images if searched is None else gather(images, searched)
        # Squared distances are whole numbers, so rounding up the root takes in none that is too far.
        found = pairs_within(rows, radius * size * (1 + 2.0**-50), progress=progress)
        pairs = found.pairs if searched is None else searched[found.pairs]
        distances = found.distances / size
    return _joined(images, radius, leaders, copies, pairs, distances)


def _joined(
    images: NDArray[np.uint8],
    radius: float,
    leaders: NDArray[np.int64],
    copies: NDArray[np.int64],
    pairs: NDArray[np.int64],
    distances: NDArray[np.float64],
) -> DuplicateGroups:
    from scipy.sparse import coo_array
    from scipy.sparse.csgraph import connected_components

    count = len(images)
    edges = np.concatenate([pairs, np.stack([leaders[copies], copies], 1)])
    graph = coo_array((np.ones(len(edges), bool), (edges[:, 0], edges[:, 1])), shape=(count, count))
    component = connected_components(graph, directed=False)[1]
    gaps = np.full(count, np.inf)
    for side in (0, 1):
        np.minimum.at(gaps, pairs[:, side], distances)
    gaps[copies] = gaps[leaders[copies]] = 0

    inside = np.flatnonzero(np.isfinite(gaps))
    order = inside[np.argsort(component[inside], kind="stable")]
    groups = np.split(order, np.flatnonzero(np.diff(component[order])) + 1) if len(order) else []
    groups.sort(key=lambda members: int(members[0]))
    widest = [_widest(images, members[leaders[members] == members]) for members in groups]
    return DuplicateGroups(
        count,
        float(radius),
        tuple(groups),
        tuple(gaps[members] for members in groups),
        np.array(widest, float),
    )


def _widest(images: NDArray[np.uint8], members: NDArray[np.int64]) -> float:
    """Return the largest distance between different images; NaN if that would take long."""
    rows = images.reshape(len(images), -1)
    count, dim = len(members), rows.shape[1]
    if count == 1:
        return 0.0
    if count > _MOST_MEASURED or count * count * dim > _MOST_PRODUCTS:
        return math.nan
    products: NDArray[Any] = np.zeros((count, count))
    for at in range(0, dim, _COLUMNS):  # in float64 exact: whole numbers below 2**53
        block = rows[members, at : at + _COLUMNS].astype(np.float64)
        products += block @ block.T
    norms = products.diagonal()
    squares = norms[:, None] + norms - 2 * products
    return math.sqrt(squares.max()) / math.sqrt(dim)
