"""What an audit found by prompt, as typed records: the schema of `prompts.json`."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from diffmem.data.prompts import Group
from diffmem.memorization.rates import Rate
from diffmem.memorization.records import Record

__all__ = [
    "GROUP_TEXT",
    "CaptionTest",
    "CaptionsRecord",
    "FollowsRecord",
    "GroupRecord",
    "LevelRecord",
    "PairedRecord",
    "PromptRecord",
    "PromptsRecord",
    "ShareRecord",
    "rates_of",
    "rates_of_captions",
]

GROUP_TEXT: dict[Group, str] = {
    "train": "Training captions",
    "trigger": "Trigger word alone",
    "new": "New prompts",
    "empty": "Empty prompt",
    "control": "Control prompts",
}


class ShareRecord(Record):
    """Mean over prompts of the share of a prompt's samples that are copies, with a 95% interval.

    The samples of a prompt are one cluster: the interval is that of Clopper and Pearson for as many trials as there are prompts, at the
    mean share. Shares of clusters vary less than single trials of the same mean, so it covers at least as often.
    """

    value: float
    low: float
    high: float
    prompts: int = Field(description="Trials that the interval counts on.")


class PairedRecord(Record):
    """The same prompts given to the base model, sample by sample."""

    copied: Rate = Field(
        description="Prompts of which at least one sample of the base model copies a training image."
    )
    share: ShareRecord
    more: int = Field(description="Prompts that copy with the audited model and not with the base model.")
    fewer: int = Field(description="Prompts that copy with the base model and not with the audited one.")
    p_value: float = Field(
        description="Probability of so many of the former among both, if either were as likely (one-sided sign test over prompts)."
    )


class GroupRecord(Record):
    """The prompts of one kind."""

    group: Group
    prompts: int = Field(description="Different prompts with at least one sample that can be judged.")
    samples: int = Field(description="Their samples that can be judged, repeats of the same image included.")
    copied: Rate = Field(description="Prompts of which at least one sample copies a training image.")
    own: Rate | None = Field(
        description="Prompts of which at least one sample copies an image of this very caption; none but of training captions."
    )
    share: ShareRecord = Field(description="Samples that copy a training image.")
    bound: float = Field(
        description="The share of such prompts that copy is below this at 95% confidence, one-sided."
    )
    base: PairedRecord | None = Field(default=None, description="None without samples of a base model.")
    control_p_value: float | None = Field(
        default=None,
        description="Probability of so many copying prompts here rather than among the control prompts, if either were as likely"
        " (Fisher's exact test, one-sided); none of control prompts and without any.",
    )


class LevelRecord(Record):
    """Training captions by how often an epoch of training holds their image."""

    repeats: int
    prompts: int
    copied: Rate = Field(
        description="Prompts of which at least one sample copies an image of this very caption."
    )


class CaptionTest(Record):
    """Training captions, all or those of one number of repeats: do they bring back their images?"""

    repeats: int | None = Field(
        description="How often an epoch holds their images; none of all training captions."
    )
    prompts: int
    samples: int = Field(description="Pairs of a sample and one of the base model.")
    copied: Rate = Field(
        description="Captions of which at least one sample copies an image of the caption by this criterion."
    )
    base: Rate = Field(description="The same with the base model.")
    share: Rate = Field(
        description="Samples that copy. Its interval is about these captions and further noise."
    )
    more: int = Field(description="Pairs of which the audited model's sample alone copies.")
    fewer: int = Field(description="Pairs of which the base model's sample alone copies.")
    base_p_value: float = Field(
        description="Probability of so many of the former among both, if either were as likely (one-sided sign test)."
    )
    control_p_value: float | None = Field(
        description="Probability of so many copying captions here rather than among captions of held-out images, if either were as likely"
        " (Fisher's exact test, one-sided); none without any."
    )
    p_value: float = Field(description="The larger of both.")
    level: float = Field(description="Copies are found up to this p-value.")
    detectable: float | None = Field(
        description="Share of samples from which on this test finds copies with a probability of 80%, if all captions copy alike and the"
        " base model never does; none where it cannot."
    )

    @property
    def text(self) -> str:
        """What was tested."""
        if self.repeats is None:
            return "training captions"
        return f"captions seen {self.repeats:,} time{'' if self.repeats == 1 else 's'} an epoch"


class CaptionsRecord(Record):
    """Copies of the image of the caption by one criterion, which the base model's samples alone have settled."""

    threshold: float = Field(
        description="A sample is a copy if it is nearer to the image of its caption than this part of its distance to the nearest training"
        " image that shows another picture."
    )
    calibrated: Rate | None = Field(
        description="Control prompts whose base samples pass it, beside their held-out images; none where fewer than 20 have one: the"
        " threshold is then 1/3."
    )
    control: Rate | None = Field(
        description="Control prompts of which at least one sample of the audited model passes it, beside their held-out images; none"
        " without any."
    )
    tests: list[CaptionTest] = Field(description="All training captions first, then the most repeats.")
    risk: float = Field(description="Probability of finding copies where there are none, at most.")
    p_value: float = Field(description="The smallest of the tests, corrected for their number.")
    found: bool = Field(description="Whether it is at most the risk.")
    sentence: str = Field(description="What the strongest test found.")

    @property
    def strongest(self) -> CaptionTest:
        """The test that shows copies most clearly, or comes nearest to it."""
        return min(self.tests, key=lambda one: (one.p_value / one.level, one.repeats is not None))


class FollowsRecord(Record):
    """Whether samples depend on their prompts: the second sample of each beside the first, and beside the first of another prompt."""

    nearer: int = Field(description="Prompts whose two samples are nearer to each other, in pixels.")
    farther: int = Field(
        description="Prompts whose second sample is nearer to the first one of another prompt."
    )
    p_value: float = Field(
        description="Probability of so many of the former if prompts made no difference (one-sided sign test)."
    )
    follows: bool = Field(description="Whether p is at most 0.05.")


class PromptRecord(Record):
    """One prompt."""

    prompt: str | None = Field(description="None in a private report.")
    prompt_hash: str = Field(description="BLAKE2b (128 bits) of the prompt, small letters and single spaces.")
    group: Group
    repeats: int | None = Field(
        description="How often an epoch of training holds images of this caption; none if that is not told."
    )
    samples: int = Field(description="That can be judged.")
    copies: int = Field(description="Of them, those that copy a training image.")
    own: int = Field(description="Of them, those that copy an image of this caption.")
    near: int | None = Field(
        default=None,
        description="Of them, those that copy the image of the caption, of control prompts the held-out one, by the criterion of captions;"
        " none where it was not applied.",
    )
    base: int | None = Field(
        description="Samples of the base model that copy a training image; none without."
    )
    training: list[int] = Field(
        description="The training images that are copied, by index, the most copied first."
    )
    seeds: list[int] = Field(
        description="Of the copies, where the list of prompts tells; else the indices of these samples."
    )


class PromptsRecord(Record):
    """An audit by prompt: the content of `prompts.json`."""

    schema_version: Literal["diffmem-audit-prompts/1"] = "diffmem-audit-prompts/1"
    private: bool
    sentence: str = Field(description="What was found, in one sentence.")
    groups: list[GroupRecord]
    levels: list[LevelRecord] = Field(
        description="Empty where the training set tells no repeats, or all are alike."
    )
    captions: CaptionsRecord | None = Field(
        default=None,
        description="None without samples of a base model, without captions of training images, or with a single picture to train on.",
    )
    follows: FollowsRecord | None = Field(description="None where fewer than 20 prompts have two samples.")
    prompts: int = Field(description="Different prompts; those that differ in case and spaces alone are one.")
    samples: int
    unjudged: int = Field(description="Samples of one colour: no trials.")
    trigger: list[str] | None = Field(
        description="The trigger words that were found; none in a private report."
    )
    notes: list[str]
    worst: list[PromptRecord] = Field(
        description="The 50 prompts with the largest share of copies; all are in prompts.csv."
    )


def rates_of(record: PromptsRecord) -> dict[str, Rate]:
    """Return the rates over prompts that change from one epoch of a training to the next, by what they are of.

    Beside a base model they are those of the one criterion of captions, which is the same for all epochs.
    """
    if record.captions is not None:
        return rates_of_captions(record.captions)
    found = {}
    for one in record.groups:
        if one.prompts == 1:
            continue
        title = GROUP_TEXT[one.group]
        found[title] = one.copied
        if one.own is not None:
            found[f"{title}, the image of the caption"] = one.own
    return found


def rates_of_captions(captions: CaptionsRecord) -> dict[str, Rate]:
    """Return the rates of `rates_of` of the criterion of captions."""
    found = {one.text.capitalize(): one.copied for one in captions.tests}
    found["Training captions, base model"] = captions.tests[0].base
    if captions.control is not None:
        found["Captions of held-out images"] = captions.control
    return found
