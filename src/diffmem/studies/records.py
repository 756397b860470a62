"""What a study found, as one tree of typed records: study -> level -> run -> evaluation; written to `report.json`.

A rate never stands alone here: `Rate` carries the counts and the interval, and a `RunRecord` carries
the null rate (the same rule on held-out images) beside R_mem.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal, Self

from pydantic import Field, model_validator

from diffmem.errors import UserError
from diffmem.memorization.records import Record
from diffmem.runs.records import RunRecord
from diffmem.studies.onset_records import OnsetRecord

__all__ = ["CostRecord", "EmmRecord", "LevelRecord", "LogEntry", "StudyRecord"]


class EmmRecord(Record):
    """EMM of one level: the largest N at which R_mem >= 1 - epsilon, or why it is not known.

    status: 'estimated' (value, low and high are set), 'above largest' (even the largest size memorizes),
    'below smallest' (even the smallest does not; of both, `low` or `high` is set where a grid leaves that uncertain: the end of
    the interval at the side of the sizes), 'not monotone' (a larger size certainly memorizes and a smaller one
    certainly does not: the bracket spans both, there is no single crossing), 'unfinished' (a search still goes on), 'no runs', 'not asked
    for' (the study is of another question: its trainings end before they could tell).
    """

    status: Literal[
        "estimated",
        "above largest",
        "below smallest",
        "not monotone",
        "unfinished",
        "no runs",
        "not asked for",
    ]
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


class CostRecord(Record):
    """What was spent; a unit is the cost of training on one image once (generating is counted by network evaluations)."""

    images_trained: int
    images_sampled: int
    units: float
    runs: int
    grid_sizes: list[int] = Field(
        default_factory=list,
        description="Of a search: sizes of the fixed grid of the same range, spaced by the tolerance.",
    )
    grid_units: float = Field(
        default=0.0,
        description="Cost of that grid: every size trained to the end, all images sampled at every point; 0 without one.",
    )
    grid_images_trained: int = Field(default=0, description="The images that this grid would train on.")

    @property
    def share(self) -> float:
        """Cost as a share of the grid's."""
        return self.units / self.grid_units if self.grid_units else 0.0

    @classmethod
    def of(cls, runs: Sequence[RunRecord], image_cost: float, **grid: Any) -> Self:
        """Return what these runs spent.

        Args:
            image_cost: Of generating an image, in images trained.
            grid: The fields of the fixed grid.
        """
        trained, sampled = sum(run.images_trained for run in runs), sum(run.images_sampled for run in runs)
        units = trained + sampled * image_cost
        return cls(images_trained=trained, images_sampled=sampled, units=units, runs=len(runs), **grid)

    @classmethod
    def of_all(cls, costs: Sequence[CostRecord]) -> CostRecord:
        """Return all of these costs together."""
        names = set(cls.model_fields) - {"grid_sizes"}
        sizes = sorted({size for cost in costs for size in cost.grid_sizes})
        return cls(grid_sizes=sizes, **{name: sum(getattr(cost, name) for cost in costs) for name in names})


class LogEntry(Record):
    """One line of the decision log of a search."""

    level: str
    text: str = Field(description="What was seen and what follows, as a sentence.")


class LevelRecord(Record):
    """One level of a study's factor."""

    name: str
    settings: dict[str, Any] = Field(
        default_factory=dict, description="What the level changes: dotted key -> value."
    )
    published: float | None = Field(
        default=None,
        description="EMM that the paper reports for the level that this one stands for; none if unknown.",
    )
    data: str = Field(
        description="The data distribution P in words: source, resolution, channels, selection."
    )
    model: str = Field(description="The model M in words, with its number of parameters.")
    training: str = Field(description="The training procedure T in words.")
    sampling: str = Field(description="How images were generated, in words.")
    runs: list[RunRecord] = Field(description="Ascending in size, then in seed.")
    emm: EmmRecord
    emm_last: EmmRecord | None = Field(
        default=None, description="Of a grid: EMM from the last snapshots instead of the peaks."
    )
    by_seed: dict[int, EmmRecord] = Field(
        default_factory=dict, description="Of a search: EMM of each seed alone, with its bracket."
    )
    onset: OnsetRecord | None = Field(
        default=None,
        description="When training begins to copy; none while the study goes on.",
    )
    finished: bool = True
    cost: CostRecord


class StudyRecord(Record):
    """What a study found for every level of its factor; a study without levels has one, 'base'."""

    title: str
    plan: Literal["grid", "search", "onset"] = Field(
        description="'grid' trained every size to the end, 'search' chose sizes until EMM was known, 'onset' trained until it was known"
        " when each size reaches a share of copies, which is 1 - `epsilon`."
    )
    factor: str = Field(description="What the levels are, for example 'resolution'.")
    levels: Sequence[LevelRecord]
    sizes: list[int] = Field(
        description="Ascending: the sizes of a grid; the smallest and the largest that a search may train."
    )
    seeds: list[int]
    samples: int = Field(description="Images at one evaluation point; of a search, the most.")
    protocol: str = Field(
        description="Id of the measuring protocol: space, criterion, threshold, duplicate handling."
    )
    threshold: float
    epsilon: float
    confidence: float = Field(default=0.95, description="Of the intervals of EMM.")
    tolerance: float | None = Field(
        default=None,
        description="Of a search: half the width of an interval at which it ends, relative.",
    )
    finished: bool = Field(default=True, description="Whether nothing more is to be trained.")
    log: list[LogEntry] = Field(default_factory=list, description="What a search decided, and why.")
    seconds: float = Field(description="Wall-clock time of all sessions of this study.")
    versions: dict[str, str] = Field(description="Versions of diffmem, python, torch and the device's name.")
    notes: list[str] = Field(
        default_factory=list, description="Caveats in words, for example that another data set stands in."
    )

    @model_validator(mode="before")
    @classmethod
    def _of_this_version(cls, values: Any) -> Any:
        if isinstance(values, dict) and "plan" not in values:
            raise UserError(
                "This is no record of a study as this version writes it (those of 0.1.0 were others): the command that made it (diffmem"
                " study, quickstart or reproduce, with the same folder) writes it again from the runs, and trains nothing again."
            )
        return values

    @property
    def runs(self) -> list[RunRecord]:
        """Every run of every level."""
        return [run for level in self.levels for run in level.runs]

    @property
    def cost(self) -> CostRecord:
        """What all levels spent."""
        return CostRecord.of_all([level.cost for level in self.levels])
