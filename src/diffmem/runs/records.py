"""What a run found, as typed records: its evaluations and its summary.

A rate never stands alone: `Rate` carries the counts and the interval, and a `RunRecord` carries the null rate (the
same rule on held-out images) beside R_mem.
"""

from __future__ import annotations

from pydantic import Field

from diffmem.memorization.rates import Rate
from diffmem.memorization.records import Record

__all__ = ["Evaluation", "RunRecord"]


class Evaluation(Record):
    """R_mem of one snapshot of a run."""

    epoch: float
    images_seen: int
    memorized: Rate
    mean_nearest_distance: float = Field(
        description="Mean L2 distance to the nearest training image, RMS grey levels (0 to 255)."
    )
    distinct_replicated: int = Field(
        description="Distinct training images that at least one memorized sample copies."
    )
    at_thresholds: dict[str, Rate] = Field(
        default_factory=dict,
        description="The same share with other thresholds of d1 / d2, by threshold ('0.2' to '0.5').",
    )
    frechet: float | None = Field(
        default=None, description="Squared Frechet distance to the training images, if it was asked for."
    )
    frechet_of: str | None = Field(
        default=None,
        description="What that distance is of: 'pixels', 'inception' (then it is the FID), or a TorchScript file.",
    )
    frechet_note: str | None = Field(
        default=None, description="Why there is no such distance, if it was asked for."
    )


class RunRecord(Record):
    """One training: its configuration's hash, its curve, and its summary."""

    run_id: str
    size: int = Field(description="Number of training images N.")
    seed: int
    epochs: float
    folder: str = Field(description="Folder of the run, relative to the study's folder.")
    evaluations: list[Evaluation]
    null: Rate | None = Field(
        description="The same rule on held-out images against this training set; none if there are none."
    )
    null_at_thresholds: dict[str, Rate] = Field(
        default_factory=dict,
        description="The null rate with other thresholds, as `Evaluation.at_thresholds`.",
    )
    duplicates: int = Field(
        description="Training images that are exact copies of an earlier one (collapsed before measuring)."
    )
    training_seconds: float
    sampling_seconds: float

    @property
    def peak(self) -> Evaluation:
        """The evaluation with the highest R_mem: Gu et al. report the maximum over snapshots."""
        return max(self.evaluations, key=lambda evaluation: evaluation.memorized.value)

    @property
    def last(self) -> Evaluation:
        """The evaluation at the end of training."""
        return self.evaluations[-1]
