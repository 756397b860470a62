"""The exact search with an index: bounds of growing width leave fewer and fewer pairs, and exact distances decide.

For a block of queries:

1. One product of short rows bounds the distances to all references. Of each leaf (some fifty references that stand
   together), only the least bound is kept.
2. The best of the leaves with the least bounds are compared exactly: the k-th distance found is a ceiling.
3. Pairs of a query and a leaf below its ceiling get the bounds of the second width, and pairs of a query and a
   reference then below it those of the third.
4. What is left is compared exactly, the most promising first, since that lowers the ceiling for the others.

Every bound is proven, rounding included (see `sketch`), so what is left out cannot be among the nearest.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from diffmem.data.storage import parts
from diffmem.memorization.neighbours.dense import MOST_OF_INDEX, dense_fits, dense_pays, full_search
from diffmem.memorization.neighbours.index import BLOCK_BYTES, NeighbourIndex, sample_of
from diffmem.memorization.neighbours.rows import Images, Rows, full_precision
from diffmem.memorization.neighbours.search import PIECE_BYTES, Best
from diffmem.memorization.neighbours.sketch import Cuts, Sketch, ceilings, fit_basis, tail_share
from diffmem.progress import Progress
from diffmem.threads import dealt, even_parts

__all__ = ["cascade", "index_helps", "index_pays", "indexed_search"]

QUERIES = 2048  # queries in a block
PRODUCT = 1 << 19  # numbers in a product of the first bounds: stays in the cache
SPAN = 1 << 17  # references whose leaves are searched together
BATCH = 4096  # pairs of a query and a leaf whose references are bounded together
PIECE = 2048  # pairs whose third bounds are computed together
REST = 2048  # queries that take the full product together
EXTRA = 6  # references beyond k that are compared exactly to get a ceiling
SCOUTS = 8  # leaves beyond k whose best references these are taken from
DENSE = 1 / 64  # queries with more than this share of references left take the full product, if they are many
MANY = 1 / 16  # of a block; few are cheaper to settle one by one, unless the share is eight times as large
USELESS = 0.25  # directions that leave out more than this share of the energy prune too little
WORTH = 1.5e11  # products of a full search above which an index that is built in passing pays


class _Pairs(NamedTuple):
    """Pairs of a query (its position in the block) and a position in the index, with lower bounds."""

    column: Tensor
    position: Tensor
    bound: Tensor


class _Block:
    """A block of queries, its sketches and its ceilings."""

    def __init__(self, index: NeighbourIndex, queries: Rows, best: Best, part: slice) -> None:
        self.index, self.best, self.k, self.start = index, best, best.k, part.start
        count = part.stop - part.start
        self.sketch = Sketch.empty(count, index.cuts)
        for some in parts(count, 4 * queries.dim, BLOCK_BYTES):
            rows = torch.empty(some.stop - some.start, queries.dim, dtype=torch.float32)
            queries.fill(rows, part.start + some.start, part.start + some.stop, index.centre)
            self.sketch[some].write(rows, index.basis, index.cuts, queries)
        self.sketch.to_queries()
        self.ceiling = torch.full(
            (count,), torch.inf, dtype=torch.float32
        )  # the largest bound that a neighbour can have
        self.left = torch.zeros(count, dtype=torch.int64)  # references that the bounds left, of each query
        self.dense = torch.zeros(count, dtype=torch.bool)

    def search(self) -> Tensor:
        """Find the neighbours; return which queries are left to the full product, int64 (n,)."""
        index, leaf = self.index, self.index.leaf
        leaves = len(index.order) // leaf
        span = max(1, SPAN // leaf)
        for first in range(0, leaves, span):
            last = min(first + span, leaves)
            least = self.least(first, last)
            scouted = self.scout(least, first)
            near = least <= self.ceiling
            leaves_near, column = near.nonzero().unbind(1)
            found = [part for part in self.bounded(leaves_near + first, column) if len(part.column)]
            if found:
                self.decide(_Pairs(*(torch.cat(column) for column in zip(*found, strict=True))), scouted)
        left: Tensor = self.dense.nonzero()[:, 0] + self.start
        return left

    def least(self, first: int, last: int) -> Tensor:
        """Return the least first bound of each leaf and query, float32 (last - first, Q)."""
        leaf, count = self.index.leaf, len(self.ceiling)
        least = torch.empty(last - first, count, dtype=torch.float32)
        step = max(1, PRODUCT // (leaf * count))
        product = torch.empty(step * leaf, count, dtype=torch.float32)
        right = self.sketch.first.T
        for at in range(first, last, step):
            end = min(at + step, last)
            part = product[: (end - at) * leaf]
            torch.mm(self.index.sketch.first[at * leaf : end * leaf], right, out=part)
            torch.amin(part.view(end - at, leaf, count), 1, out=least[at - first : end - first])
        return least

    def scout(self, least: Tensor, first: int) -> Tensor:
        """Compare the best of the nearest leaves exactly, to lower the ceilings; return their positions, (n, Q)."""
        some = min(self.k + SCOUTS, len(least))
        leaves = least.topk(some, dim=0, largest=False).indices + first
        count = leaves.shape[1]
        by_leaf = leaves.flatten().argsort(stable=True)
        bounds = torch.empty(some * count, self.index.leaf, dtype=torch.float32)
        at = 0
        for values in self.leaf_bounds(leaves.flatten()[by_leaf], by_leaf % count):
            bounds[by_leaf[at : at + len(values)]] = values
            at += len(values)
        bounds = bounds.view(some, count, -1).transpose(0, 1).flatten(1)
        bound, order = bounds.topk(min(self.k + EXTRA, bounds.shape[1]), largest=False)
        position = leaves.T.gather(1, order // self.index.leaf) * self.index.leaf + order % self.index.leaf
        column, slot = (bound < torch.inf).nonzero().unbind(1)
        self.compare(column, position[column, slot])
        return position.T

    def leaf_bounds(self, leaves: Tensor, column: Tensor) -> Iterator[Tensor]:
        """Yield the second bounds of the references of leaves, in batches of `BATCH` pairs, (n, leaf).

        Args:
            leaves: Leaves of pairs, in ascending order.
            column: Queries of the pairs.
        """
        leaf, second = self.index.leaf, self.index.sketch.second
        rows = torch.empty(BATCH, second.shape[1], dtype=torch.float32)
        values = torch.empty(BATCH, leaf, dtype=torch.float32)
        for at in range(0, len(leaves), BATCH):
            queries, some = column[at : at + BATCH], leaves[at : at + BATCH]
            taken = torch.index_select(self.sketch.second, 0, queries, out=rows[: len(queries)])
            which, sizes = torch.unique_consecutive(some, return_counts=True)
            begin = 0
            for one, size in zip(which.tolist(), sizes.tolist(), strict=True):
                torch.mm(
                    taken[begin : begin + size],
                    second[one * leaf : (one + 1) * leaf].T,
                    out=values[begin : begin + size],
                )
                begin += size
            yield values[: len(queries)]

    def bounded(self, leaves: Tensor, column: Tensor) -> Iterator[_Pairs]:
        """Yield the pairs that the second and third bounds leave, for pairs of leaves (ascending) and queries."""
        for at, values in enumerate(self.leaf_bounds(leaves, column)):
            batch = slice(at * BATCH, (at + 1) * BATCH)
            queries, some = column[batch], leaves[batch]
            ceiling = self.ceiling[queries]
            hit = (values.amin(1) <= ceiling).nonzero()[:, 0]
            inside = values[hit]
            row, tooth = (inside <= ceiling[hit, None]).nonzero().unbind(1)
            queries, position = queries[hit[row]], some[hit[row]] * self.index.leaf + tooth
            pairs = self.refined(_Pairs(queries, position, inside[row, tooth]))
            self.left += torch.bincount(pairs.column, minlength=len(self.left))
            self.give_up_dense()
            yield pairs

    def refined(self, pairs: _Pairs) -> _Pairs:
        """Return the pairs that the third bounds leave."""
        bound = torch.empty_like(pairs.bound)
        for at in range(0, len(bound), PIECE):
            part = slice(at, at + PIECE)
            left = self.sketch.third.index_select(0, pairs.column[part])
            right = self.index.sketch.third.index_select(0, pairs.position[part])
            bound[part] = pairs.bound[part] + torch.linalg.vecdot(left, right)
        keep = ((bound <= self.ceiling[pairs.column]) & (bound < torch.inf)).nonzero()[:, 0]
        return _Pairs(pairs.column[keep], pairs.position[keep], bound[keep])

    def decide(self, pairs: _Pairs, scouted: Tensor) -> None:
        """Compare pairs exactly, first as many of each query as may become its neighbours."""
        new = ~(pairs.position == scouted[:, pairs.column]).any(0) & ~self.dense[pairs.column]
        column, position, bound = (part[new].numpy() for part in pairs)
        order = np.lexsort((bound, column))
        column, position, bound = column[order], position[order], bound[order]
        rank = np.arange(len(column)) - np.searchsorted(column, column)
        soon = rank < self.k
        self.compare(torch.from_numpy(column[soon]), torch.from_numpy(position[soon]))
        late = ~soon & (bound <= self.ceiling.numpy()[column])
        self.compare(torch.from_numpy(column[late]), torch.from_numpy(position[late]))

    def compare(self, column: Tensor, position: Tensor) -> None:
        """Compute exact distances of pairs, none seen before, and lower the ceilings."""
        self.best.add(column + self.start, self.index.order[position])
        found = torch.from_numpy(self.best.squares[self.start : self.start + len(self.ceiling), -1])
        self.ceiling = ceilings(found, self.sketch.norms, self.best.queries.dim, self.index.cuts.third)
        self.ceiling[self.dense] = -torch.inf

    def give_up_dense(self) -> None:
        """Leave queries with so many references left to the full product that it is faster."""
        share = DENSE * len(self.index.order)
        dense = self.left > share
        if int(dense.sum()) < MANY * len(dense):
            dense = self.left > 8 * share
        self.dense |= dense
        self.ceiling[self.dense] = -torch.inf


def cascade(queries: Rows, references: Rows, best: Best, index: NeighbourIndex, progress: Progress) -> Tensor:
    """Find the nearest references of the queries, where bounds leave few enough.

    Args:
        queries: Q rows.
        references: The rows of the index.
        best: Takes in what is found.
        index: Of the references.
        progress: Reports the number of compared pairs.

    Returns:
        The queries that are left to the full product, ascending, int64 (n,); `best` may know some references of theirs.
    """
    hopeless = [0, 0]  # of the queries so far: left to the full product, all

    def search(part: slice) -> tuple[int, Tensor]:
        if hopeless[0] > hopeless[1] / 2:
            return part.stop - part.start, torch.arange(part.start, part.stop)
        left = _Block(index, queries, best, part).search()
        hopeless[0] += len(left)
        hopeless[1] += part.stop - part.start
        return part.stop - part.start, left

    done, dense = 0, []
    for count, left in dealt(search, even_parts(len(queries), QUERIES)):
        dense.append(left)
        done += count - len(left)
        progress(done * len(references), len(queries) * len(references), "nearest neighbours, by an index")
    return torch.cat(dense).sort().values if dense else torch.empty(0, dtype=torch.int64)


def index_pays(queries: int, references: Rows, k: int) -> bool:
    """Say whether so many queries of the type of the references are found sooner with an index on a CPU, its building included."""
    count, dim = len(references), references.dim
    large = (
        queries >= 512 and min(count, dim) >= 256 and k <= MOST_OF_INDEX and queries * count * dim >= WORTH
    )
    whole = large and dense_fits(references, references, torch.device("cpu"))
    return large and not (whole and dense_pays(queries, count, dim, k))


def index_helps(references: Images, device: torch.device | str) -> bool:
    """Say whether an index can make searches for many neighbours of images of the same type faster on a device.

    Not on a GPU, and not for bytes where the processor has instructions for their products: comparing all is faster there.
    """
    rows, where = Rows(references, "the references"), torch.device(device)
    return where.type == "cpu" and not dense_fits(rows, rows, where)


def indexed_search(
    queries: Rows,
    references: Rows,
    k: int,
    index: NeighbourIndex | None,
    block_bytes: int,
    progress: Progress,
) -> tuple[NDArray[np.float64], NDArray[np.int64]]:
    """Find the k nearest references of each query on a CPU, as `search` does, with an index where it helps.

    Args:
        queries: Q rows.
        references: At least k rows of the same length.
        k: Number of neighbours, at least 1.
        index: Of the references; none to build one in passing if the search is large.
        block_bytes: Memory of the blocks of a full search.
        progress: Reports the number of compared pairs.
    """
    cpu, count = torch.device("cpu"), len(references)
    pairs = len(queries) * count
    with torch.no_grad(), full_precision():
        if index is not None and dense_fits(queries, references, cpu):
            index = None if dense_pays(len(queries), count, queries.dim, k, built=True) else index
        elif index is None and index_pays(len(queries), references, k):
            cuts, sample = Cuts.fitting(queries.dim), sample_of(references)
            basis = fit_basis(sample[1], cuts.third)
            if tail_share(sample[1], basis) <= USELESS:

                def building(done: float, total: float, note: str = "") -> None:
                    progress(0, pairs, f"{note}: {100 * done / total:.0f}%")

                index = NeighbourIndex.prepared(references, sample, cuts, basis, building)
        # Of so few leaves, bounds leave out next to none.
        if index is None or len(index.order) < index.leaf * max(8, 2 * k):
            return full_search(queries, references, k, cpu, block_bytes, progress)
        best = Best(queries, references, k, max(1, PIECE_BYTES // queries.dim))
        left = cascade(queries, references, best, index, progress)
    at, settled = 0, pairs - len(left) * count
    for some in torch.split(left, REST):

        def resting(done: float, total: float, note: str = "", *, at: int = at) -> None:
            progress(settled + at * count + done, pairs, note)

        rest = full_search(queries.subset(some), references, k, cpu, block_bytes, resting)
        best.squares[some.numpy()], best.indices[some.numpy()] = rest
        at += len(some)
    return best.squares, best.indices
