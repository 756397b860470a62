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

from collections.abc import Callable

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from diffmem.memorization.neighbours.candidates import Best, Candidates, error_bound
from diffmem.memorization.neighbours.rows import (
    CHUNK,
    UNIT,
    Rows,
    block_rows,
    centre_of,
    full_precision,
    padded_width,
    squared_norms,
)
from diffmem.progress import Progress

__all__ = ["search"]


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
        self.left = torch.zeros(min(self.rows, len(queries)), width, device=device)
        self.right = torch.zeros(self.height, width, device=device)
        self.product = torch.empty(self.height * len(self.left), device=device)
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
        largest: float = (float(norms.max()) * (1 + (self.dim + 8) * UNIT)) ** 0.5
        return largest

    def block(self, start: int, stop: int, step: Callable[[float], None]) -> None:
        """Compare the queries start..stop with all references; `step` gets the share done."""
        norms = self.load_queries(start, stop)
        left, count = self.left[: stop - start], len(self.references)
        found = Candidates(
            self.best,
            torch.arange(start, stop, device=norms.device),
            torch.full((stop - start,), torch.inf, device=norms.device),
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
