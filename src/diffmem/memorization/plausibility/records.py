"""The check of samples as typed records."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from diffmem.memorization.records import Record

__all__ = ["SampleCheckRecord", "SampleKind", "SetStatisticsRecord"]

SampleKind = Literal["plausible", "constant", "repeated", "noise", "tiles", "value range", "other"]


class SetStatisticsRecord(Record):
    """Plain statistics of one set of images, from a seeded draw of it; values are grey levels, 0 to 255."""

    images: int = Field(description="Images in the set.")
    drawn: int = Field(description="Images that were drawn for the statistics.")
    channels: int
    height: int
    width: int
    minimum: int
    maximum: int
    grey_levels: int = Field(description="Different values that occur in the draw, 1 to 256.")
    mean: float
    contrast: float = Field(
        description="Median over images of the standard deviation of an image's pixels about its channel means."
    )
    gradient: float = Field(description="Median over images of the RMS difference of neighbouring pixels.")
    neighbour_correlation: float = Field(
        description="Median over images of the correlation of neighbouring pixels: 1 smooth, 0 white noise."
    )


class SampleCheckRecord(Record):
    """Whether samples can be images of a model of this training set, and how many of them are trials."""

    samples: int = Field(description="All samples that were given.")
    judged: int = Field(
        description="Distinct samples that are not constant: what a rate may be computed over."
    )
    constant: int = Field(description="Samples of one colour: each channel is constant.")
    repeats: int = Field(description="Exact repeats of an earlier sample that is not constant.")
    most_repeated: int = Field(
        description="Times that the most frequent image occurs, of samples not constant."
    )
    kind: SampleKind = Field(description="'plausible' if the samples can be judged, else what they are.")
    problem: str | None = Field(
        description="Why the samples cannot be judged, in one sentence; null if they can."
    )
    notes: list[str] = Field(description="What must be said though the samples can be judged.")
    statistics: dict[str, SetStatisticsRecord] = Field(
        description="By role: 'training', 'heldout', 'samples'."
    )
    reading: str | None = Field(
        description="The reading of the samples' values that fits the training images clearly better; null if none does."
    )
