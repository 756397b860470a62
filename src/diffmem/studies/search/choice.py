"""Which size is trained next: bracket, then close in on the crossing in log N, each round from what is certain so far.

The search is replayed from its beginning each time it is asked: each step names a size, and the next step follows from what
its training says. So it has no state of its own, and a search that is interrupted chooses the same sizes.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal

import numpy as np
from scipy.special import logit

from diffmem.runs.records import Verdict
from diffmem.studies.emm import crossing, non_increasing
from diffmem.studies.search.confidence import anytime_interval
from diffmem.studies.search.decisions import Counts, StoppingRule, TrainingState, projected_rate

__all__ = ["Outcome", "Replay", "SizeRule", "bracketed", "outcome_of", "replay"]

_SLOPE = 2.0  # logits of R_mem that a doubling of N costs; the published curves fall by 1.8 to 2.6 near their crossing
_LOWEST = 0.02  # a lower rate says little about where the crossing is
_APART = 1.06  # a size nearer than this to an undecided one would be undecided too


@dataclass(frozen=True)
class Outcome:
    """What the training of one size says.

    Attributes:
        verdict: Its verdict; never 'unfinished'.
        rate: The highest R_mem over the evaluation points; where training stopped early, the one to expect at its end.
        low: The highest R_mem is certainly at least this.
        high: It is certainly at most this; 1 where training stopped early.
    """

    verdict: Verdict
    rate: float
    low: float = 0.0
    high: float = 1.0


def outcome_of(
    state: TrainingState, rule: StoppingRule, epochs: Sequence[float], counts: Sequence[Counts]
) -> Outcome:
    """Return what a training says whose verdict is final.

    Args:
        epochs: Of all evaluation points.
        counts: (memorized, all) images at each; (0, 0) where none were sampled.
    """
    reached = max((i for i, (_, total) in enumerate(counts) if total), default=0) + 1
    sampled = [one for one in counts if one[1]]
    ends = [anytime_interval(*one, 1 - 2 * rule.alpha) for one in sampled]
    return Outcome(
        state.verdict,
        projected_rate(epochs[:reached], counts[:reached], epochs[-1]),
        low=max(low for low, _ in ends),
        high=max(high for _, high in ends) if state.stopped == "end" else 1.0,
    )


@dataclass(frozen=True)
class SizeRule:
    """How sizes are chosen.

    Attributes:
        smallest: Smallest size that may be trained.
        largest: Largest size that may be trained.
        epsilon: EMM is the largest size with R_mem >= 1 - epsilon.
        tolerance: The search ends when half the bracket is at most this share of its middle.
        start: Where it begins; none for the smallest size.
        most: Most sizes of one search.
    """

    smallest: int
    largest: int
    epsilon: float = 0.1
    tolerance: float = 0.1
    start: float | None = None
    most: int = 12

    @property
    def target_rate(self) -> float:
        """The R_mem that a memorized size reaches."""
        return 1 - self.epsilon

    @property
    def ratio(self) -> float:
        """The largest size of a final bracket by its smallest."""
        return (1 + self.tolerance) / (1 - self.tolerance)


Status = Literal["unfinished", "estimated", "above largest", "below smallest", "not monotone"]


@dataclass
class Replay:
    """How far a search has come.

    Attributes:
        status: 'unfinished' while a size is waited for; else its answer.
        waiting: The size that is waited for; none if there is none.
        outcomes: Every size that was chosen and has an outcome, in the order of choice.
        steps: Every size that was chosen, and why.
        below: The largest size that certainly memorizes, below the crossing; none if there is none.
        above: The smallest size that certainly does not; none if there is none.
        note: Why the interval is wider than asked for; empty if it is not.
    """

    status: Status = "unfinished"
    waiting: int | None = None
    outcomes: dict[int, Outcome] = field(default_factory=dict)
    steps: list[tuple[int, str]] = field(default_factory=list)
    below: int | None = None
    above: int | None = None
    note: str = ""


def replay(rule: SizeRule, outcome: Callable[[int], Outcome | None]) -> Replay:
    """Follow the search as far as outcomes are known.

    Args:
        outcome: Size -> what its training says; none if it is not known yet.
    """
    so_far = Replay()
    while (step := _next_step(rule, so_far)) is not None:
        so_far.steps.append(step)
        found = outcome(step[0])
        if found is None:
            so_far.waiting = step[0]
            break
        so_far.outcomes[step[0]] = found
    return so_far


_Step = tuple[int, str] | None


def _next_step(rule: SizeRule, so_far: Replay) -> _Step:
    """Return the next size and why; none when the search has ended, which is noted."""
    outcomes = so_far.outcomes
    if not outcomes:
        start = rule.smallest if rule.start is None else rule.start
        return _within(so_far, start, rule.smallest, rule.largest, "the start")
    memorized = [size for size, one in outcomes.items() if one.verdict == "memorized"]
    spared = [size for size, one in outcomes.items() if one.verdict == "not memorized"]
    below, above = max(memorized, default=None), min(spared, default=None)
    so_far.below, so_far.above = below, above
    risen = _certainly_rise(outcomes, above)
    if risen:  # another size beyond the first that does not memorize may: there is no single crossing
        so_far.below = max((size for size in memorized if size < (above or 0)), default=None)
        so_far.above = min((size for size in spared if size > max(risen)), default=None)
        return _end(so_far, status="not monotone")
    if below == rule.largest:
        return _end(so_far, status="above largest")
    if above == rule.smallest:
        return _end(so_far, status="below smallest")
    if len(outcomes) >= rule.most:
        return _end(so_far, f"The search ended after {rule.most} sizes with a wider interval than requested.")
    bottom, top = below or rule.smallest, above or rule.largest
    if None not in (below, above) and (top / bottom <= rule.ratio or top - bottom <= 1):
        return _end(so_far)
    guess = bracketed(outcomes, rule.target_rate)
    undecided = sorted(
        size for size, one in outcomes.items() if one.verdict == "undecided" and bottom <= size <= top
    )
    if undecided:
        return _beside(rule, so_far, guess, undecided)
    if below is None or above is None:
        return _towards_the_other_side(rule, so_far, guess)
    return _inside(rule, so_far, guess, below, above)


def _certainly_rise(outcomes: Mapping[int, Outcome], above: int | None) -> list[int]:
    """Return the sizes above the first that does not memorize where R_mem is certainly higher again and may reach 1 - epsilon."""
    if above is None:
        return []
    return [
        size
        for size, one in outcomes.items()
        if size > above
        and (one.verdict == "memorized" or (one.verdict == "undecided" and one.low > outcomes[above].high))
    ]


def _end(so_far: Replay, note: str = "", status: Status = "estimated") -> _Step:
    so_far.status, so_far.note = status, note
    return None


def _beside(rule: SizeRule, so_far: Replay, guess: float, undecided: list[int]) -> _Step:
    """Flank the sizes that cannot be decided, where there is room for one that can."""
    below, above = so_far.below, so_far.above
    first, last = undecided[0], undecided[-1]
    low, high = _flanks(rule, guess)
    least = rule.smallest if below is None else below + 1
    most = rule.largest if above is None else above - 1
    # The wider the range that was found undecided, the farther from it the next try; and the more may stay open beside it.
    apart = _APART * math.sqrt(last / first)
    room = max(_APART**2, ((above or last) / (below or first)) ** 0.125)
    if first > least and (below is None or first / below > room):
        size = min(low, first / apart) if below is None else _clamped(low, below, first, apart)
        return _within(so_far, size, least, first - 1, "below the undecided size")
    if last < most and (above is None or above / last > room):
        size = max(high, last * apart) if above is None else _clamped(high, last, above, apart)
        return _within(so_far, size, last + 1, most, "above the undecided size")
    sizes = ", ".join(f"{size:,}" for size in undecided)
    return _end(
        so_far, f"Whether {sizes} training images memorize was not decided within the allowed samples."
    )


def _clamped(size: float, low: float, high: float, apart: float) -> float:
    """Return the size, kept apart from the sizes on its two sides; their middle in log N where there is no room for that."""
    if low * apart > high / apart:
        return math.sqrt(low * high)
    return min(max(size, low * apart), high / apart)


def _towards_the_other_side(rule: SizeRule, so_far: Replay, guess: float) -> _Step:
    """Look for the side that is still missing."""
    outcomes, below, above = so_far.outcomes, so_far.below, so_far.above
    low, high = _flanks(rule, guess)
    if below is not None:
        near = guess <= below * rule.ratio  # then one more training may end the search
        size = math.floor(below * rule.ratio) if near else min(high, 2.5 * below)
        return _within(so_far, size, below + 1, rule.largest, "larger, as this one memorizes")
    assert above is not None
    if outcomes[above].rate < _LOWEST:  # the rate says only that the crossing is far below
        return _within(
            so_far, above / 4, rule.smallest, above - 1, "much smaller, as this one hardly memorizes"
        )
    size = min(low, math.ceil(above / rule.ratio))
    return _within(so_far, size, rule.smallest, above - 1, "smaller, as this one does not memorize")


def _flanks(rule: SizeRule, guess: float) -> tuple[int, int]:
    """Return the sizes below and above a guess that bracket it as narrowly as is asked for."""
    low = max(1, math.ceil(guess / math.sqrt(rule.ratio)))
    return low, max(math.floor(low * rule.ratio), low + 1)


def _inside(rule: SizeRule, so_far: Replay, guess: float, below: int, above: int) -> _Step:
    """Close in on the crossing between two certain sizes."""
    width = above / below
    guess = min(max(guess, below * width**0.15), above / width**0.15)
    far = "the other side of the estimated crossing"
    if guess / below <= rule.ratio:  # one training ends the search if the guess is right
        return _within(so_far, math.floor(below * rule.ratio), below + 1, above - 1, far)
    if above / guess <= rule.ratio:
        return _within(so_far, math.ceil(above / rule.ratio), below + 1, above - 1, far)
    # The lower side first: it costs less, and stops early if it memorizes.
    low = _flanks(rule, guess)[0]
    return _within(so_far, low, below + 1, above - 1, "just below the estimated crossing")


def _within(so_far: Replay, size: float, least: int, most: int, why: str) -> _Step:
    """Return a step to the size that is nearest within the bounds; the search ends if there is none."""
    if least > most:
        return _end(so_far, "No size is left between those that are decided.")
    return min(max(round(size), least), most), why


def bracketed(outcomes: Mapping[int, Outcome], target_rate: float) -> float:
    """Return the size at which the rates cross the target rate, made non-increasing in N and interpolated in their logits.

    Where all lie on one side, the nearest is carried on with the slope that is usual (2 logits for a doubling of N).

    Args:
        outcomes: Size -> what its training says; at least one.
        target_rate: 1 - epsilon.
    """
    sizes = sorted(outcomes)
    *rates, target = logit(np.clip([*(outcomes[size].rate for size in sizes), target_rate], 0.002, 0.998))
    fit = non_increasing(rates)
    size = crossing(sizes, fit, target)
    if 0 < size < math.inf:
        return size
    near = -1 if size else 0
    return float(sizes[near] * 2 ** ((fit[near] - target) / _SLOPE))
