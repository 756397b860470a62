"""Learning curves of a search: R_mem over epochs with its intervals, a panel per level and a curve per training."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from typing import TYPE_CHECKING, Literal

from diffmem.reports.figures import draw_intervals, draw_target_rate, name_ends
from diffmem.reports.style import COLOURS, dress, epoch_axis, legend_below, moved, percent_axis
from diffmem.reports.text import size_text
from diffmem.studies.search.records import LevelRecord, PointRecord, SearchResult, SizeRecord
from diffmem.studies.search.report.panels import level_panels, shown_points
from diffmem.studies.search.report.text import points_text

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

__all__ = ["curves_figure", "curves_text"]

_STYLES: dict[str, tuple[str, str, Literal["-", "--", ":"]]] = {
    "memorized": (COLOURS["vermillion"], "o", "-"),
    "not memorized": (COLOURS["blue"], "v", "-"),
    "undecided": (COLOURS["grey"], "s", "--"),
    "unfinished": (COLOURS["purple"], "D", ":"),
}
"""Colour, marker and line by verdict: many sizes of a search lie so near that their order in colour could not be seen."""


def curves_figure(result: SearchResult) -> Figure:
    """Draw R_mem over training with its intervals, a panel per level, a curve per training, named by its size at its end.

    Colour, marker and line show the verdict. A curve that ends before the last epoch was stopped, or goes on. Points at epoch 0
    have no place on a logarithmic axis and are left out.

    Args:
        result: The search, with at least one evaluation point.

    Raises:
        UserError: Nothing was measured yet.
    """
    figure, panels, _ = level_panels(result, _height, 2)
    for axes, level in panels:
        dress(axes, "Epochs (log scale)", "R_mem")
        percent_axis(axes)
        runs = [run for run in level.runs if shown_points(run)]
        epoch_axis(
            axes, [point.epoch for run in runs for point in shown_points(run)] + [run.epochs for run in runs]
        )
        draw_target_rate(axes, result.epsilon, inside=True)
        for index, run in enumerate(runs):
            _draw_run(axes, run, index - (len(runs) - 1) / 2, len(runs))
        _name_ends(axes, runs, _height(level))
    _keys(figure, {run.verdict for _, level in panels for run in level.runs if shown_points(run)})
    return figure


def curves_text(result: SearchResult) -> str:
    """Return the learning curves in words, for those who cannot see them."""

    def last(run: SizeRecord) -> PointRecord | None:
        return next(reversed(shown_points(run)), None)

    return f"R_mem over epochs, a curve per training; its last point: {points_text(result, last)}."


def _height(level: LevelRecord) -> float:
    """Return a height at which the names of all curves fit beside the panel."""
    return max(2.5, 0.155 * len({run.size for run in level.runs if shown_points(run)}) + 0.2)


def _draw_run(axes: Axes, run: SizeRecord, aside: float, count: int) -> None:
    """Draw one of so many curves, moved sideways, or the intervals at one epoch would hide each other."""
    transform = moved(axes, aside * min(2.0, 12 / count))
    colour, marker, line = _STYLES[run.verdict]
    points = [(point.epoch, point.memorized) for point in shown_points(run)]
    draw_intervals(axes, points, colour, capsize=0, alpha=0.45, zorder=2, transform=transform)
    axes.plot(
        [epoch for epoch, _ in points], [100 * rate.value for _, rate in points], color=colour, linestyle=line,
        linewidth=1.3, marker=marker, markersize=4, markeredgecolor="white", markeredgewidth=0.4, zorder=3,
        gid=run.run_id, transform=transform,
    )  # fmt: skip


def _name_ends(axes: Axes, runs: Sequence[SizeRecord], height: float) -> None:
    grouped: dict[int, list[SizeRecord]] = defaultdict(list)
    for run in runs:
        grouped[run.size].append(run)
    ends = []
    for size, same in sorted(grouped.items()):
        colours = {_STYLES[run.verdict][0] for run in same}
        last = [shown_points(run)[-1] for run in same]
        points = [(point.epoch, 100 * point.memorized.value) for point in last]
        ends.append((size_text(size), points, colours.pop() if len(colours) == 1 else COLOURS["black"]))
    name_ends(axes, ends, height)


def _keys(figure: Figure, seen: set[str]) -> None:
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
