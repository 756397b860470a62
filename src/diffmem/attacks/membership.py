"""Membership inference: whether scores of a denoiser separate its training images from others of the same source.

The answer is about membership only if nothing else separates the two sets: they must be random draws from one source, so that
only chance decided which images were trained on. Training images against those of another collection, another year or another
converter measure the difference of the collections. What can be checked is: whether plain statistics of the images, without the
model, or the mix of classes separate the sets. Passing is no proof that the source is the same.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from diffmem.attacks.roc import Area, area_under_curve, check_counts, operating_point
from diffmem.attacks.scores import Attack, attack_levels, attack_name, attack_scores
from diffmem.data import ImageSet, duplicate_groups
from diffmem.errors import UserError
from diffmem.memorization.rates import Rate
from diffmem.memorization.records import Record
from diffmem.models import Denoiser, pixel_shape_of
from diffmem.progress import NO_PROGRESS, Progress, parts_of

__all__ = ["Attack", "MembershipRecord", "class_mix_p_value", "membership", "without_model"]

# Chance that sets of one source are reported as separable: of all statistics together, and of the mix of classes.
_FALSE_ALARM = 0.01
_PERMUTATIONS = 9999
_BLOCK = 1 << 20  # classes times draws at a time


class MembershipRecord(Record):
    """What one attack found."""

    attack: Attack
    protocol: str = Field(
        description="Id of the attack with its constants: levels, draws, powers, false-positive rate."
    )
    sigmas: list[float] = Field(
        description="Noise levels of the attack, in units of what the model denoises, ascending."
    )
    seed: int = Field(description="Seed of the noise and of the halves.")
    members: int = Field(description="Members that were scored, after copies were removed.")
    nonmembers: int = Field(description="Non-members that were scored, after copies were removed.")
    shared: int = Field(description="Distinct images that were in both sets; they were removed from both.")
    member_copies: int = Field(
        description="Members removed as exact copies of an earlier one (shared ones not counted)."
    )
    nonmember_copies: int = Field(
        description="Non-members removed as exact copies of an earlier one (shared ones not counted)."
    )
    auc: Area = Field(description="Of all images. Higher scores mean members; below 0.5 stays so.")
    target_fpr: float = Field(description="The false-positive rate for which the threshold was chosen.")
    threshold: float = Field(description="Chosen on one half of the non-members; members are above it.")
    tpr: Rate = Field(
        description="Share of the other half's members above the threshold: the true-positive rate."
    )
    fpr: Rate = Field(
        description="Share of the other half's non-members above the threshold: the rate that the true-positive rate is at."
    )
    without_model: dict[str, Area] = Field(
        description="AUC of a simple statistic of the images, larger values counting as members; 0.5 for sets of one source."
    )
    class_mix_p: float | None = Field(
        description="p-value of the difference in class frequencies if members were drawn at random; none without labels."
    )
    warnings: list[str] = Field(
        default_factory=list, description="Why the numbers may not be about membership."
    )
    notes: list[str] = Field(default_factory=list, description="What was removed, in words.")


def membership(
    denoiser: Denoiser,
    members: ImageSet,
    nonmembers: ImageSet,
    attack: Attack = "loss",
    *,
    sigmas: Sequence[float] | None = None,
    fpr: float = 0.01,
    seed: int = 0,
    progress: Progress = NO_PROGRESS,
) -> MembershipRecord:
    """Attack a model with images that it was trained on and images that it was not.

    Both sets must be random draws from one source (see the module). Exact copies are removed: images in both sets from both,
    repeated images but for the first. Near copies are not: a non-member that is nearly a training image counts as a false positive
    of an attack that works. The images of both sets are copied once in memory.

    Args:
        denoiser: The model, with the weights that are published (averaged ones, where training averages). If it is `Latent`, images
            are encoded to be scored; copies, statistics and shapes are those of the pixels.
        members: Training images, or a random part of them; labelled if the model has classes.
        nonmembers: Images of the same source that were not trained on, none of them a copy of any training image; labelled likewise.
        attack: 'loss', 'secmi', 'pia' or 'pian'.
        sigmas: Noise levels of the attack; none for the published ones.
        fpr: False-positive rate at which the true-positive rate is reported, in (0, 0.5].
        seed: Seed of the noise and of the halves.

    Raises:
        UserError: There are fewer members or non-members than `diffmem.attacks.roc.images_needed`, the sets do not fit each other or
            the model, or the model returns values that are not finite.
    """
    levels = attack_levels(attack, denoiser, sigmas)
    if members.shape != nonmembers.shape:
        raise UserError(
            f"The members have shape {members.shape}, the non-members {nonmembers.shape} (C, H, W): they are not of one source."
        )
    if members.shape != pixel_shape_of(denoiser):
        raise UserError(
            f"The images have shape {members.shape}, those of the model {pixel_shape_of(denoiser)} (C, H, W)."
        )
    conditional = denoiser.num_labels > 0
    if conditional and (members.labels is None or nonmembers.labels is None):
        raise UserError(
            f"The model has {denoiser.num_labels} classes, so members and non-members need labels: membership shows less without them."
        )
    distinct, counts = _distinct(members, nonmembers)
    notes = _removed(counts)
    check_counts(len(distinct[0]), len(distinct[1]), fpr, " ".join(notes))
    scores = [
        attack_scores(
            attack, denoiser, one.images, one.labels if conditional else None, levels, seed, progress=part
        )
        for one, part in parts_of(progress, distinct, [len(one) for one in distinct])
    ]
    point = operating_point(scores[0], scores[1], fpr, seed)
    plain = without_model(*distinct)
    mix = class_mix_p_value(*distinct, seed=seed)
    return MembershipRecord(
        attack=attack,
        protocol=f"{attack_name(attack, denoiser, levels)}, fpr {fpr:g}",
        sigmas=levels,
        seed=seed,
        members=len(distinct[0]),
        nonmembers=len(distinct[1]),
        shared=counts[0],
        member_copies=counts[1],
        nonmember_copies=counts[2],
        auc=area_under_curve(scores[0], scores[1]),
        target_fpr=fpr,
        threshold=point.threshold,
        tpr=point.found,
        fpr=point.false,
        without_model=plain,
        class_mix_p=mix,
        warnings=_warnings(plain, mix),
        notes=notes,
    )


def _distinct(
    members: ImageSet, nonmembers: ImageSet
) -> tuple[tuple[ImageSet, ImageSet], tuple[int, int, int]]:
    """Return both sets without copies; and how many distinct images were shared, and how many others were copies in each."""
    count = len(members)
    groups = duplicate_groups(np.concatenate([members.images, nonmembers.images]))
    sides = groups[:count], groups[count:]
    shared = np.intersect1d(*sides)
    distinct, copies = [], []
    for images, side, name in zip((members, nonmembers), sides, ("members", "non-members"), strict=True):
        first = np.unique(side, return_index=True)[1]
        alone = ~np.isin(side, shared)
        chosen = np.sort(first[alone[first]])
        if not len(chosen):
            raise UserError(
                f"All {len(images)} {name} are copies of images in the other set; nothing is left."
            )
        copies.append(int(alone.sum()) - len(chosen))
        distinct.append(images.take(chosen, f"without copies, {len(chosen)} {name}"))
    return (distinct[0], distinct[1]), (len(shared), copies[0], copies[1])


def _removed(counts: tuple[int, int, int]) -> list[str]:
    shared, member_copies, nonmember_copies = counts
    notes = []
    if shared:
        notes.append(f"Images that are members and non-members alike, removed from both: {shared}.")
    for copies, name in ((member_copies, "members"), (nonmember_copies, "non-members")):
        if copies:
            notes.append(f"Exact copies of other {name}, removed: {copies}.")
    return notes


def without_model(
    members: ImageSet, nonmembers: ImageSet, false_alarm: float = _FALSE_ALARM
) -> dict[str, Area]:
    """Return the area that statistics of the images give without the model, which is 0.5 for draws from one source.

    They are 'brightness' (the mean of an image), 'contrast' (its standard deviation) and 'roughness' (the mean absolute difference
    of neighbouring pixels).

    Args:
        false_alarm: Chance that, for sets of one source, any of the intervals excludes 0.5: each covers with 1 - false_alarm / 3.
    """
    sides = [_statistics(images.images) for images in (members, nonmembers)]
    return {
        name: area_under_curve(sides[0][name], sides[1][name], 1 - false_alarm / len(sides[0]))
        for name in sides[0]
    }


def _statistics(images: NDArray[np.uint8]) -> dict[str, NDArray[np.float64]]:
    found = np.empty((3, len(images)))
    for start in range(0, len(images), 1024):
        block = images[start : start + 1024].astype(np.float64)
        steps = [np.abs(np.diff(block, axis=axis)).reshape(len(block), -1) for axis in (2, 3)]
        both = np.concatenate(steps, axis=1)
        rough = both.mean(1) if both.shape[1] else np.zeros(len(block))  # images of a single pixel
        found[:, start : start + 1024] = block.mean((1, 2, 3)), block.std((1, 2, 3)), rough
    return {"brightness": found[0], "contrast": found[1], "roughness": found[2]}


def class_mix_p_value(members: ImageSet, nonmembers: ImageSet, seed: int = 0) -> float | None:
    """Return how likely classes differ as much between the sets if chance divided the images; none if a set has no labels.

    A permutation test of the chi-square statistic: (1 + draws as extreme) / (1 + draws), 9,999 draws.
    """
    if members.labels is None or nonmembers.labels is None:
        return None
    end = int(max(members.labels.max(), nonmembers.labels.max())) + 1
    counts = np.bincount(members.labels, minlength=end)
    totals = counts + np.bincount(nonmembers.labels, minlength=end)
    counts, totals = counts[totals > 0], totals[totals > 0]
    wanted = len(members) * totals / totals.sum()

    def statistic(drawn: NDArray[np.int64]) -> NDArray[np.float64]:
        found: NDArray[np.float64] = (np.square(drawn - wanted) / totals).sum(-1)
        return found

    rng = np.random.default_rng([seed, 0x6D6978])
    wide, extreme, left = max(1, _BLOCK // len(totals)), 0, _PERMUTATIONS
    while left:
        size = min(wide, left)
        drawn = rng.multivariate_hypergeometric(totals, len(members), size=size, method="marginals")
        extreme += int((statistic(drawn) >= statistic(counts) - 1e-9).sum())
        left -= size
    return (1 + extreme) / (1 + _PERMUTATIONS)


def _warnings(plain: dict[str, Area], mix: float | None) -> list[str]:
    found = [
        f"Separable without the model: {name} alone has an AUC of {area.value:.3f} [{area.low:.3f}, {area.high:.3f}]. The sets are"
        " not draws from one source, so the attack may measure their difference and not membership."
        for name, area in plain.items()
        if not area.low <= 0.5 <= area.high
    ]
    if mix is not None and mix <= _FALSE_ALARM:
        found.append(
            f"Members and non-members have different shares of classes (p = {mix:.2g}), which alone changes scores. Draw both with"
            " the same shares."
        )
    return found
