"""AuthPct: the share of samples that are farther from their training image than that image is from its own neighbour."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from diffmem.errors import UserError
from diffmem.memorization.neighbours.contents import common_space, content_keys, distinct, taken
from diffmem.memorization.neighbours.index import NeighbourIndex
from diffmem.memorization.neighbours.neighbours import Neighbours, nearest_neighbours
from diffmem.memorization.neighbours.rows import Metric
from diffmem.memorization.rates import USUAL, Intervals, Rate
from diffmem.progress import NO_PROGRESS, Progress, part_of

__all__ = ["Authenticity", "authenticity", "gaps_of"]


@dataclass(frozen=True, eq=False)
class Authenticity:
    """Which samples are authentic, in the sense of Alaa et al. (2022, "How Faithful is your Synthetic Data?", section 4).

    With y the training image nearest to a sample x, x is authentic if d(y, its nearest other training image) < d(x, y).
    AuthPct is 100 times their share. There is no threshold to choose, and no share that proves copying: fresh images are
    not all authentic either, so read it beside `null`.

    Attributes:
        neighbours: The nearest distinct training image of each sample, (Q, 1). Indices refer to the training set as
            given; of identical images the first stands for all.
        gaps: Distance of that training image to its nearest other, distinct one, float64 (Q,).
        authentic: Which samples are authentic, bool (Q,).
        rate: The share of authentic samples; low where images are copied. Its interval takes the samples as independent
            draws from the model, the training set as given.
        null: The same share of held-out images; None if there are none.
        heldout_overlap: How many held-out images are identical to a training image; the null leaves them out.
        training_images: Training images as given, copies included.
        duplicates: Training images that were left out as exact copies of an earlier one. Kept, they would make
            d(y, its nearest other) zero, and every copy of y would be called authentic.
        name: The way of measuring; only shares with the same name can be compared.
    """

    neighbours: Neighbours
    gaps: NDArray[np.float64]
    authentic: NDArray[np.bool_]
    rate: Rate
    null: Rate | None
    heldout_overlap: int
    training_images: int
    duplicates: int
    name: str

    @property
    def percent(self) -> float:
        """AuthPct, 0 to 100."""
        return 100 * self.rate.value

    @property
    def copied(self) -> Rate:
        """The share of samples that are not authentic: high where images are copied."""
        return Rate(
            self.rate.total - self.rate.count, self.rate.total, self.rate.confidence, self.rate.method
        )

    def to_json(self) -> dict[str, Any]:
        """Return the numbers, without the arrays, for a JSON file."""
        return {
            "protocol": self.name,
            "authentic": self.rate.model_dump(),
            "null": self.null.model_dump() if self.null else None,
            "heldout_overlap": self.heldout_overlap,
            "training_images": self.training_images,
            "duplicates": self.duplicates,
        }


def authenticity(
    samples: NDArray[Any],
    training: NDArray[Any],
    *,
    heldout: NDArray[Any] | None = None,
    metric: Metric = "euclidean",
    space: str | None = None,
    intervals: Intervals = USUAL,
    device: torch.device | str | None = None,
    progress: Progress = NO_PROGRESS,
) -> Authenticity:
    """Measure which samples are authentic.

    Exact copies within the training set are collapsed first. Near-duplicates blind the measure in the same way; leave
    them out with `near_duplicates(training, radius).distinct` before. Only the training images that some sample has as its
    nearest are compared with the whole set.

    Args:
        samples: uint8 images (Q, C, H, W), or features (Q, F) in floating point.
        training: The whole training set, (N, ...), of the same type and shape.
        heldout: Images of the same distribution that were not trained on, for the null.
        metric: As in `nearest_neighbours`.
        space: Names the space in the protocol id, for features; by default the metric and the type.
        intervals: How the intervals are computed.
        device: Where distances are computed.
        progress: Told the share of the work that is done.

    Raises:
        UserError: The arrays differ in type or shape, there are no samples, or the training set has fewer than 2
            distinct images.
    """
    named = {"training images": training, "samples": samples}
    if heldout is not None and len(heldout):
        named["held-out images"] = heldout
    where = common_space(named, metric, space)
    originals = np.sort(distinct(content_keys(training)))
    if len(originals) < 2:
        raise UserError(
            f"The training set has {len(training)} images of which {len(originals)} is distinct; a training image is compared "
            "with its nearest other one, so at least 2 distinct images are needed."
        )
    references = taken(training, originals)
    queries = [samples] if len(named) == 2 else [samples, named["held-out images"]]
    total = sum(len(part) for part in queries)
    found, done = [], 0
    for part in queries:
        # The training images' own neighbours come last and are at most as many as the samples.
        share = part_of(progress, done / total / 2, len(part) / total / 2)
        found.append(nearest_neighbours(part, references, 1, metric=metric, device=device, progress=share))
        done += len(part)
    nearest = np.concatenate([part.indices[:, 0] for part in found])
    gaps = gaps_of(references, nearest, metric=metric, device=device, progress=part_of(progress, 0.5, 0.5))
    distances = np.concatenate([part.distances[:, 0] for part in found])
    authentic = gaps < distances
    count = len(samples)
    fresh = distances[count:] > 0
    return Authenticity(
        neighbours=Neighbours(found[0].distances, originals[found[0].indices]),
        gaps=gaps[:count],
        authentic=authentic[:count],
        rate=intervals.rate(authentic[:count]),
        null=intervals.rate(authentic[count:][fresh]) if fresh.any() else None,
        heldout_overlap=int((~fresh).sum()),
        training_images=len(training),
        duplicates=len(training) - len(originals),
        name=f"{where}/authpct/exact-dups-collapsed/v1",
    )


def gaps_of(
    references: NDArray[Any],
    chosen: NDArray[np.int64],
    *,
    own: NDArray[np.int64] | None = None,
    metric: Metric = "euclidean",
    index: NeighbourIndex | None = None,
    device: torch.device | str | None = None,
    progress: Progress = NO_PROGRESS,
) -> NDArray[np.float64]:
    """Return the distance of training images to their nearest other one, float64 (n,).

    Args:
        references: The distinct training images, (N, ...); at least 2, with `own` at least 3.
        chosen: Which of them, int64 (n,), repeats allowed.
        own: For each, one that does not count as another either, int64 (n,).
        metric: As in `nearest_neighbours`.
        index: Of the references.
        device: Where distances are computed.
        progress: Told the number of compared pairs.
    """
    asked, back = np.unique(chosen, return_inverse=True)
    around = nearest_neighbours(
        taken(references, asked), references, 2 + (own is not None), metric=metric, index=index, device=device, progress=progress
    )  # fmt: skip
    indices, distances = around.indices[back], around.distances[back]
    passed = indices == chosen[:, None]
    if own is not None:
        passed |= indices == own[:, None]
    return np.take_along_axis(distances, np.argmin(passed, axis=1)[:, None], 1)[:, 0]
