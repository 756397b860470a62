"""What every criterion finds at every strictness, and whether chance explains it."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.stats import hypergeom

from diffmem.auditing.criteria import Criterion
from diffmem.auditing.detector import Detections
from diffmem.auditing.events import Links, count_events, group_p_value, groups_of
from diffmem.auditing.nulls import Null
from diffmem.auditing.records import ChanceTest
from diffmem.auditing.significance import event_p_value, level_of, share_of_samples

__all__ = [
    "SAME_PICTURE_RMS",
    "Evidence",
    "Split",
    "flagged_references",
    "near_pairs",
    "same_pictures",
    "weigh",
]

SAME_PICTURE_RMS = 0.015
"""RMS difference of values 0 to 1 within which two images can be the same picture: 3.8 grey levels."""

_LIKELY = 0.01
_SURELY = 0.001


@dataclass(frozen=True, eq=False)
class Split:
    """Samples among the training and the held-out images together, with criteria that do not know which is which.

    Attributes:
        criteria: With both as their references, the distinct training images first.
        detections: Of the samples.
        training: Number of distinct training images.
        heldout: Number of held-out images that are no training images.
        near: Pairs of a held-out and a training image that are near-copies of each other, int64 (n, 2).
    """

    criteria: Sequence[Criterion]
    detections: Detections
    training: int
    heldout: int
    near: NDArray[np.int64]


@dataclass(frozen=True, eq=False)
class Evidence:
    """All tests of an audit.

    Attributes:
        tests: By key of the criterion, the loosest strictness first.
        same: Samples that are all but identical to a training image, where no null image is as near, int64 (n,).
        disagree: Keys of the criteria by which held-out images come near to training images more often, or less often, than these to
            each other; the held-out images alone are then the null.
    """

    tests: dict[str, list[ChanceTest]]
    same: NDArray[np.int64]
    disagree: list[str]

    def found(self) -> list[ChanceTest]:
        """Return the tests that find copies."""
        return [test for tests in self.tests.values() for test in tests if test.p_value <= test.level]


def weigh(
    criteria: Sequence[Criterion],
    samples: Detections,
    null: Null,
    *,
    split: Split | None = None,
    near: NDArray[np.int64] | None = None,
) -> Evidence:
    """Test every deciding criterion at every strictness.

    Args:
        criteria: Of the training images.
        samples: What they make of the samples.
        null: What they make of images that were never copied.
        split: Samples among training and held-out images together; none to do without that test.
        near: Pairs of training images that are near-copies of each other, int64 (n, 2), beside those that the criteria flag.
    """
    pairs = near_pairs(criteria, null)
    if near is not None:
        pairs = np.concatenate([pairs, near])
    groups = groups_of(len(criteria[0].references), pairs)
    both = None
    if split is not None:
        both = groups_of(len(split.criteria[0].references), np.concatenate([split.near, pairs]))
    tests: dict[str, list[ChanceTest]] = {}
    disagree: list[str] = []
    for criterion in criteria:
        if criterion.role != "deciding" or not samples.trials.any():
            continue
        agrees = _agrees(criterion, null, groups)
        if not agrees:
            disagree.append(criterion.key)
        found: list[ChanceTest] = []
        for rung in range(len(criterion.strictness)):
            found += _fresh(criteria, criterion, rung, samples, null, groups, agrees)
            if split is not None and both is not None:
                found.append(_split(criteria, criterion, rung, split, both))
        tests[criterion.key] = found
    return Evidence(tests, _unexplained(criteria, samples, null), disagree)


def near_pairs(criteria: Sequence[Criterion], null: Null) -> NDArray[np.int64]:
    """Return pairs of training images, int64 (n, 2), that a criterion of near-copies flags beside each other: they count as one."""
    pairs = [np.zeros((0, 2), np.int64)]
    for criterion in criteria:
        if criterion.all_but_identical is not None and criterion.space in null.training:
            links = _links(criterion, null.training[criterion.space])
            pairs.append(np.stack([links.own, links.copied], axis=1))
    return np.concatenate(pairs)


def flagged_references(criteria: Sequence[Criterion], samples: Detections, null: Null) -> NDArray[np.int64]:
    """Return the training images that a criterion of near-copies flags, or flags something beside, int64 (n,)."""
    links = [
        _links(criterion, one)
        for criterion in criteria
        if criterion.all_but_identical is not None
        for one in (samples, *null.parts(criterion.space))
    ]
    return np.unique(np.concatenate([np.zeros(0, np.int64), *(part for one in links for part in (one.copied, one.own))]))  # fmt: skip


def _links(criterion: Criterion, found: Detections | None, rung: int = 0) -> Links:
    if found is None:
        return Links()
    scores, flags = found.scores[criterion.key], found.flags(criterion, rung)
    own = np.zeros(0, np.int64) if found.batch.own is None else found.batch.own[flags]
    return Links(scores.copied[flags], scores.score[flags], own)


def _agrees(criterion: Criterion, null: Null, groups: NDArray[np.int64]) -> bool:
    """Return whether held-out images come near to training images as often as these to each other, but for chance.

    More often, and near-copies were removed from the training set; less often, and it holds many near-copies of its own, such as
    frames of one clip. In both cases training images say nothing of fresh ones.
    """
    compared = null.training.get(criterion.space)
    if null.heldout is None or compared is None:
        return True
    fresh, own = null.heldout.flags(criterion), compared.flags(criterion)
    less = hypergeom.sf(own.sum() - 1, len(fresh) + len(own), fresh.sum() + own.sum(), len(own))
    if less <= _SURELY:
        return False
    heldout, training = _links(criterion, null.heldout), _links(criterion, compared)
    events = count_events(groups, Links(), heldout, training)
    share = share_of_samples(len(fresh), 0, null.distinct, len(own))
    return event_p_value(events.heldout, events.training, share) > _LIKELY


def _fresh(
    criteria: Sequence[Criterion],
    criterion: Criterion,
    rung: int,
    samples: Detections,
    null: Null,
    groups: NDArray[np.int64],
    agrees: bool,
) -> list[ChanceTest]:
    compared = null.training.get(criterion.space) if agrees else None
    drawn = 0 if compared is None else len(compared)
    links = _links(criterion, samples, rung)
    weight = samples.times[samples.flags(criterion, rung)]
    heldout = _links(criterion, null.heldout, rung)
    events = count_events(groups, links, heldout, _links(criterion, compared, rung), weight)
    others = events.heldout + events.training
    share = share_of_samples(int(samples.trials.sum()), null.fresh, null.distinct, drawn)
    strictness, flagged = criterion.strictness[rung], len(links.copied)
    tests = [
        ChanceTest(
            test="fresh", strictness=strictness, flagged=flagged, events=events.samples, others=others, share=share,
            p_value=event_p_value(events.samples, others, share), level=level_of(criteria, criterion, rung, "fresh"),
        )
    ]  # fmt: skip
    if criterion.all_but_identical is not None:
        # Only near-copies come in groups of equals; other criteria flag many images beside one that is plain, say.
        tests.append(
            ChanceTest(
                test="groups", strictness=strictness, flagged=flagged, events=int(events.members[:, 0].sum()),
                others=int(events.members[:, 1:].sum()), share=share,
                p_value=group_p_value(events.members, int(samples.times.sum()), null.fresh, drawn),
                level=level_of(criteria, criterion, rung, "groups"),
            )
        )  # fmt: skip
    return tests


def _split(
    criteria: Sequence[Criterion],
    criterion: Criterion,
    rung: int,
    split: Split,
    groups: NDArray[np.int64],
) -> ChanceTest:
    """Count the distinct images that samples copy on each side: a group of near-copies is on the side of the nearest match."""
    blind = next((one for one in split.criteria if one.key == criterion.key), None)
    links = Links() if blind is None else _links(blind, split.detections, rung)
    inside = links.copied < split.training
    mine, theirs = (Links(links.copied[part], links.score[part]) for part in (inside, ~inside))
    events = count_events(groups, mine, theirs, Links())
    share = split.training / (split.training + split.heldout)
    return ChanceTest(
        test="split", strictness=criterion.strictness[rung], flagged=len(links.copied), events=events.samples, others=events.heldout,
        share=share, p_value=event_p_value(events.samples, events.heldout, share), level=level_of(criteria, criterion, rung, "split"),
    )  # fmt: skip


def same_pictures(criterion: Criterion, found: Detections) -> tuple[NDArray[np.bool_], NDArray[np.float64]]:
    """Return which images are all but identical to a reference, bool (Q,), and their RMS differences from it (0 to 1), float64 (Q,)."""
    scores = found.scores[criterion.key]
    if criterion.all_but_identical is None or criterion.values is None:
        return np.zeros(len(scores), bool), np.zeros(len(scores))
    rms = scores.distance / (255 * math.sqrt(criterion.values))
    return (scores.score < criterion.all_but_identical) & (rms <= SAME_PICTURE_RMS), rms


def _unexplained(criteria: Sequence[Criterion], samples: Detections, null: Null) -> NDArray[np.int64]:
    """Return the samples that are all but identical to a training image where no null image is as near to one."""
    left = np.zeros(len(samples), bool)
    for criterion in criteria:
        same, rms = same_pictures(criterion, samples)
        for other in null.parts(criterion.space):
            if criterion.key in other.scores:
                known, gaps = same_pictures(criterion, other)
                same &= rms < gaps[known].min(initial=np.inf)
        left |= same & samples.trials
    return np.flatnonzero(left)
