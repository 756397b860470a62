"""The verdict: copies found, none found, or cannot tell, and why."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, field

from diffmem.auditing.records import (
    EXIT_CODES,
    ChanceTest,
    CopiesRecord,
    CopyingRecord,
    CriterionRecord,
    SpaceRecord,
    Verdict,
    VerdictRecord,
)
from diffmem.auditing.significance import format_p
from diffmem.memorization.rates import Rate

__all__ = ["Circumstances", "format_test", "limitations", "verdict_of", "verdict_without_training"]

EXACT = "exact"
"""Key of the planted copies that a detector must find before it may say that there are none."""

LEAST_POWER = 0.9

_WORTH_SAYING = 0.001  # of a null's rate beside the headline


@dataclass(frozen=True)
class Circumstances:
    """What else bears on the verdict.

    Attributes:
        problems: Why these samples or these held-out images cannot be judged, the gravest first: each is a reason not to clear them.
        same_pictures: Samples that are all but identical to a training image where no null image is.
        heldout_needed: Held-out images, none of them as near, that would decide what those are; none if no number does.
        elsewhere: Copies that are found under another reading of the images, a sentence each.
        said: What stands beside the verdict whatever it is.
        copying: The C_T test, for a remark.
        given: All samples, where some could not be judged; else none.
    """

    problems: list[str] = field(default_factory=list)
    same_pictures: int = 0
    heldout_needed: int | None = None
    elsewhere: list[str] = field(default_factory=list)
    said: list[str] = field(default_factory=list)
    copying: CopyingRecord | None = None
    given: int | None = None

    def samples_text(self, judged: int) -> str:
        """Return the number of samples that could be judged, and of all, in words: '20 different samples (of 400 given)'."""
        return (
            f"{judged:,} samples"
            if self.given is None
            else f"{judged:,} different samples (of {self.given:,} given)"
        )


def verdict_of(
    criteria: Sequence[CriterionRecord],
    copies: CopiesRecord,
    space: SpaceRecord,
    target: float,
    around: Circumstances | None = None,
) -> VerdictRecord:
    """Join what the deciding criteria found into one answer.

    Copies are found if a test of any deciding criterion finds them, here or under another reading of the images; that outranks every
    reason not to judge. Else the audit cannot tell if the samples or the held-out images are not what they should be, if samples are
    nearly identical to training images and too few to be counted as found, if a criterion is in doubt, or if none of them would see
    even exact copies. None are found otherwise, and the bound is that of the samples that could be judged.

    Args:
        criteria: All criteria, with power where it was measured; none if no sample can be judged.
    """
    there = Circumstances() if around is None else around
    deciding = [one for one in criteria if one.role == "deciding"]
    found = [one for one in deciding if one.finding == "copies"]
    open_ = [one for one in deciding if one.finding == "cannot tell"]
    clean = [one for one in deciding if one.finding == "none"]
    if found:
        return _found(found, space, there)
    reasons = [_criterion_text(one) for one in deciding]
    if there.elsewhere:
        return _record(
            "copies found",
            f"Copies found: {there.elsewhere[0]}",
            [*there.elsewhere[1:], *reasons],
            there.said,
        )
    if there.problems:
        first = re.sub("^The ", "the ", there.problems[0])
        return _record(
            "cannot tell",
            f"Cannot tell: {first}",
            reasons,
            [*there.problems[1:], *there.said],
        )
    if there.same_pictures:
        return _same(there, copies, reasons)
    # Identity finds exact copies whatever the data; what the others see is the question.
    sharp = [one for one in clean if not one.exact_only]
    if open_ or not any(_sees(one) for one in sharp):
        return _open(open_, deciding, reasons, there.said, target)
    bound = max(one.bound for one in sharp if _sees(one))
    total = clean[0].flagged.total
    flagged = max(clean, key=lambda one: one.matches)
    sentence = f"None found: with {there.samples_text(total)}, the rate of copies is below {_percent(bound)}% at 95% confidence."
    if flagged.matches:
        number = f"{flagged.matches} {'is' if flagged.matches == 1 else 'are'}"
        sentence = (
            f"None found beyond chance: with {there.samples_text(total)}, the rate of copies is below {_percent(bound)}% at 95% confidence;"
            f" {number} flagged, no more than chance explains{_beside(flagged)}."
        )
        reasons.append(
            "Look at the flagged samples all the same: chance explains their number, but not necessarily each of them."
        )
    if there.copying is not None and there.copying.conclusion == "copying":
        reasons.append(
            "By the C_T test, samples are nearer to the training images than held-out images are. No single sample is a copy by"
            " the criteria; the test also responds to blurred samples, and to a model that begins to memorize."
        )
    return _record("none found", sentence, reasons, [*there.said, *_null_remark(space)])


def verdict_without_training(reasons: Sequence[str]) -> VerdictRecord:
    """Return the verdict of an audit that saw no training images."""
    return _record(
        "cannot tell",
        "Cannot tell: there are no training images to compare with.",
        list(reasons),
        [
            "Give the training images with --train: only they show whether samples are copies. Without them, the audit can only test the"
            " model itself."
        ],
    )


def limitations(space: SpaceRecord | None, transforms: str | None, features: bool) -> list[str]:
    """Return what a clean audit does not prove."""
    trained = 0 if space is None else space.null_training
    sentences = (
        (
            True,
            "Only these samples are judged: copies that are rarer than the bound, or copies that appear with other prompts, labels,"
            " guidance or samplers, are not excluded.",
        ),
        (
            True,
            "A copy is an image that is near in the compared space. Copied parts of images (a logo, a face, a background) are not found,"
            " nor are copies that differ more than the positive controls that are found.",
        ),
        (
            True,
            "An image that is not copied is not necessarily private: membership may still be inferred, and training images may be extracted"
            " by optimizing the model's input.",
        ),
        (
            transforms is None,
            "Single copies that are mirrored, shifted or brightened were not searched for; use --transforms.",
        ),
        (
            not features,
            "Copies were searched for in pixels only; a copy-detection network, given with --features, finds more strongly changed ones.",
        ),
        (
            trained,
            f"{trained:,} training images (leave-one-out) show how often fresh images come near to them."
            " This is valid if near-copies were not removed from the training set; if they were, pass --deduplicated.",
        ),
    )
    return [sentence for holds, sentence in sentences if holds]


def _found(found: Sequence[CriterionRecord], space: SpaceRecord, around: Circumstances) -> VerdictRecord:
    # The criterion and the threshold that find most beyond chance: some flag many null images.
    pairs = [(one, test) for one in found for test in one.tests if test.p_value <= test.level]
    first, test = max(pairs, key=lambda pair: (pair[1].beyond_chance, -pair[1].strictness))
    total, flagged = around.samples_text(first.flagged.total), test.flagged
    images = test.events if test.test != "groups" else first.distinct
    many = "training image" if images == 1 else "different training images"
    count = Rate(flagged, first.flagged.total)
    sentence = (
        f"Copies found: {flagged:,} of {total} ({_share(count)}) copy {images:,} {many} by the criterion {first.title!r}"
        f"{_beside(first) if test.strictness == first.threshold else ''}."
    )
    return _record(
        "copies found",
        sentence,
        [_criterion_text(one) for one in found],
        [*around.said, *around.problems, *_null_remark(space)],
    )


def _beside(one: CriterionRecord) -> str:
    """Return the null's rate where it is worth a place beside a rate."""
    if one.null is None or one.null.value < _WORTH_SAYING:
        return ""
    return f"; false-positive rate {_share(one.null)}"


def _same(around: Circumstances, copies: CopiesRecord, reasons: list[str]) -> VerdictRecord:
    number = around.same_pictures
    sentence = (
        f"Cannot tell: {number:,} {'sample is' if number == 1 else 'samples are'} nearly identical to"
        f" {'a training image' if number == 1 else 'training images'}, and no null image is;"
        " their number alone does not exclude chance."
    )
    needed = around.heldout_needed
    missing = [
        "Look at the first pictures: if they show the same picture, and it is not a common one, the model has copied it.",
        "More samples decide it: the same rate among more of them would be found."
        + (
            ""
            if needed is None
            else f" So would {needed:,} held-out images, none of them as near to the training images as these samples are."
        ),
    ]
    return _record("cannot tell", sentence, reasons, [*missing, *around.said])


def _open(
    open_: Sequence[CriterionRecord],
    deciding: Sequence[CriterionRecord],
    reasons: list[str],
    said: list[str],
    target: float,
) -> VerdictRecord:
    missing = list(dict.fromkeys(note for one in open_ for note in one.notes))
    by_distance = [one for one in deciding if not one.exact_only]
    if open_:
        worst = max(open_, key=lambda one: one.matches)
        sentence = (
            f"Cannot tell: {worst.matches} of {worst.flagged.total:,} samples look like copies, which chance may explain{_beside(worst)}."
            if worst.matches
            else f"Cannot tell: {worst.flagged.total:,} samples are too few to exclude a rate of copies of {target:.2%}."
        )
    elif any(one.finding == "none" for one in by_distance):
        sentence = "Cannot tell: in these data the criteria do not even find the exact copies among the positive controls."
        missing.append(
            "Look at the training set: where many images are similar, or few values differ, no pixel distance separates copies from other"
            " images. A feature space (--features) may."
        )
    elif by_distance:
        sentence = "Cannot tell: every deciding criterion but identity flags too many null images."
        missing.append(
            f"Give a feature space (--features) that separates these images, or accept a larger rate than {target:.2%} (--target)."
        )
    else:
        sentence = "Cannot tell: no sample is identical to a training image, and with so few training images nothing else decides."
        missing.append(
            "A ratio of two distances needs a second neighbour: from three different training images on, it finds copies that are not"
            " exact. Samples that are near in absolute terms are in the table."
        )
    return _record("cannot tell", sentence, reasons, [*missing, *said])


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


def format_test(test: ChanceTest) -> str:
    """Return a test in a few words: '13 events against 0, p = 3e-08'."""
    return f"{test.events:,} {'event' if test.events == 1 else 'events'} against {test.others:,}, {format_p(test.p_value)}"


def _criterion_text(one: CriterionRecord) -> str:
    null = "no null" if one.null is None else f"{_share(one.null)} of {one.null.total:,} null images"
    test = one.strongest
    chance = "" if test is None or not test.events else f"; below {test.strictness:.3g}, {format_test(test)}"
    usable = "" if one.finding != "not usable" else "; not usable in these data"
    return f"{one.title}: {_share(one.flagged)} of the samples, {null}{chance}{usable}."


def _share(rate: Rate) -> str:
    return f"{_percent(rate.value)}% [{_percent(rate.low)}, {_percent(rate.high)}]"


def _percent(share: float) -> str:
    # Two digits of the smallest shares: a rare copy is not none.
    return f"{100 * share:.2f}" if share == 0 or share >= 1e-4 else f"{100 * share:.2g}"


def _null_remark(space: SpaceRecord) -> list[str]:
    if space.null_heldout:
        return []
    return [
        "Held-out images of the same source (--heldout) would be a better null than training images (leave-one-out)."
    ]
