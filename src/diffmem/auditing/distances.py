"""Histograms of how near samples come to training images, beside images that were never copied."""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

from diffmem.auditing.compare import Comparison
from diffmem.auditing.criteria import PIXELS
from diffmem.auditing.records import DistanceRecord
from diffmem.memorization import Neighbours, RatioRule

__all__ = ["distance_records"]

_BINS = 50


def distance_records(found: Comparison) -> list[DistanceRecord]:
    """Return histograms of ratios (where there are two training images) and of distances."""
    null = [one.batch.neighbours[PIXELS] for one in found.null.parts(PIXELS)]
    samples = found.found.batch.neighbours[PIXELS]
    scale = 1 / math.sqrt(math.prod(found.space.shape))
    rms = [samples.distances[:, 0] * scale, _joined([one.distances[:, 0] for one in null]) * scale]
    records = []
    if samples.k > 1:
        ratios = [_ratio(samples), _joined([_ratio(one) for one in null if one.k > 1])]
        records.append(_record("ratio", ratios, 1.0))
    top = max(1.0, math.ceil(max(float(part.max(initial=0.0)) for part in rms)))
    records.append(_record("rms", rms, top))
    return records


def _joined(parts: list[NDArray[np.float64]]) -> NDArray[np.float64]:
    return np.concatenate([np.zeros(0), *parts])


def _ratio(neighbours: Neighbours) -> NDArray[np.float64]:
    return RatioRule().ratio(neighbours)


def _record(quantity: str, parts: list[NDArray[np.float64]], end: float) -> DistanceRecord:
    edges = np.linspace(0, end, _BINS + 1)
    samples, null = (np.histogram(part, edges)[0].tolist() for part in parts)
    return DistanceRecord(
        quantity="ratio" if quantity == "ratio" else "rms",
        edges=edges.tolist(),
        samples=samples,
        null=null if len(parts[1]) else [],
    )
