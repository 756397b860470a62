"""The verdict: copies found, none found, or cannot tell, and why."""

from __future__ import annotations

from collections.abc import Sequence

from diffmem.auditing.records import (
    EXIT_CODES,
    CopiesRecord,
    CopyingRecord,
    CriterionRecord,
    SpaceRecord,
    Verdict,
    VerdictRecord,
)
from diffmem.auditing.significance import p_words
from diffmem.memorization.records import RateRecord

__all__ = ["limitations", "verdict_of", "verdict_without_training"]

EXACT = "exact"
"""Key of the planted copies that an instrument must find before it may say that there are none."""

LEAST_POWER = 0.9


def verdict_of(
    criteria: Sequence[CriterionRecord],
    copies: CopiesRecord,
    space: SpaceRecord,
    copying: CopyingRecord | None,
    target: float,
) -> VerdictRecord:
    """Join what the deciding criteria found into one answer.

    Copies are found if any of them finds some beyond chance. None are found if every deciding criterion that is usable in these data
    says so, at least one of them is, and one of those finds exact copies that were planted. Otherwise the audit cannot tell.

    Args:
        criteria: All criteria, with power where it was measured.
        copies: The matches.
        space: The space and the null.
        copying: The C_T test, for a remark.
        target: The share of copies to be excluded.
    """
    deciding = [one for one in criteria if one.role == "deciding"]
    found = [one for one in deciding if one.finding == "copies"]
    open_ = [one for one in deciding if one.finding == "cannot tell"]
    clean = [one for one in deciding if one.finding == "none"]
    if found:
        return _found(found, copies, space)
    reasons = [_in_words(one) for one in deciding]
    # Identity finds exact copies whatever the data; what the others see is the question.
    blind = clean and not any(_sees(one) for one in clean if one.key != "identical")
    if open_ or not clean or blind:
        return _open(open_, clean, bool(blind), reasons, target)
    bound = max(one.bound for one in clean if _sees(one))
    total = clean[0].flagged.total
    flagged = max(clean, key=lambda one: one.flagged.count)
    sentence = f"None found: with {total:,} samples, the rate of copies is below {_percent(bound)}% at 95% confidence."
    if flagged.flagged.count:
        number = f"{flagged.flagged.count} {'is' if flagged.flagged.count == 1 else 'are'}"
        sentence = (
            f"None found beyond chance: with {total:,} samples, the rate of copies is below {_percent(bound)}% at 95% confidence; {number}"
            " flagged, no more than of images that were never copied."
        )
        reasons.append(
            "Look at the flagged samples all the same: counts say that chance makes so many, not that each of them is chance."
        )
    if copying is not None and copying.conclusion == "copying":
        reasons.append(
            "The C_T test says that samples lie nearer to the training images than held-out images do. No single sample is a copy by"
            " the criteria; blurred samples lie so, and so do those of a model that begins to memorize."
        )
    return _record("none found", sentence, reasons, _null_remark(space))


def verdict_without_training(reasons: Sequence[str]) -> VerdictRecord:
    """Return the verdict of an audit that saw no training images."""
    return _record(
        "cannot tell",
        "Cannot tell: there are no training images to compare with.",
        list(reasons),
        [
            "Give the training images with --train: only they show whether samples are copies. Without them, signs in the model itself"
            " are all there is."
        ],
    )


def limitations(space: SpaceRecord | None, transforms: str | None, features: bool) -> list[str]:
    """Return what a clean audit does not prove."""
    lines = [
        "Only the samples that were looked at are judged: rarer copies than the bound, or copies that appear with other prompts, labels,"
        " guidance or samplers, are not excluded.",
        "A copy is an image that is near in the compared space. Copied parts of images (a logo, a face, a background) are not found, nor"
        " are copies that are changed more than the table of planted copies shows.",
        "Not to be copied is not to be private: membership may still be inferred, and a model can give training images away to those who"
        " optimize its input.",
    ]
    if transforms is None:
        lines.append("Mirrored, shifted and brightened copies were not looked for; --transforms does.")
    if not features:
        lines.append(
            "Copies were looked for in pixels only; a copy-detection network, given with --features, sees through stronger changes."
        )
    if space is not None and space.null_source == "training, leave one out":
        lines.append(
            "There were no held-out images. Training images, each against all others, stand in for them; if near-copies were removed from"
            " the training set, they show chance as smaller than it is."
        )
    return lines


def _found(found: Sequence[CriterionRecord], copies: CopiesRecord, space: SpaceRecord) -> VerdictRecord:
    # What is beyond chance, not what is flagged: some criteria flag many images that were never copied.
    first = max(found, key=lambda one: one.flagged.value - (0 if one.null is None else one.null.value))
    images = "training image" if copies.distinct == 1 else "different training images"
    sentence = (
        f"Copies found: {first.flagged.count:,} of {first.flagged.total:,} samples ({_share(first.flagged)}) copy"
        f" {first.distinct:,} {'training image' if first.distinct == 1 else images} by the criterion {first.title!r}."
    )
    return _record("copies found", sentence, [_in_words(one) for one in found], _null_remark(space))


def _open(
    open_: Sequence[CriterionRecord],
    clean: Sequence[CriterionRecord],
    blind: bool,
    reasons: list[str],
    target: float,
) -> VerdictRecord:
    missing = list(dict.fromkeys(note for one in open_ for note in one.notes))
    if open_:
        worst = max(open_, key=lambda one: one.flagged.count)
        sentence = (
            f"Cannot tell: {worst.flagged.count} of {worst.flagged.total:,} samples look like copies, which chance may explain."
            if worst.flagged.count
            else f"Cannot tell: {worst.flagged.total:,} samples are too few to exclude a share of copies of {target:.2%}."
        )
    elif blind:
        sentence = "Cannot tell: in these data the criteria do not even find exact copies that are planted."
        missing.append(
            "Look at the training set: where many images are alike, or few values differ, no distance parts copies from others. A feature"
            " space (--features) may."
        )
    else:
        assert not clean
        sentence = "Cannot tell: every deciding criterion flags too many images that were never copied."
        missing.append(
            f"Give a feature space (--features) that parts these images, or accept a larger share than {target:.2%} (--target)."
        )
    return _record("cannot tell", sentence, reasons, missing)


def _record(verdict: Verdict, sentence: str, reasons: list[str], missing: list[str]) -> VerdictRecord:
    return VerdictRecord(
        verdict=verdict,
        exit_code=EXIT_CODES[verdict],
        sentence=sentence,
        reasons=reasons,
        missing=missing,
    )


def _sees(one: CriterionRecord) -> bool:
    """Whether a criterion finds exact copies that are planted; so it is taken to be where none were planted."""
    exact = next((power for power in one.power if power.key == EXACT), None)
    return exact is None or exact.detected.value >= LEAST_POWER


def _in_words(one: CriterionRecord) -> str:
    null = "no null" if one.null is None else f"{_share(one.null)} of {one.null.total:,} null images"
    p = "" if one.chance is None or not one.flagged.count else f", {p_words(one.chance.p_value)}"
    usable = "" if one.finding != "not usable" else "; not usable in these data"
    return f"{one.title}: {_share(one.flagged)} of the samples, {null}{p}{usable}."


def _share(rate: RateRecord) -> str:
    return f"{_percent(rate.value)}% [{_percent(rate.low)}, {_percent(rate.high)}]"


def _percent(share: float) -> str:
    # Two digits of the smallest shares: a rare copy is not none.
    return f"{100 * share:.2f}" if share == 0 or share >= 1e-4 else f"{100 * share:.2g}"


def _null_remark(space: SpaceRecord) -> list[str]:
    if space.null_source == "heldout":
        return []
    return [
        "Held-out images of the same source (--heldout) would show better what chance does than training images against each other."
    ]
