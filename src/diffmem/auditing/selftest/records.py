"""What a self-test found, as typed records."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from diffmem.auditing.records import PowerRecord, Verdict
from diffmem.memorization.rates import Rate
from diffmem.memorization.records import Record

__all__ = [
    "DUPLICATIONS",
    "MIXED",
    "CoverageRecord",
    "Duplication",
    "SelfTestCriterion",
    "SelfTestPart",
    "SelfTestResult",
    "SelfTestShare",
]

Duplication = Literal["none", "exact copies", "near-copies"]
"""What the training set holds beside each image that is planted: nothing, two exact copies, or two near-copies."""

DUPLICATIONS: tuple[Duplication, ...] = ("none", "exact copies", "near-copies")

MIXED = "every kind"
"""Key of a set of samples with planted copies of every kind, in equal parts."""


class CoverageRecord(Record):
    """How often intervals cover the true share, for a number of independent trials."""

    trials: int
    method: str
    confidence: float = Field(description="What the intervals promise.")
    smallest: float = Field(description="Smallest probability to cover, over all true shares from 0 to 1.")
    at: float = Field(description="The true share at which, or beside which, it is smallest.")
    mean: float = Field(description="Mean over true shares from 0 to 1.")


class SelfTestCriterion(Record):
    """What one criterion makes of planted copies and of fresh images."""

    key: str
    title: str
    deciding: bool = Field(description="Whether the verdict rests on it.")
    usable: bool = Field(description="Whether it flags few enough null images, at some threshold.")
    exact_only: bool = Field(description="Whether it finds only exact copies.")
    strictness: float = Field(description="Threshold at which all below is meant: the loosest usable one.")
    false_alarms: Rate = Field(description="Share of the fresh images that it flags.")
    null: Rate = Field(description="Share of the held-out images that it flags.")
    power: list[PowerRecord] = Field(description="Positive controls, by kind.")


class SelfTestShare(Record):
    """One set of samples: planted copies in a known share, the rest fresh images."""

    kind: str = Field(
        description="Key of the positive controls; 'every kind' for all of them in equal parts."
    )
    share: float = Field(description="Of copies among the samples, as requested.")
    planted: int = Field(description="The same as a number: the share of the samples, rounded.")
    samples: int
    measured: dict[str, Rate] = Field(description="Share that each criterion flags, by its key.")
    covers: dict[str, bool] = Field(description="Whether the interval of that share contains the true one.")
    verdict: Verdict | None = Field(description="Of the whole audit; for exact copies and for every kind.")


class SelfTestPart(Record):
    """All of it with one kind of training set."""

    duplication: Duplication
    training_images: int
    distinct_images: int
    criteria: list[SelfTestCriterion]
    shares: list[SelfTestShare]
    found_from: dict[str, int | None] = Field(
        description="Smallest number of copies of different training images, among as many samples as there are fresh images, that is"
        " found, by kind; none if not even half of the samples are."
    )
    false_verdicts: Rate = Field(
        description="How often a deciding criterion finds copies among fresh images: fresh and held-out images are shuffled"
        " repeatedly. The shuffles share their images, so the interval is that of these images."
    )

    def criterion(self, key: str) -> SelfTestCriterion:
        """Return the criterion with a key."""
        return next(one for one in self.criteria if one.key == key)


class SelfTestResult(Record):
    """A self-test."""

    seed: int
    shape: tuple[int, int, int] = Field(description="(C, H, W) of the images.")
    heldout: int
    fresh: int
    transforms: str | None
    parts: list[SelfTestPart]
    coverage: list[CoverageRecord] = Field(
        description="Of the intervals, for the numbers of images that occur."
    )
    failures: list[str] = Field(description="What went wrong, a sentence each; empty if the test is passed.")
    notes: list[str] = Field(description="Remarks that are not failures, a sentence each.")

    @property
    def passed(self) -> bool:
        """Whether the audit works on these images."""
        return not self.failures
