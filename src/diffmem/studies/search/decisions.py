"""From the counts at the evaluation points to what one training says: memorized, not memorized, or undecided.

EMM asks whether the maximum of R_mem over the evaluation points reaches 1 - epsilon. It does if it does at one point, so each
point may reject "less than that" at its share of the allowed error; it does not if no point does, and for this every point
must reject "that or more", each at the whole allowed error: the one point that could be wrongly rejected decides alone.

Images are sampled in growing parts. While training goes on, each point gets few, enough to see certain memorization and to
stop training there. At its end the point with the highest rate gets more, part by part, until all is decided, the cap of
images at a point is reached, or sampling has cost its share of the training. The cap is higher there than during training:
images cost little beside the two further trainings, one on each side, of a size that is left undecided.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field
from scipy.special import expit, logit

from diffmem.runs.records import Verdict
from diffmem.studies.search.confidence import anytime_interval, log_evidence_above, log_evidence_below

__all__ = [
    "Counts",
    "CrossingRule",
    "FutilityRule",
    "StoppingRule",
    "TrainingState",
    "part_size",
    "projected_rate",
]

_FIRST_PART = 32

Counts = tuple[int, int]
"""Memorized images, of how many."""


def part_size(start: int, cap: int) -> int:
    """Return how many images the part has that follows `start` images: a quarter more each time, 0 at the cap."""
    return max(0, min(max(_FIRST_PART, start // 4), cap - start))


def projected_rate(epochs: Sequence[float], counts: Sequence[Counts], whole: float) -> float:
    """Return R_mem to expect at the end of a training that was stopped early, to choose the next size by; no verdict uses it.

    The curve is carried on in the logit of R_mem against the logarithm of the epochs, at half the slope from the newest point
    before 0.75 of the epochs so far, as it bends down near its top.

    Args:
        epochs: Of the points so far, ascending.
        counts: Memorized images at each, of how many; at least one image.
        whole: Epochs of the whole training.
    """
    logits = [float(logit((hits + 0.5) / (total + 1))) for hits, total in counts]
    best = max(logits)
    earlier = [i for i, epoch in enumerate(epochs) if epoch <= 0.75 * epochs[-1]]
    if epochs[-1] >= whole or not earlier:
        return float(expit(best))
    before = earlier[-1]
    slope = max(0.0, logits[-1] - logits[before]) / math.log(epochs[-1] / epochs[before])
    return float(expit(max(best, logits[-1] + slope / 2 * math.log(whole / epochs[-1]))))


class FutilityRule(BaseModel):
    """When a training that still goes on is given up: its curve would have to rise much faster than it does.

    The curve is taken in the logit of R_mem against the logarithm of the epochs, in which it bends down as it nears its top.
    From the upper end of the 95% interval at the newest point it is carried on to the end of training at `pace` times the
    slope since half the epochs (from the rate there); below 1 - epsilon the training is hopeless. The error of this rule is not
    in the interval of EMM.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    pace: float = Field(1.5, ge=1, description="How much faster than lately the curve may still rise.")
    least: float = Field(
        0.4, gt=0, lt=1, description="Fraction of the epochs before which no training is stopped."
    )

    def is_hopeless(
        self, epochs: Sequence[float], counts: Sequence[Counts], whole: float, target_rate: float
    ) -> bool:
        """Whether the training cannot be expected to reach the target rate.

        Args:
            epochs: Of the points so far, ascending.
            counts: Memorized images at each, of how many; at least one image.
            whole: Epochs of the whole training.
            target_rate: 1 - epsilon.
        """
        if len(epochs) < 3 or epochs[-1] < self.least * whole or epochs[-1] >= whole:
            return False
        earlier = [i for i, epoch in enumerate(epochs) if epoch <= epochs[-1] / 2]
        high = anytime_interval(*counts[-1])[1]
        if not earlier or high >= target_rate:
            return False
        before = earlier[-1]
        rise = logit(high) - logit((counts[before][0] + 0.5) / (counts[before][1] + 1))
        slope = max(rise, 0.0) / math.log(epochs[-1] / epochs[before])
        return bool(logit(high) + self.pace * slope * math.log(whole / epochs[-1]) < logit(target_rate))


@dataclass(frozen=True)
class TrainingState:
    """How far a training is.

    Attributes:
        verdict: What it says about its size.
        stopped: Why it ended, or 'running'.
        point: The evaluation point that gets images next; while training goes on, it may have to be reached first.
        more: How many images; 0 if the verdict is final.
    """

    verdict: Verdict
    stopped: Literal["decided", "hopeless", "end", "running"]
    point: int = 0
    more: int = 0


@dataclass(frozen=True)
class StoppingRule:
    """When sampling and training may stop.

    Attributes:
        target_rate: 1 - epsilon, in (0, 1).
        alpha: Allowed error of this training's verdict.
        points: Evaluation points of a whole training.
        cap: Most images at one point when training has ended.
        early: Most images at one point while training goes on; at least the first part.
        budget: Most images of the whole training beyond its first parts.
        futility: When the training is given up; none for never.
    """

    target_rate: float
    alpha: float
    points: int
    cap: int
    early: int
    budget: int
    futility: FutilityRule | None = None

    @classmethod
    def of(
        cls,
        target_rate: float,
        alpha: float,
        points: int,
        cap: int,
        affordable: float,
        futility: FutilityRule | None = None,
        decisive: float = 1.0,
    ) -> StoppingRule:
        """Return the rule of one training.

        Args:
            target_rate: 1 - epsilon.
            alpha: Allowed error.
            points: Evaluation points.
            cap: Most images at one point.
            affordable: How many images may be generated for what sampling may cost.
            futility: When the training is given up; none for never.
            decisive: How many times as many images a point may get when training has ended; at least 1.
        """
        budget = max(int(affordable), 8 * _FIRST_PART)
        early = min(cap, max(2 * _FIRST_PART, min(cap // 10, budget // (2 * points))))
        return cls(target_rate, alpha, points, round(decisive * cap), early, budget, futility)

    def point(self, counts: Counts, last: bool) -> Literal["at least", "below", "undecided"]:
        """Return what the counts of one point say.

        Args:
            counts: Of the point.
            last: Whether it is the end of training, where a size near EMM has its highest rate: this point has half the error.
        """
        parts = 2 if last or self.points == 1 else 2 * (self.points - 1)
        if log_evidence_above(*counts, self.target_rate) >= math.log(parts / self.alpha):
            return "at least"
        if log_evidence_below(*counts, self.target_rate) >= math.log(1 / self.alpha):
            return "below"
        return "undecided"

    def more_now(self, counts: Counts, last: bool) -> int:
        """Return how many images to sample next at a point when training has come to it; 0 for no more.

        The arguments are those of `point`.
        """
        if self.point(counts, last) != "undecided" or counts[1] >= self.early:
            return 0
        return part_size(counts[1], self.cap)

    def more_at_end(self, counts: Sequence[Counts]) -> tuple[int, int]:
        """Return the point that gets more images when training has ended, and how many; (0, 0) for no more.

        Args:
            counts: Of every point, in order.
        """
        states = self.states(counts)
        beyond = sum(total for _, total in counts) - len(counts) * _FIRST_PART
        if "undecided" not in states or beyond >= self.budget:
            return 0, 0
        # Once a point is at its cap and undecided, the training can still be found to memorize, by another point alone.
        open_points = [i for i, one in enumerate(counts) if states[i] == "undecided" and one[1] < self.cap]
        if not open_points:
            return 0, 0
        best = max(open_points, key=lambda i: (counts[i][0] / max(counts[i][1], 1), -i))
        return best, part_size(counts[best][1], self.cap)

    def states(self, counts: Sequence[Counts]) -> list[Literal["at least", "below", "undecided"]]:
        """Return what each point says; the counts are of the points from the first on."""
        return [self.point(one, i == self.points - 1) for i, one in enumerate(counts)]

    def state(self, epochs: Sequence[float], counts: Sequence[Counts]) -> TrainingState:
        """Return how far a training is, from its counts alone: so a run that was cut off goes on to the same end.

        Args:
            epochs: Of all evaluation points, ascending.
            counts: (memorized, all) images at each point; (0, 0) where none were sampled yet.
        """
        whole = len(epochs)
        reached = next((i for i, (_, total) in enumerate(counts) if not total), whole)
        states = self.states(counts[:reached])
        if "at least" in states:
            return TrainingState("memorized", "decided" if reached < whole else "end")
        for index in range(reached):
            more = self.more_now(counts[index], index == whole - 1)
            if more:
                return TrainingState("unfinished", "running", index, more)
            seen = epochs[: index + 1], counts[: index + 1]
            if self.futility is not None and self.futility.is_hopeless(*seen, epochs[-1], self.target_rate):
                return TrainingState("not memorized", "hopeless")
        if reached < whole:
            return TrainingState("unfinished", "running", reached, part_size(0, self.cap))
        index, more = self.more_at_end(counts)
        if more:
            return TrainingState("unfinished", "running", index, more)
        return TrainingState(
            "not memorized" if all(state == "below" for state in states) else "undecided", "end"
        )


class CrossingRule(StoppingRule):
    """When sampling and training may stop that are to tell between which points R_mem first reaches the target rate.

    Training ends at the point that certainly reaches it. The points before it then get more images, backwards, until one is
    certainly below: the time lies between the two. In a training that does not reach it all is as in `StoppingRule`.
    """

    def state(self, epochs: Sequence[float], counts: Sequence[Counts]) -> TrainingState:
        """Return how far a training is, from its counts alone; see `StoppingRule.state`."""
        found = super().state(epochs, counts)
        if found.verdict == "memorized":
            states = self.states(counts)
            for index in reversed(range(states.index("at least"))):
                more = 0 if states[index] == "below" else part_size(counts[index][1], self.cap)
                if more:
                    return TrainingState("unfinished", "running", index, more)
                if states[index] == "below":
                    break
        return found
