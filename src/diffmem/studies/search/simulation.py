"""The whole search on curves that are known, in place of trainings: for its coverage, its cost, and projections.

A simulated training has an R_mem for each evaluation point; its images are Bernoulli draws. All decisions are those of
`decisions` and `choice`, as in a real search.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import MappingProxyType

import numpy as np
from scipy.interpolate import PchipInterpolator
from scipy.special import expit, logit

from diffmem.studies.search.choice import Outcome, Replay, SizeRule, outcome_of, replay
from diffmem.studies.search.decisions import Counts, StoppingRule

__all__ = ["PROGRESS_OF_TRAINING", "SimulatedTraining", "search_level"]

PROGRESS_OF_TRAINING: Mapping[float, float] = {
    0.104: 0.011, 0.125: 0.018, 0.167: 0.070, 0.208: 0.147, 0.25: 0.243, 0.292: 0.350, 0.333: 0.440, 0.417: 0.582,
    0.5: 0.682, 0.583: 0.768, 0.667: 0.829, 0.75: 0.889, 0.833: 0.931, 0.917: 0.968, 1.0: 1.0,
}  # fmt: skip
"""Share of the epochs -> share of the final R_mem: the curve of the paper's Figure 5 for unique labels at 50,000 images, read
off at 1,250 to 12,000 epochs and divided by its last value (65.5%)."""


@dataclass(frozen=True)
class SimulatedTraining:
    """What a simulated training said and cost.

    Attributes:
        outcome: What the search learns of it.
        images_trained: Images trained on.
        images_sampled: Images generated.
    """

    outcome: Outcome
    images_trained: int
    images_sampled: int


def _simulated(
    rates: list[float], epochs: list[float], size: int, rule: StoppingRule, rng: np.random.Generator
) -> SimulatedTraining:
    """Train and sample in simulation, with these true R_mem at the evaluation points."""
    counts: list[Counts] = [(0, 0)] * len(epochs)
    reached = 0
    while (state := rule.state(epochs, counts)).more:
        hits, total = counts[state.point]
        counts[state.point] = hits + int(rng.binomial(state.more, rates[state.point])), total + state.more
        reached = max(reached, state.point)
    return SimulatedTraining(
        outcome_of(state, rule, epochs, counts),
        images_trained=round(epochs[reached] * size),
        images_sampled=sum(total for _, total in counts),
    )


def search_level(
    curve: Callable[[float], float],
    sizes: SizeRule,
    stopping: Callable[[int], StoppingRule],
    epochs: list[float],
    rng: np.random.Generator,
    run_noise: float = 0.0,
    pace: float = 1.0,
    known: Mapping[int, Outcome] = MappingProxyType({}),
) -> tuple[Replay, dict[int, SimulatedTraining]]:
    """Search for EMM on a known curve.

    Args:
        curve: N -> R_mem at the end of training.
        stopping: N -> when its training stops.
        epochs: Evaluation points, ascending.
        rng: Draws images and the variation between runs.
        run_noise: Standard deviation of a run's logit of R_mem around the curve.
        pace: Share of the epochs after which a training has its final R_mem, in (0, 1].
        known: N -> what its training said already.

    Returns:
        The search, and what each size that was not known said and cost.
    """
    trainings: dict[int, SimulatedTraining] = {}
    progress = _published_progress([min(1.0, epoch / epochs[-1] / pace) for epoch in epochs])

    def outcome(size: int) -> Outcome:
        if size in known:
            return known[size]
        final = curve(size)
        if run_noise:
            final = float(expit(logit(final) + run_noise * rng.standard_normal()))
        rates = [final * share for share in progress]
        trainings[size] = _simulated(rates, epochs, size, stopping(size), rng)
        return trainings[size].outcome

    return replay(sizes, outcome), trainings


def _published_progress(shares: list[float]) -> list[float]:
    """Return the share of the final R_mem at shares of the epochs, through `PROGRESS_OF_TRAINING` (PCHIP in the logarithm)."""
    known = sorted(PROGRESS_OF_TRAINING)
    curve = PchipInterpolator(np.log(known), [PROGRESS_OF_TRAINING[share] for share in known])
    inside = np.clip(curve(np.log(np.maximum(shares, known[0]))), 0, 1)
    return [float(rate) for rate in np.where(np.less(shares, known[0]), 0.0, inside)]
