"""The curves of an experiment: what was run and what the paper printed, with one look for both."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

from diffmem.memorization.rates import Rate
from diffmem.paper.records import ExperimentLevel, ExperimentResult
from diffmem.paper.report.match import (
    Slot,
    paper_gaps,
    paper_points,
    published_at,
    size_pairs,
)
from diffmem.reports.curves import Look, Series, looks
from diffmem.reports.level_axis import numbers_of
from diffmem.reports.text import size_text
from diffmem.runs.records import RunRecord

__all__ = ["null_points", "positions_of", "series_of"]


def positions_of(slots: Sequence[Slot], *, paper: bool) -> tuple[list[float], bool]:
    """Return the position of each slot on the axis of one panel, and whether that axis is logarithmic.

    Levels that are positive numbers over a wide range (a factor of 50) have a logarithmic axis, all others one
    step each.
    """
    ours = numbers_of([slot.name for slot in slots if slot.name])
    theirs = numbers_of([slot.paper_name for slot in slots])
    if ours is None or theirs is None or max(theirs) < 50 * min(theirs):
        return [float(index) for index in range(len(slots))], False
    if any(min(numbers) <= 0 or len(set(numbers)) < len(numbers) for numbers in (ours, theirs)):
        return [float(index) for index in range(len(slots))], False
    mine = iter(ours)
    # A level of the paper alone has no number of ours: it has the paper's position.
    return [x if paper or not slot.name else next(mine) for x, slot in zip(theirs, slots, strict=True)], True


def _breaks(slots: Sequence[Slot], positions: Sequence[float]) -> list[float]:
    """Return the positions between neighbours whose names are not two numbers of one kind."""
    return [
        (positions[index] + positions[index + 1]) / 2
        for index, (one, other) in enumerate(pairwise(slots))
        if numbers_of([one.paper_name, other.paper_name]) is None
    ]


def series_of(result: ExperimentResult, slots: Sequence[Slot]) -> list[Series]:
    """Return the curves of an experiment in the order of its legend.

    A curve per level where the x axis is the size; a curve per size where it is the level; a curve per level and
    size where it is epochs.

    Args:
        slots: Its levels, from `slots_of`.
    """
    if result.form in ("level", "masks"):
        return _by_size(result, slots)
    if result.form == "epochs":
        return _by_epoch(result, slots)
    found = []
    names = list(dict.fromkeys(slot.paper_name for slot in slots))
    for name, look in zip(names, looks(len(names)), strict=True):
        levels = [slot.level for slot in slots if slot.paper_name == name and slot.level is not None]
        ours = [
            [(float(run.size), run.peak.memorized)]
            for level in levels
            for run in sorted(level.runs, key=lambda run: (run.size, run.seed))
        ]
        paper, gaps = paper_points(result, name), paper_gaps(result, name)
        found.append(Series(_level_label(levels, name), look, ours, paper, gaps))
    return found


def _level_label(levels: Sequence[ExperimentLevel], paper_name: str) -> str:
    if not levels:
        return f"{paper_name} (paper only)"
    ours = ", ".join(dict.fromkeys(level.name for level in levels))
    return ours if ours == paper_name else f"{ours} (paper: {paper_name})"


def _by_size(result: ExperimentResult, slots: Sequence[Slot]) -> list[Series]:
    pairs = size_pairs(result)
    left, right = positions_of(slots, paper=False)[0], positions_of(slots, paper=True)[0]
    found = []
    for pair, look in zip(pairs, looks(len(pairs)), strict=True):
        ours = [
            [(position, run.peak.memorized)]
            for position, slot in zip(left, slots, strict=True)
            if slot.level is not None
            for run in slot.level.runs
            if run.size == pair.ours
        ]
        paper = [
            (position, percent)
            for position, slot in zip(right, slots, strict=True)
            if pair.paper is not None
            for _, percent in published_at(result, slot.paper_name, pair.paper / result.size_ratio)
        ]
        gaps = [
            position
            for position, slot in zip(right, slots, strict=True)
            if pair.paper in paper_gaps(result, slot.paper_name) or not paper_points(result, slot.paper_name)
        ]
        gaps += _breaks(slots, right)
        if pair.ours is None:
            label = f"N = {size_text(pair.paper or 0)} (paper only)"
        else:
            label = f"N = {size_text(pair.ours)}"
            if pair.paper is not None and pair.paper != pair.ours:
                label += f" (paper: {size_text(pair.paper)})"
        found.append(Series(label, look, ours, paper, gaps, _breaks(slots, left)))
    return found


def _by_epoch(result: ExperimentResult, slots: Sequence[Slot]) -> list[Series]:
    names = list(dict.fromkeys(slot.paper_name for slot in slots))
    sizes = sorted({run.size for run in result.runs})
    several_levels, several_sizes = len(names) > 1, len(sizes) > 1
    by_level, by_size = looks(len(names)), looks(len(sizes))
    found = []
    for index, name in enumerate(names):
        levels = [slot.level for slot in slots if slot.paper_name == name and slot.level is not None]
        paper = [(x, percent) for x, percent in paper_points(result, name) if x > 0]
        gaps = paper_gaps(result, name)
        here = sorted({run.size for level in levels for run in level.runs})
        one_each = all(len({run.size for run in level.runs}) <= 1 for level in result.levels)
        if not here:
            found.append(Series(_level_label([], name), by_level[index], [], paper, gaps))
        for size in here:
            runs = [run for level in levels for run in level.runs if run.size == size]
            label = f"N = {size_text(size)}"
            look = by_size[sizes.index(size)]
            if several_levels:
                words = _level_label(levels, name)
                label = f"{words}, {label}" if several_sizes and not one_each else words
                mark = by_size[sizes.index(size)].marker if several_sizes and not one_each else None
                look = Look(by_level[index].colour, mark or by_level[index].marker)
            # The paper's curve of a level belongs to its first entry only.
            curves = [curve for curve in map(_curve, runs) if curve]
            found.append(Series(label, look, curves, paper, gaps))
            paper = []
    return [one for one in found if one.paper or any(one.ours)]


def _curve(run: RunRecord) -> list[tuple[float, Rate]]:
    # An evaluation before the first epoch has no place on a logarithmic axis.
    return [(one.epoch, one.memorized) for one in run.evaluations if one.epoch > 0]


def null_points(result: ExperimentResult, slots: Sequence[Slot]) -> list[tuple[float, Rate]]:
    """Return (x, null rate) of every run that has one; over epochs x is the end of its training."""
    if result.form in ("level", "masks"):
        positions = positions_of(slots, paper=False)[0]
        return [
            (position, run.null)
            for position, slot in zip(positions, slots, strict=True)
            if slot.level is not None
            for run in slot.level.runs
            if run.null is not None
        ]
    return [
        (float(run.size) if result.form == "size" else run.last.epoch, run.null)
        for run in result.runs
        if run.null is not None and (result.form == "size" or run.last.epoch > 0)
    ]
