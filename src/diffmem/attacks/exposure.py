"""Exposure: how much more a model, or its samples, show of planted canaries than of canaries that were left out.

A canary's exposure is log2(K + 1) - log2(its rank among the K control canaries), from 0 to log2(K + 1) bits (Carlini et al. 2019,
"The Secret Sharer", with the control group in place of all secrets that could have been planted). A fair draw decided which canaries
were planted, so without any memorization all rankings are equally likely, whatever the score: the p-value is that of this draw.
"""

from __future__ import annotations

import math
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from diffmem.attacks.roc import Area, area_under_curve
from diffmem.attacks.scores import attack_levels, attack_scores
from diffmem.data import CanarySet, ImageSet
from diffmem.data.canaries import smallest_p_value
from diffmem.errors import UserError
from diffmem.memorization import RatioRule, nearest_neighbours
from diffmem.memorization.rates import Rate
from diffmem.memorization.records import Record
from diffmem.models import Denoiser
from diffmem.progress import NO_PROGRESS, Progress, part_of

__all__ = [
    "ExposureRecord",
    "LevelExposure",
    "ReproducedRecord",
    "exposure_of_model",
    "exposure_of_samples",
    "exposures",
    "rank_sum_p_value",
]

_LEVEL = 0.05
_EXACT_UP_TO = 64  # canaries of a group: the exact null takes 0.2 s for these, and K^4 numbers


class ReproducedRecord(Record):
    """Canaries that samples reproduce: that are nearest to a sample, by less than a third of its distance to any other canary."""

    planted: Rate = Field(description="Share of the planted canaries that at least one sample reproduces.")
    control: Rate = Field(description="The same share of the control canaries: what happens by chance.")
    samples: Rate = Field(description="Share of the samples that reproduce a planted canary.")
    threshold: float = Field(
        description="Of the ratio of the distances to the nearest and the second nearest canary."
    )


class LevelExposure(Record):
    """The planted canaries that the training set holds equally often, against all control canaries."""

    repeats: int
    canaries: int
    mean: float = Field(description="Mean exposure, bits.")
    p_value: float = Field(description="As of all: Mann-Whitney, one-sided.")
    exposed: bool = Field(description="Whether p is at most 0.05, divided by the number of levels.")
    reproduced: Rate | None = Field(
        description="Share of them that at least one sample reproduces; none for a model."
    )


class ExposureRecord(Record):
    """What one kind of score shows of the canaries."""

    source: Literal["model", "samples"] = Field(
        description="'model': minus its loss on each canary. 'samples': minus the distance of each canary to the nearest sample."
    )
    protocol: str = Field(description="Id of the score with its constants.")
    canaries: int = Field(description="K, the planted canaries, and as many in the control group.")
    repeats: int = Field(
        description="How often each planted canary is in the training set; the most often where they differ."
    )
    levels: list[LevelExposure] = Field(
        default_factory=list,
        description="By repeats, the fewest first; empty where all canaries have the same.",
    )
    training_fingerprint: str = Field(description="Of the training set that the canaries were planted in.")
    samples: int | None = Field(description="Samples that were searched; none for a model.")
    exposures: list[float] = Field(
        description="Of each planted canary in bits, in the order of their file; a tie counts as if the control canary were ahead."
    )
    mean: float = Field(description="Mean exposure, bits.")
    by_chance: float = Field(description="What the mean would be on average without any memorization, bits.")
    greatest: float = Field(
        description="The greatest exposure that so many control canaries can show: log2(K + 1) bits."
    )
    p_value: float = Field(
        description="p-value of planted canaries ranking as high or higher if nothing was memorized: Mann-Whitney, one-sided."
    )
    smallest_p: float = Field(
        description="The smallest p-value that so many canaries can give: 1 / C(2 K, K)."
    )
    auc: Area | None = Field(
        description="Share of pairs in which the planted canary scores above the control one; none for K = 1."
    )
    reproduced: ReproducedRecord | None = Field(description="None for a model.")
    planted_scores: list[float] = Field(description="Higher means more like a training image.")
    control_scores: list[float]
    finding: Literal["exposed", "not shown", "cannot tell"] = Field(
        description="'exposed' if p is at most 0.05; 'cannot tell' if so few canaries can show nothing at that level."
    )
    sentence: str = Field(description="The finding with its numbers.")


def exposure_of_model(
    denoiser: Denoiser, canaries: CanarySet, seed: int = 0, progress: Progress = NO_PROGRESS
) -> ExposureRecord:
    """Score the canaries by the loss of a model; see `attack_scores`.

    Args:
        denoiser: Any denoiser; if it is `Latent`, canaries are encoded. One with classes is asked with the labels of the canaries.
        canaries: Of its training set, at its resolution.
        seed: Of the noise.

    Raises:
        UserError: The canaries do not fit the model, or it returns values that are not finite.
    """
    images = np.concatenate([canaries.planted, canaries.control])
    labels = None
    if denoiser.num_labels and canaries.planted_labels is not None and canaries.control_labels is not None:
        labels = np.concatenate([canaries.planted_labels, canaries.control_labels])
    levels = attack_levels("loss", denoiser)
    scores = attack_scores("loss", denoiser, images, labels, levels, seed, progress=progress)
    protocol = f"exposure/loss/sigma={levels[0]:.4g}..{levels[-1]:.4g} ({len(levels)})/seed={seed}"
    return _record("model", protocol, canaries, scores, None, None)


def exposure_of_samples(
    samples: ImageSet, canaries: CanarySet, progress: Progress = NO_PROGRESS, *, threshold: float = 1 / 3
) -> ExposureRecord:
    """Score the canaries by their nearest samples: minus the exact Euclidean distance of the pixels.

    A sample reproduces a canary if it is nearer to it than `threshold` times its distance to any other canary of both groups: the ratio
    rule with the canaries as the training set. It treats both groups alike, so the control group gives its null rate.

    Args:
        samples: Generated images, of the shape of the canaries.
        threshold: In (0, 1).

    Raises:
        UserError: The shapes differ, or the threshold is out of range.
    """
    if samples.shape != canaries.shape:
        raise UserError(
            f"The samples have shape {samples.shape} and the canaries {canaries.shape} (C, H, W): exposure needs samples as the model"
            " makes them, at the resolution of its training set."
        )
    count = len(canaries)
    images = np.concatenate([canaries.planted, canaries.control])
    nearest = nearest_neighbours(images, samples.images, 1, progress=part_of(progress, 0, 0.5))
    around = nearest_neighbours(samples.images, images, 2, progress=part_of(progress, 0.5, 0.5))
    rule = RatioRule(threshold)
    hit = around.indices[:, 0][rule(around)]
    found = np.unique(hit)
    reproduced = ReproducedRecord(
        planted=Rate(int((found < count).sum()), count),
        control=Rate(int((found >= count).sum()), count),
        samples=Rate(int((hit < count).sum()), len(samples)),
        threshold=threshold,
    )
    protocol = f"exposure/pixel-l2/uint8/ratio<{threshold:.4g}"
    distances = nearest.distances[:, 0]
    return _record("samples", protocol, canaries, 0.0 - distances, len(samples), reproduced, found)


def exposures(planted: NDArray[np.float64], control: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return the exposure of each planted canary in bits: log2(K + 1) - log2(1 + control scores that are at least as high).

    Args:
        planted: Scores (n,).
        control: Scores (K,).

    Returns:
        float64 (n,), from 0 to log2(K + 1).
    """
    ahead = len(control) - np.searchsorted(np.sort(control), planted, side="left")
    return np.asarray(math.log2(len(control) + 1) - np.log2(1.0 + ahead))


def rank_sum_p_value(planted: NDArray[np.float64], control: NDArray[np.float64]) -> float:
    """Return the chance that a fair draw of the planted ones among all gives as high a sum of ranks: Mann-Whitney, one-sided.

    Exact, ties included, up to 64 scores of a kind; beyond, the normal approximation with corrections for ties and continuity.
    """
    from scipy.stats import mannwhitneyu, rankdata

    n = len(planted)
    if max(n, len(control)) > _EXACT_UP_TO:
        return float(mannwhitneyu(planted, control, alternative="greater", method="asymptotic").pvalue)
    ranks = np.rint(2 * rankdata(np.concatenate([planted, control]))).astype(
        np.int64
    )  # whole numbers with ties, too
    observed, most = int(ranks[:n].sum()), int(np.sort(ranks)[-n:].sum())
    # ways[k, s]: choices of k scores whose ranks add up to s. Float64 holds all counts, C(128, 64) at most, to 1e-14.
    ways = np.zeros((n + 1, most + 1))
    ways[0, 0] = 1
    for rank in ranks.tolist():
        if rank <= most:
            ways[1:, rank:] += ways[:-1, : most + 1 - rank]
    return min(1.0, float(ways[n, observed:].sum() / ways[n].sum()))


def _record(
    source: Literal["model", "samples"],
    protocol: str,
    canaries: CanarySet,
    scores: NDArray[np.float64],
    samples: int | None,
    reproduced: ReproducedRecord | None,
    found: NDArray[np.int64] | None = None,
) -> ExposureRecord:
    count = len(canaries)
    planted, control = scores[:count], scores[count:]
    bits, greatest = exposures(planted, control), math.log2(count + 1)
    chance = greatest - float(np.log2(np.arange(1, count + 2)).mean())
    p, smallest = rank_sum_p_value(planted, control), smallest_p_value(count)
    finding: Literal["exposed", "not shown", "cannot tell"] = "not shown"
    if p <= _LEVEL:
        finding = "exposed"
    elif smallest > _LEVEL:
        finding = "cannot tell"
    sentence = (
        f"The planted canaries have a mean exposure of {bits.mean():.2f} bits; by chance it would be {chance:.2f}, and {greatest:.2f} is"
        f" the greatest that {count} control canar{'y' if count == 1 else 'ies'} can show (p = {p:.2g})."
    )
    if finding == "cannot tell":
        sentence += f" So few canaries cannot show memorization: even if all were exposed, p would be {smallest:.2g}. Plant 5 or more."
    if reproduced is not None:
        sentence += (
            f" Samples reproduce {reproduced.planted.count} of {count} planted and {reproduced.control.count} of {count} control"
            " canaries."
        )
    levels = _levels(canaries, planted, control, found)
    if levels:
        least = next((one.repeats for one in levels if one.exposed), None)
        sentence += (
            " At no number of repeats are they exposed by themselves."
            if least is None
            else f" The smallest number of repeats at which they are exposed is {least}."
        )
    return ExposureRecord(
        source=source,
        protocol=protocol,
        canaries=count,
        repeats=canaries.repeats,
        levels=levels,
        training_fingerprint=canaries.fingerprint,
        samples=samples,
        exposures=bits.tolist(),
        mean=float(bits.mean()),
        by_chance=chance,
        greatest=greatest,
        p_value=p,
        smallest_p=smallest,
        auc=None if count < 2 else area_under_curve(planted, control),
        reproduced=reproduced,
        planted_scores=planted.tolist(),
        control_scores=control.tolist(),
        finding=finding,
        sentence=sentence,
    )


def _levels(
    canaries: CanarySet,
    planted: NDArray[np.float64],
    control: NDArray[np.float64],
    found: NDArray[np.int64] | None,
) -> list[LevelExposure]:
    """Return the exposure of each number of repeats; a fair draw chose these canaries, too, so its p-value holds as well."""
    if canaries.levels is None:
        return []
    every = np.unique(canaries.levels).tolist()
    records = []
    for level in every:
        own = canaries.levels == level
        p = rank_sum_p_value(planted[own], control)
        hits = None if found is None else Rate(int(np.isin(np.flatnonzero(own), found).sum()), int(own.sum()))
        records.append(
            LevelExposure(
                repeats=level,
                canaries=int(own.sum()),
                mean=float(exposures(planted[own], control).mean()),
                p_value=p,
                exposed=p <= _LEVEL / len(every),
                reproduced=hits,
            )
        )
    return records
