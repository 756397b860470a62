"""Audits of several models beside each other: averages of several lengths, or steps of one training, in the order given."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import takewhile
from pathlib import Path
from typing import Literal

from pydantic import Field

from diffmem.auditing.prompts.records import CaptionsRecord
from diffmem.auditing.records import AuditResult, CriterionRecord, MembershipPart, VerdictRecord
from diffmem.memorization.rates import Rate
from diffmem.memorization.records import Record

__all__ = ["ModelAudit", "SeveralResult", "folders_of", "several"]

_BY_GRAVITY = ("none found", "cannot tell", "copies found")
_LONGEST = 60


class ModelAudit(Record):
    """What the audit of one of the models found; its own folder holds the rest."""

    name: str = Field(
        description="Of the model's file, behind its number where two have one name; its number in a private report."
    )
    folder: str = Field(description="Its own report, within that of all.")
    text: str = Field(description="What was read of the model.")
    verdict: VerdictRecord
    criteria: list[CriterionRecord] = Field(description="Those that decide.")
    membership: MembershipPart | None
    rates: dict[str, Rate] = Field(
        default_factory=dict,
        description="Further rates of copies, by what they are of; the same for all models.",
    )
    captions: CaptionsRecord | None = Field(
        default=None,
        description="Of a text-to-image model beside its base: the criterion that is the same for all models.",
    )


class SeveralResult(Record):
    """Audits of several models: the content of `audit.json` in the folder of all."""

    schema_version: Literal["diffmem-audit-several/1"] = "diffmem-audit-several/1"
    title: str
    private: bool = Field(description="Whether images and names were kept out of the report.")
    models: list[ModelAudit] = Field(description="In the order given.")
    sentence: str = Field(default="", description="Which copies first, in the order given.")
    first_copying: str | None = Field(
        default=None,
        description="Name of the first model that copies, by the criterion of captions, tested from the last backwards up to the first that"
        " is not found to; none where the last is not, or without that criterion.",
    )
    last_without: str | None = Field(
        default=None, description="Name of the model before it, of which copies are not found; none without."
    )

    @property
    def exit_code(self) -> int:
        """That of the worst verdict: copies found, else cannot tell, else none found."""
        worst = max(self.models, key=lambda one: _BY_GRAVITY.index(one.verdict.verdict))
        return worst.verdict.exit_code


def _backwards(models: Sequence[ModelAudit]) -> int:
    """Return how many models, from the last backwards, are found to copy by the criterion of captions.

    Each is tested only if all after it were found to: the error of all tests together is then that of one, whatever the models are
    (tests in a fixed order).
    """
    return len(list(takewhile(lambda one: one.captions is not None and one.captions.found, reversed(models))))


def _by_captions(models: Sequence[ModelAudit], copying: int) -> str:
    """Return which of the models copies first, and what is known of the one before it."""
    before = models[: len(models) - copying]
    if not copying:
        text = f"Copies are not found in {models[-1].name}, the last in the order given, by the criterion that is the same for all"
    elif not before:
        return f"In the order given, copies are found in {models[0].name}, the first, and in all after it."
    else:
        after = ("", " and in the one after it", f" and in all {copying - 1:,} after it")[min(copying, 3) - 1]
        text = f"In the order given, copies are found first in {models[-copying].name}{after}. The last without is {before[-1].name}"
    last = before[-1].captions
    if last is not None:
        text += f": {last.sentence}"
        if last.strongest.detectable is not None:
            text += f"; they are found in 4 of 5 audits once {last.strongest.detectable:.1%} of these samples copy, all captions alike"
    others = [one.name for one in before if one.verdict.verdict == "copies found"]
    if others:
        text += f". By themselves, copies are found in {', '.join(others)}, too"
    return f"{text}."


def _in_order(models: Sequence[ModelAudit]) -> str:
    """Return which of models that were given in an order copies first, in a sentence."""
    verdicts = [one.verdict.verdict for one in models]
    if "copies found" not in verdicts:
        unknown = verdicts.count("cannot tell")
        rest = f"; of {unknown:,} of them it cannot be told" if unknown else ""
        return f"In none of {len(models):,} models copies are found{rest}."
    at = verdicts.index("copies found")
    text = f"In the order given, copies are found first in {models[at].name}"
    clean = next((one.name for one in reversed(models[:at]) if one.verdict.verdict == "none found"), None)
    if clean is not None:
        text += f"; the last before it in which none are found is {clean}"
    unknown = verdicts[:at].count("cannot tell")
    if unknown:
        text += f"; of {unknown:,} before it that cannot be told"
    return f"{text}."


def folders_of(models: Sequence[Path], private: bool) -> list[str]:
    """Return a name for the folder of each model, in order; without names of files if they are private."""
    names = ["model" if private else path.resolve().name[:_LONGEST] for path in models]
    digits = len(str(len(models)))
    return [f"{number:0{digits}d}-{name}" for number, name in enumerate(names, 1)]


def several(
    folders: Sequence[str],
    audits: Sequence[AuditResult],
    rates: Sequence[Mapping[str, Rate]] = (),
    captions: Sequence[CaptionsRecord | None] = (),
) -> SeveralResult:
    """Return audits of several models in one record.

    Args:
        folders: As of `folders_of`.
        audits: One for each.
        rates: Likewise, further rates of copies; none without any.
        captions: Likewise, what the criterion of captions found; none without any.
    """
    names = [folder.partition("-")[2] for folder in folders]
    if len(set(names)) < len(names):  # as of last.safetensors of two runs
        names = list(folders)
    rows = [
        ModelAudit(
            name=folder.partition("-")[0] if audit.private else name,
            folder=folder,
            text="" if audit.model is None else audit.model.text,
            verdict=audit.verdict,
            criteria=[one for one in audit.criteria if one.role == "deciding"],
            membership=audit.membership,
            rates=dict(more),
            captions=one,
        )
        for folder, name, audit, more, one in zip(
            folders,
            names,
            audits,
            rates or [{}] * len(audits),
            captions or [None] * len(audits),
            strict=True,
        )
    ]
    known = all(one.captions is not None for one in rows)
    copying = _backwards(rows) if known else 0
    return SeveralResult(
        title=audits[0].title,
        private=audits[0].private,
        models=rows,
        sentence=_by_captions(rows, copying) if known else _in_order(rows),
        first_copying=rows[-copying].name if copying else None,
        last_without=rows[-copying - 1].name if 0 < copying < len(rows) else None,
    )
