"""What a run found, as typed records: its evaluations and its summary.

A rate never stands alone: `Rate` carries the counts and the interval, and a `RunRecord` carries the null rate (the
same rule on held-out images) beside R_mem.
"""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from diffmem.memorization.rates import Rate
from diffmem.memorization.records import Record

__all__ = ["Evaluation", "RunRecord", "Verdict"]

Verdict = Literal["memorized", "not memorized", "undecided", "unfinished"]
"""What one training of a search says about its size: R_mem reaches 1 - epsilon; it does not; more images than allowed would be
needed to decide; or it still goes on."""


class Evaluation(Record):
    """R_mem of one snapshot of a run; in a search the intervals are anytime-valid (see `studies.search.confidence`)."""

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
    verdict: Literal["at least", "below", "undecided"] | None = Field(
        default=None,
        description="In a search: whether R_mem is at least 1 - epsilon here, at the confidence that the search needs.",
    )


class RunRecord(Record):
    """One training: its configuration's hash, its curve, its summary, and what a search decided by it."""

    run_id: str = Field(description="Hash of the configuration: the name of the run's folder.")
    size: int = Field(description="Number of training images N.")
    seed: int
    epochs: float = Field(description="Epochs of a whole training.")
    epochs_trained: float = Field(description="Epochs trained; fewer where the training was stopped early.")
    folder: str = Field(description="Folder of the run, relative to the store.")
    evaluations: list[Evaluation] = Field(description="In the order of training.")
    null: Rate | None = Field(
        description="The same rule on held-out images against this training set; none if there are none, or not yet."
    )
    null_at_thresholds: dict[str, Rate] = Field(
        default_factory=dict,
        description="The null rate with other thresholds, as `Evaluation.at_thresholds`.",
    )
    duplicates: int = Field(
        description="Training images that are exact copies of an earlier one (collapsed before measuring)."
    )
    images_trained: int
    training_seconds: float
    sampling_seconds: float
    incidents: list[str] = Field(
        default_factory=list, description="Damaged files that were found and regenerated."
    )
    verdict: Verdict | None = Field(default=None, description="In a search: what the training says.")
    why: str = Field(
        default="",
        description="The verdict in words, for example 'R_mem in [0.93, 0.99] after 220 images at epoch 1,400'.",
    )
    stopped: Literal["decided", "hopeless", "end", "running"] = Field(
        default="end",
        description="Why training ended: memorization was certain, the futility rule, or the last epoch.",
    )

    @property
    def images_sampled(self) -> int:
        """Images generated at all evaluation points."""
        return sum(one.memorized.total for one in self.evaluations)

    @property
    def curve(self) -> list[Evaluation]:
        """The evaluations after training began: an epoch of 0 has no place on a logarithmic axis."""
        return [one for one in self.evaluations if one.epoch > 0]

    @property
    def peak(self) -> Evaluation:
        """The evaluation with the highest R_mem, of a run that has one: Gu et al. report the maximum over snapshots."""
        return max(self.evaluations, key=lambda evaluation: evaluation.memorized.value)

    @property
    def last(self) -> Evaluation:
        """The evaluation at the end of training."""
        return self.evaluations[-1]
