"""The whole search on curves that are known, in place of trainings: for its coverage, its cost, and projections.

A simulated training has an R_mem for each evaluation point; its images are Bernoulli draws. All decisions are those of
`decisions` and `choice`, as in a real search.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np

from diffmem.sampling.config import image_cost
from diffmem.studies.search.choice import Outcome, Replay, SizeRule, outcome_of, replay
from diffmem.studies.search.decisions import Counts, FutilityRule, StoppingRule, stand

__all__ = [
    "PROGRESS_OF_TRAINING",
    "SimulatedTraining",
    "curve_through",
    "published_progress",
    "search_level",
    "simulate_training",
]

PROGRESS_OF_TRAINING: Mapping[float, float] = {
    0.104: 0.011, 0.125: 0.018, 0.167: 0.070, 0.208: 0.147, 0.25: 0.243, 0.292: 0.350, 0.333: 0.440, 0.417: 0.582,
    0.5: 0.682, 0.583: 0.768, 0.667: 0.829, 0.75: 0.889, 0.833: 0.931, 0.917: 0.968, 1.0: 1.0,
}  # fmt: skip
"""Share of the epochs -> share of the final R_mem: the curve of the paper's Figure 5 for unique labels at 50,000 images, read
off at 1,250 to 12,000 epochs and divided by its last value (65.5%)."""


def curve_through(points: Mapping[float, float]) -> Callable[[float], float]:
    """Return R_mem as a function of N through published points: monotone (PCHIP) in its logit over ln N, straight outside.

    Args:
        points: Training-set size -> R_mem in [0, 1]; at least two sizes.
    """
    from scipy.interpolate import PchipInterpolator

    sizes = sorted(points)
    places = np.log(sizes)
    rates = np.clip([points[size] for size in sizes], 5e-4, 1 - 5e-4)
    logits = np.log(rates / (1 - rates))
    inside = PchipInterpolator(places, logits)
    first = float((logits[1] - logits[0]) / (places[1] - places[0]))
    last = float((logits[-1] - logits[-2]) / (places[-1] - places[-2]))

    def rate(size: float) -> float:
        place = math.log(size)
        if place < places[0]:
            value = float(logits[0]) + first * (place - float(places[0]))
        elif place > places[-1]:
            value = float(logits[-1]) + last * (place - float(places[-1]))
        else:
            value = float(inside(place))
        return 1 / (1 + math.exp(-value))

    return rate


@dataclass(frozen=True)
class SimulatedTraining:
    """What a simulated training said and cost.

    Attributes:
        outcome: What the search learns of it.
        images_trained: Images trained on.
        images_sampled: Images generated.
        gave_up: Whether the futility rule ended it.
    """

    outcome: Outcome
    images_trained: int
    images_sampled: int
    gave_up: bool = False


def simulate_training(
    rates: list[float],
    epochs: list[float],
    size: int,
    rule: StoppingRule,
    rng: np.random.Generator,
    futility: FutilityRule | None = None,
) -> SimulatedTraining:
    """Train and sample in simulation.

    Args:
        rates: True R_mem at each evaluation point.
        epochs: The points, ascending; the last is the end of training.
        size: Number of training images.
        rule: When it stops.
        rng: Draws the images.
        futility: When it is given up; none for never.
    """
    counts: list[Counts] = [(0, 0)] * len(epochs)
    reached = 0
    while (now := stand(rule, epochs, counts, futility)).more:
        hits, total = counts[now.point]
        counts[now.point] = hits + int(rng.binomial(now.more, rates[now.point])), total + now.more
        reached = max(reached, now.point)
    sampled = sum(total for _, total in counts)
    trained = round(epochs[reached] * size)
    return SimulatedTraining(
        outcome_of(now, rule, epochs, counts), trained, sampled, now.stopped == "hopeless"
    )


def search_level(
    curve: Callable[[float], float],
    sizes: SizeRule,
    *,
    epochs: list[float],
    cap: int,
    evaluations: int,
    alpha: float,
    share: float,
    rng: np.random.Generator,
    learning: Callable[[float], float] | None = None,
    run_noise: float = 0.0,
    futility: FutilityRule | None = None,
) -> tuple[Replay, dict[int, SimulatedTraining]]:
    """Search for EMM on a known curve.

    Args:
        curve: N -> R_mem at the end of training.
        sizes: How sizes are chosen.
        epochs: Evaluation points, ascending.
        cap: Most images at a point.
        evaluations: Network evaluations of one generated image.
        alpha: Allowed error of one training's verdict.
        share: How much sampling may cost, as a share of a training.
        rng: Draws images and the variation between runs.
        learning: Share of the epochs -> share of the final R_mem; that of `PROGRESS_OF_TRAINING` if none.
        run_noise: Standard deviation of a run's logit of R_mem around the curve.
        futility: When a training is given up; none for never.

    Returns:
        The search, and what each size said and cost.
    """
    trainings: dict[int, SimulatedTraining] = {}
    progress = learning or published_progress()

    def outcome(size: int) -> Outcome:
        final = curve(size)
        if run_noise:
            value = math.log(final / (1 - final)) + run_noise * float(rng.standard_normal())
            final = 1 / (1 + math.exp(-value))
        rates = [final * progress(epoch / epochs[-1]) for epoch in epochs]
        rule = StoppingRule.of(
            sizes.line, alpha, len(epochs), cap, epochs[-1] * size, image_cost(evaluations), share
        )
        trainings[size] = simulate_training(rates, epochs, size, rule, rng, futility)
        return trainings[size].outcome

    return replay(sizes, outcome), trainings


def published_progress() -> Callable[[float], float]:
    """Return share of the epochs -> share of the final R_mem, through `PROGRESS_OF_TRAINING` (PCHIP in the logarithm)."""
    from scipy.interpolate import PchipInterpolator

    shares = sorted(PROGRESS_OF_TRAINING)
    inside = PchipInterpolator(np.log(shares), [PROGRESS_OF_TRAINING[share] for share in shares])

    def progress(share: float) -> float:
        return 0.0 if share < shares[0] else float(np.clip(inside(math.log(share)), 0, 1))

    return progress
