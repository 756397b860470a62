"""What is measured: nearest neighbours, criteria, and R_mem with its interval and its null.

This package knows arrays of images, not models: it works on samples made by anything.
"""

from __future__ import annotations

from diffmem.memorization.copying import CellConfig, CopyingRecord, copying_test
from diffmem.memorization.criteria import (
    AdaptiveRule,
    Criterion,
    NormalizedRule,
    RatioRule,
    SimilarityRule,
)
from diffmem.memorization.features import Features, open_features
from diffmem.memorization.measure import Measurement, measure, protocol_id
from diffmem.memorization.neighbours.cascade import index_helps
from diffmem.memorization.neighbours.groups import DuplicateGroups, near_duplicates
from diffmem.memorization.neighbours.index import NeighbourIndex, index_for
from diffmem.memorization.neighbours.near import NearPairs, pairs_within
from diffmem.memorization.neighbours.neighbours import Neighbours, nearest_neighbours
from diffmem.memorization.rates import Intervals, Rate
from diffmem.memorization.repeats import RepeatAwareRule
from diffmem.memorization.variants import Transforms, VariantNeighbours, variant_neighbours

__all__ = [
    "AdaptiveRule",
    "CellConfig",
    "CopyingRecord",
    "Criterion",
    "DuplicateGroups",
    "Features",
    "Intervals",
    "Measurement",
    "NearPairs",
    "NeighbourIndex",
    "Neighbours",
    "NormalizedRule",
    "Rate",
    "RatioRule",
    "RepeatAwareRule",
    "SimilarityRule",
    "Transforms",
    "VariantNeighbours",
    "copying_test",
    "index_for",
    "index_helps",
    "measure",
    "near_duplicates",
    "nearest_neighbours",
    "open_features",
    "pairs_within",
    "protocol_id",
    "variant_neighbours",
]
