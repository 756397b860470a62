"""The k nearest training images of each image, exactly: computed once, kept, and used by every criterion."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from diffmem.distributed import world
from diffmem.errors import DiffmemError, UserError
from diffmem.files import atomic_path
from diffmem.memorization.neighbours.index import NeighbourIndex
from diffmem.memorization.neighbours.rows import Images, Metric, rows_of
from diffmem.memorization.neighbours.shards import place_for, search_here, search_in_shards
from diffmem.progress import NO_PROGRESS, Progress

__all__ = ["Neighbours", "nearest_neighbours"]


@dataclass(frozen=True, eq=False)
class Neighbours:
    """The k nearest references of each of Q queries.

    Attributes:
        distances: Euclidean distances over all pixel values, float64 (Q, k), ascending in each row. For uint8
            images they are in grey levels: the square root of the sum of squared differences of values
            0..255. Where angles were compared, 1 - cos.
        indices: Which reference each distance belongs to, int64 (Q, k). Equal distances are in order of
            index.
    """

    distances: NDArray[np.float64]
    indices: NDArray[np.int64]

    def __post_init__(self) -> None:
        distances, indices = self.distances, self.indices
        if distances.dtype != np.float64 or indices.dtype != np.int64:
            raise DiffmemError(
                f"Neighbours need float64 distances and int64 indices, not {distances.dtype} and {indices.dtype}."
            )
        if distances.ndim != 2 or distances.shape != indices.shape or distances.shape[1] < 1:
            raise DiffmemError(
                f"Neighbours need two arrays of one shape (Q, k), not {distances.shape} and {indices.shape}."
            )
        for right, what in (
            (np.isfinite(distances) & (distances >= 0), "finite, non-negative distances"),
            (np.diff(distances, axis=1) >= 0, "distances in ascending order"),
            (indices >= 0, "indices of references, 0 or above"),
        ):
            if not right.all():
                raise DiffmemError(f"Neighbours need {what}.")

    def __len__(self) -> int:
        return len(self.distances)

    @property
    def k(self) -> int:
        """Number of neighbours of each query."""
        return int(self.distances.shape[1])

    def nearest(self, count: int) -> NDArray[np.float64]:
        """Return the distances to the `count` nearest references, float64 (Q, count).

        Raises:
            UserError: Fewer are known.
        """
        if self.k < count:
            raise UserError(
                f"The rule needs the {count} nearest training images of each image, and {self.k} are known; search with"
                f" k = {count} or more, among at least {count} distinct training images."
            )
        return self.distances[:, :count]

    def slice(self, start: int, stop: int) -> Neighbours:
        """Return the neighbours of the queries start..stop."""
        return Neighbours(self.distances[start:stop], self.indices[start:stop])

    def save(self, path: Path) -> None:
        """Write to an `.npz` file, whole or not at all."""
        with atomic_path(path) as temporary, temporary.open("wb") as stream:
            np.savez(stream, distances=self.distances, indices=self.indices)

    @classmethod
    def load(cls, path: Path) -> Neighbours:
        """Read a file written by `save`, and check it.

        Raises:
            DiffmemError: The file is missing, damaged or holds something else.
        """
        try:
            with np.load(path, allow_pickle=False) as archive:
                return cls(archive["distances"], archive["indices"])
        except Exception as error:  # a damaged archive raises errors of many kinds
            raise DiffmemError(
                f"{path} is not a file of neighbours: {error} Delete it, and measure again."
            ) from error


def nearest_neighbours(
    queries: Images,
    references: Images,
    k: int = 2,
    *,
    metric: Metric = "euclidean",
    index: NeighbourIndex | None = None,
    device: torch.device | str | None = None,
    block_bytes: int | None = None,
    progress: Progress = NO_PROGRESS,
) -> Neighbours:
    """Find the k nearest references of each query, exactly: images by their pixel values, or feature vectors.

    The result does not depend on the index, the device, the block size or the number of threads. uint8 distances are
    square roots of integers computed without error; floating-point images are compared in float64. Equal
    distances are in order of index.

    Inside `spreading`, a large search without an index is done in pieces elsewhere, with the same result.

    Processes that run together call it together, with the same images. Each searches for its share of the queries; all
    get the whole result.

    Args:
        queries: Images (Q, ...), uint8 or floating point, numpy (also memory-mapped) or torch.
        references: Images (N, ...) of the same shape, N at least k.
        k: Number of neighbours.
        metric: "euclidean", the Euclidean distance over all values; or "cosine", 1 - cos of the angle between the rows,
            computed in float64.
        index: Of the references and for the metric: it makes searches on a CPU many times faster where the rows lie near
            few directions, as images do. Without one, a search that is large enough builds one in passing.
        device: Where the matrix products run; the references' own device if none (the CPU for numpy arrays).
        block_bytes: Memory for blocks on the device; by default 76 MiB on a CPU and 1 GiB elsewhere.
        progress: Reports the number of compared pairs, of this process's share.

    Raises:
        UserError: k is not in 1..N, the shapes differ, the type is neither uint8 nor floating point, a
            value is not finite, a row to be compared by its angle is all zeros, or the index is of other references.
        DiffmemError: Another process ended, or a piece failed elsewhere.
    """
    asked, known = rows_of(queries, "the queries", metric), rows_of(references, "the references", metric)
    if asked.shape != known.shape:
        raise UserError(
            f"The queries have shape {asked.shape} and the references {known.shape}; "
            "bring both to one shape (C, H, W)."
        )
    if not 1 <= k <= len(known):
        raise UserError(
            f"k = {k} neighbours were asked for, but there are {len(known)} references; "
            f"choose k in 1..{len(known)}."
        )
    target = known.images.device if device is None else torch.device(device)
    if block_bytes is not None and block_bytes < 1:
        raise UserError(f"block_bytes = {block_bytes} must be positive.")
    if index is not None:
        index.check(known)
    place = place_for(asked, known) if index is None else None
    if place is not None:
        squares, indices = search_in_shards(asked, known, k, place, references, progress)
        return Neighbours(squares / 2 if metric == "cosine" else np.sqrt(squares), indices)
    here = world()
    first, last = (len(asked) * at // here.size for at in (here.rank, here.rank + 1))
    found = None  # with fewer queries than processes, some have none
    if last > first or here.is_main:
        share = asked if here.size == 1 else asked.part(first, last)
        found = search_here(share, known, k, index, target, block_bytes, progress)
    parts = [part for part in here.gather(found) if part is not None]
    squares, indices = (np.concatenate(column) for column in zip(*parts, strict=True))
    return Neighbours(squares / 2 if metric == "cosine" else np.sqrt(squares), indices)
