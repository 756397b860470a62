"""What the reproduction of a figure or table of the paper found, as typed records."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

from pydantic import Field

from diffmem.memorization.records import Record
from diffmem.studies.records import LevelRecord, StudyRecord

__all__ = ["ClaimRecord", "ExperimentLevel", "ExperimentResult", "PublishedCurve", "Verdict"]


Verdict = Literal["shown", "opposite", "cannot tell"]


class PublishedCurve(Record):
    """What the paper printed for one level, as far as it is known."""

    level: str = Field(description="The paper's name of the level, as in `ExperimentLevel.paper_name`.")
    x: list[float] = Field(
        description="Training-set sizes, or epochs where `ExperimentResult.form` is 'epochs'."
    )
    percent: list[float | None] = Field(description="R_mem in percent at each; none where it is unknown.")


class ExperimentLevel(LevelRecord):
    """One level of an experiment's factor as it was run here, for example '16x16'."""

    paper_name: str = Field(description="The level of the paper that it stands for, for example '32x32'.")


class ClaimRecord(Record):
    """Something that the paper found, and whether the runs here show it."""

    claim: str = Field(description="The finding in words, for example 'lower resolution, more memorization'.")
    verdict: Verdict
    numbers: str = Field(
        description="What the verdict rests on, in words: the difference, its interval, how many pairs."
    )


class ExperimentResult(StudyRecord):
    """One figure or table of the paper, run here at some scale, with the paper's numbers beside."""

    name: str = Field(description="Name of the experiment on the command line, for example 'fig2_dim'.")
    scale: Literal["paper", "cpu", "smoke"]
    finding: str = Field(description="What the paper found, in words.")
    form: Literal["size", "level", "epochs", "masks"] = Field(
        description="How the paper draws it: R_mem against the size (a curve per level), against the level (a curve per size),"
        " against epochs (a curve per level), or against the level where levels are masks of skip connections."
    )
    levels: Sequence[ExperimentLevel]
    published: list[PublishedCurve]
    size_ratio: float = Field(
        default=1.0, description="The paper's training-set size divided by the one that stands for it here."
    )
    epoch_ratio: float = Field(default=1.0, description="The same of epochs.")
    claims: list[ClaimRecord]
