"""`NeighbourIndex`: what a set of references is prepared with, once, so that searches among it are fast.

The index holds a sketch of every reference (see `sketch`), in an order in which near references stand together: in
leaves of equal size. It decides how fast neighbours are found, never which ones.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from diffmem.distributed import world
from diffmem.errors import DiffmemError, UserError
from diffmem.files import atomic_path
from diffmem.memorization.neighbours.rows import (
    Metric,
    Rows,
    array_of,
    centre_of,
    float64_norms,
    full_precision,
    rows_of,
)
from diffmem.memorization.neighbours.sketch import FIT_BYTES, Cuts, Sketch, fit_basis
from diffmem.progress import NO_PROGRESS, Progress
from diffmem.threads import dealt, even_parts, one_thread

__all__ = ["NeighbourIndex", "index_for"]

SAMPLE = 1024  # references that the directions are fitted to
LEAF = 128  # largest number of references in a leaf
BLOCK_BYTES = 6 << 20  # of centred float32 rows at a time, for each thread
TRAITS = 16  # directions by which references are ordered
FORMAT = "diffmem-neighbour-index-1"
TENSORS = ("centre", "basis", "order", "first", "second", "third", "norms")


@dataclass(frozen=True, eq=False)
class NeighbourIndex:
    """An index of a set of references, for `nearest_neighbours` and `pairs_within`.

    Attributes:
        metric: What is compared: the rows ("euclidean"), or the rows scaled to length 1 ("cosine").
        kind: The type and shape of the references, for checks.
        leaf: Number of positions in a leaf.
        cuts: How many directions its bounds use.
        centre: What is taken off every row, float32 (dim,).
        basis: The directions, float32 (dim, cuts.third).
        order: Which reference each position holds, int64 (P,); -1 in positions that fill up the leaves.
        sketch: The sketches in that order.
    """

    metric: Metric
    kind: str
    leaf: int
    cuts: Cuts
    centre: Tensor
    basis: Tensor
    order: Tensor
    sketch: Sketch

    def __len__(self) -> int:
        return int((self.order >= 0).sum())

    @classmethod
    def build(
        cls,
        references: Any,
        progress: Progress = NO_PROGRESS,
        *,
        metric: Metric = "euclidean",
        directions: int = 256,
    ) -> NeighbourIndex:
        """Prepare a set of references.

        It takes about as long as comparing 150 queries with all of them, and about 1.2 kB of memory for each.

        Args:
            references: Images (N, ...) or feature vectors (N, D): an `ImageSet`, or an array as in
                `nearest_neighbours`.
            progress: Reports the number of references done.
            metric: What will be compared, "euclidean" or "cosine".
            directions: The most directions to use. Fewer take less memory and time to build, and prune less.

        Raises:
            UserError: There are no references, or they hold a value that is not finite (or, for "cosine", a row of
                zeros), or have another type.
        """
        if directions < 1:
            raise UserError(f"directions = {directions} must be positive.")
        rows = rows_of(array_of(references), "the references", metric)
        if len(rows) < 1:
            raise UserError("There are no references to index; give at least one.")
        with torch.no_grad(), full_precision():
            sample, cuts = sample_of(rows), Cuts.fitting(rows.dim, directions)
            return cls.prepared(rows, sample, cuts, fit_basis(sample[1], cuts.third), progress)

    @classmethod
    def prepared(
        cls, rows: Rows, sample: tuple[Tensor, Tensor], cuts: Cuts, basis: Tensor, progress: Progress
    ) -> NeighbourIndex:
        """Do what `build` does, with a sample and directions at hand."""
        centre, count = sample[0], len(rows)
        levels = max(0, (-(-count // LEAF) - 1).bit_length())
        leaf = -(-count // 2**levels)
        sketch = Sketch.empty(leaf * 2**levels, cuts)

        def write(part: slice) -> int:
            block = torch.empty(part.stop - part.start, rows.dim, dtype=torch.float32)
            rows.fill(block, part.start, part.stop, centre)
            sketch[part].write(block, basis, cuts, rows)
            return len(block)

        done = 0
        for some in dealt(write, even_parts(count, max(1, BLOCK_BYTES // (4 * rows.dim)))):
            done += some
            progress(done, count, "index of the references")
        sketch.first[count:, -1] = sketch.second[count:, -1] = torch.inf  # fillers are infinitely far
        with one_thread():
            order = leaf_order(sketch.first[:, : min(TRAITS, cuts.first)], levels)
            for values in (sketch.first, sketch.second, sketch.third, sketch.norms):
                for columns in torch.split(
                    values.view(len(order), -1), 32, 1
                ):  # a few at a time to save memory
                    columns.copy_(columns[order])
        order[order >= count] = -1
        return cls(rows.metric, rows.kind, leaf, cuts, centre, basis, order, sketch)

    def check(self, rows: Rows) -> None:
        """Make sure that the index is of these references, by their type and shape and the norms of some of them.

        Raises:
            UserError: It is of others.
        """
        same = (self.metric, self.kind, len(self)) == (rows.metric, rows.kind, len(rows))
        if same:
            positions = (self.order >= 0).nonzero()[:, 0]
            positions = positions[:: max(1, len(positions) // 32)]
            block = torch.empty(len(positions), rows.dim, dtype=torch.float32)
            rows.subtract(rows.take(self.order[positions]).cpu(), self.centre, block)
            norms = self.sketch.norms[positions]
            same = torch.allclose(float64_norms(block, rows), norms, rtol=1e-4, atol=0)
        if not same:
            raise UserError(
                f"The index is of {len(self)} references ({self.kind}, {self.metric}), but not of these {len(rows)} "
                f"({rows.kind}, {rows.metric}); build one of these by NeighbourIndex.build."
            )

    def save(self, path: Path, references: Any) -> None:
        """Write the index to a file, with the fingerprint of its references; whole or not at all.

        Raises:
            UserError: It is not of these references.
            DiffmemError: The file cannot be written.
        """
        rows = rows_of(array_of(references), "the references", self.metric)
        self.check(rows)
        tensors = {"centre": self.centre, "basis": self.basis, "order": self.order, **vars(self.sketch)}
        metadata = {
            "format": FORMAT,
            "references": rows.fingerprint(),
            "metric": self.metric,
            "kind": self.kind,
            "numbers": " ".join(map(str, (self.leaf, self.cuts.first, self.cuts.second, self.cuts.third))),
        }
        metadata["checksum"] = _checksum(tensors, metadata)
        with atomic_path(path) as temporary:
            save_file(tensors, temporary, metadata=metadata)

    @classmethod
    def load(cls, path: Path, references: Any) -> NeighbourIndex:
        """Read an index that `save` wrote, and make sure that it is of these references, to the last byte.

        Args:
            path: The file.
            references: An `ImageSet` or array.

        Raises:
            DiffmemError: The file is missing, damaged or something else, or is the index of other references.
        """
        index, fingerprint = cls._read(path)
        rows = rows_of(array_of(references), "the references", index.metric)
        if rows.fingerprint() != fingerprint:
            raise DiffmemError(
                f"{path} is the index of other references, not of these {len(rows)}. Delete it."
            )
        return index

    @classmethod
    def _read(cls, path: Path) -> tuple[NeighbourIndex, str]:
        """Read an index, and the fingerprint of its references."""
        try:
            with safe_open(path, "pt") as file:
                metadata = dict(file.metadata() or {})
                if metadata.get("format") != FORMAT:
                    raise DiffmemError(
                        f"{path} is not an index of neighbours; give the path of one, or a new path."
                    )
                tensors = {name: file.get_tensor(name) for name in TENSORS}
            if metadata.pop("checksum") != _checksum(tensors, metadata):
                raise ValueError("its checksum is wrong")
            leaf, *cuts = map(int, metadata["numbers"].split())
            centre, basis, order, first, second, third, norms = tensors.values()
            sketch = Sketch(first, second, third, norms)
            index = cls(metadata["metric"], metadata["kind"], leaf, Cuts(*cuts), centre, basis, order, sketch)
            return index, metadata["references"]
        except (OSError, SafetensorError, KeyError, ValueError, TypeError) as error:
            raise DiffmemError(f"{path} is not a whole index of neighbours ({error}). Delete it.") from error


def index_for(
    references: Any,
    path: Path | None,
    *,
    metric: Metric = "euclidean",
    progress: Progress = NO_PROGRESS,
) -> NeighbourIndex:
    """Return the index of a set: read from a file if it is there, else built, and written there if a path is given.

    Args:
        references: An `ImageSet` or array.
        path: Where the index is kept; none to keep it in memory only. The index of other references is replaced.
        metric: What will be compared, "euclidean" or "cosine".
        progress: Reports the number of references done.

    Raises:
        DiffmemError: The file is damaged or something else; it is left as it is.
    """
    if path is not None and path.exists():
        stored, rows = _text(path), rows_of(array_of(references), "the references", metric)
        wanted = (rows.fingerprint(), metric)
        # Words that fit need no second look at the references; `_read` says what is wrong with a foreign file.
        if stored.get("format") != FORMAT or (stored.get("references"), stored.get("metric")) == wanted:
            return NeighbourIndex._read(path)[0]
    index = NeighbourIndex.build(references, progress, metric=metric)
    if path is not None and world().is_main:
        index.save(path, references)
    return index


def _text(path: Path) -> dict[str, str]:
    """Return what a file says about itself; nothing if it is no safetensors file."""
    try:
        with safe_open(path, "pt") as file:
            return dict(file.metadata() or {})
    except (OSError, SafetensorError):
        return {}


def _checksum(tensors: dict[str, Tensor], metadata: dict[str, str]) -> str:
    digest = hashlib.sha256(repr(sorted(metadata.items())).encode())
    for name, tensor in tensors.items():
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
        digest.update(tensor.contiguous().numpy().data)
    return digest.hexdigest()


def sample_of(rows: Rows) -> tuple[Tensor, Tensor]:
    """Return a centre, and some of the rows less the centre, float32 (n, dim)."""
    some = min(SAMPLE, max(16, FIT_BYTES // (4 * rows.dim)))
    centre = centre_of(rows, some, rows.is_uint8).cpu()
    step = max(1, len(rows) // some)
    taken = rows.take(slice(0, min(len(rows), some * step), step)).cpu()
    centred = torch.empty(len(taken), rows.dim, dtype=torch.float32)
    rows.subtract(taken, centre, centred)
    float64_norms(centred, rows)
    return centre, centred


def leaf_order(traits: Tensor, levels: int) -> Tensor:
    """Order rows by halving groups of them `levels` times, each along the direction in which it varies most.

    Args:
        traits: Float32 (P, d), P a multiple of 2^levels.
        levels: How often.

    Returns:
        Int64 (P,): the rows in an order in which each of the 2^levels equal parts is a group.
    """
    count, width = traits.shape
    order = torch.arange(count)
    for level in range(levels):
        groups = traits[order].view(2**level, -1, width)
        widest = groups.var(1).argmax(1)
        keys = groups.gather(2, widest[:, None, None].expand(-1, groups.shape[1], 1))[:, :, 0]
        inside = keys.argsort(dim=1, stable=True)
        order = order.view(2**level, -1).gather(1, inside).view(-1)
    return order
