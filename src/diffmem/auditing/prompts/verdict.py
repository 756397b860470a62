"""The verdict over prompts: as many trials as there are prompts, not as there are samples."""

from __future__ import annotations

from collections.abc import Sequence

from diffmem.auditing.findings import samples_needed
from diffmem.auditing.prompts.follows import LEAST_PROMPTS
from diffmem.auditing.prompts.records import GROUP_TEXT, CaptionsRecord, FollowsRecord, GroupRecord
from diffmem.auditing.records import EXIT_CODES, VerdictRecord
from diffmem.auditing.significance import format_p

__all__ = ["captions_text", "follows_text", "verdict_by_prompt"]

_USUAL_RISK = (
    0.01  # of the usual criteria beside the base model; the rest is that of the criterion of captions
)
_MORE = (
    "More prompts decide it; more samples of the same prompts do not, since they are no independent trials."
)
_UNLIKE_THE_BASE = (
    "More prompts, or training images that are less like each other; if the base model may have seen these images, audit it by"
    " itself."
)


def verdict_by_prompt(
    verdict: VerdictRecord,
    groups: Sequence[GroupRecord],
    target: float,
    follows: FollowsRecord | None,
    captions: CaptionsRecord | None = None,
    *,
    exact: bool = False,
) -> VerdictRecord:
    """Return the verdict of the samples, with the bound over prompts.

    The samples of one prompt are no independent trials. So what clears a model is the number of prompts: of training captions where there
    are any, which are likeliest to bring their images back, else of all but control prompts. Copies that are found stay found, unless a
    base model was asked the same and copies in no group of prompts less often (at 1%): then either the base model knows these images,
    too, or they are like what it draws anyway, and this comparison cannot tell which. Beside a base model, copies are also found by the
    one criterion of captions (at 4%), whatever the usual ones say.

    Args:
        verdict: Over the samples.
        groups: What was found by prompt.
        target: The share of prompts that copy that is to be excluded.
        follows: Whether samples depend on their prompts; none where too few prompts have two samples to ask: nothing is cleared then.
        captions: What the criterion of captions found; none where it could not be applied.
        exact: Whether some copies are identical to a training image, which no likeness explains.
    """
    found = verdict.verdict == "copies found"
    reasons = [
        *verdict.reasons,
        *([] if captions is None else [captions_text(captions)]),
        *_base_reasons(groups),
    ]
    if captions is not None and captions.found:
        usual = [f"By the usual criteria: {verdict.sentence}"] if found else []
        return VerdictRecord(
            verdict="copies found",
            exit_code=EXIT_CODES["copies found"],
            sentence=f"Copies found: {captions.sentence}.",
            reasons=[*usual, *reasons],
            missing=[],
        )
    beside = [one for one in groups if one.base is not None]
    if found and not exact and _as_often(beside):
        first = next((one for one in beside if one.group == "train"), beside[0])
        assert first.base is not None
        sentence = (
            f"Cannot tell: samples come near to training images, but so do those of the base model with the same prompts and noise: of"
            f" {GROUP_TEXT[first.group].lower()}, {first.copied.count:,} of {first.prompts:,} prompts copy, with the base model"
            f" {first.base.copied.count:,} (p = {first.base.p_value:.2g}){'' if captions is None else f'; {captions.sentence}'}."
        )
        return _cannot_tell(sentence, [verdict.sentence, *reasons], [_UNLIKE_THE_BASE, *verdict.missing])
    deciding = [one for one in groups if one.group == "train"] or [
        one for one in groups if one.group != "control"
    ]
    needed = samples_needed(target)
    if verdict.verdict != "none found":
        few = verdict.verdict == "cannot tell" and sum(one.prompts for one in deciding) < needed
        missing = [f"{_MORE} {needed:,} prompts without copies exclude {target:.2%}."] if few else []
        return verdict.model_copy(update={"reasons": reasons, "missing": [*verdict.missing, *missing]})
    if follows is None:
        return _cannot_tell(
            f"Cannot tell: nothing shows that the samples depend on the prompts, which takes two samples each of {LEAST_PROMPTS} prompts.",
            reasons,
            [f"Give two seeds or more to at least {LEAST_PROMPTS} prompts.", *verdict.missing],
        )
    if not follows.follows:
        sentence = f"Cannot tell: it is not shown that {follows_text(follows)}"
        return _cannot_tell(sentence, reasons, verdict.missing)
    if not deciding:
        return _cannot_tell(
            "Cannot tell: no prompt but control prompts has samples that can be judged.",
            reasons,
            verdict.missing,
        )
    worst = max(deciding, key=lambda one: one.bound)
    name = GROUP_TEXT[worst.group].lower()
    copied = (
        f"no prompt of {worst.prompts:,}"
        if not worst.copied.count
        else f"{worst.copied.count:,} of {worst.prompts:,} prompts"
    )
    if worst.bound > target:
        sentence = (
            f"Cannot tell: of {name}, {copied} copies, which excludes a share of {worst.bound:.2%} only; to exclude {target:.2%} takes"
            f" {needed:,} prompts without copies."
        )
        return _cannot_tell(sentence, reasons, [_MORE, *verdict.missing])
    sentence = (
        f"None found{' beyond chance' if worst.copied.count else ''}: of {name}, {copied} copies; with {worst.samples:,} samples of"
        f" {worst.prompts:,} prompts, the share of such prompts is below {worst.bound:.2%} at 95% confidence."
    )
    return verdict.model_copy(update={"sentence": sentence, "reasons": reasons})


def captions_text(captions: CaptionsRecord) -> str:
    """Return what the criterion of captions is, and what it found, in a sentence or two."""
    text = (
        f"By one criterion for every model of these images (a copy is nearer to the image of its caption than {captions.threshold:.3g} of"
        f" its distance to any other picture): {captions.sentence}."
    )
    one = captions.strongest
    if one.more + one.fewer:
        text += f" {one.more:,} samples copy here alone and {one.fewer:,} with the base model alone ({format_p(one.base_p_value)})"
        beside = one.control_p_value
        text += "." if beside is None else f"; beside captions of held-out images {format_p(beside)}."
    if not captions.found and one.detectable is not None:
        text += f" It finds copies in 4 of 5 audits where {one.detectable:.1%} of the samples of {one.text} copy, all alike."
    return text


def follows_text(follows: FollowsRecord) -> str:
    """Return what was compared, after 'it is not shown that'."""
    return (
        f"the samples depend on the prompts: two samples of a prompt are nearer to each other than to one of another prompt in"
        f" {follows.nearer:,} of {follows.nearer + follows.farther:,} cases (p = {follows.p_value:.2g}). Is this the list of these samples?"
    )


def _cannot_tell(sentence: str, reasons: list[str], missing: list[str]) -> VerdictRecord:
    return VerdictRecord(
        verdict="cannot tell",
        exit_code=EXIT_CODES["cannot tell"],
        sentence=sentence,
        reasons=reasons,
        missing=missing,
    )


def _as_often(beside: Sequence[GroupRecord]) -> bool:
    """Whether the base model copies wherever the model does, in no group less often by a sign test over prompts (Bonferroni)."""
    pairs = [(one, one.base) for one in beside if one.base is not None]
    more = [
        pair.p_value * len(pairs) <= _USUAL_RISK or (one.copied.count > 0 and not pair.copied.count)
        for one, pair in pairs
    ]
    return bool(pairs) and not any(more)


def _base_reasons(groups: Sequence[GroupRecord]) -> list[str]:
    return [
        f"{GROUP_TEXT[one.group]}: {one.copied.count:,} of {one.prompts:,} prompts copy, with the base model {one.base.copied.count:,} of"
        f" {one.base.copied.total:,} ({one.base.more:,} only here, {one.base.fewer:,} only there, p = {one.base.p_value:.2g})."
        for one in groups
        if one.base is not None and one.copied.count + one.base.copied.count
    ]
