"""The C_T test of data copying: are samples nearer to the training images than held-out images are, cell by cell?

In a cell the two groups of distances are compared by their ranks: the Mann-Whitney test, and how often one is the nearer.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from pydantic import Field

from diffmem.errors import UserError
from diffmem.memorization.cells import Cells
from diffmem.memorization.neighbours.contents import common_space, content_keys, distinct, present, taken
from diffmem.memorization.neighbours.neighbours import nearest_neighbours
from diffmem.memorization.rates import check_confidence
from diffmem.memorization.records import Record
from diffmem.progress import NO_PROGRESS, Progress, part_of

__all__ = [
    "CellConfig",
    "CellResult",
    "CellResults",
    "CopyingRecord",
    "RankComparison",
    "compare_ranks",
    "copying_test",
]

Conclusion = Literal["copying", "not shown", "farther", "cannot tell"]

COVERED = 0.5
POWER = 0.8


@dataclass(frozen=True)
class CellConfig:
    """How the cells are made, and which of them are used.

    Attributes:
        count: Number of cells.
        components: Principal components that the cells are made with.
        least: A cell is used if it has more samples, and more held-out images, than this.
        seed: Of the cells.

    Raises:
        UserError: `least` is below 1.
    """

    count: int = 3
    components: int = 64
    least: int = 20
    seed: int = 0

    def __post_init__(self) -> None:
        if self.least < 1:
            raise UserError(f"least = {self.least} images in a cell are too few; the usual number is 20.")

    @property
    def name(self) -> str:
        """The numbers, as they stand in a protocol id."""
        return f"cells={self.count}/pca={self.components}/least={self.least}/seed={self.seed}"


USUAL_CELLS = CellConfig()


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
class CellResults:
    """What the cells of a test show, and what was compared in them.

    Attributes:
        cells: All cells, used or not.
        heldout_overlap: How many held-out images are identical to a training image; they are left out.
        training_images: Training images as given, copies included.
        duplicates: Training images that are exact copies of an earlier one. They change neither cells nor distances.
    """

    cells: tuple[CellResult, ...]
    heldout_overlap: int = 0
    training_images: int = 0
    duplicates: int = 0

    @cached_property
    def used(self) -> list[tuple[float, RankComparison]]:
        """The comparisons of the cells that are used, each with its weight: its share of their held-out images."""
        used = [cell.comparison for cell in self.cells if cell.comparison is not None]
        total = sum(comparison.heldout for comparison in used)
        return [(comparison.heldout / total, comparison) for comparison in used]

    @property
    def covered(self) -> float:
        """Share of the held-out images that lie in cells that are used."""
        return sum(part.heldout for _, part in self.used) / sum(cell.heldout for cell in self.cells)

    @property
    def spread(self) -> float:
        """Standard deviation of C_T where samples are like held-out images."""
        return math.sqrt(sum(weight**2 for weight, _ in self.used))


class CopyingRecord(Record):
    """The C_T test: whether samples are nearer to the training images than held-out images are; supporting."""

    protocol: str
    c_t: float | None
    interval: tuple[float, float] | None
    z: float | None = Field(description="C_T in its standard deviations: near N(0, 1) for fresh samples.")
    nearer: float | None = Field(
        description="Probability that a sample is nearer to the training images than a held-out image; 0.5 for fresh samples."
    )
    nearer_interval: tuple[float, float] | None
    detectable_share: float | None = Field(
        description="Share of exact copies that it would find 4 times in 5."
    )
    conclusion: Conclusion
    notes: list[str] = Field(default_factory=list)

    @classmethod
    def nothing(cls, protocol: str, *notes: str) -> CopyingRecord:
        """Return a test that cannot tell, for want of images."""
        return cls(
            protocol=protocol, c_t=None, interval=None, z=None, nearer=None, nearer_interval=None, detectable_share=None,
            conclusion="cannot tell", notes=list(notes),
        )  # fmt: skip

    @classmethod
    def of(cls, protocol: str, found: CellResults, confidence: float) -> CopyingRecord:
        """Return the test of what was found in the cells, with intervals of this coverage."""
        from scipy.special import ndtri

        used, spread = found.used, found.spread
        if not used:
            return cls.nothing(protocol)
        c_t = sum(weight * part.z for weight, part in used)
        interval = _combined(
            [(w, part.z, part.z_of(part.nearer_high), part.z_of(part.nearer_low)) for w, part in used]
        )
        # Copies at distance 0 are nearer than every held-out image: a share s of them moves `nearer` to 1/2 + s/2.
        needed = (float(ndtri((1 + confidence) / 2)) + float(ndtri(POWER))) * spread
        reach = sum(w * part.samples * part.heldout / part.spread / 2 for w, part in used)
        conclusion: Conclusion = (
            "copying" if interval[1] < 0 else "farther" if interval[0] > 0 else "not shown"
        )
        return cls(
            protocol=protocol,
            c_t=c_t,
            interval=interval,
            z=c_t / spread,
            nearer=sum(weight * part.nearer for weight, part in used),
            nearer_interval=_combined(
                [(w, part.nearer, part.nearer_low, part.nearer_high) for w, part in used]
            ),
            detectable_share=min(1.0, needed / reach),
            conclusion="cannot tell" if found.covered < COVERED else conclusion,
        )


def copying_test(
    samples: NDArray[Any],
    training: NDArray[Any],
    heldout: NDArray[Any],
    *,
    cells: CellConfig = USUAL_CELLS,
    confidence: float = 0.95,
    space: str | None = None,
    device: torch.device | str | None = None,
    progress: Progress = NO_PROGRESS,
) -> tuple[CopyingRecord, CellResults]:
    """Test whether samples lie nearer to the training images than held-out images do.

    The statistic C_T of Meehan, Chaudhuri and Dasgupta (2020, "A Non-Parametric Test to Detect Data-Copying"). In each cell,
    the distances of the samples to their nearest training image in the cell are compared with those of the held-out
    images: z is the standardized Mann-Whitney U. C_T is the mean of z over the cells, weighted by their shares of the
    held-out images. Far below 0 the samples are systematically nearer (copying), far above 0 farther (underfitting).

    In each cell z is near N(0, 1) if samples are fresh draws from the distribution of the held-out images, so C_T has the
    standard deviation `CellResults.spread`, below 1 with several cells. The record's z is C_T divided by it: this one is
    near N(0, 1). Intervals are by the square-and-add rule (Zou and Donner 2008).

    The conclusion is 'copying' or 'farther' if the interval of C_T lies below or above 0, and 'not shown' if it holds 0. It
    is 'cannot tell' if the cells that are used hold less than half of the held-out images: then the samples are missing
    where the data are, and their distances say nothing. `detectable_share` is 1 if not even samples that all are copies
    would be found.

    Where it lies. It sees a shift of the whole distribution: one sample in a hundred may be a copy without any trace (see
    `detectable_share`), and blurred samples that lie near to many training images look like copies. It compares with the
    held-out images, so these must be of the very distribution of the training images.

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
        cells: How the cells are made.
        confidence: Coverage of the intervals.
        space: Names the space in the protocol id, for features; by default the metric and the type.
        device: Where distances are computed.
        progress: Reports the share of the work that is done.

    Returns:
        The test, and what it found in each cell.

    Raises:
        UserError: The arrays differ in type or shape, there are fewer distinct training images than cells, or so few
            samples or held-out images that even of equal shares no cell would have enough.
    """
    named = {"training images": training, "samples": samples, "held-out images": heldout}
    where = common_space(named, "euclidean", space)
    keys = content_keys(training)
    fresh = taken(heldout, np.flatnonzero(~present(content_keys(heldout), keys)))
    compared = {"samples": samples, "held-out images": fresh}
    needed = cells.count * (cells.least + 1)
    for what, images in compared.items():
        if len(images) < needed:
            raise UserError(
                f"There are {len(images)} {what} that can be used, and {cells.count} cells with more than {cells.least} in each need "
                f"at least {needed}; give {needed - len(images)} more, or choose fewer cells."
            )
    references = taken(training, np.sort(distinct(keys)))
    partition = Cells.fit(references, cells.count, components=cells.components, seed=cells.seed)
    inside = {what: partition.of(images) for what, images in compared.items()}
    home = partition.of(references)
    results: list[CellResult] = []
    for cell in range(cells.count):
        near = np.flatnonzero(home == cell)
        groups = [np.flatnonzero(where_in == cell) for where_in in inside.values()]
        comparison = None
        if len(near) and min(len(group) for group in groups) > cells.least:
            home_images, distances = taken(references, near), []
            for at, (images, group) in enumerate(zip(compared.values(), groups, strict=True)):
                part = part_of(progress, (2 * cell + at) / (2 * cells.count), 1 / (2 * cells.count))
                found = nearest_neighbours(taken(images, group), home_images, 1, device=device, progress=part)
                distances.append(found.distances[:, 0])
            comparison = compare_ranks(distances[0], distances[1], confidence)
        results.append(CellResult(len(near), len(groups[0]), len(groups[1]), comparison))
    overlap, copies = len(heldout) - len(fresh), len(training) - len(references)
    inside_all = CellResults(tuple(results), overlap, len(training), copies)
    return CopyingRecord.of(f"{where}/c_t/{cells.name}/v1", inside_all, confidence), inside_all


def _combined(parts: Sequence[tuple[float, float, float, float]]) -> tuple[float, float]:
    """Return the interval of a weighted sum, from (weight, value, low, high) of its independent terms."""
    value = sum(weight * middle for weight, middle, _, _ in parts)
    below = math.sqrt(sum((weight * (middle - low)) ** 2 for weight, middle, low, _ in parts))
    above = math.sqrt(sum((weight * (high - middle)) ** 2 for weight, middle, _, high in parts))
    return value - below, value + above


@dataclass(frozen=True)
class RankComparison:
    """How the distances of m samples compare with those of n held-out images.

    Attributes:
        samples: m.
        heldout: n.
        nearer: Share of the m n pairs in which the sample is the nearer one, ties half, 0 to 1; 0.5 without any
            difference. It estimates the probability of that.
        nearer_low: Lower end of its interval.
        nearer_high: Upper end.
    """

    samples: int
    heldout: int
    nearer: float
    nearer_low: float
    nearer_high: float

    @property
    def spread(self) -> float:
        """Standard deviation of the Mann-Whitney U where the groups do not differ, without ties."""
        return math.sqrt(self.samples * self.heldout * (self.samples + self.heldout + 1) / 12)

    @property
    def z(self) -> float:
        """The standardized U, near N(0, 1) where the groups do not differ; below 0 if the samples are nearer."""
        return self.z_of(self.nearer)

    def z_of(self, nearer: float) -> float:
        """Return the z of another share: (U - (m n / 2 - 1/2)) / spread, U being m n (1 - nearer)."""
        pairs = self.samples * self.heldout
        return (pairs * (0.5 - nearer) + 0.5) / self.spread


def compare_ranks(
    samples: NDArray[np.float64], heldout: NDArray[np.float64], confidence: float = 0.95
) -> RankComparison:
    """Compare two groups of distances.

    The interval is the score interval of Newcombe (2006, "Confidence intervals for an effect size measure based on the
    Mann-Whitney statistic. Part 2", method 5): the probabilities p with |nearer - p| <= z sqrt(V(p)), where V(p) is the
    variance of Hanley and McNeil (1982) with both sizes replaced by their mean. V(1/2) is the variance of the
    Mann-Whitney test, so the interval leaves out 1/2 exactly where the two-sided test (without continuity correction)
    rejects; and it has a width also where all samples are nearer.

    Args:
        samples: Distances of the samples, float (m,), m at least 1.
        heldout: Distances of the held-out images, float (n,), n at least 1.
        confidence: Coverage of the interval, in (0, 1).

    Raises:
        UserError: A group is empty, or the confidence is not between 0 and 1.
    """
    from scipy.special import ndtri
    from scipy.stats import rankdata

    m, n = len(samples), len(heldout)
    if m < 1 or n < 1:
        raise UserError(f"{m} samples and {n} held-out images cannot be compared; give at least one of each.")
    check_confidence(confidence)
    ranks = rankdata(np.concatenate([samples, heldout]))[:m]
    u = float(ranks.sum()) - m * (m + 1) / 2  # pairs in which the sample is the farther one, ties half
    nearer = 1 - u / (m * n)
    quantile = float(ndtri((1 + confidence) / 2))
    low = 1 - _upper(1 - nearer, m, n, quantile)
    return RankComparison(m, n, nearer, min(low, nearer), max(_upper(nearer, m, n, quantile), nearer))


def _upper(share: float, m: int, n: int, quantile: float) -> float:
    """Return the largest p with p - share <= quantile * sqrt(V(p))."""
    from scipy.optimize import brentq

    if share >= 1:
        return 1.0
    balance = (m + n) / 2 - 1

    def excess(p: float) -> float:
        variance = p * (1 - p) * (1 + balance * ((1 - p) / (2 - p) + p / (1 + p))) / (m * n)
        return p - share - quantile * math.sqrt(max(variance, 0.0))

    # At `share` itself the excess is negative, but for 0 where it is 0: the end sought lies above.
    start = min(share + 1e-12, 1.0)
    return 1.0 if start >= 1 or excess(start) >= 0 else float(brentq(excess, start, 1.0, xtol=1e-12))
