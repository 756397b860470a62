"""Cost of the search for EMM relative to a fixed grid, on curves whose EMM is known, and the coverage of its intervals.

    python benchmarks/emm_search.py [--simulations 200] [--study FOLDER]

R_mem against N follows the published points of the paper's Figure 2(c) (DDPM++ on CIFAR-10 at three resolutions), R_mem against
epochs its Figure 5 (unique labels), stretched at random to end after 40% to 100% of the training. Images are Bernoulli draws. Each
simulated search starts at a random size of the lowest octave, so that lucky starts average out; the three levels are searched
separately, without hints.

Baseline: the fixed grid that the study used, every size trained to its end, 10,000 images at each evaluation point. Two grids:
- "spaced like the bracket": neighbours as far apart as the widest final bracket of the search, (1 + t) / (1 - t);
- "of equal precision": the widest spacing with which the grid's own bracket of certain sizes, from its own simulated samples at the
  same confidence, is on average as narrow as the search's. Near EMM a grid has sizes that its samples cannot decide, so that it must
  be finer than its bracket.

With --study, a finished search of real trainings is compared with the same grids; the second is simulated on curves that are fitted
to its own trainings.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

import numpy as np
from scipy.optimize import brentq, minimize

sys.path.append(str(Path(__file__).parents[1] / "tests" / "builders"))
from published_curves import EPOCHS, PUBLISHED, curve_through

from diffmem.api.studies import open_emm
from diffmem.sampling.config import image_cost
from diffmem.studies.search.choice import SizeRule
from diffmem.studies.search.cost import grid_of_equal_precision, grid_sizes
from diffmem.studies.search.decisions import FutilityRule, StoppingRule
from diffmem.studies.search.interval import emm_of_seed
from diffmem.studies.search.simulation import search_level

EPSILON, TOLERANCE, CAP, EVALUATIONS, ALPHA = 0.1, 0.1, 10_000, 35, 0.05 / 12
DECISIVE = 4.0  # search.decisive


def half_width(low, high):
    """Return the half-width of a bracket relative to its midpoint."""
    return (high - low) / (high + low)


def grid_half_width(curve, smallest, largest, tolerance, cap, points, simulations):
    """Return the mean half width of a grid's bracket of certain sizes."""
    rule = StoppingRule(1 - EPSILON, ALPHA, points, cap, cap, cap)
    sizes = np.array(grid_sizes(smallest, largest, tolerance), dtype=float)
    step = np.log((1 + tolerance) / (1 - tolerance))
    widths = []
    for number in range(simulations):
        rng = np.random.default_rng(number)
        moved = sizes * np.exp(rng.uniform(-0.5, 0.5) * step)  # where the grid lies beside EMM is chance
        counts = [int(rng.binomial(cap, curve(size))) for size in moved]
        states = [rule.point((count, cap), last=True) for count in counts]
        certain = list(zip(moved, states, strict=True))
        low = max((size for size, state in certain if state == "at least"), default=smallest)
        high = min((size for size, state in certain if state == "below"), default=largest)
        widths.append(half_width(low, high))
    return float(np.mean(widths))


def equal_grid(curve, smallest, largest, wanted, cap, points, simulations):
    """Return the tolerance of the coarsest grid whose bracket is on average as narrow as `wanted`."""
    for tolerance in np.arange(TOLERANCE, 0.01, -0.0025):
        if grid_half_width(curve, smallest, largest, tolerance, cap, points, simulations) <= wanted:
            return float(tolerance)
    return 0.01


def curve_of(level):
    """Return R_mem against N by logistic regression on the trainings of a level that went to their end."""
    ended = [run for run in level.runs if run.epochs_trained >= run.epochs and run.evaluations]
    doublings = np.log2([run.size for run in ended])
    peaks = [run.peak.memorized for run in ended]
    hits, misses = (
        np.array(numbers) for numbers in zip(*((p.count, p.total - p.count) for p in peaks), strict=True)
    )

    def loss(coefficients):
        logits = coefficients[0] + coefficients[1] * (doublings - doublings.mean())
        return float(hits @ np.logaddexp(0, -logits) + misses @ np.logaddexp(0, logits))

    first, slope = minimize(loss, [2.0, -2.0]).x
    return lambda size: 1 / (1 + np.exp(-(first + slope * (np.log2(size) - doublings.mean()))))


def compare(folder, simulations):
    """Print what a finished search of real trainings cost beside both grids, the second simulated on its own fitted curves."""
    study = open_emm(folder).study
    result, spent, coarse, fine = study.result(), 0.0, 0.0, 0.0
    for level in result.levels:
        if level.emm.status != "estimated":
            raise SystemExit(
                f"{folder}: level {level.name} has no EMM ({level.emm.status}); nothing to compare."
            )
        points, settings = len(study.smallest_run(level.name).points), study.levels[level.name]
        wanted = half_width(level.emm.low, level.emm.high)
        tolerance = equal_grid(curve_of(level), *result.sizes, wanted, result.samples, points, simulations)
        grid = grid_of_equal_precision(
            *result.sizes, tolerance, settings.training.epochs, points, result.samples, settings.sampling.evaluations,
            len(result.seeds),
        )  # fmt: skip
        print(
            f"{level.name:>6}  EMM {level.emm.value:5.0f}  runs {len(level.runs)}  half-width {wanted:6.1%}"
            f"  cost {level.cost.share:6.1%} of {len(level.cost.grid_sizes)} sizes spaced by the tolerance,"
            f" {level.cost.units / grid.units:6.1%} of {len(grid.sizes)} sizes of equal precision"
        )
        spent, coarse, fine = spent + level.cost.units, coarse + level.cost.grid_units, fine + grid.units
    print(
        f"  all: {spent / coarse:.1%} of the grid spaced by the tolerance, {spent / fine:.1%} of the grid of equal precision"
    )


def searches(name, simulations, futility=None):
    """Search a published curve many times; yield what was found, by which rule, and the trainings of each search."""
    curve = curve_through({size: percent / 100 for size, percent in PUBLISHED[name].items()})
    smallest, largest = min(PUBLISHED[name]), max(PUBLISHED[name])

    def stopping(size):
        affordable = 0.5 * EPOCHS[-1] * size / image_cost(EVALUATIONS)
        return StoppingRule.of(1 - EPSILON, ALPHA, len(EPOCHS), CAP, affordable, futility, DECISIVE)

    for number in range(simulations):
        rng = np.random.default_rng(number)
        pace = rng.uniform(0.4, 1.0)
        rule = SizeRule(smallest, largest, EPSILON, TOLERANCE, start=smallest * 2 ** rng.uniform())
        found, trainings = search_level(curve, rule, stopping, EPOCHS, rng, pace=pace)
        yield found, rule, list(trainings.values())


def simulate(name, simulations, futility):
    """Search one published curve many times, print what came out, and return both costs and the coverage."""
    curve = curve_through({size: percent / 100 for size, percent in PUBLISHED[name].items()})
    smallest, largest = min(PUBLISHED[name]), max(PUBLISHED[name])
    truth = brentq(lambda size: curve(size) - (1 - EPSILON), smallest, largest)
    units, runs, covered, widths = [], [], 0, []
    for found, rule, trainings in searches(name, simulations, futility):
        emm = emm_of_seed(found, rule)
        covered += emm.low <= truth <= emm.high
        widths.append(half_width(emm.low, emm.high))
        runs.append(len(trainings))
        units.append(
            sum(one.images_trained + one.images_sampled * image_cost(EVALUATIONS) for one in trainings)
        )
    grids = []
    for tolerance in (
        TOLERANCE,
        equal_grid(curve, smallest, largest, np.mean(widths), CAP, len(EPOCHS), simulations),
    ):
        grid = grid_of_equal_precision(smallest, largest, tolerance, 40_000, len(EPOCHS), CAP, EVALUATIONS, 1)
        grids.append((len(grid.sizes), np.mean(units) / grid.units))
    (coarse, of_coarse), (fine, of_fine) = grids
    print(
        f"{name:>6}  EMM {truth:5.0f}  runs {np.mean(runs):.2f}  half-width {np.mean(widths):6.1%}  coverage {covered}/{simulations}"
        f"  cost {of_coarse:6.1%} of {coarse} sizes spaced like the bracket, {of_fine:6.1%} of {fine} sizes of equal precision"
    )
    return of_coarse, of_fine, covered


def main():
    """Print the costs without and with the futility rule."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--simulations", type=int, default=200)
    parser.add_argument("--study", type=Path, help="folder of a finished search, to compare it instead")
    given = parser.parse_args()
    if given.study is not None:
        compare(given.study, given.simulations)
        return
    for words, futility in (
        ("as published numbers are made", None),
        ("giving up hopeless trainings", FutilityRule()),
    ):
        print(f"Search {words}:")
        found = [simulate(name, given.simulations, futility) for name in PUBLISHED]
        coarse, fine, covered = (np.mean([one[i] for one in found]) for i in range(3))
        print(
            f"  mean cost: {coarse:.1%} of the grid spaced like the bracket, {fine:.1%} of the grid of equal precision;"
            f" covered {covered / given.simulations:.1%}"
        )


if __name__ == "__main__":
    main()
