"""Copies by prompt: of the image of the caption or of any other, by group, beside control prompts and beside the base model."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import get_args

import numpy as np
from numpy.typing import NDArray

from diffmem.auditing.audit import Audited
from diffmem.auditing.compare import Comparison, copies_found
from diffmem.auditing.detector import Detections, occurrences
from diffmem.auditing.matches import matches_of
from diffmem.auditing.prompts.captions import caption_images, caption_ratios, captions_record
from diffmem.auditing.prompts.detectors import AskedPrompt, Detected, Scores, detectors_of
from diffmem.auditing.prompts.follows import follows_prompts
from diffmem.auditing.prompts.groups import Prompted, prompted
from diffmem.auditing.prompts.notes import ELSEWHERE, groups_sentence, prompt_notes
from diffmem.auditing.prompts.records import (
    GroupRecord,
    LevelRecord,
    PairedRecord,
    PromptRecord,
    PromptsRecord,
)
from diffmem.auditing.prompts.shares import fisher_p_value, mean_share, sign_p_value
from diffmem.auditing.prompts.verdict import verdict_by_prompt
from diffmem.auditing.records import MatchRecord
from diffmem.auditing.request import AuditOptions
from diffmem.auditing.significance import upper_bound
from diffmem.auditing.spaces import align
from diffmem.data import ImageSet, duplicate_groups
from diffmem.data.prompts import Group, PromptList, comparable, prompt_hash
from diffmem.errors import UserError
from diffmem.memorization.plausibility.repeats import constant_images
from diffmem.memorization.rates import Rate

__all__ = ["PromptAudit", "PromptInputs", "audit_prompts"]

_WORST = 50


@dataclass(frozen=True, eq=False)
class PromptInputs:
    """What an audit by prompt needs beside the audit of the samples.

    Attributes:
        prompts: The list.
        control: Captions of images that were not trained on: of held-out images, and of control canaries.
        unseen: Images with captions that were not trained on, the held-out ones first; none without.
        base: Samples of the base model, made of the same prompts and seeds, in the same order as the samples; none without.
        scores: Of the prompts, by detectors that need a network.
        planted: Captions of planted canaries, as `comparable` writes them, with how often an epoch holds each.
    """

    prompts: PromptList
    control: Collection[str] = ()
    unseen: ImageSet | None = None
    base: ImageSet | None = None
    scores: Scores = field(default_factory=dict)
    planted: Mapping[str, int] = field(default_factory=dict)

    def check(self, samples: ImageSet, training: ImageSet) -> None:
        """Refuse, before an audit, what does not fit its samples.

        Raises:
            UserError: The list does not tell the prompt of each sample, or base samples have other names, another number or another size.
        """
        prompted(self.prompts, samples.names, training, self.control)
        if self.base is None:
            return
        if len(self.base) != len(samples):
            raise UserError(
                f"There are {len(samples):,} samples and {len(self.base):,} of the base model; make them of the same prompts and seeds."
            )
        names = [[name.rpartition("/")[2] for name in images.names] for images in (samples, self.base)]
        differ = next((pair for pair in zip(*names, strict=True) if pair[0] != pair[1]), None)
        if differ is not None:
            raise UserError(
                f"Samples and base samples are paired by their names, and {differ[0]} stands beside {differ[1]}; give them one name."
            )
        if self.base.shape != samples.shape:
            raise UserError(
                f"Base samples have shape {self.base.shape} and samples {samples.shape} (C, H, W); make them of the same size."
            )


@dataclass(frozen=True, eq=False)
class PromptAudit:
    """An audit by prompt with what pictures need.

    Attributes:
        record: What was found.
        prompts: Every prompt, the largest share of copies first.
        of_prompt: Indices of the samples of each of these, int64 (n,).
        copied: The training image that each sample copies, int64 (Q,); -1 for none.
        detected: What scores without training images say of the prompts.
        base: Samples of the base model as they were compared; none without.
        base_copied: As `copied`, of these.
        near: Which samples copy the image of their caption by the criterion of captions, and which of the base model, bool (Q,); none where
            it was not applied.
    """

    record: PromptsRecord
    prompts: list[PromptRecord]
    of_prompt: list[NDArray[np.int64]]
    copied: NDArray[np.int64]
    detected: Detected
    base: ImageSet | None = None
    base_copied: NDArray[np.int64] | None = None
    near: tuple[NDArray[np.bool_], NDArray[np.bool_]] | None = None


@dataclass(frozen=True, eq=False)
class _Counts:
    """Of each prompt, int64 (P,): samples that can be judged, copies, copies of an image of its caption; the first two of the base."""

    judged: NDArray[np.int64]
    copies: NDArray[np.int64]
    own: NDArray[np.int64]
    base: tuple[NDArray[np.int64], NDArray[np.int64]] | None


def audit_prompts(audited: Audited, inputs: PromptInputs) -> tuple[Audited, PromptAudit]:
    """Count copies by prompt; return the audit with a verdict over prompts, and what was counted.

    A sample is a copy if the audit of the samples flags it by a criterion that decides; every sample counts here, repeats of one image,
    too, since each is what its prompt gave. Copies found by that audit are found here; none found, with too few prompts to exclude the
    target, is 'cannot tell'.

    Args:
        audited: An audit of given samples with training images.

    Raises:
        UserError: The audit has no training images, or is of a model; see also `PromptInputs.check`.
    """
    shown = audited.shown
    if shown is None or audited.result.model is not None:
        raise UserError("Prompts need samples (--samples) and the training images (--train).")
    given = prompted(inputs.prompts, shown.samples.names, shown.training, inputs.control)
    count = len(given.texts)
    options = AuditOptions(private=audited.result.private)
    copied, usable = _copied(shown.samples.images, shown.matches, shown.found.times)
    base, base_copied, of_base, captions, near = None, None, None, None, None
    repeats = _repeats(given, shown.training)
    result = audited.result
    elsewhere = not copies_found(result.criteria) and any(one.copies for one in result.readings)
    if inputs.base is not None and not elsewhere:
        base, found = _of_base(shown, inputs.base)
        matches = matches_of(shown.detector, shown.training, base, found, shown.used, options)
        base_copied, usable_base = _copied(base.images, matches, found.times)
        of_base = _per_prompt(given, usable_base, count), _per_prompt(given, base_copied >= 0, count)
        own = caption_images(given, shown, inputs.unseen)
        mine, theirs = (
            np.where(can, caption_ratios(shown.detector, one, given.of_sample, own), np.nan)
            for one, can in ((shown.found, usable), (found, usable_base))
        )
        captions = captions_record((mine, theirs), given.of_sample, given.groups, repeats)
        if captions is not None:
            near = mine < captions.threshold, theirs < captions.threshold
    counts = _Counts(
        _per_prompt(given, usable, count),
        _per_prompt(given, copied >= 0, count),
        _per_prompt(given, _is_own(given, copied, shown), count),
        of_base,
    )
    share = counts.copies / np.maximum(1, counts.judged)
    order = np.lexsort((np.arange(count), -counts.own, -share)).tolist()
    seeds = np.zeros(len(copied)) if given.seeds is None else np.array(given.seeds, np.float64)
    by_prompt = np.split(
        np.lexsort((seeds, given.of_sample)),
        np.cumsum(np.bincount(given.of_sample, minlength=count))[:-1],
    )
    of_prompt = [by_prompt[at] for at in order]
    prompts = [
        _prompt(given, at, counts, repeats, (copied, near), by_prompt[at], private=options.private)
        for at in order
    ]
    groups = _groups(given, counts)
    follows = follows_prompts(shown.samples.images, by_prompt)
    exact = any(one.exact_only and one.finding == "copies" for one in result.criteria)
    verdict = verdict_by_prompt(result.verdict, groups, result.target, follows, captions, exact=exact)
    listed = 0 if any(inputs.prompts.files) else len(inputs.prompts)
    record = PromptsRecord(
        private=options.private,
        sentence=groups_sentence(groups),
        groups=groups,
        levels=_levels(given, counts, repeats),
        captions=captions,
        follows=follows,
        prompts=count,
        samples=len(copied),
        unjudged=int((~usable).sum()),
        trigger=None if options.private else list(given.trigger),
        notes=[
            *([ELSEWHERE] if inputs.base is not None and elsewhere else []),
            *prompt_notes(given, shown, follows, listed=listed, based=inputs.base is not None),
        ],
        worst=prompts[:_WORST],
    )
    return replace(audited, result=result.model_copy(update={"verdict": verdict})), PromptAudit(
        record,
        prompts,
        of_prompt,
        copied,
        detectors_of(
            [AskedPrompt(*one) for one in zip(given.texts, given.groups, repeats, strict=True)],
            (shown.samples.images, by_prompt),
            inputs.scores,
            inputs.planted,
            private=options.private,
        ),
        base,
        base_copied,
        near,
    )


def _copied(
    images: NDArray[np.uint8], matches: Sequence[MatchRecord], times: NDArray[np.int64]
) -> tuple[NDArray[np.int64], NDArray[np.bool_]]:
    """Return the training image that each image copies, -1 for none, and which can be judged; a repeat is what its first one is."""
    first = np.asarray(duplicate_groups(images))
    copied = np.full(len(images), -1, np.int64)
    for match in matches:
        copied[match.sample] = match.training
    return copied[first], (times > 0)[first]


def _of_base(shown: Comparison, base: ImageSet) -> tuple[ImageSet, Detections]:
    """Compare samples of the base model by the same criteria."""
    aligned = align({"training": shown.training, "samples": base}).sets
    base = aligned["samples"]
    times = np.where(constant_images(base.images), 0, occurrences(base.images))
    return base, shown.detector.detect(base.images, times=times)


def _per_prompt(given: Prompted, flags: NDArray[np.bool_], count: int) -> NDArray[np.int64]:
    return np.bincount(given.of_sample[flags], minlength=count).astype(np.int64)


def _is_own(given: Prompted, copied: NDArray[np.int64], shown: Comparison) -> NDArray[np.bool_]:
    """Return which samples copy an image of their own caption; an image that the set holds several times has all of its captions."""
    if shown.training.captions is None:
        return np.zeros(len(copied), bool)
    first = np.asarray(duplicate_groups(shown.training.images))
    captions: dict[int, set[str]] = defaultdict(set)
    for image, caption in zip(first.tolist(), shown.training.captions, strict=True):
        if caption is not None:
            captions[image].add(comparable(caption))
    keys = [comparable(text) for text in given.texts]
    pairs = zip(given.of_sample.tolist(), copied.tolist(), strict=True)
    return np.array([image >= 0 and keys[prompt] in captions[int(first[image])] for prompt, image in pairs])


def _repeats(given: Prompted, training: ImageSet) -> list[int | None]:
    """Return how often an epoch holds images of each prompt; none of prompts that are no caption."""
    counts: Counter[str] = Counter()
    each = [1] * len(training) if training.repeats is None else training.repeats.tolist()
    for caption, times in zip(training.captions or (None,) * len(training), each, strict=True):
        if caption is not None:
            counts[comparable(caption)] += times
    return [counts.get(comparable(text)) for text in given.texts]


def _prompt(
    given: Prompted,
    at: int,
    counts: _Counts,
    repeats: Sequence[int | None],
    flagged: tuple[NDArray[np.int64], tuple[NDArray[np.bool_], NDArray[np.bool_]] | None],
    samples: NDArray[np.int64],
    *,
    private: bool,
) -> PromptRecord:
    text, (copied, near) = given.texts[at], flagged
    copies = samples[copied[samples] >= 0].tolist()
    return PromptRecord(
        prompt=None if private else text,
        prompt_hash=prompt_hash(text),
        group=given.groups[at],
        repeats=repeats[at],
        samples=int(counts.judged[at]),
        copies=int(counts.copies[at]),
        own=int(counts.own[at]),
        near=None
        if near is None or given.groups[at] not in ("train", "control")
        else int(near[0][samples].sum()),
        base=None if counts.base is None else int(counts.base[1][at]),
        training=[image for image, _ in Counter(copied[copies].tolist()).most_common()],
        seeds=copies if given.seeds is None else [given.seeds[one] for one in copies],
    )


def _groups(given: Prompted, counts: _Counts) -> list[GroupRecord]:
    of_prompt, any_judged = np.array(given.groups), counts.judged > 0
    control = (of_prompt == "control") & any_judged
    found = []
    for group in get_args(Group):
        chosen = (of_prompt == group) & any_judged
        if not chosen.any():
            continue
        copied = Rate(int((counts.copies[chosen] > 0).sum()), int(chosen.sum()))
        beside = None
        if group != "control" and control.any():
            beside = fisher_p_value(
                copied.count, copied.total, int((counts.copies[control] > 0).sum()), int(control.sum())
            )
        found.append(
            GroupRecord(
                group=group,
                prompts=copied.total,
                samples=int(counts.judged[chosen].sum()),
                copied=copied,
                own=Rate(int((counts.own[chosen] > 0).sum()), copied.total) if group == "train" else None,
                share=mean_share(counts.copies[chosen] / counts.judged[chosen]),
                bound=upper_bound(copied.count, copied.total),
                base=_paired(counts, chosen),
                control_p_value=beside,
            )
        )
    return found


def _paired(counts: _Counts, chosen: NDArray[np.bool_]) -> PairedRecord | None:
    if counts.base is None:
        return None
    judged, copies = counts.base
    chosen = chosen & (judged > 0)
    if not chosen.any():
        return None
    ours, theirs = counts.copies[chosen] > 0, copies[chosen] > 0
    more, fewer = int((ours & ~theirs).sum()), int((theirs & ~ours).sum())
    return PairedRecord(
        copied=Rate(int(theirs.sum()), int(chosen.sum())),
        share=mean_share(copies[chosen] / judged[chosen]),
        more=more,
        fewer=fewer,
        p_value=sign_p_value(more, fewer),
    )


def _levels(given: Prompted, counts: _Counts, repeats: Sequence[int | None]) -> list[LevelRecord]:
    of_level: dict[int, list[int]] = defaultdict(list)
    for at, (group, times) in enumerate(zip(given.groups, repeats, strict=True)):
        if group == "train" and times is not None and counts.judged[at]:
            of_level[times].append(at)
    if len(of_level) < 2:
        return []
    return [
        LevelRecord(
            repeats=times, prompts=len(those), copied=Rate(int((counts.own[those] > 0).sum()), len(those))
        )
        for times, those in sorted(of_level.items())
    ]
