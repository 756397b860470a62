"""What a search for EMM found, as typed records: written to `report.json`, drawn by `reports`."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import Field

from diffmem.memorization.rates import Rate
from diffmem.memorization.records import Record
from diffmem.studies.records import EmmRecord

__all__ = ["CostRecord", "LevelRecord", "LogEntry", "PointRecord", "SearchResult", "SizeRecord", "Verdict"]

Verdict = Literal["memorized", "not memorized", "undecided", "unfinished"]
"""What one training says about its size: R_mem reaches 1 - epsilon; it does not; more images than allowed would be needed to
decide; or it still goes on."""


class PointRecord(Record):
    """R_mem at one evaluation point; `memorized` has the anytime-valid 95% interval (see `confidence`)."""

    epoch: float
    images_seen: int
    memorized: Rate
    verdict: Literal["at least", "below", "undecided"] = Field(
        description="Whether R_mem is at least 1 - epsilon here, at the confidence that the search needs."
    )


class SizeRecord(Record):
    """One training of a search: a level, a size, a seed."""

    level: str
    size: int = Field(description="Number of training images N.")
    seed: int
    run_id: str = Field(description="Hash of the configuration: the name of the run's folder.")
    folder: str = Field(description="The run's folder, relative to the store.")
    verdict: Verdict
    why: str = Field(
        description="The verdict in words, for example 'R_mem in [0.93, 0.99] after 220 images at epoch 1,400'."
    )
    epochs: float = Field(description="Epochs of a whole training.")
    epochs_trained: float = Field(description="Epochs trained; fewer where the training was stopped early.")
    stopped: Literal["decided", "hopeless", "end", "running"] = Field(
        description="Why training ended: memorization was certain, the futility rule, or the last epoch."
    )
    points: list[PointRecord] = Field(description="In the order of training.")
    null: Rate | None = Field(
        description="The same rule on held-out images; none if there are none or it is not measured yet."
    )
    images_trained: int
    images_sampled: int
    training_seconds: float
    sampling_seconds: float
    incidents: list[str] = Field(
        default_factory=list, description="Damaged files that were found and regenerated."
    )

    @property
    def peak(self) -> PointRecord | None:
        """The point with the highest R_mem; none before the first point."""
        return max(self.points, key=lambda point: point.memorized.value) if self.points else None


class LogEntry(Record):
    """One line of the decision log."""

    level: str
    text: str = Field(description="What was seen and what follows, as a sentence.")


class CostRecord(Record):
    """What was spent; a unit is the cost of training on one image once (generating is counted by network evaluations)."""

    images_trained: int
    images_sampled: int
    units: float
    runs: int
    grid_sizes: list[int] = Field(
        description="Sizes of the fixed grid: the same range, spaced by the tolerance."
    )
    grid_units: float = Field(
        description="Cost of that grid: every size trained to the end, all images sampled at every point."
    )
    grid_images_trained: int = Field(default=0, description="The images that this grid would train on.")

    @property
    def share(self) -> float:
        """Cost as a share of the grid's."""
        return self.units / self.grid_units if self.grid_units else 0.0


class LevelRecord(Record):
    """One level of the factor."""

    name: str
    settings: dict[str, Any] = Field(description="What the level changes: dotted key -> value.")
    published: float | None = Field(
        description="EMM that the paper reports for the level that this one stands for; none if unknown."
    )
    data: str
    model: str
    training: str
    runs: list[SizeRecord] = Field(description="Ascending in size, then in seed.")
    emm: EmmRecord
    by_seed: dict[int, EmmRecord] = Field(description="EMM of each seed alone, with its bracket.")
    finished: bool
    cost: CostRecord


class SearchResult(Record):
    """EMM of every level of a factor."""

    title: str
    factor: str = Field(description="What the levels are, for example 'resolution'.")
    levels: list[LevelRecord]
    epsilon: float
    threshold: float
    tolerance: float = Field(description="Half the width of an interval at which the search ends, relative.")
    confidence: float
    samples: int = Field(description="Most images that are sampled at one evaluation point.")
    sizes: tuple[int, int] = Field(description="The smallest and the largest size that the search may train.")
    seeds: list[int]
    sampling: str
    protocol: str
    finished: bool
    log: list[LogEntry]
    cost: CostRecord
    seconds: float = Field(description="Wall-clock time of all sessions of this study.")
    versions: dict[str, str]
    notes: list[str] = Field(default_factory=list)
