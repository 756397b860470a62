"""What detectors of memorized prompts say and can do on one model, as typed records."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from diffmem.attacks.roc import Area
from diffmem.data.prompts import Group
from diffmem.memorization.rates import Rate
from diffmem.memorization.records import Record

__all__ = [
    "DETECTORS",
    "DetectorKey",
    "DetectorLevel",
    "DetectorRecord",
    "DetectorsRecord",
    "RankedPrompt",
    "Reference",
]

DetectorKey = Literal["agreement", "magnitude", "own_null", "base_null", "sharpness", "membership"]
Reference = Literal["canaries", "training captions", "none"]

DETECTORS: dict[DetectorKey, tuple[str, str]] = {
    "agreement": (
        "Agreement of seeds",
        "minus the mean distance between the samples of a prompt, root mean square in levels of 255",
    ),
    "magnitude": (
        "Magnitude at the first step",
        "|e_c - e_0| where sampling begins, mean over seeds (Wen et al. 2024, one step)",
    ),
    "own_null": (
        "Magnitude, the model's own null",
        "|e_c - e_0| at samples with noise of four levels; may turn round where images are repeated often",
    ),
    "base_null": (
        "Magnitude, the base model's null",
        "|e_c - e_0| at the same states, e_0 being that of the base model",
    ),
    "sharpness": (
        "Sharpness at the first step",
        "|H_c d - H_0 d|, d = s_c - s_0, where sampling begins, mean over seeds (Jeon et al. 2025)",
    ),
    "membership": (
        "Membership by the base model's loss",
        "loss of the base model on the image with its caption, minus that of the model; needs the image",
    ),
}
"""The detectors: a title, and what is measured."""


class DetectorLevel(Record):
    """Prompts of images that an epoch of training holds equally often, against control prompts."""

    repeats: int | None = Field(description="None where the training set does not tell.")
    prompts: int
    found: Rate | None = Field(description="Share above the threshold: the power; none without a threshold.")
    auc: Area | None = Field(
        description="Share of pairs in which the prompt scores above a control prompt; none for a single one."
    )
    p_value: float = Field(
        description="Of so high a sum of ranks, if a fair draw told the two apart (one-sided)."
    )
    shown: bool = Field(
        description="Whether p is at most 0.05, divided by the number of levels and of detectors."
    )


class DetectorRecord(Record):
    """One detector on this model."""

    key: DetectorKey
    title: str
    measures: str
    controls: int = Field(description="Control prompts that have a score.")
    threshold: float | None = Field(
        description="That score of a control prompt which is the k-th highest; prompts above it are found. None with fewer than 19."
    )
    false_alarms: float | None = Field(
        description="k / (n + 1), at most 0.05: the probability that a further control prompt is found."
    )
    levels: list[DetectorLevel] = Field(description="The most repeats first.")
    power: float | None = Field(
        description="Mean over the levels of the share that is found: what detectors are ranked by; none without."
    )
    usable: bool | None = Field(
        description="Whether it is shown at any level to tell trained prompts from control prompts; if not, its scores say nothing here."
        " None where no prompt is known to be trained on."
    )


class RankedPrompt(Record):
    """A prompt that scores put high."""

    prompt: str | None = Field(description="None in a private report.")
    prompt_hash: str
    group: Group
    repeats: int | None
    score: float = Field(description="Of the detector that ranks.")
    p_value: float = Field(
        description="(1 + control prompts that score as high) / (1 + control prompts): of this prompt alone, not of the best of many."
    )


class DetectorsRecord(Record):
    """The detectors, by their power on this model: the content of `detectors.json`."""

    schema_version: Literal["diffmem-audit-detectors/1"] = "diffmem-audit-detectors/1"
    private: bool
    sentence: str = Field(description="What they say, in one sentence.")
    reference: Reference = Field(
        description="Which trained prompts the power is of; 'none' where no training set was given."
    )
    detectors: list[DetectorRecord]
    text_alone: Area | None = Field(
        description="Area of a classifier that sees only the texts of training captions and control prompts, by folds; none of too few."
    )
    texts_differ: bool = Field(
        description="Whether that area is above a half, at 99% confidence: then the lists differ already, whatever a model does."
    )
    ranked_by: DetectorKey | None = Field(
        description="The first detector with power, else the first that there is; none without control prompts."
    )
    ranked: list[RankedPrompt] = Field(
        description="The prompts that it puts highest, control prompts left out; at most 20."
    )
    notes: list[str]
