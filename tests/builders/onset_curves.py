"""Curves of R_mem over training whose crossing times are known, for the coverage of their intervals."""

import math
from dataclasses import dataclass

import numpy as np
from scipy.special import expit, logit

from diffmem.studies.onset import Curve, onset, predicted

SIZES = (64, 128, 256, 512)


@dataclass(frozen=True)
class Truth:
    """R_mem is logistic in the logarithm of images seen, and half at t_half, where ln t_half = a + b ln N + scatter e, e normal."""

    a: float
    exponent: float
    scatter: float
    slope: float

    def log_time(self, size, line):
        """The logarithm of the median time at which runs reach a line."""
        return self.a + self.exponent * math.log(size) + float(logit(line)) / self.slope

    def run(self, size, seed, rng, spacing, samples, last=100_000):
        """One run, evaluated each time that the epochs have grown by `spacing`: (its curve, the shift of its ln t)."""
        shift = self.scatter * rng.standard_normal()
        half = self.log_time(size, 0.5) + shift
        count = int(math.log(last / 10) / math.log(spacing)) + 1
        points = []
        for epoch in 10 * spacing ** np.arange(count):
            seen = round(epoch * size)
            rate = float(expit(self.slope * (math.log(seen) - half)))
            points.append((seen, seen / size, int(rng.binomial(samples, rate)), samples))
        return Curve(size, seed, points), shift


def drawn_truth(rng, scatter):
    """A truth: times like those of small networks, at a random place between the evaluations; exponents of 0.7 to 1.3."""
    exponent = rng.uniform(0.7, 1.3)
    middle = math.log(400 * 180) + rng.uniform(-0.7, 0.7)  # ln t_half at N = 180, the middle of the sizes
    return Truth(middle - exponent * math.log(180), exponent, scatter, rng.uniform(1.5, 4))


def covered(number, *, line, scatter, seeds, spacing, samples=500, last=100_000, sizes=SIZES):
    """Simulate a study; what its intervals cover: {what: [whether, ...]}, and the width of the exponent's interval.

    Args:
        last: Epochs after which runs end; fewer leave some runs open.
    """
    rng = np.random.default_rng(number)
    truth = drawn_truth(rng, scatter)
    runs = [truth.run(size, seed, rng, spacing, samples, last) for size in sizes for seed in range(seeds)]
    found = onset([curve for curve, _ in runs], [line]).lines[0]
    known = {(curve.size, curve.seed): truth.log_time(curve.size, line) + shift for curve, shift in runs}
    result = {"run": [_holds(one, math.exp(known[one.size, one.seed])) for one in found.runs]}
    if seeds > 1:
        result["size"] = [_holds(one, math.exp(truth.log_time(one.size, line))) for one in found.sizes]
    if found.growth is None:
        return result, math.nan
    exponent = found.growth.exponent
    result["exponent"] = [_holds(exponent, truth.exponent)]
    for factor in (2, 10):
        size = max(sizes) * factor
        new = truth.log_time(size, line) + scatter * rng.standard_normal()
        result[f"new run at {factor}x"] = [_holds(predicted(found, [size])[size], math.exp(new))]
    return result, exponent.high - exponent.low


def _holds(interval, truth):
    return (interval.low or 0.0) <= truth <= (interval.high or math.inf)
