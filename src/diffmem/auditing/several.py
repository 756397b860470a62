"""Audits of several models beside each other: averages of several lengths, or steps of one training, in the order given."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Literal

from pydantic import Field

from diffmem.auditing.records import AuditResult, CriterionRecord, MembershipPart, VerdictRecord
from diffmem.memorization.rates import Rate
from diffmem.memorization.records import Record

__all__ = ["ModelAudit", "SeveralResult", "folders_of", "several"]

_BY_GRAVITY = ("none found", "cannot tell", "copies found")
_LONGEST = 60


class ModelAudit(Record):
    """What the audit of one of the models found; its own folder holds the rest."""

    name: str = Field(description="Of the model's file; its number in a private report.")
    folder: str = Field(description="Its own report, within that of all.")
    text: str = Field(description="What was read of the model.")
    verdict: VerdictRecord
    criteria: list[CriterionRecord] = Field(description="Those that decide.")
    membership: MembershipPart | None
    rates: dict[str, Rate] = Field(
        default_factory=dict,
        description="Further rates of copies, by what they are of; the same for all models.",
    )


class SeveralResult(Record):
    """Audits of several models: the content of `audit.json` in the folder of all."""

    schema_version: Literal["diffmem-audit-several/1"] = "diffmem-audit-several/1"
    title: str
    private: bool = Field(description="Whether images and names were kept out of the report.")
    models: list[ModelAudit] = Field(description="In the order given.")
    sentence: str = Field(default="", description="Which copies first, in the order given.")

    @property
    def exit_code(self) -> int:
        """That of the worst verdict: copies found, else cannot tell, else none found."""
        worst = max(self.models, key=lambda one: _BY_GRAVITY.index(one.verdict.verdict))
        return worst.verdict.exit_code


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
    folders: Sequence[str], audits: Sequence[AuditResult], rates: Sequence[Mapping[str, Rate]] = ()
) -> SeveralResult:
    """Return audits of several models in one record.

    Args:
        folders: As of `folders_of`.
        audits: One for each.
        rates: Likewise, further rates of copies; none without any.
    """
    rows = [
        ModelAudit(
            name=folder.partition("-")[0] if audit.private else folder.partition("-")[2],
            folder=folder,
            text="" if audit.model is None else audit.model.text,
            verdict=audit.verdict,
            criteria=[one for one in audit.criteria if one.role == "deciding"],
            membership=audit.membership,
            rates=dict(more),
        )
        for folder, audit, more in zip(folders, audits, rates or [{}] * len(audits), strict=True)
    ]
    return SeveralResult(
        title=audits[0].title, private=audits[0].private, models=rows, sentence=_in_order(rows)
    )
