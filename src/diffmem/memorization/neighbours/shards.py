"""The exact search in pieces: some of the queries against some of the references, wherever there is a worker.

The k nearest of a union are among the k nearest of its parts, and distances are exact, so what is put together is what one
search finds, bit for bit; equal distances are in order of index. References are read from a memory map: from the file they are
in, or from one that is written for it. No process reads more than its shard.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from uuid import uuid4

import numpy as np
import torch
from numpy.typing import NDArray

from diffmem.data.storage import parts
from diffmem.errors import DiffmemError
from diffmem.files import atomic_path
from diffmem.memorization.neighbours.cascade import index_helps, indexed_search
from diffmem.memorization.neighbours.dense import full_search
from diffmem.memorization.neighbours.index import NeighbourIndex, index_for
from diffmem.memorization.neighbours.rows import Images, Rows, rows_of
from diffmem.progress import Progress
from diffmem.spread import Piece, Spread, spread

__all__ = [
    "SHARD_BYTES",
    "WORTH",
    "kept",
    "place_for",
    "read_found",
    "search_here",
    "search_in_shards",
    "search_piece",
    "shards_of",
    "taken_from",
]

SHARD_BYTES = 1 << 30  # of references in a piece: what a worker holds, and reads for one piece
WORTH = 1 << 38  # values that are compared: below, a search is done before a worker has started
FEWEST = 256  # queries of a piece, where there are so many
FOR_INDEX = 512  # queries from which on an index of a shard pays, and is kept for later searches
CPU_BLOCK_BYTES = 76 << 20  # measured: larger blocks are not faster
CUDA_BLOCK_BYTES = 1 << 30
_CHECKED = 64  # rows by which a worker knows that it sees the same file

_Found = tuple[NDArray[np.float64], NDArray[np.int64]]


def search_here(
    queries: Rows,
    references: Rows,
    k: int,
    index: NeighbourIndex | None,
    device: torch.device,
    block_bytes: int | None,
    progress: Progress,
) -> _Found:
    """Return squared distances and indices of the k nearest references, as `search` does, found by this process.

    Args:
        block_bytes: Memory for blocks on the device; none for the usual.
    """
    if device.type == "cpu":
        return indexed_search(queries, references, k, index, block_bytes or CPU_BLOCK_BYTES, progress)
    return full_search(queries, references, k, device, block_bytes or CUDA_BLOCK_BYTES, progress)


def place_for(queries: Rows, references: Rows) -> Spread | None:
    """Return where a search should be done in pieces; none if here, as it is small or has no such place."""
    large = len(queries) * len(references) * references.dim >= WORTH
    written = all(
        one.images.dtype != torch.bfloat16 for one in (queries, references)
    )  # NumPy has no such type
    return spread() if large and written else None


def search_in_shards(
    queries: Rows, references: Rows, k: int, place: Spread, source: Images, progress: Progress
) -> _Found:
    """Find the k nearest references of each query in pieces.

    Args:
        queries: Q rows.
        references: At least k rows of the same length and metric.
        k: Number of neighbours, at least 1.
        place: Where the pieces are worked on.
        source: What the references were made of: where it is mapped from a file, workers read that file.
        progress: Reports the share that is done.

    Returns:
        As `search`: squared distances, float64 (Q, k), and indices, int64 (Q, k).

    Raises:
        DiffmemError: The workers do not see the files that are written for them, or fail.
    """
    name = uuid4().hex[:16]
    known = kept(references, source, place)
    asked = _written(_array(queries), place.folder / f"queries-{name}.npy")
    shards = shards_of(references)
    most = max(1, len(queries) // FEWEST)
    blocks = _even(len(queries), min(most, -(-place.slots // len(shards))))
    cells = [(block, shard) for block in blocks for shard in shards]
    files = [place.folder / f"found-{name}-{number}.npz" for number in range(len(cells))]
    pieces = [
        Piece(
            "diffmem.memorization.neighbours.shards:search_piece",
            {
                "queries": asked, "references": known, "block": block, "shard": shard, "k": k, "metric": references.metric,
                "device": place.device, "index": str(place.folder), "out": str(file),
            },
        )
        for (block, shard), file in zip(cells, files, strict=True)
    ]  # fmt: skip
    squares, indices = np.full((len(queries), k), np.inf), np.full((len(queries), k), -1, np.int64)
    try:
        place.run(pieces, progress)
        for (block, _), file in zip(cells, files, strict=True):
            rows = slice(*block)
            found, which = read_found(file)
            squares[rows], indices[rows] = merged((squares[rows], indices[rows]), (found, which), k)
    finally:
        for path in (Path(asked["path"]), *files):
            path.unlink(missing_ok=True)
    return squares, indices


def merged(one: _Found, other: _Found, k: int) -> _Found:
    """Return the k nearest of two searches of the same queries, of which the references of the first come first.

    Args:
        one: Squared distances, ascending, and indices, (Q, a); infinite where fewer are known.
        other: The same, (Q, b), of references with higher indices.
    """
    squares, indices = (np.concatenate(column, axis=1) for column in zip(one, other, strict=True))
    # Stable: of equal distances, those of the first come first, and within each they are in order of index.
    order = np.argsort(squares, axis=1, kind="stable")[:, :k]
    return np.take_along_axis(squares, order, 1), np.take_along_axis(indices, order, 1)


def search_piece(content: dict[str, Any], progress: Progress, warn: Callable[[str], None]) -> None:
    """Search one shard of the references for the neighbours of one block of queries, and write them.

    Raises:
        DiffmemError: A file is missing, or holds something else than where the search was split.
    """
    metric, device = content["metric"], torch.device(content["device"])
    (start, stop), (first, last) = content["block"], content["shard"]
    queries = rows_of(taken_from(content["queries"])[start:stop], "the queries", metric)
    references = rows_of(taken_from(content["references"])[first:last], "the references", metric)
    k, index = min(content["k"], last - first), None
    if metric == "euclidean" and len(queries) >= FOR_INDEX and index_helps(references.images, device):
        file = Path(content["index"]) / f"index-{content['references']['rows'][:16]}-{first}.safetensors"
        index = index_for(references.images, file, metric=metric)
    squares, indices = search_here(queries, references, k, index, device, None, progress)
    with atomic_path(Path(content["out"])) as temporary, temporary.open("wb") as stream:
        np.savez(stream, squares=squares, indices=indices + first)


def read_found(file: Path) -> tuple[NDArray[Any], ...]:
    """Return what a piece found, in the order in which it was written.

    Raises:
        DiffmemError: The worker wrote it to another disk.
    """
    try:
        with np.load(file, allow_pickle=False) as held:
            return tuple(held.values())
    except FileNotFoundError as error:
        raise DiffmemError(
            f"A worker has searched, but {file} is not there: do the workers write to another disk than this one?"
        ) from error


def shards_of(references: Rows, share: int = 1) -> list[tuple[int, int]]:
    """Return the ranges of references in which a worker reads them.

    Args:
        share: How many shards a piece has.
    """
    size = max(1, SHARD_BYTES // share // (references.dim * references.images.element_size()))
    return _even(len(references), -(-len(references) // size))


def _even(count: int, wanted: int) -> list[tuple[int, int]]:
    return [(count * at // wanted, count * (at + 1) // wanted) for at in range(wanted)]


def _array(rows: Rows) -> NDArray[Any]:
    array: NDArray[Any] = rows.images.cpu().numpy()
    return array


def kept(references: Rows, source: Images, place: Spread) -> dict[str, Any]:
    """Return where workers find the references: in the file that they are mapped from, or in one that is written once."""
    array = _array(references)
    key = ("rows", _address(array), array.shape, array.strides, array.dtype.str)
    if key not in place.kept:
        where = _mapped_from(source) or _written(array, place.folder / f"references-{uuid4().hex[:16]}.npy")
        place.kept[key] = where, array  # which is held, so that nothing else gets its address
    found: dict[str, Any] = place.kept[key][0]
    return found


def _mapped_from(source: object) -> dict[str, Any] | None:
    """Return the file that an array is mapped from, as it lies in it; none if it is not, or could differ from its file."""
    if not isinstance(source, np.ndarray) or not source.flags.c_contiguous:
        return None
    whole: np.memmap[Any, Any] | None = None
    holder: object = source
    while isinstance(holder, np.ndarray):
        # Of a view of a map NumPy keeps name and offset of the map, so the last one counts.
        whole, holder = (holder if isinstance(holder, np.memmap) else whole), holder.base
    if whole is None or whole.filename is None or whole.mode != "r":
        return None
    beyond = _address(source) - _address(whole)
    return _place(source, Path(whole.filename), whole.offset + beyond)


def _address(array: NDArray[Any]) -> int:
    address: int = array.__array_interface__["data"][0]
    return address


def _written(array: NDArray[Any], path: Path) -> dict[str, Any]:
    path.parent.mkdir(parents=True, exist_ok=True)
    with atomic_path(path) as temporary:
        target = np.lib.format.open_memmap(temporary, "w+", array.dtype, array.shape)
        offset = target.offset
        for part in parts(len(array), math.prod(array.shape[1:]) * array.itemsize):
            target[part] = array[part]
        target.flush()
    return _place(array, path, offset)


def _place(array: NDArray[Any], path: Path, offset: int) -> dict[str, Any]:
    return {
        "path": str(path.resolve()), "offset": int(offset), "dtype": array.dtype.str, "shape": list(array.shape),
        "rows": _digest(array),
    }  # fmt: skip


def _digest(array: NDArray[Any]) -> str:
    digest = hashlib.sha256(f"{array.dtype.str} {array.shape}".encode())
    for row in _some(len(array)):
        digest.update(np.ascontiguousarray(array[row]).tobytes())
    return digest.hexdigest()


def _some(count: int) -> Iterator[int]:
    yield from sorted({(count - 1) * at // max(1, _CHECKED - 1) for at in range(_CHECKED)})


def taken_from(where: dict[str, Any]) -> NDArray[Any]:
    """Return the images of a file, mapped, for a piece.

    Raises:
        DiffmemError: It is not there, or holds others than where the work began.
    """
    path = Path(where["path"])
    try:
        found = np.asarray(np.memmap(path, where["dtype"], "r", where["offset"], tuple(where["shape"])))
    except (OSError, ValueError) as error:
        raise DiffmemError(
            f"A worker cannot read {path}, which all workers need: {error}. The images and the folder of the work must lie on a disk"
            " that all machines see under one path."
        ) from error
    if _digest(found) != where["rows"]:
        raise DiffmemError(
            f"{path} holds other images here than where the work began: was it replaced meanwhile?"
        )
    return found
