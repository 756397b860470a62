"""Histograms of how near samples come to training images, beside images that were never copied."""

from __future__ import annotations

import math
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from diffmem.auditing.compare import Comparison
from diffmem.auditing.criteria import PIXELS
from diffmem.auditing.records import DistanceRecord
from diffmem.memorization import Neighbours, RatioRule

__all__ = ["distance_records"]

_BINS = 50
_NONE = Neighbours(np.zeros((0, 1)), np.zeros((0, 1), np.int64))


def distance_records(found: Comparison) -> list[DistanceRecord]:
    """Return histograms of ratios (where there are two training images) and of distances."""
    null = [one.batch.neighbours[PIXELS] for one in found.null.parts(PIXELS)]
    samples = found.found.batch.neighbours[PIXELS]
    scale = math.sqrt(math.prod(found.space.shape))
    rms = [
        np.concatenate([one.distances[:, 0] / scale for one in part]) for part in ([samples], [_NONE, *null])
    ]
    top = max(1.0, math.ceil(max(float(part.max(initial=0.0)) for part in rms)))
    records = [_record("rms", rms, top)]
    if samples.k > 1:
        rule = RatioRule()
        known = [rule.ratio(one) for one in null if one.k > 1]
        ratios = [rule.ratio(samples), np.concatenate([np.zeros(0), *known])]
        records.insert(0, _record("ratio", ratios, 1.0))
    return records


def _record(
    quantity: Literal["ratio", "rms"], parts: list[NDArray[np.float64]], end: float
) -> DistanceRecord:
    edges = np.linspace(0, end, _BINS + 1)
    samples, null = (np.histogram(part, edges)[0].tolist() for part in parts)
    return DistanceRecord(
        quantity=quantity, edges=edges.tolist(), samples=samples, null=null if len(parts[1]) else []
    )
