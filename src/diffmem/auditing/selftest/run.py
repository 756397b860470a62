"""The self-test: copies are planted in known shares among real images, and the audit must say what was planted."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from diffmem.auditing.compare import judge
from diffmem.auditing.criteria import Criterion
from diffmem.auditing.detector import CopyDetector, Detections, occurrences
from diffmem.auditing.evidence import weigh
from diffmem.auditing.findings import samples_needed, sharp_rungs
from diffmem.auditing.heldout import BothSides
from diffmem.auditing.nulls import null_images
from diffmem.auditing.positive_controls import NEAR_COPIES, POSITIVE_CONTROLS, near_copies
from diffmem.auditing.power import DetectedControls, detect_controls, power_records
from diffmem.auditing.records import Verdict
from diffmem.auditing.request import AuditOptions
from diffmem.auditing.selftest.checks import checked, coverage_of_rates
from diffmem.auditing.selftest.records import (
    DUPLICATIONS,
    MIXED,
    Duplication,
    SelfTestCriterion,
    SelfTestPart,
    SelfTestResult,
    SelfTestShare,
)
from diffmem.auditing.verdict import EXACT, Circumstances, verdict_of
from diffmem.data import ImageSet, count_of_share, hold_out
from diffmem.errors import UserError
from diffmem.memorization import Transforms
from diffmem.memorization.rates import Rate
from diffmem.progress import NO_PROGRESS, Progress, Stages, parts_of

__all__ = ["SHARES", "SelfTestResult", "self_test"]

SHARES = (0.0, 0.0005, 0.001, 0.005, 0.01, 0.1, 0.5, 1.0)

_TARGET = 0.01
_CONTROLS = 200
_LEAST_TRAINING = 200
_DRAWS = 500
_MOST_SAMPLES = 2000
_SPLIT = 0x73706C69


def self_test(
    images: ImageSet,
    *,
    seed: int = 0,
    samples: int | None = None,
    shares: Sequence[float] = SHARES,
    duplicated: Sequence[Duplication] = DUPLICATIONS,
    transforms: Transforms | None = None,
    device: str = "cpu",
    progress: Progress = NO_PROGRESS,
) -> SelfTestResult:
    """Plant copies among real images, and check that the criteria and the verdict find them and nothing else.

    The images are split at random into training, held-out and fresh images. Sets of samples hold planted copies of training images in
    known shares, and fresh images.

    Args:
        images: Real images; exact copies among them are taken for one.
        seed: Of the split and of all changes; 0 or more.
        samples: Fresh images, and as many held-out ones; the rest is trained on. By default a third of the images, at most 2,000.
        shares: Of planted copies, 0 to 1.
        duplicated: Which training sets are tried, at least one.
        transforms: Changes under which copies are looked for; none for no such criterion.

    Raises:
        UserError: There are too few images, or a number is out of range.
    """
    if not duplicated or not shares:
        raise UserError("A self-test needs at least one kind of training set and one share of copies.")
    training, heldout, fresh = _split(images, seed, samples)
    parts = []
    for duplication, progress_here in parts_of(progress, duplicated):
        stages = Stages(progress_here, detect=0.4, judge=0.6)
        trial = _Trial(duplication, (training, heldout, fresh), seed, transforms, device, stages.detect)
        parts.append(trial.part(shares, stages.judge))
    planted = {power.detected.total for part in parts for one in part.criteria for power in one.power}
    coverage = [coverage_of_rates(count) for count in sorted({len(fresh), *planted, _DRAWS})]
    failures, notes = checked(parts, coverage, _TARGET)
    return SelfTestResult(
        seed=seed,
        shape=images.shape,
        heldout=len(heldout),
        fresh=len(fresh),
        transforms=None if transforms is None else transforms.name,
        parts=parts,
        coverage=coverage,
        failures=failures,
        notes=notes,
    )


def _split(images: ImageSet, seed: int, samples: int | None) -> tuple[ImageSet, ImageSet, ImageSet]:
    distinct = np.flatnonzero(occurrences(images.images))
    least = samples_needed(_TARGET)
    count = min(len(distinct) // 3, _MOST_SAMPLES) if samples is None else samples
    if count < least:
        raise UserError(
            f"A self-test with {count} samples cannot say that there are no copies; it needs {least}, so {3 * least} different images"
            f" or more. There are {len(distinct)}."
        )
    if len(distinct) - 2 * count < _LEAST_TRAINING:
        raise UserError(
            f"{count} fresh and {count} held-out images leave {max(0, len(distinct) - 2 * count)} of {len(distinct)} to train on; leave at"
            f" least {_LEAST_TRAINING}: give more images, or fewer samples (at least {least})."
        )
    if len(distinct) < len(images):
        images = images.take(distinct, "exact copies taken out")
    training, rest = hold_out(images, 2 * count, seed)
    heldout, fresh = hold_out(rest, count, seed)
    return training, heldout, fresh


class _Trial:
    """A training set with what is compared with it.

    Args:
        duplication: What the training set holds beside each image that is copied.
        sets: Training, held-out and fresh images.
        seed: Of the choice of images and of their changes.
        transforms: Of the detector.
        device: Of the detector.
    """

    def __init__(
        self,
        duplication: Duplication,
        sets: tuple[ImageSet, ImageSet, ImageSet],
        seed: int,
        transforms: Transforms | None,
        device: str,
        progress: Progress,
    ) -> None:
        stages = Stages(progress, controls=0.5, null=0.3, fresh=0.2)
        training, heldout, self.fresh = sets
        self.duplication, self.seed = duplication, seed
        rng = np.random.default_rng([seed, _SPLIT])
        count = min(_CONTROLS, len(training) // 2)
        sources = np.sort(rng.choice(len(training), count, replace=False)).astype(np.int64)
        originals = training.images[sources]
        copies: list[NDArray[np.uint8]] = []
        if duplication == "exact copies":
            copies = [originals] * NEAR_COPIES
        elif duplication == "near-copies":
            copies = near_copies(originals, seed)
        pixels = np.concatenate([training.images, *copies])
        names = np.concatenate([np.arange(len(training)), *[sources] * len(copies)]).astype(np.int64)
        self.training = ImageSet(pixels, None, tuple(training.names[one] for one in names.tolist()))
        self.detector = CopyDetector(pixels, "pixel-l2/uint8", transforms=transforms, device=device)
        kinds = [kind for kind in POSITIVE_CONTROLS if duplication == "near-copies" or not kind.near_copies]
        self.planted = detect_controls(self.detector, pixels, sources, kinds, seed, stages.controls)
        self.null = null_images(
            self.detector, heldout.images, len(self.fresh), seed=seed, progress=stages.null
        )
        self.alarms = self.detector.detect(self.fresh.images, stages.fresh)
        self.both = BothSides(self.detector, self.null)
        # What lies near held-out images: of planted copies by kind, of fresh images by ''.
        self.beside = {"": self.both.heldout.detect(self.fresh.images)}
        self.beside |= {one.kind.key: self.both.heldout.detect(one.images) for one in self.planted}
        self.near = self.detector.near_copies(np.arange(len(self.detector.distinct)))
        criteria = self.detector.criteria
        disagree = weigh(criteria, self.alarms, self.null).disagree
        self.rungs = sharp_rungs(criteria, self.null, _TARGET, len(self.fresh), disagree)
        self.power = power_records(self.detector, pixels, self.planted, names, self.rungs)

    def part(self, shares: Sequence[float], progress: Progress) -> SelfTestPart:
        """Return the outcome; a whole audit judges samples with exact copies and with every kind."""
        kinds = [EXACT, MIXED, *(one.kind.key for one in self.planted if one.kind.key != EXACT)]
        counted = [share for share in shares if not share or count_of_share(len(self.fresh), share) > 0]
        judged = [(kind, share) for kind in kinds[:2] for share in counted]
        rows = [self._share(kind, share, part) for (kind, share), part in parts_of(progress, judged)]
        rows += [self._share(kind, share, None) for kind in kinds[2:] for share in counted]
        return SelfTestPart(
            duplication=self.duplication,
            training_images=len(self.training),
            distinct_images=len(self.detector.distinct),
            criteria=[self._criterion(one) for one in self.detector.criteria],
            shares=rows,
            found_from={kind: self._found_from(kind) for kind in kinds},
            false_verdicts=self._false_verdicts(),
        )

    def _criterion(self, one: Criterion) -> SelfTestCriterion:
        rung = self.rungs.get(one.key, 0)
        null, alarms = self.null.of_heldout(one, rung), self.alarms.flags(one, rung)
        return SelfTestCriterion(
            key=one.key,
            title=one.title,
            deciding=one.role == "deciding",
            usable=one.key in self.rungs,
            exact_only=one.exact_only,
            strictness=one.strictness[rung],
            false_alarms=Rate(int(alarms.sum()), len(alarms)),
            null=Rate(int(null.sum()), len(null)),
            power=self.power[one.key],
        )

    def _chosen(self, kind: str, count: int) -> list[tuple[DetectedControls, int]]:
        """Return the planted copies of a set of samples: kinds in turn, each image as seldom as can be."""
        chosen = [one for one in self.planted if kind in (one.kind.key, MIXED)]
        number = len(self.planted[0].sources)
        return [(chosen[at % len(chosen)], at // len(chosen) % number) for at in range(count)]

    def _share(self, kind: str, share: float, progress: Progress | None) -> SelfTestShare:
        """Measure one set of samples; judged as a whole where there is a progress to report."""
        total = len(self.fresh)
        count = count_of_share(total, share)
        chosen = self._chosen(kind, count)
        measured: dict[str, Rate] = {}
        for criterion in self.detector.criteria:
            rung = self.rungs.get(criterion.key, 0)
            flags = {one.kind.key: one.found.flags(criterion, rung) for one in self.planted}
            copies = sum(bool(flags[one.kind.key][at]) for one, at in chosen)
            alarms = int(self.alarms.flags(criterion, rung)[: total - count].sum())
            measured[criterion.key] = Rate(copies + alarms, total)
        verdict = None
        if progress is not None:
            pixels = [*(one.images[at] for one, at in chosen), *self.fresh.images[: total - count]]
            names = tuple(f"sample {at}" for at in range(total))
            verdict = self._verdict(ImageSet(np.stack(pixels), None, names), progress)
        return SelfTestShare(
            kind=kind,
            share=share,
            planted=count,
            samples=total,
            measured=measured,
            covers={key: rate.low <= count / total <= rate.high for key, rate in measured.items()},
            verdict=verdict,
        )

    def _verdict(self, samples: ImageSet, progress: Progress) -> Verdict:
        options, times = AuditOptions(target=_TARGET), occurrences(samples.images)
        found = judge(
            self.detector, self.training, samples, self.null, options, times=times, progress=progress
        )
        criteria = [one.model_copy(update={"power": self.power[one.key]}) for one in found.criteria]
        around = Circumstances(same_pictures=found.around.same_pictures)
        return verdict_of(criteria, found.copies, found.space, _TARGET, around).verdict

    def _found_from(self, kind: str) -> int | None:
        """Return the smallest number of copies among as many samples as there are fresh images that is found; none if not even half are.

        Numbers are doubled until copies are found, and halved in between.
        """
        most = len(self.fresh) // 2
        low, high = 0, 1
        while not self._finds(kind, high):
            low, high = high, 2 * high
            if high > most:
                return None
        while high - low > 1:
            middle = (low + high) // 2
            low, high = (low, middle) if self._finds(kind, middle) else (middle, high)
        return high

    def _finds(self, kind: str, count: int) -> bool:
        """Return whether a test finds so many copies among fresh images; copies of one image count once."""
        left = np.arange(len(self.fresh) - count)
        parts: dict[str, list[int]] = {}
        for one, at in self._chosen(kind, count):
            parts.setdefault(one.kind.key, []).append(at)
        taken = [(one, np.array(parts[one.kind.key])) for one in self.planted if one.kind.key in parts]
        samples = Detections.of([*(one.found.take(part) for one, part in taken), self.alarms.take(left)])
        samples = replace(samples, times=occurrences(samples.batch.images))
        beside = Detections.of(
            [*(self.beside[one.kind.key].take(part) for one, part in taken), self.beside[""].take(left)]
        )
        split = self.both.split(samples, beside)
        return bool(weigh(self.detector.criteria, samples, self.null, split=split, near=self.near).found())

    def _false_verdicts(self) -> Rate:
        """Shuffle fresh and held-out images, and count how often the tests of fresh images find copies."""
        assert self.null.heldout is not None  # the sets are disjoint
        both = Detections.of([self.alarms, self.null.heldout])
        count = len(self.alarms)
        rng = np.random.default_rng([self.seed, _SPLIT, 1])
        deciding = [one for one in self.detector.criteria if one.role == "deciding"]
        alarms = 0
        for _ in range(_DRAWS):
            order = rng.permutation(len(both))
            null = replace(self.null, heldout=both.take(order[count:]))
            alarms += bool(weigh(deciding, both.take(order[:count]), null, near=self.near).found())
        return Rate(alarms, _DRAWS)
