"""Learning curves: R_mem over epochs with its intervals, a panel per level and a curve per training."""

from __future__ import annotations

from itertools import groupby
from typing import TYPE_CHECKING, Literal

from diffmem.reports.curves import Look, Series, draw_curves
from diffmem.reports.figures import draw_intervals, draw_target_rate, name_ends
from diffmem.reports.style import (
    COLOURS,
    Colour,
    dress,
    epoch_axis,
    legend_below,
    moved,
    ordered_colours,
    percent_axis,
)
from diffmem.reports.text import size_text
from diffmem.runs.records import RunRecord
from diffmem.studies.records import LevelRecord, StudyRecord
from diffmem.studies.report.panels import level_panels
from diffmem.studies.report.text import points_text

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

__all__ = ["curves_figure", "curves_text"]

_STYLES: dict[str | None, tuple[str, str, Literal["-", "--", ":"]]] = {
    "memorized": (COLOURS["vermillion"], "o", "-"),
    "not memorized": (COLOURS["blue"], "v", "-"),
    "undecided": (COLOURS["grey"], "s", "--"),
    "unfinished": (COLOURS["purple"], "D", ":"),
}
"""Colour, marker and line by verdict: many sizes of a search lie so near that their order in colour could not be seen."""


def curves_figure(result: StudyRecord) -> Figure:
    """Draw R_mem over training with its intervals, a panel per level, a curve per training, named by its size at its end.

    In a search for EMM colour, marker and line show the verdict, and a curve that ends before the last epoch was stopped, or goes on.
    Else each size has its colour, and of several seeds the thick line is the mean. Points at epoch 0 have no place on a
    logarithmic axis and are left out.

    Raises:
        UserError: Nothing was measured yet.
    """
    figure, panels, _ = level_panels(result, _height, 2)
    for axes, level in panels:
        dress(axes, "Epochs (log scale)", "R_mem")
        percent_axis(axes)
        runs = sorted((run for run in level.runs if run.curve), key=lambda run: (run.size, run.seed))
        epoch_axis(axes, [one.epoch for run in runs for one in run.curve] + [run.epochs for run in runs])
        draw_target_rate(axes, result.epsilon, inside=True)
        sizes = [list(same) for _, same in groupby(runs, key=lambda run: run.size)]
        colours: list[Colour] = list(ordered_colours(len(sizes)))
        if result.plan == "search":
            for index, run in enumerate(runs):
                _draw_verdict(axes, run, index - (len(runs) - 1) / 2, len(runs))
            by_size = [{_STYLES[run.verdict][0] for run in same} for same in sizes]
            colours = [found.pop() if len(found) == 1 else COLOURS["black"] for found in by_size]
        ends = []
        for same, colour in zip(sizes, colours, strict=True):
            name, last = size_text(same[0].size), [run.curve[-1] for run in same]
            if result.plan != "search":
                curves = [[(one.epoch, one.memorized) for one in run.curve] for run in same]
                draw_curves(axes, Series(name, Look(colour, "o"), curves))
            ends.append((f"N = {name}", [(one.epoch, 100 * one.memorized.value) for one in last], colour))
        name_ends(axes, ends, _height(level))
    if result.plan == "search":
        _keys(figure, {run.verdict for _, level in panels for run in level.runs if run.curve})
    return figure


def curves_text(result: StudyRecord) -> str:
    """Return the learning curves in words, for those who cannot see them."""
    last = points_text(result, lambda run: run.curve[-1])
    return f"R_mem over epochs, a curve per training; its last point: {last}."


def _height(level: LevelRecord) -> float:
    """Return a height at which the names of all curves fit beside the panel."""
    return max(2.5, 0.155 * len({run.size for run in level.runs if run.curve}) + 0.2)


def _draw_verdict(axes: Axes, run: RunRecord, aside: float, count: int) -> None:
    """Draw one of so many curves, moved sideways, or the intervals at one epoch would hide each other."""
    transform = moved(axes, aside * min(2.0, 12 / count))
    colour, marker, line = _STYLES[run.verdict]
    points = [(point.epoch, point.memorized) for point in run.curve]
    draw_intervals(axes, points, colour, capsize=0, alpha=0.45, zorder=2, transform=transform)
    axes.plot(
        [epoch for epoch, _ in points], [100 * rate.value for _, rate in points], color=colour, linestyle=line,
        linewidth=1.3, marker=marker, markersize=4, markeredgecolor="white", markeredgewidth=0.4, zorder=3,
        gid=run.run_id, transform=transform,
    )  # fmt: skip


def _keys(figure: Figure, seen: set[str | None]) -> None:
    from matplotlib.lines import Line2D

    handles = [
        Line2D(
            [], [], color=colour, marker=marker, linestyle=line, linewidth=1.3, markersize=5, markeredgecolor="white",
            markeredgewidth=0.4, label=verdict,
        )
        for verdict, (colour, marker, line) in _STYLES.items()
        if verdict in seen
    ]  # fmt: skip
    legend_below(figure, handles, 2.2)
