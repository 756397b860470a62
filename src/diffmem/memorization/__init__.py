"""What is measured: nearest neighbours, criteria, and R_mem with its interval and its null.

This room knows arrays of images, not models: it works on samples made by anything.

Modules:
    rows: image arrays as centred float32 blocks.
    sketch: lower bounds of all distances from a few numbers per image.
    candidates: pairs that may be neighbours, and the exact arithmetic that decides.
    search: the exact search by brute force, block by block.
    workers: blocks of work, dealt to threads.
    index: `NeighbourIndex`, what a set is prepared with so that searches among it are fast.
    cascade: the exact search with an index.
    neighbours: `Neighbours`, and `nearest_neighbours` which finds them.
    near: `pairs_within`, all pairs of a set within a radius: near-duplicates.
    groups: `near_duplicates`, the groups that such pairs and exact copies join.
    criteria: rules that turn neighbours into "memorized" or not.
    adaptive: such a rule, by the mean of the 50 nearest training images.
    repeats: the ratio rule where the training set holds near-copies.
    absolute: such rules with fixed thresholds, in RMS of values 0 to 1 or in cosine similarity.
    contents: images by their content: copies, and an order that does not depend on theirs.
    variants: neighbours of mirrored, shifted and brightened samples, with the null that belongs to them.
    authenticity: AuthPct, by the training images' own neighbours.
    cells: parts of image space, by k-means on the training images.
    ranks: two groups of distances compared by the Mann-Whitney test.
    copying: the C_T test of data copying, cell by cell.
    rates: a share with its confidence interval; the closed-form null.
    frechet: the Frechet distance of two sets of images, by the moments of their features.
    preparation: how images are prepared for a network of features.
    features: what it can be of: pixels, an Inception network, a TorchScript network.
    measure: `measure`, which joins them into one `Measurement`.
"""

from __future__ import annotations

from diffmem.memorization.absolute import NormalizedRule, SimilarityRule
from diffmem.memorization.adaptive import AdaptiveRule
from diffmem.memorization.authenticity import Authenticity, authenticity
from diffmem.memorization.copying import CopyingTest, copying_test
from diffmem.memorization.criteria import AbsoluteRule, Criterion, RatioRule
from diffmem.memorization.features import Features, open_features
from diffmem.memorization.measure import Measurement, measure, protocol_id, rates_at_thresholds
from diffmem.memorization.neighbours.groups import DuplicateGroups, near_duplicates
from diffmem.memorization.neighbours.index import NeighbourIndex, index_for
from diffmem.memorization.neighbours.near import NearPairs, pairs_within
from diffmem.memorization.neighbours.neighbours import Neighbours, nearest_neighbours
from diffmem.memorization.rates import Rate, null_rate_uniform
from diffmem.memorization.repeats import RepeatAwareRule
from diffmem.memorization.variants import Transforms, VariantSearch, variant_neighbours

__all__ = [
    "AbsoluteRule",
    "AdaptiveRule",
    "Authenticity",
    "CopyingTest",
    "Criterion",
    "DuplicateGroups",
    "Features",
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
    "VariantSearch",
    "authenticity",
    "copying_test",
    "index_for",
    "measure",
    "near_duplicates",
    "nearest_neighbours",
    "null_rate_uniform",
    "open_features",
    "pairs_within",
    "protocol_id",
    "rates_at_thresholds",
    "variant_neighbours",
]
