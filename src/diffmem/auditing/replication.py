"""Replication: samples and null images through the instrument, and what each criterion finds."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from diffmem.auditing.detector import Instrument, Kind, Sight
from diffmem.auditing.matches import copies_of, matches_of
from diffmem.auditing.records import (
    ChanceRecord,
    CopiesRecord,
    CriterionRecord,
    DistanceRecord,
    Finding,
    MatchRecord,
    SpaceRecord,
)
from diffmem.auditing.significance import chance_of, null_images_needed, p_words, upper_bound
from diffmem.data import ImageSet
from diffmem.memorization import Rate, RatioRule
from diffmem.memorization.contents import taken
from diffmem.memorization.records import rate_record
from diffmem.progress import NO_PROGRESS, Progress

__all__ = [
    "FALSE_ALARM",
    "NULL_FROM_TRAINING",
    "Null",
    "Replication",
    "level_of",
    "null_of",
    "replicate",
    "samples_needed",
]

FALSE_ALARM = 0.01
"""Chance that any deciding criterion finds copies where there are none; shared out evenly among them."""

NULL_FROM_TRAINING = 10_000
"""Most training images that stand in for held-out ones."""

_LEAST_FROM_TRAINING = 1000
_NULL_BYTES = 2**30  # of them, unless that is fewer than a thousand
_DOUBT = 0.05
_BINS = 50
_MOST_SAMPLES = 100_000_000


@dataclass(frozen=True, eq=False)
class Null:
    """Images that were never copied.

    Attributes:
        source: Held-out images, or training images, each against all others.
        sight: What the instrument sees of those that are no training image (or of the chosen ones); none if there are none.
        identical: How many of the images are identical to a training image (or to another one), of `total`.
        total: All images of the source.
    """

    source: Literal["heldout", "training, leave one out"]
    sight: Sight | None
    identical: int
    total: int


@dataclass(frozen=True, eq=False)
class Replication:
    """What the criteria found.

    Attributes:
        space: The space and the null.
        criteria: In the instrument's order; without power.
        copies: All matches in numbers.
        matches: Every flagged sample, nearest first.
        distances: Histograms.
        sight: Of the samples.
    """

    space: SpaceRecord
    criteria: list[CriterionRecord]
    copies: CopiesRecord
    matches: list[MatchRecord]
    distances: list[DistanceRecord]
    sight: Sight


def level_of(instrument: Instrument) -> float:
    """Return the largest p-value at which one criterion of an instrument finds copies: its share of `FALSE_ALARM`."""
    return FALSE_ALARM / sum(kind.deciding for kind in instrument.kinds)


def null_of(
    instrument: Instrument, heldout: NDArray[np.uint8] | None, seed: int, progress: Progress = NO_PROGRESS
) -> Null:
    """Look at images that were never copied: the held-out ones, or else training images, each against all others.

    The second kind takes the place of the first where near-copies are as frequent within the training set as between it and fresh
    images. It is at most `NULL_FROM_TRAINING` distinct training images, drawn by the seed.
    """
    if heldout is not None:
        sight = instrument.look(heldout, progress=progress)
        fresh = np.flatnonzero(~sight.flags["identical"])
        overlap = len(heldout) - len(fresh)
        return Null(
            source="heldout",
            sight=sight.take(fresh) if len(fresh) else None,
            identical=overlap,
            total=len(heldout),
        )
    rng = np.random.default_rng([seed, 0x6E756C6C])
    most = max(_LEAST_FROM_TRAINING, _NULL_BYTES // int(np.prod(instrument.training.shape[1:])))
    count = min(NULL_FROM_TRAINING, most, len(instrument.kept))
    own = np.sort(rng.choice(len(instrument.kept), count, replace=False))
    images = taken(instrument.references, own)
    return Null(
        source="training, leave one out",
        sight=instrument.look(images, own=own, progress=progress),
        identical=int((instrument.occurrences > 1).sum()),
        total=len(instrument.kept),
    )


def replicate(
    instrument: Instrument,
    training: ImageSet,
    samples: ImageSet,
    null: Null,
    *,
    target: float = 0.01,
    first_seed: int = 0,
    private: bool = False,
    progress: Progress = NO_PROGRESS,
) -> Replication:
    """Apply every criterion to the samples.

    Args:
        instrument: Of the training images.
        training: The training images, for names.
        samples: In the same space.
        null: Images that were never copied.
        target: Share of copies that the audit is to exclude: a criterion that flags more null images says nothing.
        first_seed: Number of the first sample.
        private: Whether names are left out.
        progress: Told the share of the work that is done.
    """
    sight = instrument.look(samples.images, progress=progress)
    criteria = [_criterion(kind, instrument, sight, null, target) for kind in instrument.kinds]
    used = _sharp(criteria, target)
    matches = matches_of(instrument, training, samples, sight, used, first_seed, private)
    return Replication(
        space=SpaceRecord(
            protocol=instrument.space,
            shape=training.shape,
            training_images=len(training),
            distinct_images=len(instrument.kept),
            null_source="none" if null.sight is None else null.source,
            null_images=0 if null.sight is None else len(null.sight),
            heldout_overlap=null.identical if null.source == "heldout" else 0,
        ),
        criteria=criteria,
        copies=copies_of(instrument, training, matches, private),
        matches=matches,
        distances=_distances(sight, null.sight, math.prod(training.shape)),
        sight=sight,
    )


def samples_needed(target: float) -> int:
    """Return the number of samples of which none is flagged that excludes a share of copies at 95%: 299 for 1%."""
    return math.ceil(math.log(_DOUBT) / math.log1p(-target))


def _samples_needed(target: float, flagged: float) -> int | None:
    """Return about the number of samples that excludes a share where some are flagged by chance; none if no number does."""
    count = samples_needed(target)
    while upper_bound(round(flagged * count), count) > target:
        count = math.ceil(1.05 * count)
        if count > _MOST_SAMPLES:
            return None
    return count


def _sharp(criteria: list[CriterionRecord], target: float) -> list[str]:
    """Return the keys of the deciding criteria by which a single sample is called a copy.

    One that flags many images by chance may find that there are copies, but not which. It is used only where no other finds them.
    """
    usable = [one for one in criteria if one.role == "deciding" and one.finding != "not usable"]
    sharp = [one for one in usable if one.null is None or one.null.value <= target]
    if any(one.finding == "copies" for one in sharp) or not any(one.finding == "copies" for one in usable):
        return [one.key for one in sharp]
    return [one.key for one in usable]


def _criterion(
    kind: Kind, instrument: Instrument, sight: Sight, null: Null, target: float
) -> CriterionRecord:
    flags = sight.flags[kind.key]
    rate = Rate(int(flags.sum()), len(flags))
    null_rate = None
    if kind.key == "identical":
        null_rate = Rate(null.identical, null.total)
    elif null.sight is not None:
        null_rate = Rate(int(null.sight.flags[kind.key].sum()), len(null.sight))
    chance = (
        None if null_rate is None else chance_of(rate.count, rate.total, null_rate.count, null_rate.total)
    )
    bound = upper_bound(rate.count, rate.total)
    finding, notes = _finding(
        rate, null_rate, chance, bound, target, level_of(instrument), strict=kind.key == "identical"
    )
    return CriterionRecord(
        key=kind.key,
        title=kind.title,
        protocol=kind.protocol,
        role="deciding" if kind.deciding else "supporting",
        flagged=rate_record(rate),
        null=None if null_rate is None else rate_record(null_rate),
        chance=chance,
        bound=bound,
        distinct=len(np.unique(sight.copied[kind.key][flags])),
        finding=finding,
        notes=notes,
    )


def _finding(
    rate: Rate,
    null: Rate | None,
    chance: ChanceRecord | None,
    bound: float,
    target: float,
    level: float,
    *,
    strict: bool,
) -> tuple[Finding, list[str]]:
    """Return what follows from the counts, and why.

    If `strict`, a single flagged sample is not passed over where no null image is flagged: identical pixels are no accident.
    """
    if null is None or chance is None:
        if rate.count:
            return "cannot tell", ["There is no null: no image is known that was never copied."]
    elif rate.count and chance.p_value <= level:
        return "copies", []
    elif null.value > target:
        return "not usable", [
            f"It flags {null} of images that were never copied, more than the {target:.2%} to be excluded: in these data it says"
            " nothing of rare copies."
        ]
    elif rate.count and (chance.p_value <= _DOUBT or (strict and not null.count)):
        needed = null_images_needed(rate.count, rate.total, level)
        more = (
            ""
            if null.count or needed is None
            else f" With {needed:,} null images, none of them flagged, chance would be excluded."
        )
        return "cannot tell", [
            f"{rate.count} of {rate.total:,} samples are flagged, {null.count} of {null.total:,} null images; chance may do that"
            f" ({p_words(chance.p_value)}, {level:.2g} is needed).{more}"
        ]
    if bound > target:
        needed = _samples_needed(target, max(rate.value, 0.0 if null is None else null.value))
        more = "more are needed" if needed is None else f"about {needed:,} are needed"
        return "cannot tell", [
            f"{rate.total:,} samples, {rate.count} of them flagged, exclude a share of {bound:.2%} only; {more} for {target:.2%}."
        ]
    return "none", []


def _distances(sight: Sight, null: Sight | None, values: int) -> list[DistanceRecord]:
    scale = 1 / math.sqrt(values)
    both = [one for one in (sight, null) if one is not None]
    rms = [one.neighbours.distances[:, 0] * scale for one in both]
    ratio = [RatioRule().ratio(one.neighbours) for one in both]
    top = max(1.0, math.ceil(max(float(part.max()) for part in rms)))
    found = []
    for quantity, parts, end in (("ratio", ratio, 1.0), ("rms", rms, top)):
        edges = np.linspace(0, end, _BINS + 1)
        counts = [np.histogram(part, edges)[0].tolist() for part in parts]
        found.append(
            DistanceRecord(
                quantity="ratio" if quantity == "ratio" else "rms",
                edges=edges.tolist(),
                samples=counts[0],
                null=counts[1] if len(counts) > 1 else [],
            )
        )
    return found
