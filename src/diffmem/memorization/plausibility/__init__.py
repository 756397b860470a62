"""Whether samples can be those of a model of this training set: constant, repeated, noise, tiles, or a wrong value range."""

from __future__ import annotations

from diffmem.memorization.plausibility.check import SampleCheck, SampleCheckRecord, SampleKind, check_samples
from diffmem.memorization.plausibility.statistics import SetStatisticsRecord

__all__ = ["SampleCheck", "SampleCheckRecord", "SampleKind", "SetStatisticsRecord", "check_samples"]
