"""What an audit found, as typed records: the schema of `audit.json`.

The records hold no timings, so that the same inputs and seed give the same file to the byte.
"""

from __future__ import annotations

from typing import Any, Literal

from pydantic import Field, model_validator

from diffmem.attacks.exposure import ExposureRecord
from diffmem.attacks.flipd_record import FlipdRecord
from diffmem.attacks.membership import MembershipRecord
from diffmem.errors import UserError
from diffmem.memorization.copying import CopyingRecord
from diffmem.memorization.plausibility import SampleCheckRecord
from diffmem.memorization.rates import Rate
from diffmem.memorization.records import Record
from diffmem.optimum.denoising_records import DenoisingCheck

__all__ = [
    "EXIT_CODES",
    "SCHEMA",
    "AuditResult",
    "ChanceTest",
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
    "ReadingRecord",
    "Role",
    "SpaceRecord",
    "Verdict",
    "VerdictRecord",
]

SCHEMA = "diffmem-audit/2"
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
    read: list[str] = Field(
        description="Conversions and skipped files when the set was read, a sentence each; empty if nothing."
    )
    steps: list[str] = Field(
        description="What was done to bring it into the common space, in order; empty if nothing."
    )


class ModelRecord(Record):
    """The model that was audited, and how samples came out of it."""

    source: str | None = Field(description="Its path; none in a private report.")
    kind: str = Field(description="How it was opened, for example 'EDM pickle'.")
    text: str = Field(
        default="",
        description="What was read, in a paragraph: layout, parameters, weights, noise levels, classes, notes.",
    )
    digest: str = Field(description="SHA-256 of its weights.")
    sampling: str = Field(description="The sampler with its settings.")
    seeds: tuple[int, int] = Field(description="First and last seed of the samples.")
    notes: list[str] = Field(default_factory=list, description="Notes on opening the model.")
    check: DenoisingCheck | None = Field(
        default=None,
        description="Its denoising error on the training images; none without these, and of diffmem's own runs.",
    )


class SpaceRecord(Record):
    """The space in which images are compared, and the null images, which are not copies."""

    protocol: str = Field(
        description="Id of space, preprocessing and constants; part of each criterion's id."
    )
    shape: tuple[int, int, int] = Field(description="(C, H, W) of the images that were compared.")
    training_images: int = Field(description="Training images as given, copies included.")
    distinct_images: int = Field(
        description="Training images without exact copies of earlier ones: what is searched."
    )
    null_heldout: int = Field(description="Held-out images that are no training images.")
    null_training: int = Field(
        description="Training images that were compared with all others; 0 where they are no null."
    )
    deduplicated: bool = Field(
        description="Whether near-copies were removed from the training set, by its history or by word: then its images do not show how"
        " often fresh ones come near, and only held-out images do."
    )
    disagree: list[str] = Field(
        description="Criteria, by key, by which held-out images come near to training images more often, or less often, than these to"
        " each other; there the held-out images alone are the null."
    )
    heldout_overlap: int = Field(
        description="Held-out images that are identical to a training image; the null leaves them out."
    )
    heldout_near: float | None = Field(
        description="Largest share of the held-out images that a criterion of near-copies flags; none without any."
    )
    heldout_copied: int = Field(
        description="Samples that are nearly identical to a held-out image, and to no training image."
    )


class ChanceTest(Record):
    """One test of one criterion at one strictness: events of samples beside others. An event is a group of near-copies, counted once."""

    test: Literal["fresh", "split", "groups"] = Field(
        description="'fresh': samples beside training images, against held-out and training images beside training images. 'split':"
        " distinct training images that samples copy, against held-out images that they copy. 'groups': how many samples lie beside"
        " the same training images."
    )
    strictness: float = Field(description="Threshold of the criterion's score; an image below it is flagged.")
    flagged: int = Field(description="Samples that are flagged.")
    events: int = Field(description="Events of samples; of 'groups', the samples in them.")
    others: int = Field(description="Events of null images; of 'groups', those images.")
    share: float = Field(description="Probability that an event without any copying is one of samples.")
    p_value: float = Field(
        description="p-value: probability of so many events of samples without any copying."
    )
    level: float = Field(
        description="Copies are found up to this p-value: this test's part of the false-alarm rate of 1%."
    )

    @property
    def beyond_chance(self) -> float:
        """About how many of the flagged samples chance does not explain, by the events that are not of samples."""
        by_chance = self.others * self.share / max(1e-12, 1 - self.share)
        return self.flagged * (1 - min(1.0, by_chance / max(1, self.events)))


class PowerRecord(Record):
    """How many planted copies of one kind a criterion finds in these data."""

    key: str = Field(description="Kind of positive control, for example 'exact'.")
    kind: str = Field(description="The same in words, for example 'JPEG, quality 50'.")
    detected: Rate
    traced: Rate | None = Field(
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
    exact_only: bool = Field(description="Whether it finds only exact copies.")
    threshold: float = Field(description="An image is flagged if its score is below this.")
    strictness: float | None = Field(
        description="The loosest threshold at which few images are flagged by chance: below it a sample is a match, and the bound is for"
        " it. None where there is none: the criterion is not usable in these data."
    )
    matches: int = Field(description="Samples whose score is below that.")
    flagged: Rate = Field(description="Share of the samples that could be judged which it flags.")
    null: Rate | None = Field(
        description="The same share of null images: held-out ones, and training images (leave-one-out)"
        " where those are a null; one that training images flag each other for counts twice. None without any."
    )
    null_heldout: Rate | None = Field(description="Of the held-out images alone.")
    null_training: Rate | None = Field(description="Of the training images alone (leave-one-out).")
    tests: list[ChanceTest] = Field(
        description="The loosest strictness first; none of a supporting criterion."
    )
    bound: float = Field(description="The share of such copies is below this at 95% confidence, one-sided.")
    distinct: int = Field(description="Different training images that the matches copy.")
    finding: Finding
    notes: list[str] = Field(default_factory=list)
    power: list[PowerRecord] = Field(
        default_factory=list,
        description="On positive controls of these training images; empty if not measured.",
    )

    @property
    def strongest(self) -> ChanceTest | None:
        """The test that finds copies most clearly, or comes nearest to it; none of a supporting criterion."""
        return min(self.tests, key=lambda test: test.p_value / test.level, default=None)


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
        description="How the sample was changed to match, for example 'mirrored', or the other reading under which it does; 'as is' if not."
    )
    criteria: list[str] = Field(description="Keys of the deciding criteria that flag it.")
    times: int = Field(default=1, description="How many samples are this very image, pixel for pixel.")


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


class ReadingRecord(Record):
    """The samples under another reading of images or values."""

    text: str = Field(description="The reading, for example 'EXIF orientation applied'.")
    remedy: str = Field(description="How to choose it.")
    copies: int = Field(description="Samples that are copies under it beyond chance; 0 if none are found.")
    samples: int = Field(description="Samples that could be judged.")
    criterion: str | None = Field(description="Key of the criterion that finds them.")
    same_pictures: int = Field(
        description="Samples that are nearly identical to a training image under it, where no training image is to another."
    )
    median_distance: float = Field(
        description="Median distance of the samples to the nearest training image under it, RMS grey levels."
    )
    usual_distance: float = Field(description="The same as the images were read.")
    fits_better: bool = Field(description="Whether the first is below 80% of the second.")


class VerdictRecord(Record):
    """What the audit concludes."""

    verdict: Verdict
    exit_code: int
    sentence: str = Field(description="The verdict with its numbers in one sentence.")
    reasons: list[str] = Field(description="What it rests on, a sentence each.")
    missing: list[str] = Field(description="What would be needed to tell more, a sentence each.")

    def __str__(self) -> str:
        return self.sentence


class AuditResult(Record):
    """An audit: the content of `audit.json`."""

    schema_version: Literal["diffmem-audit/2"] = "diffmem-audit/2"
    title: str
    private: bool = Field(description="Whether images and names were kept out of the report.")
    seed: int
    target: float = Field(description="The share of copies that the audit was to exclude.")
    verdict: VerdictRecord
    inputs: list[InputRecord]
    model: ModelRecord | None = Field(description="None if samples were given.")
    space: SpaceRecord | None = Field(default=None, description="None without training images.")
    sample_check: SampleCheckRecord | None = Field(
        default=None,
        description="Whether these can be samples of a model of this training set; none without training images.",
    )
    readings: list[ReadingRecord] = Field(
        default_factory=list,
        description="The samples under other readings of images or values, where there was a choice.",
    )
    criteria: list[CriterionRecord] = Field(
        default_factory=list, description="Empty if no sample can be judged."
    )
    copying: CopyingRecord | None = Field(default=None, description="None without held-out images.")
    copies: CopiesRecord | None = Field(default=None, description="None without training images.")
    distances: list[DistanceRecord] = Field(default_factory=list)
    membership: MembershipPart | None = Field(description="None unless a model was given.")
    flipd: FlipdRecord | None = None
    exposure: list[ExposureRecord] = Field(default_factory=list)
    notes: list[str] = Field(default_factory=list, description="Notes on the inputs, a sentence each.")
    limitations: list[str] = Field(description="What a clean audit does not prove, a sentence each.")
    versions: dict[str, str]

    @model_validator(mode="before")
    @classmethod
    def _of_this_schema(cls, values: Any) -> Any:
        found = values.get("schema_version", SCHEMA) if isinstance(values, dict) else SCHEMA
        if found != SCHEMA:
            raise UserError(
                f"This audit's record has the schema {found!r}, and this version reads {SCHEMA!r} alone: make the record again with"
                " the command of the audit (diffmem audit --train ... --out ...), or read it with the version that its 'versions' name."
            )
        return values

    def criterion(self, key: str) -> CriterionRecord | None:
        """Return the criterion with a key, or none."""
        return next((one for one in self.criteria if one.key == key), None)
