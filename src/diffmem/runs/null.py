"""The null of a run: how near held-out images, which were not trained on, lie to its training images."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from diffmem.data import ImageSet
from diffmem.distributed import world
from diffmem.errors import DiffmemError
from diffmem.files import is_whole, read_json, write_json
from diffmem.memorization import Neighbours, nearest_neighbours

__all__ = ["measure_null", "read_null"]


def read_null(path: Path) -> Neighbours | None:
    """Return the stored neighbours of the held-out images, of which only the distances are true; none without any.

    Raises:
        DiffmemError: The file is missing or damaged.
    """
    content = read_json(path)
    try:
        distances = np.array(content["distances"], dtype=np.float64).reshape(-1, 2)
        return Neighbours(distances, np.tile(np.arange(2), (len(distances), 1))) if len(distances) else None
    except (DiffmemError, KeyError, TypeError, ValueError) as error:
        raise DiffmemError(f"{path} is damaged ({error}); it was not used.") from error


def measure_null(
    path: Path,
    heldout: ImageSet | None,
    references: NDArray[np.uint8],
    *,
    device: torch.device | str,
    warn: Callable[[str], None],
) -> None:
    """Find the neighbours of the held-out images and keep their distances, unless it is done already.

    Args:
        path: File to write.
        heldout: The held-out images; those that are training images too say nothing about fresh ones and are left out.
        references: The distinct training images.
        warn: Warned of a damaged file that is made anew.
    """
    if world().from_main(lambda: is_whole(path, lambda: read_null(path), warn)):
        return
    distances: list[list[float]] = []
    if heldout is not None:
        found = nearest_neighbours(heldout.images, references, 2, device=device)
        distances = found.distances[found.distances[:, 0] > 0].tolist()
    if world().is_main:
        write_json(path, {"distances": distances})
    world().wait()
