"""What a study found, as typed records: written to `report.json`, drawn by `reports`.

A rate never stands alone here: `RateRecord` carries the counts and the interval, and a `RunRecord` carries
the null rate (the same rule on held-out images) beside R_mem.
"""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from diffmem.memorization.records import RateRecord, Record

__all__ = [
    "ClaimRecord",
    "EmmRecord",
    "Evaluation",
    "ExperimentResult",
    "LevelRecord",
    "PublishedCurve",
    "RunRecord",
    "StudyResult",
]


class Evaluation(Record):
    """R_mem of one snapshot of a run."""

    epoch: float
    images_seen: int
    memorized: RateRecord
    mean_nearest_distance: float = Field(
        description="Mean L2 distance to the nearest training image, RMS grey levels (0 to 255)."
    )
    distinct_replicated: int = Field(
        description="Distinct training images that at least one memorized sample copies."
    )
    at_thresholds: dict[str, RateRecord] = Field(
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
    null: RateRecord | None = Field(
        description="The same rule on held-out images against this training set; none if there are none."
    )
    null_at_thresholds: dict[str, RateRecord] = Field(
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


class EmmRecord(Record):
    """EMM of one level: the largest N at which R_mem >= 1 - epsilon, or why it cannot be told.

    status: 'estimated' (value, low and high are set), 'above largest' (even the largest size memorizes),
    'below smallest' (even the smallest does not), 'not monotone' (a larger size certainly memorizes and a smaller one
    certainly does not: the bracket spans both, there is no single crossing), 'unfinished' (a search still goes on), 'no runs'.
    """

    status: Literal["estimated", "above largest", "below smallest", "not monotone", "unfinished", "no runs"]
    value: float | None = None
    low: float | None = None
    high: float | None = None
    bracket: tuple[int, int] | None = Field(
        default=None, description="The neighbouring sizes between which the crossing lies."
    )
    epsilon: float = 0.1
    method: str = ""
    notes: list[str] = Field(
        default_factory=list, description="Caveats in words, for example that the curve was not monotone."
    )


class StudyResult(Record):
    """The result of a study over training-set sizes."""

    title: str
    data: str = Field(
        description="The data distribution P in words: source, resolution, channels, selection."
    )
    model: str = Field(description="The model M in words, with its number of parameters.")
    training: str = Field(description="The training procedure T in words.")
    sampling: str = Field(description="How images were generated, in words.")
    protocol: str = Field(
        description="Id of the measuring protocol: space, criterion, threshold, duplicate handling."
    )
    threshold: float
    epsilon: float
    runs: list[RunRecord] = Field(description="Ascending in size.")
    emm: EmmRecord
    emm_last: EmmRecord | None = Field(
        default=None, description="EMM from the last snapshots instead of the peaks."
    )
    seconds: float
    versions: dict[str, str] = Field(description="Versions of diffmem, python, torch and the device's name.")
    notes: list[str] = Field(default_factory=list)


class PublishedCurve(Record):
    """What the paper printed for one level, as far as it is known."""

    level: str = Field(description="The paper's name of the level, as in `LevelRecord.paper_name`.")
    x: list[float] = Field(
        description="Training-set sizes, or epochs where `ExperimentResult.form` is 'epochs'."
    )
    percent: list[float | None] = Field(description="R_mem in percent at each; none where it is unknown.")


class LevelRecord(Record):
    """One level of an experiment's factor, with the study that was made of it."""

    name: str = Field(description="The level as it was run here, for example '16x16'.")
    paper_name: str = Field(description="The level of the paper that it stands for, for example '32x32'.")
    study: StudyResult


class ClaimRecord(Record):
    """Something that the paper found, and whether the runs here show it."""

    claim: str = Field(description="The finding in words, for example 'lower resolution, more memorization'.")
    verdict: Literal["shown", "opposite", "cannot tell"]
    numbers: str = Field(
        description="What the verdict rests on, in words: the difference, its interval, how many pairs."
    )


class ExperimentResult(Record):
    """One figure or table of the paper, run here at some scale, with the paper's numbers beside."""

    name: str = Field(description="Name of the experiment on the command line, for example 'fig2_dim'.")
    title: str
    factor: str = Field(description="What the levels are, for example 'resolution'.")
    scale: Literal["paper", "cpu", "smoke"]
    finding: str = Field(description="What the paper found, in words.")
    form: Literal["size", "level", "epochs", "masks"] = Field(
        description="How the paper draws it: R_mem against the size (a curve per level), against the level (a curve per size),"
        " against epochs (a curve per level), or against the level where levels are masks of skip connections."
    )
    levels: list[LevelRecord]
    published: list[PublishedCurve]
    size_ratio: float = Field(
        default=1.0, description="The paper's training-set size divided by the one that stands for it here."
    )
    epoch_ratio: float = Field(default=1.0, description="The same of epochs.")
    claims: list[ClaimRecord]
    notes: list[str] = Field(description="Caveats in words, for example that another data set stands in.")
    seconds: float
