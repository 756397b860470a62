"""The C_T test of data copying: are samples nearer to the training images than held-out images are, cell by cell?"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray

from diffmem.errors import UserError
from diffmem.memorization.cells import Cells
from diffmem.memorization.neighbours.contents import common_space, content_keys, distinct, present, taken
from diffmem.memorization.neighbours.neighbours import nearest_neighbours
from diffmem.memorization.ranks import RankComparison, compare_ranks
from diffmem.progress import NO_PROGRESS, Progress, part_of

__all__ = ["CellResult", "CopyingTest", "copying_test"]

Conclusion = Literal["copying", "not shown", "farther", "cannot tell"]

COVERED = 0.5
POWER = 0.8


@dataclass(frozen=True)
class CellResult:
    """One cell.

    Attributes:
        training: Distinct training images in it.
        samples: Samples in it.
        heldout: Held-out images in it.
        comparison: Of their distances to the training images in the cell; None where one of the three is too small.
    """

    training: int
    samples: int
    heldout: int
    comparison: RankComparison | None


@dataclass(frozen=True)
class CopyingTest:
    """The statistic C_T of Meehan, Chaudhuri and Dasgupta (2020, "A Non-Parametric Test to Detect Data-Copying").

    In each cell, the distances of the samples to their nearest training image in the cell are compared with those of the
    held-out images: z is the standardized Mann-Whitney U. C_T is the mean of z over the cells, weighted by their shares
    of the held-out images. Far below 0 the samples are systematically nearer (copying), far above 0 farther
    (underfitting).

    In each cell z is near N(0, 1) if samples are fresh draws from the distribution of the held-out images, so C_T has the
    standard deviation `spread`, below 1 with several cells. `z` is C_T divided by it: this one is near N(0, 1).

    Where it lies. It sees a shift of the whole distribution: one sample in a hundred may be a copy without any trace (see
    `detectable_share`), and blurred samples that lie near to many training images look like copies. It compares with the
    held-out images, so these must be of the very distribution of the training images.

    Attributes:
        cells: All cells, used or not.
        samples: Samples in all.
        heldout: Held-out images that are not training images too.
        heldout_overlap: How many held-out images are identical to a training image; they are left out.
        training_images: Training images as given, copies included.
        duplicates: Training images that are exact copies of an earlier one. They change neither cells nor distances.
        confidence: Coverage of the intervals.
        name: Protocol id.
    """

    cells: tuple[CellResult, ...]
    samples: int
    heldout: int
    heldout_overlap: int
    training_images: int
    duplicates: int
    confidence: float
    name: str

    @cached_property
    def _used(self) -> list[tuple[float, RankComparison]]:
        used = [cell.comparison for cell in self.cells if cell.comparison is not None]
        total = sum(comparison.heldout for comparison in used)
        return [(comparison.heldout / total, comparison) for comparison in used]

    @property
    def covered(self) -> float:
        """Share of the held-out images that lie in cells that are used."""
        return sum(comparison.heldout for _, comparison in self._used) / self.heldout

    @property
    def covered_samples(self) -> float:
        """Share of the samples that lie in cells that are used."""
        return sum(comparison.samples for _, comparison in self._used) / self.samples

    @property
    def value(self) -> float | None:
        """C_T; None if no cell has enough images."""
        return sum(weight * part.z for weight, part in self._used) if self._used else None

    @property
    def interval(self) -> tuple[float, float] | None:
        """Interval of what C_T estimates at these sizes, by the square-and-add rule (Zou and Donner 2008)."""
        parts = [
            (w, part.z, part.z_of(part.nearer_high), part.z_of(part.nearer_low)) for w, part in self._used
        ]
        return _combined(parts) if parts else None

    @property
    def spread(self) -> float | None:
        """Standard deviation of C_T where samples are like held-out images."""
        return math.sqrt(sum(weight**2 for weight, _ in self._used)) if self._used else None

    @property
    def z(self) -> float | None:
        """C_T in units of `spread`: near N(0, 1) where samples are like held-out images."""
        return None if self.value is None or self.spread is None else self.value / self.spread

    @property
    def nearer(self) -> float | None:
        """Probability that a sample is nearer to the training images than a held-out image of the same cell; 0.5 for none."""
        return sum(weight * part.nearer for weight, part in self._used) if self._used else None

    @property
    def nearer_interval(self) -> tuple[float, float] | None:
        """Its interval, by the same rule; within 0 and 1."""
        parts = [(w, part.nearer, part.nearer_low, part.nearer_high) for w, part in self._used]
        return _combined(parts) if parts else None

    @property
    def detectable_share(self) -> float | None:
        """About the smallest share of exact copies, beside samples like held-out images, that is found 4 times in 5.

        1 if not even samples that all are copies would be. Copies at distance 0 are nearer than every held-out image, so a
        share s of them moves `nearer` from 1/2 to 1/2 + s/2.
        """
        from scipy.special import ndtri

        if self.spread is None:
            return None
        needed = (float(ndtri((1 + self.confidence) / 2)) + float(ndtri(POWER))) * self.spread
        reach = sum(w * part.samples * part.heldout / part.spread / 2 for w, part in self._used)
        return min(1.0, needed / reach)

    @property
    def conclusion(self) -> Conclusion:
        """'copying' or 'farther' if the interval of C_T lies below or above 0, 'not shown' if it holds 0.

        'cannot tell' if the cells that are used hold less than half of the held-out images: then the samples are missing
        where the data are, and their distances say nothing.
        """
        interval = self.interval
        if interval is None or self.covered < COVERED:
            return "cannot tell"
        return "copying" if interval[1] < 0 else "farther" if interval[0] > 0 else "not shown"

    def to_json(self) -> dict[str, Any]:
        """Return the numbers for a JSON file."""
        return {
            "protocol": self.name,
            "c_t": self.value,
            "interval": list(self.interval) if self.interval else None,
            "spread": self.spread,
            "z": self.z,
            "nearer": self.nearer,
            "nearer_interval": list(self.nearer_interval) if self.nearer_interval else None,
            "conclusion": self.conclusion,
            "confidence": self.confidence,
            "detectable_share": self.detectable_share,
            "covered": self.covered,
            "covered_samples": self.covered_samples,
            "samples": self.samples,
            "heldout": self.heldout,
            "heldout_overlap": self.heldout_overlap,
            "training_images": self.training_images,
            "duplicates": self.duplicates,
            "cells": [
                {
                    "training": cell.training,
                    "samples": cell.samples,
                    "heldout": cell.heldout,
                    "z": cell.comparison.z if cell.comparison else None,
                }
                for cell in self.cells
            ],
        }


def copying_test(
    samples: NDArray[Any],
    training: NDArray[Any],
    heldout: NDArray[Any],
    *,
    cells: int = 3,
    components: int = 64,
    least: int = 20,
    seed: int = 0,
    confidence: float = 0.95,
    space: str | None = None,
    device: torch.device | str | None = None,
    progress: Progress = NO_PROGRESS,
) -> CopyingTest:
    """Test whether samples lie nearer to the training images than held-out images do.

    Cells, weights and the standardized U (with its 1/2 for continuity) are as published, with 3 cells by k-means and at
    least 20 images as in the programs for features of Jiralerspong et al. (2023, FLD) and Stein et al. (2023). What
    differs: they ask for more than 20 samples in a cell but for 1 held-out image, where U is far from normal, and here
    more than `least` of each are needed; and they also measure distances after the projection, which here only makes the
    cells.

    Args:
        samples: uint8 images (Q, C, H, W), or features (Q, F) in floating point.
        training: The whole training set, (N, ...), of the same type and shape.
        heldout: Images of the same distribution that were not trained on, (M, ...). Those that are
            identical to a training image are left out. If the data hold such repeats by nature (blank images, say), the
            samples' own repeats then look like copies: take the repeats out of all three sets first.
        cells: Number of cells.
        components: Principal components that the cells are made with.
        least: A cell is used if it has more samples, and more held-out images, than this.
        seed: Of the cells.
        confidence: Coverage of the intervals.
        space: Names the space in the protocol id, for features; by default the metric and the type.
        device: Where distances are computed.
        progress: Told the share of the work that is done.

    Raises:
        UserError: The arrays differ in type or shape, there are fewer distinct training images than cells, or so few
            samples or held-out images that even of equal shares no cell would have enough.
    """
    named = {"training images": training, "samples": samples, "held-out images": heldout}
    where = common_space(named, "euclidean", space)
    if least < 1:
        raise UserError(f"least = {least} images in a cell are too few; the usual number is 20.")
    keys = content_keys(training)
    fresh = taken(heldout, np.flatnonzero(~present(content_keys(heldout), keys)))
    compared = {"samples": samples, "held-out images": fresh}
    needed = cells * (least + 1)
    for what, images in compared.items():
        if len(images) < needed:
            raise UserError(
                f"There are {len(images)} {what} that can be used, and {cells} cells with more than {least} in each need "
                f"at least {needed}; give {needed - len(images)} more, or choose fewer cells."
            )
    kept = np.sort(distinct(keys))
    references = taken(training, kept)
    partition = Cells.fit(references, cells, components=components, seed=seed)
    inside = {what: partition.of(images) for what, images in compared.items()}
    home = partition.of(references)
    results: list[CellResult] = []
    for cell in range(cells):
        near = np.flatnonzero(home == cell)
        groups = [np.flatnonzero(where_in == cell) for where_in in inside.values()]
        comparison = None
        if len(near) and min(len(group) for group in groups) > least:
            home_images = taken(references, near)
            sets = (taken(images, group) for images, group in zip(compared.values(), groups, strict=True))
            found = [
                nearest_neighbours(
                    some,
                    home_images,
                    1,
                    device=device,
                    progress=part_of(progress, (2 * cell + at) / (2 * cells), 1 / (2 * cells)),
                )
                for at, some in enumerate(sets)
            ]
            comparison = compare_ranks(found[0].distances[:, 0], found[1].distances[:, 0], confidence)
        results.append(CellResult(len(near), len(groups[0]), len(groups[1]), comparison))
    return CopyingTest(
        cells=tuple(results),
        samples=len(samples),
        heldout=len(fresh),
        heldout_overlap=len(heldout) - len(fresh),
        training_images=len(training),
        duplicates=len(training) - len(kept),
        confidence=confidence,
        name=f"{where}/c_t/cells={cells}/pca={components}/least={least}/seed={seed}/v1",
    )


def _combined(parts: Sequence[tuple[float, float, float, float]]) -> tuple[float, float]:
    """Return the interval of a weighted sum, from (weight, value, low, high) of its independent terms."""
    value = sum(weight * middle for weight, middle, _, _ in parts)
    below = math.sqrt(sum((weight * (middle - low)) ** 2 for weight, middle, low, _ in parts))
    above = math.sqrt(sum((weight * (high - middle)) ** 2 for weight, middle, _, high in parts))
    return value - below, value + above
