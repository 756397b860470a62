"""Which size is trained next: bracket, then close in on the crossing in log N, each round from what is certain so far.

The search is replayed from its beginning each time it is asked: a round names one or two sizes, and the next round follows from
what they say. So it has no state of its own, and a search that is interrupted, or whose trainings end in another order, chooses
the same sizes.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal

from diffmem.studies.search.confidence import anytime_interval
from diffmem.studies.search.decisions import Counts, Stand, StoppingRule, projected_rate
from diffmem.studies.search.records import Verdict

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


def outcome_of(now: Stand, rule: StoppingRule, epochs: Sequence[float], counts: Sequence[Counts]) -> Outcome:
    """Return what a training says whose verdict is final.

    Args:
        now: How it stands.
        rule: When it stopped.
        epochs: Of all evaluation points.
        counts: (memorized, all) images at each; (0, 0) where none were sampled.
    """
    reached = max((i for i, (_, total) in enumerate(counts) if total), default=0) + 1
    sampled = [one for one in counts if one[1]]
    ends = [anytime_interval(*one, 1 - 2 * rule.alpha) for one in sampled]
    return Outcome(
        now.verdict,
        projected_rate(epochs[:reached], counts[:reached], epochs[-1]),
        low=max(low for low, _ in ends),
        high=max(high for _, high in ends) if now.stopped == "end" else 1.0,
    )


@dataclass(frozen=True)
class SizeRule:
    """How sizes are chosen.

    Attributes:
        smallest: Smallest size that may be trained.
        largest: Largest size that may be trained.
        line: 1 - epsilon.
        tolerance: The search ends when half the bracket is at most this share of its middle.
        start: Where it begins; none for the smallest size.
        most: Most sizes of one search.
    """

    smallest: int
    largest: int
    line: float = 0.9
    tolerance: float = 0.1
    start: float | None = None
    most: int = 12

    @property
    def ratio(self) -> float:
        """The largest size of a final bracket by its smallest."""
        return (1 + self.tolerance) / (1 - self.tolerance)


Status = Literal["searching", "estimated", "above largest", "below smallest", "not monotone"]


@dataclass
class Replay:
    """How far a search has come.

    Attributes:
        status: 'searching' while sizes are waited for; else its answer.
        waiting: Sizes of the present round that have no outcome yet.
        outcomes: Every size that was chosen and has an outcome, in the order of choice.
        steps: (sizes, why) of each round, in words.
        below: The largest size that certainly memorizes, below the crossing; none if there is none.
        above: The smallest size that certainly does not; none if there is none.
        note: Why the interval is wider than asked for; empty if it is not.
    """

    status: Status = "searching"
    waiting: list[int] = field(default_factory=list)
    outcomes: dict[int, Outcome] = field(default_factory=dict)
    steps: list[tuple[list[int], str]] = field(default_factory=list)
    below: int | None = None
    above: int | None = None
    note: str = ""


def replay(rule: SizeRule, outcome: Callable[[int], Outcome | None]) -> Replay:
    """Follow the search as far as outcomes are known.

    Args:
        rule: How sizes are chosen.
        outcome: Size -> what its training says; none if it is not known yet.
    """
    so_far = Replay()
    while True:
        sizes, why = _next_round(rule, so_far)
        if not sizes:
            return so_far
        so_far.steps.append((sizes, why))
        found = {size: outcome(size) for size in sizes}
        so_far.waiting = [size for size, one in found.items() if one is None]
        if so_far.waiting:
            return so_far
        so_far.outcomes.update({size: one for size, one in found.items() if one is not None})


def _next_round(rule: SizeRule, so_far: Replay) -> tuple[list[int], str]:
    """Return the sizes of the next round and why; none when the search has ended, which is noted."""
    outcomes = so_far.outcomes
    if not outcomes:
        start = rule.smallest if rule.start is None else rule.start
        return _one(so_far, start, rule.smallest, rule.largest, "the start")
    memorized = [size for size, one in outcomes.items() if one.verdict == "memorized"]
    spared = [size for size, one in outcomes.items() if one.verdict == "not memorized"]
    below, above = max(memorized, default=None), min(spared, default=None)
    so_far.below, so_far.above = below, above
    risen = _certainly_rise(outcomes, above)
    if risen:  # another size beyond the first that does not memorize may: there is no single crossing
        so_far.status = "not monotone"
        so_far.below = max((size for size in memorized if size < (above or 0)), default=None)
        so_far.above = min((size for size in spared if size > max(risen)), default=None)
        return [], ""
    if below == rule.largest:
        so_far.status = "above largest"
        return [], ""
    if above == rule.smallest:
        so_far.status = "below smallest"
        return [], ""
    if len(outcomes) >= rule.most:
        so_far.note = f"The search ended after {rule.most} sizes with a wider interval than requested."
        return [], _end(so_far)
    bottom, top = below or rule.smallest, above or rule.largest
    if None not in (below, above) and (top / bottom <= rule.ratio or top - bottom <= 1):
        return [], _end(so_far)
    guess = bracketed(outcomes, rule.line)
    undecided = sorted(
        size for size, one in outcomes.items() if one.verdict == "undecided" and bottom <= size <= top
    )
    if undecided:
        return _beside(rule, so_far, guess, undecided)
    if below is None or above is None:
        return _towards_the_other_side(rule, so_far, guess)
    return _inside(rule, so_far, guess, below, above)


def _certainly_rise(outcomes: Mapping[int, Outcome], above: int | None) -> list[int]:
    """Return the sizes above the first that does not memorize where R_mem is certainly higher again and may reach the line."""
    if above is None:
        return []
    return [
        size
        for size, one in outcomes.items()
        if size > above
        and (one.verdict == "memorized" or (one.verdict == "undecided" and one.low > outcomes[above].high))
    ]


def _end(so_far: Replay) -> str:
    so_far.status = "estimated"
    return ""


def _beside(rule: SizeRule, so_far: Replay, guess: float, undecided: list[int]) -> tuple[list[int], str]:
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
        return _one(so_far, size, least, first - 1, "below the undecided size")
    if last < most and (above is None or above / last > room):
        size = max(high, last * apart) if above is None else _clamped(high, last, above, apart)
        return _one(so_far, size, last + 1, most, "above the undecided size")
    words = ", ".join(f"{size:,}" for size in undecided)
    so_far.note = f"Whether {words} training images memorize was not decided within the allowed samples."
    return [], _end(so_far)


def _clamped(size: float, low: float, high: float, apart: float) -> float:
    """Return the size, kept apart from the sizes on its two sides; their middle in log N where there is no room for that."""
    if low * apart > high / apart:
        return math.sqrt(low * high)
    return min(max(size, low * apart), high / apart)


def _towards_the_other_side(rule: SizeRule, so_far: Replay, guess: float) -> tuple[list[int], str]:
    """Look for the side that is still missing."""
    outcomes, below, above = so_far.outcomes, so_far.below, so_far.above
    low, high = _flanks(rule, guess)
    if below is not None:
        near = guess <= below * rule.ratio  # then one more training may end the search
        size = math.floor(below * rule.ratio) if near else min(high, 2.5 * below)
        return _one(so_far, size, below + 1, rule.largest, "larger, as this one memorizes")
    assert above is not None
    if outcomes[above].rate < _LOWEST:  # the rate says only that the crossing is far below
        return _one(so_far, above / 4, rule.smallest, above - 1, "much smaller, as this one hardly memorizes")
    size = min(low, math.ceil(above / rule.ratio))
    return _one(so_far, size, rule.smallest, above - 1, "smaller, as this one does not memorize")


def _flanks(rule: SizeRule, guess: float) -> tuple[int, int]:
    """Return the sizes below and above a guess that bracket it as narrowly as is asked for."""
    low = max(1, math.ceil(guess / math.sqrt(rule.ratio)))
    return low, max(math.floor(low * rule.ratio), low + 1)


def _inside(rule: SizeRule, so_far: Replay, guess: float, below: int, above: int) -> tuple[list[int], str]:
    """Close in on the crossing between two certain sizes."""
    width = above / below
    guess = min(max(guess, below * width**0.15), above / width**0.15)
    far = "the other side of the estimated crossing"
    if guess / below <= rule.ratio:  # one training ends the search if the guess is right
        return _one(so_far, math.floor(below * rule.ratio), below + 1, above - 1, far)
    if above / guess <= rule.ratio:
        return _one(so_far, math.ceil(above / rule.ratio), below + 1, above - 1, far)
    # The lower side first: it costs less, and stops early if it memorizes.
    low = _flanks(rule, guess)[0]
    return _one(so_far, low, below + 1, above - 1, "just below the estimated crossing")


def _one(so_far: Replay, size: float, least: int, most: int, why: str) -> tuple[list[int], str]:
    """Return a round of one size, kept within bounds; the search ends if there is none."""
    if least > most:
        so_far.note = "No size is left between those that are decided."
        return [], _end(so_far)
    return [min(max(round(size), least), most)], why


def bracketed(outcomes: Mapping[int, Outcome], line: float) -> float:
    """Return the size at which the rates cross the line, made non-increasing in N and interpolated in their logits.

    Where all lie on one side, the nearest is carried on with the slope that is usual (2 logits for a doubling of N).

    Args:
        outcomes: Size -> what its training says; at least one.
        line: 1 - epsilon.
    """
    from scipy.optimize import isotonic_regression

    sizes = sorted(outcomes)
    places = [math.log2(size) for size in sizes]
    rates = [_logit(outcomes[size].rate) for size in sizes]
    fit = [float(value) for value in isotonic_regression(rates, increasing=False).x]
    target = _logit(line)
    last = max((i for i, value in enumerate(fit) if value >= target), default=-1)
    if 0 <= last < len(fit) - 1:
        share = (fit[last] - target) / (fit[last] - fit[last + 1])
        return float(2 ** (places[last] + share * (places[last + 1] - places[last])))
    near = max(last, 0)
    return float(2 ** (places[near] + (fit[near] - target) / _SLOPE))


def _logit(rate: float) -> float:
    kept = min(max(rate, 0.002), 0.998)
    return math.log(kept / (1 - kept))
