"""Exact nearest neighbours by brute force: float32 products find candidates, exact differences decide.

For a query q and a reference r, |q - r|^2 = |q|^2 + (|r|^2 - 2 q.r). The term in brackets, v, orders the
references of one query. One matrix product per block computes it: the rows [-2q, 1] times the rows [r,
|r|^2]. In float32 it is off by at most E(q, block), a rigorous bound (Higham 2002, "Accuracy and Stability of
Numerical Algorithms", section 3.1) that holds for any order of summation. With U the k-th smallest of v + E
seen so far, a reference with v - E > U cannot be among the k nearest; all others are candidates, and their
distances are computed from differences in exact arithmetic. So the result is exact, and the same for every
block size, number of threads and device.

Large searches on a CPU first compute lower bounds of v from sketches (see `sketch`), and only queries with
too many references below U go through the full product.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from diffmem.memorization.candidates import Best, Candidates, below, chunked, error_bound
from diffmem.memorization.rows import (
    CHUNK,
    UNIT,
    Rows,
    block_rows,
    centre_of,
    full_precision,
    padded_width,
    squared_norms,
)
from diffmem.memorization.sketch import SKETCH_DIM, SKETCH_WIDTH, fit_basis, sketch_error, sketch_rows
from diffmem.progress import Progress

__all__ = ["search"]

SCOUTS = 4  # references beyond k whose distance is computed to get a first upper bound
DENSE = 1 / 128  # a query with more than this share of references left by the sketch takes the full product
USELESS = 0.25  # sketches that leave out more than this share of the energy prune too little
SKETCH_BYTES = 64 << 20
PAIRS = 512  # pairs whose products are taken at once: fits the cache, and wakes threads seldom
SAMPLE = 512  # references that the sketch's directions are fitted to


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
        self.basis: Tensor | None = None
        self.span = len(references)
        if (
            device.type == "cpu"
            and sketch_pays(len(queries), len(references), self.dim, k)
            and self.height >= SAMPLE
        ):
            self.basis = fit_basis(self._sample())
            blocks = min(SKETCH_BYTES // (4 * SKETCH_WIDTH) // self.height, -(-self.span // self.height))
            self.span = min(self.span, max(1, blocks) * self.height)
            self.sketches = torch.zeros(max(1, blocks) * self.height, SKETCH_WIDTH)
            self.left_sketches = torch.zeros(len(self.left), SKETCH_WIDTH)
            self.scratch = torch.zeros(min(PAIRS, self.height), width)

    def _sample(self) -> Tensor:
        step = len(self.references) // SAMPLE
        sample = self.references.take(slice(None, SAMPLE * step, step)).to(torch.float32) - self.centre
        squared_norms(sample, len(sample), self.references)
        return sample

    def load_queries(self, start: int, stop: int) -> Tensor:
        """Fill `left` with [-2q, 1] and return upper bounds on the norms of q, float64 (Q,)."""
        self.left[:, self.dim] = 0
        self.queries.fill(self.left, start, stop, self.centre)
        norms = squared_norms(self.left, stop - start, self.queries)
        self.left.mul_(-2)
        self.left[:, self.dim] = 1
        return norms.double().mul(1 + (self.dim + 8) * UNIT).sqrt()

    def load_references(self, first: int, last: int) -> tuple[Tensor, float]:
        """Fill `right` with [r, |r|^2] and then infinitely far rows; return |r|^2 and a bound on |r|."""
        self.right[:, self.dim] = 0
        self.references.fill(self.right, first, last, self.centre)
        norms = squared_norms(self.right, last - first, self.references)
        self.right[: last - first, self.dim] = norms
        self.right[last - first :, : self.dim] = 0
        self.right[last - first :, self.dim] = torch.inf
        return norms, (float(norms.max()) * (1 + (self.dim + 8) * UNIT)) ** 0.5

    def full(
        self,
        left: Tensor,
        norms: Tensor,
        found: Candidates,
        first: int,
        last: int,
        step: Callable[[float], None],
    ) -> None:
        """Compare queries with the references first..last by the full product; `step` gets the share done."""
        values = self.product[: self.height * len(left)].view(self.height, len(left))
        for at in range(first, last, self.height):
            end = min(at + self.height, last)
            _, largest = self.load_references(at, end)
            torch.mm(self.right, left.T, out=values)
            found.scan(values, at, error_bound(norms, largest, self.dim, self.exact).float())
            step((end - first) / (last - first))

    def sketch_span(self, first: int, last: int) -> float:
        """Sketch the references first..last, then infinitely far rows; return a bound on the norms."""
        assert self.basis is not None
        largest = 0.0
        self.sketches.zero_()
        self.sketches[last - first :, SKETCH_DIM] = torch.inf
        for at in range(first, last, self.height):
            end = min(at + self.height, last)
            norms, norm = self.load_references(at, end)
            largest = max(largest, norm)
            sketch_rows(
                self.right[: end - at, : self.dim], norms, self.basis, self.sketches[at - first : end - first]
            )
            rest = self.sketches[: end - first, SKETCH_DIM + 1].square().sum()
            if at == first and rest > USELESS * norms.sum():
                self.basis = None  # these images do not lie near a few directions
                self.sketches = self.sketches[:0].clone()  # gives the memory back
                break
        return largest

    def prune(
        self, norms: Tensor, largest: float, first: int, last: int, queries: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Bound v from sketches, and settle the queries for which few references remain.

        Args:
            norms: Bounds on the norms of the loaded queries, float64 (Q,).
            largest: A bound on the norms of the sketched references.
            first: The first sketched reference.
            last: The end of the sketched references.
            queries: Which queries are loaded, int64 (Q,).

        Returns:
            The positions of the queries that need the full product, ascending, and an upper bound on v of the
            k-th nearest reference of every query, (Q,).
        """
        assert self.basis is not None
        count = len(queries)
        sketch = self.left_sketches[:count]
        sketch_rows(self.left[:count, : self.dim], norms.square().mul(4).float(), self.basis, sketch)
        sketch[:, SKETCH_DIM] = 1
        sketch[:, SKETCH_DIM + 1].neg_()
        bound = error_bound(norms, largest, self.dim, self.exact).float()
        slack = sketch_error(norms, largest, self.dim, self.exact).float()

        ceiling = self.scout(sketch, first, last).add_(bound)
        limit = ceiling + slack
        hits = torch.zeros(count, dtype=torch.int64)
        kept = []
        for at, lower in self.lower_bounds(sketch, first, last):
            chunks = chunked(lower, self.k)
            least = chunks.amin(0)
            hits += (least <= limit).sum(0)
            limit[hits > DENSE * (at + self.height - first) + SCOUTS] = -torch.inf
            kept += [(column, at + row) for row, column, _ in below(chunks, least, limit)]
        column, reference = (
            (torch.cat(parts) for parts in zip(*kept, strict=True)) if kept else torch.empty(2, 0).long()
        )
        sparse = limit[column] > -torch.inf
        column, reference = column[sparse], reference[sparse]
        found = Candidates(self.best, queries, ceiling)
        found.add(column, reference, self.values_of(column, reference, first) - bound[column])
        found.decide()
        return (limit == -torch.inf).nonzero()[:, 0], ceiling

    def lower_bounds(self, sketch: Tensor, first: int, last: int) -> Iterator[tuple[int, Tensor]]:
        """Yield blocks of lower bounds of v, (R, Q), with the index of their first reference."""
        values = self.product[: self.height * len(sketch)].view(self.height, len(sketch))
        for at in range(first, last, self.height):
            torch.mm(self.sketches[at - first : at - first + self.height], sketch.T, out=values)
            yield at, values

    def scout(self, sketch: Tensor, first: int, last: int) -> Tensor:
        """Compute v for the references of least lower bound; return the k-th smallest of each query, (Q,)."""
        some = self.k + SCOUTS
        lowest = torch.full((some, len(sketch)), torch.inf)
        which = torch.zeros(some, len(sketch), dtype=torch.int64)
        for at, lower in self.lower_bounds(sketch, first, last):
            chunks = chunked(lower, self.k)
            lowest, order = torch.cat([lowest, chunks.amin(0)]).topk(some, dim=0, largest=False)
            which = which.gather(0, order.clamp_max(some - 1))
            slot, column = (order >= some).nonzero().unbind(1)
            chunk = order[slot, column] - some
            which[slot, column] = at + chunks[:, chunk, column].argmin(0) * chunks.shape[1] + chunk
        values = torch.full_like(lowest, torch.inf)
        slot, column = lowest.isfinite().nonzero().unbind(1)
        values[slot, column] = self.values_of(column, which[slot, column], first)
        return values.topk(self.k, dim=0, largest=False).values[-1]

    def values_of(self, column: Tensor, reference: Tensor, first: int) -> Tensor:
        """Compute v of pairs, with the same bound on its error as the full product."""
        values = self.sketches[reference - first, SKETCH_DIM]
        piece = len(self.scratch)
        for at in range(0, len(column), piece):
            part = slice(at, at + piece)
            taken = self.references.take(reference[part])
            left = torch.index_select(self.left, 0, column[part], out=self.scratch[: len(taken)])
            right = self.right[: len(taken), : self.dim]
            self.references.subtract(taken, self.centre, right)
            values[part] += right.mul_(left[:, : self.dim]).sum(1)
        return values

    def block(
        self, start: int, stop: int, first: int, last: int, largest: float, step: Callable[[float], None]
    ) -> None:
        """Compare the queries start..stop with the references first..last; `step` gets the share done."""
        norms = self.load_queries(start, stop)
        queries = torch.arange(start, stop)
        ceiling = torch.full((stop - start,), torch.inf, device=norms.device)
        if self.basis is not None:
            dense, ceiling = self.prune(norms, largest, first, last, queries)
            for at in range(0, len(dense), 256):  # moves rows forward, a few at a time to save memory
                part = dense[at : at + 256]
                self.left[at : at + len(part)] = self.left[part]
            if len(dense) > 0.8 * (stop - start):
                self.basis = None  # more queries of this kind would only lose time
            norms, queries, ceiling = norms[dense], queries[dense], ceiling[dense]
        if len(queries):
            found = Candidates(self.best, queries.to(norms.device), ceiling)
            self.full(self.left[: len(queries)], norms, found, first, last, step)
            found.decide()


def sketch_pays(queries: int, references: int, dim: int, k: int) -> bool:
    """Say whether a search is so large that sketches of its images cost little beside it."""
    return queries >= 2 * SKETCH_DIM and min(references, dim) >= 8 * SKETCH_DIM and k <= 16


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
    total, done = len(queries) * len(references), 0
    with torch.no_grad(), full_precision():
        state = _Search(queries, references, k, device, block_bytes)
        for first in range(0, len(references), state.span):
            last = min(first + state.span, len(references))
            largest = state.sketch_span(first, last) if state.basis is not None else 0.0
            for start in range(0, len(queries), state.rows):
                stop = min(start + state.rows, len(queries))
                pairs = (stop - start) * (last - first)

                def step(share: float, done: int = done, pairs: int = pairs) -> None:
                    progress(done + share * pairs, total, "nearest neighbours")

                state.block(start, stop, first, last, largest, step)
                done += pairs
                progress(done, total, "nearest neighbours")
    return state.best.squares, state.best.indices
