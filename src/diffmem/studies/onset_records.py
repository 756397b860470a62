"""When training reaches a rate of copies, as typed records."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from numbers import Integral

from pydantic import Field

from diffmem.errors import UserError
from diffmem.memorization.records import Record

__all__ = [
    "Curve",
    "Growth",
    "Interval",
    "LineTimes",
    "OnsetRecord",
    "RunTime",
    "SizeTime",
    "TimeAt",
    "Times",
]


@dataclass(frozen=True)
class Curve:
    """R_mem of one run over its training.

    Attributes:
        size: Number of training images N.
        seed: Of the run.
        points: (images seen, epoch, memorized, all) of each evaluation, ascending; the last two are whole numbers.
        frechet: (images seen, Frechet distance) of each evaluation that has one, ascending.
        null: The share of held-out images that the same rule flags; none if it was not measured.

    Raises:
        UserError: The size is below 1, a count is no whole number from 0 to that of all images, the evaluations are not ascending, or
            the null is no share.
    """

    size: int
    seed: int
    points: Sequence[tuple[int, float, int, int]]
    frechet: Sequence[tuple[int, float]] = ()
    null: float | None = None

    def __post_init__(self) -> None:
        where = f"The curve of N = {self.size}, seed {self.seed}"
        if not self.size >= 1:
            raise UserError(f"{where}: a training set has 1 image or more.")
        if self.null is not None and not 0 <= self.null <= 1:
            raise UserError(f"{where}: the null, {self.null}, is no share from 0 to 1.")
        last = -math.inf
        for seen, epoch, count, total in self.points:
            if not (isinstance(count, Integral) and isinstance(total, Integral) and 0 <= count <= total):
                raise UserError(f"{where}: {count} memorized of {total} at epoch {epoch:g} are no counts.")
            if not seen > last:
                raise UserError(
                    f"{where}: {seen:,} images seen do not follow {last:,}; give the evaluations in the order of training."
                )
            last = seen

    @property
    def per_epoch(self) -> float:
        """Images seen in one epoch."""
        for seen, epoch, _, _ in reversed(self.points):
            if epoch > 0:
                return seen / epoch
        return float(self.size)


class Interval(Record):
    """A value with its interval, at the confidence of the record that holds it."""

    value: float
    low: float
    high: float


class RunTime(Record):
    """When one run reached something, in images seen.

    `low` is none where it may have been before the first evaluation, `high` where it may come after the last one or never, and
    `value` where nothing points at a time between the evaluations.
    """

    size: int = Field(description="Number of training images N.")
    seed: int
    per_epoch: float = Field(
        description="Images seen in one epoch: N, or more where training images are repeated."
    )
    value: float | None
    low: float | None
    high: float | None
    note: str = Field(default="", description="A caveat in words, for example that R_mem fell again.")


class SizeTime(Record):
    """When the runs of one size reach something, in images seen: their mean (of the logarithm) with its interval.

    With runs that are open at one side, `low` to `high` is all that they allow, and there is no value.
    """

    size: int
    runs: int
    per_epoch: float
    value: float | None
    low: float | None
    high: float | None


class TimeAt(Record):
    """The time, in images seen, of one more run on so many images, with its prediction interval."""

    size: float
    value: float
    low: float
    high: float

    @property
    def epochs(self) -> Interval:
        """The same in epochs."""
        return Interval(value=self.value / self.size, low=self.low / self.size, high=self.high / self.size)


class Growth(Record):
    """A power law of the time against the number of training images, t = scale (N / reference)^exponent."""

    exponent: Interval
    reference: float = Field(
        description="The size at which `scale` holds: the geometric mean of those trained."
    )
    scale: Interval = Field(description="The median time at the reference size, in images seen.")
    scatter: Interval = Field(
        description="Standard deviation of the logarithm of a run's time around the law."
    )
    runs: int
    open_runs: int = Field(description="Those of them whose time is known at one side alone.")
    sizes: tuple[int, int] = Field(description="The smallest and the largest size trained.")
    band: list[TimeAt] = Field(description="Predictions at sizes from the smallest to beyond the largest.")
    method: str


class Times(Record):
    """When runs of several sizes reach something."""

    runs: list[RunTime] = Field(description="Ascending in size, then in seed.")
    sizes: list[SizeTime] = Field(description="Ascending.")
    growth: Growth | None = None
    unknown: str = Field(default="", description="Why there is no power law; empty if there is one.")


class LineTimes(Times):
    """When R_mem reaches a line."""

    line: float = Field(description="The share of copies that is reached, in (0, 1).")
    near_chance: bool = Field(
        default=False,
        description="Whether the rule flags half as many held-out images, so that the line is no sign of copying.",
    )


class OnsetRecord(Record):
    """When training reaches 1%, 10% and 90% copies, against the number of training images."""

    lines: list[LineTimes]
    best_frechet: Times | None = Field(
        default=None, description="When the Frechet distance is least; none where it was not measured."
    )
    frechet_of: str | None = Field(
        default=None, description="What that distance is of, as in `Evaluation.frechet_of`."
    )
    confidence: float = 0.95
    notes: list[str] = Field(default_factory=list, description="Caveats in words.")
