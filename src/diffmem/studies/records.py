"""What a study found, as typed records: written to `report.json`, drawn by `reports`.

A rate never stands alone here: `Rate` carries the counts and the interval, and a `RunRecord` carries
the null rate (the same rule on held-out images) beside R_mem.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

from pydantic import Field

from diffmem.memorization.records import Record
from diffmem.runs.records import RunRecord

__all__ = ["EmmRecord", "GridLevel", "GridResult", "StudyResult"]


class EmmRecord(Record):
    """EMM of one level: the largest N at which R_mem >= 1 - epsilon, or why it is not known.

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


class GridLevel(Record):
    """One level of a factor, with the study that was made of it."""

    name: str
    study: StudyResult
    published: float | None = Field(
        default=None, description="EMM that the paper reports for the level that this one stands for."
    )


class GridResult(Record):
    """The results of all levels of a factor."""

    title: str
    factor: str = Field(description="What the levels are, for example 'resolution'.")
    levels: Sequence[GridLevel]
    seconds: float
    notes: list[str] = Field(
        default_factory=list, description="Caveats in words, for example that another data set stands in."
    )

    @property
    def runs(self) -> list[RunRecord]:
        """Every run of every level."""
        return [run for level in self.levels for run in level.study.runs]
