"""What is measured: nearest neighbours, criteria, and R_mem with its interval and its null.

This room knows arrays of images, not models: it works on samples made by anything.

Modules:
    rows: image arrays as centred float32 blocks.
    sketch: lower bounds of all distances from a few numbers per image.
    candidates: pairs that may be neighbours, and the exact arithmetic that decides.
    search: the exact search, block by block.
    neighbours: `Neighbours`, and `nearest_neighbours` which finds them.
    criteria: rules that turn neighbours into "memorized" or not.
    rates: a share with its confidence interval; the closed-form null.
    frechet: the Frechet distance of two sets of images, by the moments of their features.
    features: what it can be of: pixels, an Inception network, a TorchScript network.
    measure: `measure`, which joins them into one `Measurement`.
"""

from __future__ import annotations

from diffmem.memorization.criteria import AbsoluteRule, Criterion, RatioRule
from diffmem.memorization.measure import Measurement, measure, protocol_id, rates_at_thresholds
from diffmem.memorization.neighbours import Neighbours, nearest_neighbours
from diffmem.memorization.rates import Rate, null_rate_uniform

__all__ = [
    "AbsoluteRule",
    "Criterion",
    "Measurement",
    "Neighbours",
    "Rate",
    "RatioRule",
    "measure",
    "nearest_neighbours",
    "null_rate_uniform",
    "protocol_id",
    "rates_at_thresholds",
]
