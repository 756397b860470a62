"""R_mem, the share of generated images that copy a training image, and what makes the number readable."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from diffmem.data.duplicates import duplicate_groups
from diffmem.errors import UserError
from diffmem.memorization.criteria import Criterion, RatioRule
from diffmem.memorization.neighbours.contents import check_images, taken
from diffmem.memorization.neighbours.index import index_for
from diffmem.memorization.neighbours.neighbours import Neighbours, nearest_neighbours
from diffmem.memorization.plausibility import SampleCheck, SampleCheckRecord, check_samples
from diffmem.memorization.rates import USUAL, Intervals, Rate
from diffmem.progress import NO_PROGRESS, Progress, part_of

__all__ = ["Measurement", "measure", "protocol_id"]

FEW_SAMPLES = 100
HIGH_NULL = 0.01


@dataclass(frozen=True, eq=False)
class Measurement:
    """What one set of generated images shares with its training set.

    Attributes:
        neighbours: The nearest distinct training images of each sample: as many as the criterion needs, at least 2. Indices
            refer to the training set as given; of identical images the first stands for all.
        memorized: Which samples count as copies, bool (Q,).
        rate: R_mem, the share of them.
        ratio: d1 / d2 of each sample, float64 (Q,), in [0, 1].
        mean_nearest_rms: Mean distance to the nearest training image, in RMS grey levels: d1 / sqrt(C * H *
            W).
        distinct_replicated: Distinct training images that at least one memorized sample has as its nearest.
        training_images: Training images as given, copies included.
        duplicates: Training images that were left out as exact copies of an earlier one.
        duplicate_groups_count: Images that occur more than once in the training set.
        null: The same rule on held-out images: the share that is flagged without any copying. None if there
            are none.
        null_neighbours: Their neighbours, without the held-out images that are training images too.
        heldout_overlap: How many held-out images are identical to a training image; the null leaves them out.
        protocol: Id of the way of measuring; only numbers with the same id can be compared.
        check: Whether the samples can be those of a model of this training set, and how many of them are trials.
        warnings: Sentences that a reader of the number must see.
    """

    neighbours: Neighbours
    memorized: NDArray[np.bool_]
    rate: Rate
    ratio: NDArray[np.float64]
    mean_nearest_rms: float
    distinct_replicated: int
    training_images: int
    duplicates: int
    duplicate_groups_count: int
    null: Rate | None
    null_neighbours: Neighbours | None
    heldout_overlap: int
    protocol: str
    check: SampleCheckRecord
    warnings: list[str]

    def to_json(self) -> dict[str, Any]:
        """Return the numbers, without the arrays, for a JSON file."""
        return {
            "protocol": self.protocol,
            "memorized": self.rate.model_dump(),
            "null": self.null.model_dump() if self.null else None,
            "mean_nearest_rms": self.mean_nearest_rms,
            "distinct_replicated": self.distinct_replicated,
            "training_images": self.training_images,
            "duplicates": self.duplicates,
            "duplicate_groups": self.duplicate_groups_count,
            "heldout_overlap": self.heldout_overlap,
            "sample_check": self.check.model_dump(mode="json"),
            "warnings": list(self.warnings),
        }


def measure(
    samples: NDArray[np.uint8],
    training: NDArray[np.uint8],
    *,
    heldout: NDArray[np.uint8] | None = None,
    criterion: Criterion | None = None,
    intervals: Intervals = USUAL,
    index: Path | None = None,
    device: torch.device | str | None = None,
    progress: Progress = NO_PROGRESS,
) -> Measurement:
    """Measure how many samples copy a training image.

    Exact copies within the training set are collapsed before the search: with a copy as the second neighbour,
    d1 / d2 is 1 for the very images that are most likely memorized, and the ratio rule would miss them.

    The rate is over all samples. What the samples are, where they are constant, repeated, noise or of a wrong value range,
    and the rate without constant and repeated ones, are said in the warnings.

    Processes that run together call it together, with the same images: the search is shared, and all get the result.

    Args:
        samples: Generated images, uint8 (Q, C, H, W).
        training: The whole training set, uint8 (N, C, H, W).
        heldout: Images of the same distribution that were not trained on, uint8 (H, C, H, W), for the null
            rate.
        criterion: The rule; `RatioRule()` (d1 < d2 / 3) if none.
        intervals: How the intervals are computed.
        index: File that keeps the index of the training images from one measurement to the next; made if it is not there
            or belongs to other images. Worth it for large sets on a CPU.
        device: Where distances are computed.
        progress: Reports the share of the work that is done.

    Raises:
        UserError: The arrays are not uint8 images of one shape, there are no samples, or the training set has
            fewer distinct images than the criterion compares, or fewer than 2.
        DiffmemError: The file of the index is damaged or something else.
    """
    criterion = RatioRule() if criterion is None else criterion
    named = {"training images": training, "samples": samples}
    check_images(named if heldout is None or not len(heldout) else {**named, "held-out images": heldout})
    k = max(2, criterion.count)
    first = np.asarray(duplicate_groups(training))
    distinct = np.flatnonzero(first == np.arange(len(training)))
    if len(distinct) < k:
        raise UserError(
            f"The training set has {len(training)} images of which {len(distinct)} are distinct, but {k} are needed: R_mem compares"
            " the nearest with the second nearest. If this is the whole set, `diffmem audit` judges by identity and nearness."
        )
    references = taken(training, distinct)
    held = 0 if heldout is None else len(heldout)
    share = len(samples) / (len(samples) + held)
    known = None if index is None else index_for(references, index)

    def search(images: NDArray[np.uint8], part: Progress) -> Neighbours:
        found = nearest_neighbours(images, references, k, index=known, device=device, progress=part)
        return Neighbours(found.distances, distinct[found.indices])

    neighbours = search(samples, part_of(progress, 0, share))
    memorized = criterion(neighbours)
    null, null_neighbours, overlap = None, None, 0
    if heldout is not None and held:
        found = search(heldout, part_of(progress, share, 1 - share))
        fresh = found.distances[:, 0] > 0
        overlap = int((~fresh).sum())
        if fresh.any():
            null_neighbours = Neighbours(found.distances[fresh], found.indices[fresh])
            null = intervals.rate(criterion(null_neighbours))
    rate = intervals.rate(memorized)
    duplicates = len(training) - len(distinct)
    check = check_samples(samples, training, heldout)
    return Measurement(
        neighbours=neighbours,
        memorized=memorized,
        rate=rate,
        ratio=RatioRule().ratio(neighbours),
        mean_nearest_rms=float(neighbours.distances[:, 0].mean() / np.sqrt(np.prod(training.shape[1:]))),
        distinct_replicated=len(np.unique(neighbours.indices[memorized, 0])),
        training_images=len(training),
        duplicates=duplicates,
        duplicate_groups_count=int((np.bincount(first, minlength=len(training)) > 1).sum()),
        null=null,
        null_neighbours=null_neighbours,
        heldout_overlap=overlap,
        protocol=protocol_id(criterion),
        check=check.record,
        warnings=[*_sample_notes(check, memorized, rate), *_warnings(rate, null, duplicates, held, overlap)],
    )


def protocol_id(criterion: Criterion) -> str:
    """Return the id of measuring with this criterion as `measure` does; equal ids mean comparable numbers."""
    return f"pixel-l2/uint8/{criterion.name}/exact-dups-collapsed/v1"


def _sample_notes(check: SampleCheck, memorized: NDArray[np.bool_], rate: Rate) -> list[str]:
    """Say what the samples are where they are not what a rate is meant for; the rate itself is over all of them."""
    record = check.record
    notes = [] if record.problem is None else [record.problem]
    notes += record.notes
    left_out = record.constant + record.repeats
    if left_out:
        among = f"{record.constant} constant samples and {record.repeats} repeats"
        if record.judged:
            judged = Rate(int(memorized[check.judged].sum()), record.judged, rate.confidence, rate.method)
            notes.append(f"R_mem counts all samples. Without {among} it is {judged}.")
        else:
            notes.append(f"R_mem counts all samples. Without {among} none are left.")
    return notes


def _warnings(rate: Rate, null: Rate | None, duplicates: int, held: int, overlap: int) -> list[str]:
    notes = []
    if rate.total < FEW_SAMPLES:
        notes.append(f"Only {rate.total} samples were measured: the interval is wide.")
    if duplicates:
        notes.append(
            f"{duplicates} training images are exact copies of an earlier one; each group counts once."
        )
    if overlap:
        notes.append(
            f"{overlap} of {held} held-out images are identical to a training image; the null omits them."
        )
    if null is None:
        notes.append("There is no null rate, for want of held-out images that are not in the training set.")
    elif null.value > HIGH_NULL:
        notes.append(f"The rule also flags {null} of the held-out images: that share of R_mem may be chance.")
    if null is not None and rate.low <= null.high:
        notes.append("The interval of R_mem overlaps that of the null rate: memorization is not shown.")
    return notes
