"""One criterion for every model of a training set: does a caption bring its own image back more often than with the base model?

It is settled before the audited model is looked at, by the base model's samples alone, so that all epochs of a fine-tune are measured
alike; `docs/explanation/prompt-audits.md` has the reasons and simulations.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache

import numpy as np
from numpy.typing import NDArray

from diffmem.auditing.compare import Comparison
from diffmem.auditing.criteria import PIXELS
from diffmem.auditing.detector import CopyDetector, Detections
from diffmem.auditing.prompts.groups import Prompted
from diffmem.auditing.prompts.records import CaptionsRecord, CaptionTest
from diffmem.auditing.prompts.shares import fisher_p_value, sign_p_value
from diffmem.auditing.significance import format_p
from diffmem.auditing.spaces import align
from diffmem.data import ImageSet
from diffmem.data.prompts import Group, comparable
from diffmem.memorization import RepeatAwareRule, nearest_neighbours
from diffmem.memorization.criteria import ratio_of
from diffmem.memorization.neighbours.contents import taken
from diffmem.memorization.rates import Rate

__all__ = [
    "CAPTION_RISK",
    "THRESHOLDS",
    "CaptionImages",
    "caption_images",
    "caption_ratios",
    "captions_record",
    "detectable",
    "settled",
]

CAPTION_RISK = 0.04
"""Largest probability of finding copies by this criterion where there are none; the usual criteria have 1% of their own."""

THRESHOLDS = (1 / 2, 1 / 3, 1 / 4, 1 / 6, 1 / 10)
"""Ratios that a copy may be below, the loosest first. Below a half, the image of the caption is nearer to the sample than to any other
training image: d(y, z) >= d(x, z) - d(x, y) > d(x, y)."""

_UNSETTLED = 1 / 3  # as of R_mem
_ENOUGH = 20  # prompts, of which 5% is one
_MOST = 0.05
_POWER = 0.8


@dataclass(frozen=True, eq=False)
class CaptionImages:
    """The images of the prompts' captions, in the space of the audit.

    Attributes:
        pictures: Of training captions the training images, of control prompts held-out ones, uint8 (M, C, H, W).
        rows: Of each prompt, which of them have it as caption; empty where none has.
    """

    pictures: NDArray[np.uint8]
    rows: Sequence[NDArray[np.int64]]


def caption_images(given: Prompted, shown: Comparison, unseen: ImageSet | None) -> CaptionImages:
    """Find the images of the prompts' captions.

    Args:
        unseen: Images that were not trained on, with captions, the held-out ones first; none without.
    """
    number = {comparable(text): at for at, text in enumerate(given.texts)}
    rows: list[list[int]] = [[] for _ in given.texts]
    pictures: list[NDArray[np.uint8]] = []
    known = set(np.flatnonzero(shown.null.overlap).tolist())  # held-out images that are training images
    sets: list[tuple[Group, ImageSet, set[int]]] = [("train", shown.training, set())]
    if unseen is not None:
        sets.append(
            ("control", align({"training": shown.training, "heldout": unseen}).sets["heldout"], known)
        )
    start = 0
    for group, images, left_out in sets:
        chosen: list[int] = []
        for image, caption in enumerate(images.captions or ()):
            prompt = None if caption is None or image in left_out else number.get(comparable(caption))
            if prompt is not None and given.groups[prompt] == group:
                rows[prompt].append(start + len(chosen))
                chosen.append(image)
        pictures.append(taken(images.images, np.array(chosen, np.int64)))
        start += len(chosen)
    return CaptionImages(np.concatenate(pictures), [np.array(one, np.int64) for one in rows])


def caption_ratios(
    detector: CopyDetector, found: Detections, of_sample: NDArray[np.int64], own: CaptionImages
) -> NDArray[np.float64]:
    """Return the distance of each sample to the image of its caption over that to the nearest training image of another picture.

    Near-copies of the image of the caption are passed over as `RepeatAwareRule` does.

    Args:
        found: Samples beside training images.
        of_sample: The prompt of each, int64 (Q,).

    Returns:
        float64 (Q,), at least 0; infinite where no image has the caption, or where the training set holds no two pictures.
    """
    known = found.batch.neighbours[PIXELS]
    ratios = np.full(len(found), np.inf)
    if known.k < 2:
        return ratios
    nearest, which = np.zeros(len(found)), np.full(len(found), -1)
    for prompt, rows in enumerate(own.rows):
        if not len(rows):
            continue
        samples = np.flatnonzero(of_sample == prompt)
        beside = nearest_neighbours(
            found.batch.images[samples], own.pictures[rows], 1, device=detector.device
        )
        which[samples], nearest[samples] = rows[beside.indices[:, 0]], beside.distances[:, 0]
    asked = np.flatnonzero(which >= 0)
    rule = RepeatAwareRule(detector.references, detector.threshold, known.k)
    others = found.batch.take(asked).neighbours[PIXELS]
    ratios[asked] = ratio_of(nearest[asked], rule.beyond(others, own.pictures, which[asked]), np.inf)
    return ratios


def settled(
    passing: NDArray[np.float64], of_sample: NDArray[np.int64], control: NDArray[np.bool_]
) -> tuple[float, Rate | None]:
    """Return the threshold: the loosest that the base model passes in at most 5% of control prompts, beside their held-out images.

    With fewer than 20 such prompts it is 1/3.

    Args:
        passing: Ratios of the base model's samples, float64 (Q,).
        of_sample: The prompt of each, int64 (Q,).
        control: Which prompts are control prompts with a held-out image, bool (P,).

    Returns:
        The threshold, and the share of these prompts that pass it; none where they are too few.
    """
    total = int(control.sum())
    if total < _ENOUGH:
        return _UNSETTLED, None
    rates = [
        Rate(int(control[np.unique(of_sample[passing < threshold])].sum()), total) for threshold in THRESHOLDS
    ]
    return next(
        (pair for pair in zip(THRESHOLDS, rates, strict=True) if pair[1].value <= _MOST),
        (THRESHOLDS[-1], rates[-1]),
    )


def captions_record(
    ratios: tuple[NDArray[np.float64], NDArray[np.float64]],
    of_sample: NDArray[np.int64],
    groups: Sequence[str],
    repeats: Sequence[int | None],
) -> CaptionsRecord | None:
    """Test whether training captions bring their images back, all of them and those of each number of repeats.

    Each test asks two things, and its p-value is the larger of both. Beside the base model, the trials are pairs of samples, of one prompt
    and one noise: of the pairs in which one alone copies, either is as likely if the models copy as often (sign test). Beside captions
    that were not trained on, with their held-out images, the trials are prompts: training captions pass as often if the model does not
    know their images better (Fisher's exact test); without any this is left out. Half of the risk is that of all training captions, the
    other half is divided evenly among the numbers of repeats, where they differ.

    Args:
        ratios: Of the samples of the model and of its base as of `caption_ratios`, float64 (Q,); NaN for those that are no trials.
        of_sample: The prompt of each, int64 (Q,).
        groups: Of the prompts.
        repeats: How often an epoch holds images of each prompt; none where that is not known.

    Returns:
        The tests; none without a training caption that has samples of both models.
    """
    judged = ~np.isnan(ratios[0] + ratios[1]) & np.isfinite(ratios[0])
    model, base, prompt = ratios[0][judged], ratios[1][judged], of_sample[judged]
    count = np.bincount(prompt, minlength=len(groups))
    kind = np.array(groups)
    trained, control = (kind == "train") & (count > 0), (kind == "control") & (count > 0)
    if not trained.any():
        return None
    threshold, calibrated = settled(base, prompt, control)
    # A prompt of more seeds has more chances: beside each other, all have as many as the one of the fewest.
    seat = _seats(prompt)
    even = seat < count[trained | control].min()
    sides = _Sides(model < threshold, base < threshold, prompt, even, control)
    known = {times for times, counts in zip(repeats, trained, strict=True) if counts and times is not None}
    levels = sorted(known, reverse=True)
    parts: list[tuple[int | None, NDArray[np.bool_], float]] = [(None, trained, CAPTION_RISK)]
    if len(levels) > 1:
        parts = [(None, trained, CAPTION_RISK / 2)]
        share = CAPTION_RISK / 2 / len(levels)
        parts += [(one, trained & np.array([times == one for times in repeats]), share) for one in levels]
    tests = [_test(sides, chosen, times, level) for times, chosen, level in parts]
    p_value = min(1.0, min(one.p_value / one.level for one in tests) * CAPTION_RISK)
    record = CaptionsRecord(
        threshold=threshold,
        calibrated=calibrated,
        control=Rate(int(sides.copied(sides.model, control).sum()), int(control.sum()))
        if control.any()
        else None,
        tests=tests,
        risk=CAPTION_RISK,
        p_value=p_value,
        found=p_value <= CAPTION_RISK,
        sentence="",
    )
    return record.model_copy(update={"sentence": _sentence(record)})


@dataclass(frozen=True, eq=False)
class _Sides:
    """Samples that are trials: which copy, of both models, bool (Q,); their prompts; which are compared; which prompts are control."""

    model: NDArray[np.bool_]
    base: NDArray[np.bool_]
    prompt: NDArray[np.int64]
    even: NDArray[np.bool_]
    control: NDArray[np.bool_]

    def copied(self, flags: NDArray[np.bool_], chosen: NDArray[np.bool_]) -> NDArray[np.bool_]:
        """Return which of the chosen prompts have a flagged sample."""
        return np.bincount(self.prompt[flags], minlength=len(chosen))[chosen] > 0


def _test(sides: _Sides, chosen: NDArray[np.bool_], times: int | None, level: float) -> CaptionTest:
    inside = chosen[sides.prompt]
    more, fewer = (
        int((one & ~other & inside).sum())
        for one, other in ((sides.model, sides.base), (sides.base, sides.model))
    )
    beside_base, beside_control = sign_p_value(more, fewer), None
    prompts, controls = int(chosen.sum()), int(sides.control.sum())
    known = 0
    if controls:
        known = int(sides.copied(sides.model & sides.even, sides.control).sum())
        same = int(sides.copied(sides.model & sides.even, chosen).sum())
        beside_control = fisher_p_value(same, prompts, known, controls)
    samples = int(inside.sum())
    return CaptionTest(
        repeats=times,
        prompts=prompts,
        samples=samples,
        copied=Rate(int(sides.copied(sides.model, chosen).sum()), prompts),
        base=Rate(int(sides.copied(sides.base, chosen).sum()), prompts),
        share=Rate(int((sides.model & inside).sum()), samples),
        more=more,
        fewer=fewer,
        base_p_value=beside_base,
        control_p_value=beside_control,
        p_value=max(beside_base, beside_control or 0.0),
        level=level,
        detectable=detectable(prompts, samples / prompts, (known, controls), level),
    )


@cache  # all models of a curve ask the same
def detectable(prompts: int, seeds: float, control: tuple[int, int], level: float) -> float | None:
    """Return the share of samples from which on copies are found with a probability of 80%, if all captions copy alike.

    The base model is taken to copy nothing.

    Args:
        prompts: Captions of the test.
        seeds: Samples of each, rounded down; at least 1.
        control: How many control prompts pass, and of how many.
        level: Of the test.

    Returns:
        In (0, 1); none where the test cannot find anything.
    """
    from scipy.optimize import brentq

    each = max(1, int(seeds))
    samples = math.ceil(-math.log2(level))
    few = 1
    if control[1]:
        while few <= prompts and fisher_p_value(few, prompts, *control) > level:
            few += 1
    if few > prompts or samples > prompts * each:
        return None

    def lacking(share: float) -> float:
        return _POWER - _chance(prompts, each, share, (few, samples))

    return float(brentq(lacking, 1e-9, 1 - 1e-9, xtol=1e-5))


def _chance(prompts: int, each: int, share: float, least: tuple[int, int]) -> float:
    """Return the probability that at least so many prompts, and at least so many samples, copy."""
    from scipy.stats import binom

    few, samples = least
    some = -math.expm1(each * math.log1p(-share))
    of_one = binom.pmf(np.arange(each + 1), each, share)
    of_one[0] = 0
    of_one /= some
    # Of so many prompts that copy, each in at least one sample, the sums below the number of samples that it takes.
    sums, total = np.ones(1), float(binom.sf(max(few, samples) - 1, prompts, some))
    for copying in range(1, samples):
        sums = np.convolve(sums, of_one)[:samples]
        if copying >= few:
            total += float(binom.pmf(copying, prompts, some) * (1 - sums.sum()))
    return total


def _seats(prompt: NDArray[np.int64]) -> NDArray[np.int64]:
    """Return the place of each sample among those of its prompt, int64 (Q,), from 0."""
    order = np.argsort(prompt, kind="stable")
    starts = np.searchsorted(prompt[order], prompt[order])
    seats = np.empty(len(prompt), np.int64)
    seats[order] = np.arange(len(prompt)) - starts
    return seats


def _sentence(record: CaptionsRecord) -> str:
    one = record.strongest
    facts = [f"{one.share.count:,} of {one.samples:,} samples", f"with the base model {one.base.count:,}"]
    if record.control is not None:
        facts.append(f"{record.control.count:,} of {record.control.total:,} captions of held-out images do")
    corrected = f", corrected for {len(record.tests)} tests" if len(record.tests) > 1 else ""
    facts.append(f"{format_p(record.p_value)}{corrected}")
    verb = "brings its image back" if one.copied.count == 1 else "bring their images back"
    return f"of {one.prompts:,} {one.text}, {one.copied.count:,} {verb} ({'; '.join(facts)})"
