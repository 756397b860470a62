"""Which number of the paper belongs beside which run: levels by their paper's name, sizes by their ratio."""

from __future__ import annotations

import math
from dataclasses import dataclass
from itertools import pairwise

from diffmem.paper.records import ExperimentLevel, ExperimentResult
from diffmem.reports.level_axis import mask_of, numbers_of

__all__ = [
    "SizePair",
    "Slot",
    "mask_group",
    "paper_gaps",
    "paper_points",
    "published_at",
    "size_pairs",
    "slots_of",
]

CLOSE = math.log(1.12)
"""Two sizes are the same one if they differ by less: sizes that were scaled down are rounded."""


@dataclass(frozen=True)
class Slot:
    """A position on an axis of levels, the same in both panels.

    Attributes:
        name: The level as it was run here; empty where it was not run.
        paper_name: The paper's level.
        level: What was run; none where the paper alone has this level.
    """

    name: str
    paper_name: str
    level: ExperimentLevel | None


@dataclass(frozen=True)
class SizePair:
    """A training-set size: as it was run here, and the paper's that it stands for; either may be missing."""

    ours: int | None
    paper: float | None


def paper_points(result: ExperimentResult, paper_name: str) -> list[tuple[float, float]]:
    """Return what is known of one level of the paper: (size or epoch, percent), ascending; unknown ones are absent."""
    return sorted(
        (x, percent)
        for curve in result.published
        if curve.level == paper_name
        for x, percent in zip(curve.x, curve.percent, strict=True)
        if percent is not None
    )


def paper_gaps(result: ExperimentResult, paper_name: str) -> list[float]:
    """Return where one level of the paper has a point that is not known: sizes or epochs, ascending."""
    return sorted(
        x
        for curve in result.published
        if curve.level == paper_name
        for x, percent in zip(curve.x, curve.percent, strict=True)
        if percent is None
    )


def _same_size(one: float, other: float) -> bool:
    return one > 0 and other > 0 and abs(math.log(one / other)) < CLOSE


def published_at(result: ExperimentResult, paper_name: str, size: float) -> list[tuple[float, float]]:
    """Return the known points of one level at the paper's size nearest to `size * size_ratio`; empty if unknown.

    Sizes that differ by less than 12% count as the same. Not for the form 'epochs', whose points have no size.
    """
    wanted = size * result.size_ratio
    near = [point for point in paper_points(result, paper_name) if _same_size(point[0], wanted)]
    if not near:
        return []
    best = min((x for x, _ in near), key=lambda x: abs(math.log(x / wanted)))
    return [point for point in near if point[0] == best]


def size_pairs(result: ExperimentResult) -> list[SizePair]:
    """Return the sizes that were run, each with the paper's that it stands for, then those of the paper alone."""
    ours = sorted({run.size for run in result.runs})
    left = sorted({x for curve in result.published for x in curve.x})
    pairs = []
    for size in ours:
        wanted = size * result.size_ratio
        near = [x for x in left if _same_size(x, wanted)]
        paper = min(near, key=lambda x: abs(math.log(x / wanted))) if near else None
        left = [x for x in left if x != paper]
        pairs.append(SizePair(size, paper))
    return pairs + [SizePair(None, x) for x in left]


def mask_group(name: str) -> int:
    """Return where a mask of three resolutions keeps its skips: 1 highest, 2 middle, 3 lowest; 0 several or unclear.

    Entries go from the highest resolution to the lowest, a third each (Gu et al., Figure 4: nine entries).
    """
    mask = mask_of(name)
    if mask is None or len(mask) != 9:
        return 0
    kept = {index // 3 for index, on in enumerate(mask) if on}
    return kept.pop() + 1 if len(kept) == 1 else 0


def slots_of(result: ExperimentResult) -> list[Slot]:
    """Return the positions of a level axis: the levels that were run, and among them those of the paper alone.

    Levels that are numbers ascend, or fall if they are given so; other levels stand in the order of the published
    ones if these name them all, else in their own order; masks of nine entries are grouped by resolution.
    """
    slots = [Slot(level.name, level.paper_name, level) for level in result.levels]
    ran = {slot.paper_name for slot in slots}
    printed = list(dict.fromkeys(curve.level for curve in result.published))
    slots += [Slot("", name, None) for name in printed if name not in ran]
    if ran <= set(printed):
        slots.sort(key=lambda slot: printed.index(slot.paper_name))
    if result.form == "masks":
        return sorted(slots, key=lambda slot: mask_group(slot.paper_name))
    numbers = numbers_of([level.paper_name for level in result.levels])
    of_all = numbers_of([slot.paper_name for slot in slots])
    if numbers and of_all is not None:
        falling = len(numbers) > 1 and all(a > b for a, b in pairwise(numbers))
        order = sorted(range(len(slots)), key=lambda index: of_all[index], reverse=falling)
        return [slots[index] for index in order]
    return slots
