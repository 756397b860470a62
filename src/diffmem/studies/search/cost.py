"""What a search spent, and what the fixed grid of equal precision would: the study trained every size of a grid to its end."""

from __future__ import annotations

import math
from dataclasses import dataclass

from diffmem.sampling.config import image_cost

__all__ = ["GridCost", "grid_of_equal_precision", "grid_sizes"]


def grid_sizes(smallest: int, largest: int, tolerance: float) -> list[int]:
    """Return the sizes of a grid whose neighbours bracket EMM as narrowly as the search: a factor (1 + t) / (1 - t) apart.

    Args:
        smallest: First size.
        largest: Last size.
        tolerance: Half the width of the interval, relative.
    """
    steps = max(
        1, math.ceil(math.log(largest / smallest) / math.log((1 + tolerance) / (1 - tolerance)) - 1e-9)
    )
    sizes = {round(smallest * (largest / smallest) ** (step / steps)) for step in range(steps + 1)}
    return sorted(sizes)


@dataclass(frozen=True)
class GridCost:
    """The cost of a grid.

    Attributes:
        sizes: Its sizes.
        images_trained: Images that it trains on, all seeds together.
        images_sampled: Images that it generates.
        units: Both in images trained.
    """

    sizes: list[int]
    images_trained: int
    images_sampled: int
    units: float


def grid_of_equal_precision(
    smallest: int,
    largest: int,
    tolerance: float,
    epochs: float,
    points: int,
    samples: int,
    evaluations: int,
    seeds: int,
) -> GridCost:
    """Return the cost of the grid: every size trained for all epochs with every seed, all samples at every point.

    Args:
        smallest: First size.
        largest: Last size.
        tolerance: Half the width of the interval, relative.
        epochs: Of each training.
        points: Evaluation points of each training.
        samples: Images at each point.
        evaluations: Network evaluations for one image.
        seeds: Trainings of each size.
    """
    sizes = grid_sizes(smallest, largest, tolerance)
    trained = seeds * sum(round(epochs * size) for size in sizes)
    sampled = seeds * len(sizes) * points * samples
    return GridCost(sizes, trained, sampled, trained + sampled * image_cost(evaluations))
