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
from diffmem.files import read_json, write_json
from diffmem.memorization import Neighbours, nearest_neighbours
from diffmem.studies.trained import agreed

__all__ = ["measure_null", "read_null"]


def read_null(path: Path) -> Neighbours | None:
    """Return the stored neighbours of the held-out images, of which only the distances are true; none without any.

    Raises:
        DiffmemError: The file is missing or damaged.
    """
    try:
        distances = np.array(read_json(path)["distances"], dtype=np.float64).reshape(-1, 2)
    except (KeyError, TypeError, ValueError) as error:
        raise DiffmemError(f"{path} is damaged ({error}); it was not used.") from error
    if not len(distances):
        return None
    try:
        return Neighbours(distances, np.tile(np.arange(2), (len(distances), 1)))
    except DiffmemError as error:
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
        device: Where distances are computed.
        warn: Told of a damaged file that is made anew.
    """

    def is_there() -> bool:
        if not path.exists():
            return False
        try:
            read_null(path)
        except DiffmemError as error:
            warn(f"{error} It is regenerated.")
            return False
        return True

    if agreed(is_there):
        return
    distances: list[list[float]] = []
    if heldout is not None:
        found = nearest_neighbours(heldout.images, references, 2, device=device)
        distances = found.distances[found.distances[:, 0] > 0].tolist()
    if world().is_first:
        write_json(path, {"distances": distances})
    world().wait()
