"""Exact nearest neighbours of byte images by brute force, in whole numbers from end to end.

With 128 taken off every value, images are int8, and |q - r|^2 = |q|^2 + (|r|^2 - 2 q.r) holds exactly in int32. The term in
brackets, v, orders the references of one query. A product of a block of references and a slab of queries is searched while
it is in the cache: of combs of its rows only the smallest v is compared with the query's limit, and only combs below it are
looked into. What is found there is the distance itself; nothing is left to check.

A neighbour is kept as one number, v in front of the reference's position, so that the smallest numbers are the nearest
references, and of equally near ones the first. The k-th smallest seen so far is the limit of what comes later.

Where the queries are the references, each product serves both ways, and half of them are enough.
"""

from __future__ import annotations

import functools
import threading
from dataclasses import dataclass, field

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from diffmem.data.storage import parts
from diffmem.integers import integer_products, least_seconds
from diffmem.memorization.neighbours.rows import Rows, full_precision
from diffmem.memorization.neighbours.search import search
from diffmem.progress import Progress
from diffmem.threads import dealt, one_thread

__all__ = ["dense_fits", "dense_pays", "dense_search", "full_search"]

COMB = 32  # rows of a block whose smallest v is compared first; blocks and slabs are multiples of it
ROWS = 4096  # references in a block
WIDTH = 512  # queries in a slab
SLAB_BYTES = 4 << 20  # of a slab at most: a product reads it many times
GROUP_BYTES = 16 << 20  # of queries that a block of references is compared with, once it is read
DIAGONAL = 32  # rows whose products with each other give their norms: more would be computed in vain
LARGEST_V = 48_896  # of one value: 127^2 + 2 * 128 * 127 is less, 128^2 + 2 * 127 * 128 is this
FEWEST = 256  # references in a block, where there are so many
FEW = 8  # neighbours; of more, combs are shorter, since more of them are looked into
HITS = 1 << 15  # combs that are looked into at once
MOST_OF_INDEX = 16  # neighbours that an index finds sooner
# Costs relative to that of a float32 product of a query and a reference, as measured.
INDEXED = 0.06, 0.02, 2400  # of an index, for each query: of a reference, for each of k neighbours, beside
BUILDING = 650  # of building an index, for each reference
DENSE = 1.4  # of the search by integers, for each query and reference, times g
TRIAL, TRIES = (
    (512, 4096, 512),
    4,
)  # rows, most terms and columns of the products that are timed, and how often
ENDLESS = np.iinfo(np.int64).max
NOTHING = -(1 << 62)  # limit of rows that only fill up a slab


def dense_fits(queries: Rows, references: Rows, device: torch.device) -> bool:
    """Say whether `dense_search` can compare rows on a device: bytes, where products of bytes have their own instructions."""
    if not (queries.is_uint8 and references.is_uint8):
        return False
    products = integer_products(device)
    room = LARGEST_V * references.dim < 1 << (62 - len(references).bit_length())
    return products.native and products.bits == 8 and room


def dense_pays(queries: int, references: int, dim: int, k: int, *, built: bool = False) -> bool:
    """Say whether a search on the CPU that `dense_fits` is faster than one with an index, by the measured speed of products.

    Args:
        queries: How many.
        references: How many.
        dim: Number of values in an image.
        k: Number of neighbours.
        built: Whether the index is there already.
    """
    if k > MOST_OF_INDEX:
        return True
    each = (INDEXED[0] + INDEXED[1] * k) * references + INDEXED[2]
    others = each * queries + (0 if built else BUILDING * references)
    return DENSE * queries * references <= others * _gain(min(dim, TRIAL[1]))


@functools.cache
def _gain(dim: int) -> float:
    """Measure how many times as fast as float32 products integer ones are, on one thread; once in a process."""
    rows, _, columns = TRIAL
    left, right = (torch.ones(count, dim, dtype=torch.int8, device="cpu") for count in (rows, columns))
    one, other, products = left.float(), right.float(), integer_products()
    out, whole = (
        torch.empty(rows, columns, dtype=kind, device="cpu") for kind in (torch.float32, torch.int32)
    )
    with one_thread(), full_precision():
        slow = least_seconds(lambda: torch.mm(one, other.T, out=out), TRIES)
        return slow / least_seconds(lambda: products(left, right.T, whole), TRIES)


def full_search(
    queries: Rows, references: Rows, k: int, device: torch.device, block_bytes: int, progress: Progress
) -> tuple[NDArray[np.float64], NDArray[np.int64]]:
    """Search without an index, in whole numbers where that is faster; see `search` for arguments and results."""
    way = dense_search if dense_fits(queries, references, device) else search
    return way(queries, references, k, device, block_bytes, progress)


def dense_search(
    queries: Rows, references: Rows, k: int, device: torch.device, block_bytes: int, progress: Progress
) -> tuple[NDArray[np.float64], NDArray[np.int64]]:
    """Find the k nearest references of each query; arguments and results are those of `search`, for rows that `dense_fits`."""
    with torch.no_grad():
        return _Search(queries, references, k, device, block_bytes).run(progress)


@dataclass
class _Slab:
    """The neighbours of some queries, found so far.

    Attributes:
        best: The k smallest keys of each, int64 (n, k), in any order.
        waiting: What is not yet among them: positions in the slab and keys.
        count: Number of these.
    """

    best: NDArray[np.int64]
    waiting: list[tuple[NDArray[np.int64], NDArray[np.int64]]] = field(default_factory=list)
    count: int = 0
    lock: threading.Lock = field(default_factory=threading.Lock)

    def add(self, column: NDArray[np.int64], keys: NDArray[np.int64]) -> None:
        """Let keys wait."""
        self.waiting.append((column, keys))
        self.count += len(keys)

    def merge(self) -> NDArray[np.int64]:
        """Take in what waits; return the k-th smallest key of each query, int64 (n,)."""
        k = self.best.shape[1]
        if self.waiting:
            column, keys = (np.concatenate(some) for some in zip(*self.waiting, strict=True))
            self.waiting, self.count = [], 0
            order = np.argsort(column.astype(np.uint16), kind="stable")  # by radix
            sizes = np.bincount(column, minlength=len(self.best))
            rank = np.arange(len(column)) - np.repeat(sizes.cumsum() - sizes, sizes)
            table = np.full((len(self.best), k + int(sizes.max())), ENDLESS)
            table[:, :k] = self.best
            table[column[order], k + rank] = keys[order]
            table.partition(k - 1, axis=1)
            self.best = table[:, :k].copy()
        largest: NDArray[np.int64] = self.best.max(1)
        return largest


class _Group:
    """Queries that a block of references is compared with, once it is read; converted when they are first wanted."""

    def __init__(self, starts: range, width: int) -> None:
        self.starts, self.width = starts, width
        self.tasks = 0  # that still need them
        self.lock = threading.Lock()
        self.signed: Tensor | None = None
        self.norms = torch.empty(0)


class _Search:
    """What the threads of one search share."""

    def __init__(
        self, queries: Rows, references: Rows, k: int, device: torch.device, block_bytes: int
    ) -> None:
        self.queries, self.references, self.k, self.device = queries, references, k, device
        self.products = integer_products(device)
        self.same = _same(queries, references)
        dim, count, asked = references.dim, len(references), len(queries)
        self.shift = count.bit_length()
        short = LARGEST_V * dim < torch.iinfo(torch.int32).max
        self.dtype = torch.int32 if short else torch.int64
        self.largest = torch.iinfo(torch.int32).max if short else 1 << (62 - self.shift)  # v of mere fillers
        many = 1 if device.type == "cpu" else 8
        width = many * max(COMB, min(WIDTH, SLAB_BYTES // dim // COMB * COMB))
        self.width = min(width, max(COMB, _padded(asked)))
        self.starts = range(0, asked, self.width)
        in_group = max(1, many * GROUP_BYTES // (dim * self.width))
        self.groups = [
            _Group(self.starts[at : at + in_group], self.width) for at in range(0, len(self.starts), in_group)
        ]
        rows = max(COMB, min(many * ROWS, block_bytes // (4 * (dim + 4 * self.width))))
        threads, least = torch.get_num_threads(), -(-count // FEWEST)
        blocks = max(-(-count // rows), min(least, -(-4 * threads // max(1, len(self.groups)))))
        blocks = -(-blocks // threads) * threads  # so that all are busy to the end
        step = self.width if self.same else COMB
        self.rows = -(-count // (blocks * step)) * step
        self.comb = COMB if k <= FEW else COMB // 4
        self.slabs = [_Slab(np.full((self.width, k), ENDLESS)) for _ in self.starts]
        self.kth = torch.full((len(self.slabs) * self.width,), ENDLESS, device="cpu")
        self.kth[asked:] = NOTHING
        self.norms = torch.full((count,), -1, dtype=self.dtype, device=device)
        self.buffers: list[tuple[Tensor, Tensor, Tensor]] = []

    def run(self, progress: Progress) -> tuple[NDArray[np.float64], NDArray[np.int64]]:
        """Search; return squared distances and indices."""
        count = len(self.references)
        tasks = [
            (group, first)
            for group in self.groups
            for first in range(0, count, self.rows)
            if not self.same or first + self.rows > group.starts[0]
        ]
        for group, _ in tasks:
            group.tasks += 1
        done = 0
        for pairs in dealt(self.work, tasks) if self.device.type == "cpu" else map(self.work, tasks):
            done += pairs
            progress(done, len(self.queries) * count, "nearest neighbours, by integers")
        if not tasks:
            return np.empty((0, self.k)), np.empty((0, self.k), np.int64)
        for slab in self.slabs:
            slab.merge()
        keys = np.concatenate([slab.best for slab in self.slabs])[: len(self.queries)]
        keys.sort(axis=1)
        norms = torch.cat([group.norms for group in self.groups])[: len(keys)].cpu().numpy()
        squares = (keys >> self.shift) + norms[:, None]
        return squares.astype(np.float64), keys & ((1 << self.shift) - 1)

    def work(self, task: tuple[_Group, int]) -> int:
        """Compare a group of queries with a block of references; return the number of pairs."""
        group, first = task
        queries = self.ready(group)
        last = min(first + self.rows, len(self.references))
        height, pairs = _padded(last - first), 0
        buffers = self.buffers.pop() if self.buffers else self.made()
        block, product, other = (part[:height] for part in buffers)
        self.convert(self.references, first, last, block)
        norms = torch.full((height,), self.largest, dtype=self.dtype, device=self.device)
        norms[: last - first] = self.norms[first:last]
        if int(norms.min()) < 0:  # some are not known yet: another thread may be writing them
            norms[: last - first] = self.squares(block)[: last - first]
            self.norms[first:last] = norms[: last - first]
        for at, start in enumerate(group.starts):
            if self.same and start >= last:
                break
            part = slice(at * self.width, (at + 1) * self.width)
            found = self.products(block, queries[part].T, product)
            size = min(start + self.width, len(self.queries)) - start
            pairs += size * (last - first)
            if self.same and start + self.width <= first:  # the other half is never computed
                pairs += size * (last - first)
                self.scan(self.values(group.norms[part], found, other), start, first, back=True)
            self.scan(self.values(norms[:, None], found, product), first, start)
        self.buffers.append(buffers)
        group.tasks -= 1
        if not group.tasks:
            group.signed = None
        return pairs

    def made(self) -> tuple[Tensor, Tensor, Tensor]:
        """Return memory for a block and two products: a thread that uses its own again has it in the cache."""
        size = (self.rows, self.width)
        block = torch.empty(self.rows, self.references.dim, dtype=torch.int8, device=self.device)
        product = torch.empty(size, dtype=torch.int32, device=self.device)
        return block, product, torch.empty_like(product) if self.same else product

    def values(self, norms: Tensor, product: Tensor, out: Tensor) -> Tensor:
        """Return v, in the memory `out` if it is of the type."""
        return torch.add(norms, product, alpha=-2, out=out if out.dtype == self.dtype else None)

    def ready(self, group: _Group) -> Tensor:
        """Return the queries of a group as int8, padded to whole slabs."""
        with group.lock:
            if group.signed is None:
                first, last = group.starts[0], min(group.starts[-1] + self.width, len(self.queries))
                group.signed = torch.zeros(
                    len(group.starts) * self.width, self.queries.dim, dtype=torch.int8, device=self.device
                )
                for some in parts(last - first, self.queries.dim, SLAB_BYTES):
                    self.convert(
                        self.queries, first + some.start, first + some.stop, group.signed[some.start :]
                    )
                group.norms = self.squares(group.signed)
            return group.signed

    def convert(self, rows: Rows, first: int, last: int, out: Tensor) -> None:
        """Write rows less 128 as int8, and fill up what is left with zeros."""
        taken = rows.take(slice(first, last)).to(self.device).view(torch.int8)
        torch.bitwise_xor(taken, -128, out=out[: last - first])
        out[last - first :] = 0

    def squares(self, block: Tensor) -> Tensor:
        """Return |r|^2 of int8 rows."""
        some = [self.products(part, part.T).diagonal() for part in torch.split(block, DIAGONAL)]
        return torch.cat(some).to(self.dtype)

    def scan(self, values: Tensor, first: int, start: int, *, back: bool = False) -> None:
        """Look for neighbours in a block of v of the references from `first` and the queries from `start` on.

        Args:
            values: (R, Q); with `back` it is (Q, R).
        """
        count, axis = values.shape[not back], int(back)
        kth = self.kth[start : start + count]
        if bool((kth == ENDLESS).any()):
            self.begin(values, kth, axis)
        # v of later references must be below that of the k-th, and may equal it for earlier ones.
        limit = ((kth - first) >> self.shift).clamp_(-self.largest, self.largest - 1)
        limit = limit.to(self.dtype).to(self.device)
        comb = self.comb // 2 if back else self.comb
        combs = values.shape[axis] // comb
        near = _where(_least(values, comb, axis) <= (limit[:, None] if back else limit))
        step = combs if back else combs * count
        teeth = step * torch.arange(comb, dtype=torch.int32, device=self.device)[:, None]
        flat = values.view(-1)
        for some in torch.split(near, HITS):
            outer = some // (combs if back else count)
            inner = some - outer * (combs if back else count)
            column, row = (outer, inner) if back else (inner, outer)
            at = outer * values.shape[1] + inner
            inside = flat.index_select(0, (teeth + at).view(-1))
            hit = _where(inside.view(comb, -1) <= limit.index_select(0, column))
            which = hit // len(some)
            pair = hit - which * len(some)
            place = first + which * combs + row.index_select(0, pair)
            keys = (inside.index_select(0, hit).long() << self.shift) + place
            self.take(start, column.index_select(0, pair).cpu().numpy(), keys.cpu().numpy())

    def begin(self, values: Tensor, kth: Tensor, axis: int) -> None:
        """Set first limits: smallest v of different combs are of different references, so the k-th bounds the k-th."""
        comb = COMB
        while comb > 1 and values.shape[axis] < 4 * self.k * comb:
            comb //= 2
        least = _least(values, comb, axis).cpu().numpy()
        least = least if axis else np.ascontiguousarray(least.T)
        if least.shape[1] >= self.k:
            least.partition(self.k - 1, axis=1)
            bound = torch.from_numpy(least[:, self.k - 1]).long()
            found = (bound << self.shift) + ((1 << self.shift) - 1)
            torch.minimum(kth, torch.where(bound < self.largest, found, ENDLESS), out=kth)

    def take(self, start: int, column: NDArray[np.int64], keys: NDArray[np.int64]) -> None:
        """Give keys to the slabs of their queries, which are columns from `start` on."""
        if not len(keys):
            return
        number = start // self.width + column // self.width
        for one in range(number.min(), number.max() + 1):
            mine, slab = number == one, self.slabs[one]
            with slab.lock:
                slab.add(column[mine] % self.width, keys[mine])
                if slab.count > self.width * max(2, self.k // 2):
                    kth = self.kth[one * self.width : (one + 1) * self.width]
                    torch.minimum(kth, torch.from_numpy(slab.merge()), out=kth)


def _least(values: Tensor, comb: int, axis: int) -> Tensor:
    """Return the smallest values of combs of rows (axis 0) or columns (1): so far apart that minima run along long rows."""
    rows, columns = values.shape
    if axis:
        return values.view(rows, comb, columns // comb).amin(1)
    return values.view(comb, rows // comb, columns).amin(0)


def _where(mask: Tensor) -> Tensor:
    """Return the positions of what is true, in the order of rows."""
    if mask.device.type == "cpu":  # many times faster, as little is true
        return torch.from_numpy(np.flatnonzero(mask.numpy()).astype(np.int32))
    return mask.flatten().nonzero()[:, 0].int()


def _padded(count: int) -> int:
    """Round up to whole combs."""
    return -(-count // COMB) * COMB


def _same(queries: Rows, references: Rows) -> bool:
    """Say whether the queries are the very references."""
    one, other = queries.images, references.images
    return (
        one.data_ptr() == other.data_ptr()
        and one.shape == other.shape
        and one.stride() == other.stride()
        and one.device == other.device
    )
