"""Exact nearest neighbours by brute force: float32 products find candidates, exact differences decide.

For a query q and a reference r, |q - r|^2 = |q|^2 + (|r|^2 - 2 q.r). The term in brackets, v, orders the
references of one query. One matrix product per block computes it: the rows [-2q, 1] times the rows [r,
|r|^2]. In float32 it is off by at most E(q, block), a rigorous bound (Higham 2002, "Accuracy and Stability of
Numerical Algorithms", section 3.1) that holds for any order of summation. With U the k-th smallest of v + E
seen so far, a reference with v - E > U cannot be among the k nearest; all others are candidates, and their
distances are computed from differences in exact arithmetic. So the result is exact, and the same for every
block size, number of threads and device.

Large searches on a CPU go through an index first (see `cascade`), and only what bounds cannot decide comes here.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from diffmem.memorization.neighbours.rows import (
    CHUNK,
    SUM,
    UNIT,
    Rows,
    block_rows,
    centre_of,
    full_precision,
    padded_width,
    squared_norms,
)
from diffmem.progress import Progress

__all__ = ["PIECE_BYTES", "Best", "Candidates", "below", "chunked", "error_bound", "search"]


EXACT = 2.0**24  # integers up to this are exact in float32
PIECE_BYTES = 3 << 17  # values of so many images are compared exactly at once that they stay in the cache
PENDING = 1 << 18  # candidates that may wait for their exact distance


def error_bound(query_norms: Tensor, reference_norm: float, dim: int, exact: bool) -> Tensor:
    """Bound |computed v - true v| of each query, for references of norm at most `reference_norm`.

    Args:
        query_norms: Norms of the centred queries, float64 (Q,).
        reference_norm: Largest norm of a centred reference in the block.
        dim: Number of values in an image.
        exact: Whether the centred values are integers: then sums up to 2^24 have no error in any order.

    Returns:
        Float64 (Q,).
    """
    gamma = (dim + 8) * UNIT / (1 - (dim + 8) * UNIT)
    largest_sum = reference_norm**2 + 2 * query_norms * reference_norm
    bound = gamma * (largest_sum + reference_norm**2)  # of the product; of |r|^2
    if exact:
        return torch.where(largest_sum < 0.99 * EXACT, 0.0, bound * 1.01)
    bound = bound + 2 * UNIT * (query_norms + reference_norm) ** 2  # centred values are rounded
    return bound * 1.01 + (dim + 8) * 2.0**-120  # products that underflow


class Best:
    """The k nearest references of each query found so far, by exact distance.

    Attributes:
        squares: Squared distances, float64 (Q, k), ascending; infinite where fewer are known.
        indices: Their references, int64 (Q, k), equal distances in order of index; -1 where fewer are known.
    """

    def __init__(self, queries: Rows, references: Rows, k: int, piece: int) -> None:
        self.queries, self.references, self.k, self.piece = queries, references, k, piece
        self.squares = np.full((len(queries), k), np.inf)
        self.indices = np.full((len(queries), k), -1, dtype=np.int64)

    def add(self, query: Tensor, reference: Tensor) -> None:
        """Compute the exact distances of pairs, none seen before, and keep the k nearest of each query."""
        query, reference = query.cpu(), reference.cpu()
        exact = self.exact(query, reference)
        touched = np.unique(query.numpy())
        old = self.indices[touched] >= 0
        owners = np.concatenate([touched[np.nonzero(old)[0]], query.numpy()])
        indices = np.concatenate([self.indices[touched][old], reference.numpy()])
        squares = np.concatenate([self.squares[touched][old], exact])
        order = np.lexsort((indices, squares, owners))
        owners, indices, squares = owners[order], indices[order], squares[order]
        rank = np.arange(len(owners)) - np.searchsorted(owners, owners)
        keep = rank < self.k
        self.squares[owners[keep], rank[keep]] = squares[keep]
        self.indices[owners[keep], rank[keep]] = indices[keep]

    def exact(self, query: Tensor, reference: Tensor) -> NDArray[np.float64]:
        """Return the squared distances of pairs, float64 (P,), a piece at a time."""
        exact = np.empty(len(query))
        for at in range(0, len(query), self.piece):
            part = slice(at, at + self.piece)
            exact[part] = self.exact_squares(query[part], reference[part])
        return exact

    def exact_squares(self, query: Tensor, reference: Tensor) -> NDArray[np.float64]:
        """Return the squared distances of pairs, float64 (P,): integers without error for uint8 images."""
        left, right = self.queries.take(query).cpu(), self.references.take(reference).cpu()
        if self.queries.is_uint8 and self.references.is_uint8:
            terms = math.gcd(left.shape[1], SUM)
            if terms < 32:
                difference = left.to(torch.int32).sub_(right)
                return difference.mul_(difference).sum(1).double().numpy()
            # Sums of so few squares are exact in float32, which takes half the time of integers.
            gaps = left.float().sub_(right.float()).view(len(left), -1, terms)
            squares: NDArray[np.float64] = torch.linalg.vecdot(gaps, gaps).double().sum(1).numpy()
            return squares
        gap = left.to(torch.float64).sub_(right).numpy()
        # numpy sums each row alone, in one order: the result does not depend on the other rows.
        total: NDArray[np.float64] = np.add.reduce(np.square(gap, out=gap), axis=1)
        return total


class Candidates:
    """The pairs of some queries that may be among the k nearest, while blocks of v come in."""

    def __init__(self, best: Best, queries: Tensor, ceiling: Tensor) -> None:
        self.best, self.queries, self.k = best, queries, best.k
        self.ceiling = ceiling  # (Q,): upper bound on v of the k-th nearest reference
        self.upper = ceiling.new_empty(
            0, len(ceiling)
        )  # (<= k, Q): the smallest upper bounds of v seen so far
        self.pending: list[tuple[Tensor, Tensor, Tensor]] = []
        self.waiting = 0

    def scan(self, values: Tensor, first: int, bound: Tensor) -> None:
        """Take in a block of v, (R, Q), of the references first, first + 1, ..., padded with infinity."""
        chunks = chunked(values, self.k)
        least = chunks.amin(0)
        # Smallest values of different chunks belong to different references: the k-th of them bounds v from
        # above for the k-th nearest.
        upper = torch.cat([self.upper, least + bound])
        self.upper = upper.topk(min(self.k, len(upper)), dim=0, largest=False).values
        if len(self.upper) == self.k:
            self.ceiling = torch.minimum(self.ceiling, self.upper[-1])
        for row, column, value in below(chunks, least, self.ceiling + bound):
            self.add(column, first + row, value - bound[column])

    def add(self, column: Tensor, reference: Tensor, lower: Tensor) -> None:
        """Let pairs wait: positions in `queries`, references, and lower bounds of their v."""
        self.pending.append((column, reference, lower))
        self.waiting += len(column)
        if self.waiting > PENDING:
            self.decide()

    def decide(self) -> None:
        """Pass the pairs that are still possible on to the exact comparison."""
        if self.pending:
            column, reference, lower = (torch.cat(parts) for parts in zip(*self.pending, strict=True))
            possible = lower <= self.ceiling[column]
            self.best.add(self.queries[column[possible]], reference[possible])
        self.pending, self.waiting = [], 0


def chunked(values: Tensor, k: int) -> Tensor:
    """View (R, Q) as (chunk, R / chunk, Q). A chunk is a comb of rows, so that minima run along long rows."""
    rows = values.shape[0]
    chunk = min(CHUNK, max(1, rows // (4 * k)))
    while rows % chunk:
        chunk -= 1
    return values.view(chunk, rows // chunk, -1)


def below(chunks: Tensor, least: Tensor, limit: Tensor) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
    """Yield, in parts, row, column and value of the finite entries up to the limit of their column."""
    positions = (least <= limit).nonzero()
    for start in range(0, len(positions), PENDING // CHUNK):
        part = positions[start : start + PENDING // CHUNK]
        at, column = part.unbind(1)
        inside = chunks[:, at, column]
        tooth, pair = ((inside <= limit[column]) & (inside < torch.inf)).nonzero().unbind(1)
        yield tooth * chunks.shape[1] + at[pair], column[pair], inside[tooth, pair]


class _Search:
    """Buffers and settings of one search."""

    def __init__(
        self, queries: Rows, references: Rows, k: int, device: torch.device, block_bytes: int
    ) -> None:
        self.queries, self.references, self.k = queries, references, k
        self.dim = queries.dim
        self.exact = queries.is_uint8 and references.is_uint8
        self.rows = block_rows(self.dim, block_bytes)
        self.best = Best(queries, references, k, max(1, block_bytes // (64 * self.dim)))
        # Half as many references as queries in a block: as fast, with less memory.
        half = max(1, self.rows // (2 * CHUNK) * CHUNK or self.rows // 2)
        self.height = min(half, -(-len(references) // CHUNK) * CHUNK)
        width = padded_width(self.dim)
        self.left = torch.zeros(min(self.rows, len(queries)), width, device=device, dtype=torch.float32)
        self.right = torch.zeros(self.height, width, device=device, dtype=torch.float32)
        self.product = torch.empty(self.height * len(self.left), device=device, dtype=torch.float32)
        self.centre = centre_of(references, self.rows, self.exact).to(device)

    def load_queries(self, start: int, stop: int) -> Tensor:
        """Fill `left` with [-2q, 1] and return upper bounds on the norms of q, float64 (Q,)."""
        self.left[:, self.dim] = 0
        self.queries.fill(self.left, start, stop, self.centre)
        norms = squared_norms(self.left, stop - start, self.queries)
        self.left.mul_(-2)
        self.left[:, self.dim] = 1
        return norms.double().mul(1 + (self.dim + 8) * UNIT).sqrt()

    def load_references(self, first: int, last: int) -> float:
        """Fill `right` with [r, |r|^2] and then infinitely far rows; return a bound on |r|."""
        self.right[:, self.dim] = 0
        self.references.fill(self.right, first, last, self.centre)
        norms = squared_norms(self.right, last - first, self.references)
        self.right[: last - first, self.dim] = norms
        self.right[last - first :, : self.dim] = 0
        self.right[last - first :, self.dim] = torch.inf
        return math.sqrt(float(norms.max()) * (1 + (self.dim + 8) * UNIT))

    def block(self, start: int, stop: int, step: Callable[[float], None]) -> None:
        """Compare the queries start..stop with all references; `step` gets the share done."""
        norms = self.load_queries(start, stop)
        left, count = self.left[: stop - start], len(self.references)
        found = Candidates(
            self.best,
            torch.arange(start, stop, device=norms.device),
            torch.full((stop - start,), torch.inf, device=norms.device, dtype=torch.float32),
        )
        values = self.product[: self.height * len(left)].view(self.height, len(left))
        for at in range(0, count, self.height):
            end = min(at + self.height, count)
            largest = self.load_references(at, end)
            torch.mm(self.right, left.T, out=values)
            found.scan(values, at, error_bound(norms, largest, self.dim, self.exact).float())
            step(end / count)
        found.decide()


def search(
    queries: Rows, references: Rows, k: int, device: torch.device, block_bytes: int, progress: Progress
) -> tuple[NDArray[np.float64], NDArray[np.int64]]:
    """Find the k nearest references of each query.

    Args:
        queries: Q rows.
        references: At least k rows of the same length.
        k: Number of neighbours, at least 1.
        device: Where the matrix products run.
        block_bytes: Memory of the blocks on `device`.
        progress: Called after each block of queries and references.

    Returns:
        Squared distances, float64 (Q, k), ascending, and indices, int64 (Q, k); ties are in order of index.
    """
    count = len(references)
    with torch.no_grad(), full_precision():
        state = _Search(queries, references, k, device, block_bytes)
        for start in range(0, len(queries), state.rows):
            stop = min(start + state.rows, len(queries))

            def step(share: float, start: int = start, stop: int = stop) -> None:
                done = (start + share * (stop - start)) * count
                progress(done, len(queries) * count, "nearest neighbours")

            state.block(start, stop, step)
    return state.best.squares, state.best.indices
