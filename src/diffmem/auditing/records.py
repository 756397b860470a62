"""What an audit found, as typed records: the schema of `audit.json`.

The records hold no timings, so that the same inputs and seed give the same file to the byte.
"""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from diffmem.attacks.exposure import ExposureRecord
from diffmem.attacks.flipd_record import FlipdRecord
from diffmem.attacks.membership import MembershipRecord
from diffmem.memorization.records import RateRecord, Record

__all__ = [
    "EXIT_CODES",
    "SCHEMA",
    "AuditResult",
    "ChanceRecord",
    "CopiedRecord",
    "CopiesRecord",
    "CopyingRecord",
    "CriterionRecord",
    "DistanceRecord",
    "Finding",
    "InputRecord",
    "MatchRecord",
    "MembershipPart",
    "ModelRecord",
    "PowerRecord",
    "Role",
    "SpaceRecord",
    "Verdict",
    "VerdictRecord",
]

SCHEMA = "diffmem-audit/1"
"""Version of the records; raised when a field changes its meaning."""

Verdict = Literal["copies found", "none found", "cannot tell"]
EXIT_CODES: dict[Verdict, int] = {"none found": 0, "copies found": 3, "cannot tell": 4}
"""How `diffmem audit` ends for each verdict."""

Role = Literal["training", "heldout", "samples"]

Finding = Literal["copies", "none", "cannot tell", "not usable"]


class InputRecord(Record):
    """One of the sets that were compared."""

    role: Role
    source: str | None = Field(description="Where it was read from; none in a private report.")
    images: int
    shape: tuple[int, int, int] = Field(description="(C, H, W) as given.")
    fingerprint: str = Field(description="SHA-256 of pixels and labels, as given.")
    steps: list[str] = Field(
        description="What was done to bring it into the common space, in order; empty if nothing."
    )


class ModelRecord(Record):
    """The model that was audited, and how samples came out of it."""

    source: str | None = Field(description="Its path; none in a private report.")
    kind: str = Field(description="How it was opened, for example 'EDM pickle'.")
    digest: str = Field(description="SHA-256 of its weights.")
    sampling: str = Field(description="The sampler with its settings.")
    seeds: tuple[int, int] = Field(description="First and last seed of the samples.")
    notes: list[str] = Field(default_factory=list, description="What a reader must know about the opening.")


class SpaceRecord(Record):
    """The space in which images are compared."""

    protocol: str = Field(
        description="Id of space, preprocessing and constants; part of each criterion's id."
    )
    shape: tuple[int, int, int] = Field(description="(C, H, W) of the images that were compared.")
    training_images: int = Field(description="Training images as given, copies included.")
    distinct_images: int = Field(
        description="Training images without exact copies of earlier ones: what is searched."
    )
    null_source: Literal["heldout", "training, leave one out", "none"] = Field(
        description="Which images were never copied: held-out ones, or training images against the rest."
    )
    null_images: int
    heldout_overlap: int = Field(
        description="Held-out images that are identical to a training image; the null leaves them out."
    )


class ChanceRecord(Record):
    """What chance does: flagged samples against flagged null images, by Fisher's exact test."""

    expected: float = Field(description="How many samples would be flagged at the null rate.")
    p_value: float = Field(
        description="Chance of so many more flagged samples than null images without any copying, one-sided."
    )


class PowerRecord(Record):
    """How many planted copies of one kind a criterion finds in these data."""

    key: str = Field(description="Kind of planted copy, for example 'exact'.")
    kind: str = Field(description="The same in words, for example 'JPEG, quality 50'.")
    detected: RateRecord
    traced: RateRecord | None = Field(
        default=None,
        description="How often the training image that the criterion compares with is the copied one, flagged or not; of a blend in"
        " equal parts, either one.",
    )


class CriterionRecord(Record):
    """One criterion on the samples, its null, and what follows."""

    key: str = Field(description="Short name, for example 'ratio'.")
    title: str
    protocol: str = Field(
        description="Id: space, preprocessing and constants. Equal ids mean comparable numbers."
    )
    role: Literal["deciding", "supporting"] = Field(
        description="Whether the verdict rests on it. Supporting ones can be misled by blur or by the choice of data."
    )
    flagged: RateRecord = Field(description="Share of the samples that it calls copies.")
    null: RateRecord | None = Field(description="The same share of images that were never copied.")
    chance: ChanceRecord | None = Field(description="None without a null.")
    bound: float = Field(description="The share of such copies is below this at 95% confidence, one-sided.")
    distinct: int = Field(description="Different training images that the flagged samples copy.")
    finding: Finding
    notes: list[str] = Field(default_factory=list)
    power: list[PowerRecord] = Field(
        default_factory=list, description="Of planted copies of these training images; empty if not measured."
    )


class CopyingRecord(Record):
    """The C_T test: whether samples are nearer to the training images than held-out images are; supporting."""

    protocol: str
    c_t: float | None
    interval: tuple[float, float] | None
    z: float | None = Field(description="C_T in its standard deviations: near N(0, 1) for fresh samples.")
    nearer: float | None = Field(
        description="Probability that a sample is nearer to the training images than a held-out image; 0.5 for fresh samples."
    )
    nearer_interval: tuple[float, float] | None
    detectable_share: float | None = Field(
        description="Share of exact copies that it would find 4 times in 5."
    )
    conclusion: Literal["copying", "not shown", "farther", "cannot tell"]
    notes: list[str] = Field(default_factory=list)


class MatchRecord(Record):
    """A sample that a deciding criterion flags, with the training image that it copies."""

    sample: int = Field(description="Index among the samples, from 0; of generated ones, the seed.")
    sample_hash: str = Field(description="BLAKE2b (128 bits) of its pixels in the common space.")
    sample_name: str | None
    training: int = Field(description="Index among the training images, from 0.")
    training_hash: str
    training_name: str | None
    rms: float = Field(description="Distance in the common space, RMS grey levels (0 to 255).")
    ratio: float = Field(
        description="Distance to the nearest over that to the second nearest training image."
    )
    variant: str = Field(
        description="How the sample was changed to match, for example 'flipped'; 'as is' if not."
    )
    criteria: list[str] = Field(description="Keys of the deciding criteria that flag it.")


class CopiedRecord(Record):
    """A training image that samples copy."""

    training: int
    training_hash: str
    training_name: str | None
    times: int = Field(description="How many samples copy it.")
    occurrences: int = Field(description="How often the training set holds it, exact copies.")


class CopiesRecord(Record):
    """All matches, in numbers."""

    samples: int = Field(
        description="Samples that at least one deciding criterion flags. One that flags many images by chance counts only where no"
        " other finds copies."
    )
    distinct: int = Field(description="Different training images that they copy.")
    most_copied: list[CopiedRecord] = Field(
        description="The most copied ones, at most 50, most copied first."
    )
    worst: list[MatchRecord] = Field(
        description="The 50 nearest matches, nearest first; all of them are in matches.csv."
    )


class DistanceRecord(Record):
    """Histogram of ratios or distances, samples beside the null."""

    quantity: Literal["ratio", "rms"] = Field(
        description="'ratio': nearest over second nearest. 'rms': RMS grey levels to the nearest training image."
    )
    edges: list[float] = Field(description="Of the bins, ascending, one more than bins.")
    samples: list[int]
    null: list[int] = Field(description="Counts of the null images; empty if there are none.")


class MembershipPart(Record):
    """Membership inference, or why there is none."""

    attacks: list[MembershipRecord] = Field(default_factory=list)
    refused: str | None = Field(default=None, description="Why nothing was measured, with what is missing.")


class VerdictRecord(Record):
    """What the audit concludes."""

    verdict: Verdict
    exit_code: int
    sentence: str = Field(description="The verdict with its numbers in one sentence.")
    reasons: list[str] = Field(description="What it rests on, a sentence each.")
    missing: list[str] = Field(description="What would be needed to tell more, a sentence each.")


class AuditResult(Record):
    """An audit: the content of `audit.json`."""

    schema_version: Literal["diffmem-audit/1"] = "diffmem-audit/1"
    title: str
    private: bool = Field(description="Whether images and names were kept out of the report.")
    seed: int
    target: float = Field(description="The share of copies that the audit was to exclude.")
    verdict: VerdictRecord
    inputs: list[InputRecord]
    model: ModelRecord | None = Field(description="None if samples were given.")
    space: SpaceRecord | None = Field(description="None without training images.")
    criteria: list[CriterionRecord]
    copying: CopyingRecord | None = Field(description="None without held-out images.")
    copies: CopiesRecord | None = Field(description="None without training images.")
    distances: list[DistanceRecord]
    membership: MembershipPart | None = Field(description="None unless a model was given.")
    flipd: FlipdRecord | None = None
    exposure: list[ExposureRecord] = Field(default_factory=list)
    notes: list[str] = Field(
        default_factory=list, description="What a reader must know about the inputs, a sentence each."
    )
    limitations: list[str] = Field(description="What a clean audit does not prove, a sentence each.")
    versions: dict[str, str]

    def criterion(self, key: str) -> CriterionRecord | None:
        """Return the criterion with a key, or none."""
        return next((one for one in self.criteria if one.key == key), None)
