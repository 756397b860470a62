"""The two curves of a study: R_mem against the size of the training set, and against epochs."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Sequence
from typing import TYPE_CHECKING

from diffmem.errors import UserError
from diffmem.memorization.rates import Rate
from diffmem.reports.figures import draw_intervals, line_of_epsilon, spread_labels
from diffmem.reports.style import (
    COLOURS,
    FONT_SIZE,
    SMALL_FONT_SIZE,
    dress,
    epoch_axis,
    new_figure,
    ordered_colours,
    percent_axis,
    size_axis,
)
from diffmem.reports.text import size_text
from diffmem.runs.records import RunRecord
from diffmem.studies.records import StudyResult
from diffmem.studies.report.text import emm_text

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

__all__ = ["rmem_against_epochs", "rmem_against_size"]


def rmem_against_size(result: StudyResult) -> Figure:
    """Draw R_mem against the number of training images N, the line of 1 - epsilon, and EMM.

    Peaks carry 95% intervals; the ends of training are drawn fainter; the null rate is the same rule on
    held-out images. Where a size was trained with several seeds, each has its point and the line runs through
    their means.

    Args:
        result: The study, with at least one run.

    Raises:
        UserError: There are no runs.
    """
    figure = new_figure()
    axes = figure.subplots()
    runs = _runs_of(result)
    dress(axes, "Training images N (log scale)", "Samples that are copies, R_mem")
    percent_axis(axes)
    size_axis(axes, [run.size for run in runs])

    nulls = [(run.size, run.null) for run in runs if run.null is not None]
    if nulls:
        _curve(axes, nulls, COLOURS["grey"], "s", "null rate (held-out images)", linestyle=":", size=4)
    last = [(run.size, run.last.memorized) for run in runs]
    peak = [(run.size, run.peak.memorized) for run in runs]
    if any(a.value != b.value for (_, a), (_, b) in zip(peak, last, strict=True)):
        _curve(axes, last, COLOURS["sky"], "o", "end of training", hollow=True, size=5, linestyle="--")
    _curve(axes, peak, COLOURS["blue"], "o", "peak over training, 95% interval", size=6, bars=True)

    line_of_epsilon(axes, result.epsilon)
    _draw_emm(axes, result)
    figure.legend(
        loc="outside upper left", ncols=3, frameon=False, fontsize=SMALL_FONT_SIZE, handlelength=2.2
    )
    return figure


def _runs_of(result: StudyResult) -> list[RunRecord]:
    if not result.runs:
        raise UserError(f"The study {result.title!r} has no finished runs, so there is nothing to draw.")
    return sorted(result.runs, key=lambda run: (run.size, run.seed))


def _curve(
    axes: Axes,
    points: Sequence[tuple[int, Rate]],
    colour: str,
    marker: str,
    label: str,
    *,
    linestyle: str = "-",
    size: float = 5,
    hollow: bool = False,
    bars: bool = False,
) -> None:
    values: dict[int, list[float]] = defaultdict(list)
    for n, rate in points:
        values[n].append(100 * rate.value)
    means = [sum(values[n]) / len(values[n]) for n in values]
    face = "white" if hollow else colour
    several = len(points) > len(values)
    style = {"marker": marker, "markersize": size, "markerfacecolor": face, "markeredgecolor": colour}
    axes.plot(
        list(values),
        means,
        color=colour,
        linestyle=linestyle,
        linewidth=1.6,
        label=label,
        zorder=3,
        **({} if several else style),  # type: ignore[arg-type]
    )
    sizes, rates = [n for n, _ in points], [rate for _, rate in points]
    if several:
        axes.plot(sizes, [100 * rate.value for rate in rates], color=colour, linestyle="", zorder=3, **style)  # type: ignore[arg-type]
    if bars:
        draw_intervals(axes, points, colour, capsize=3, zorder=4)


def _draw_emm(axes: Axes, result: StudyResult) -> None:
    emm = result.emm
    words = "EMM " + emm_text(emm, [run.size for run in result.runs])
    left, right = axes.get_xlim()
    place = {"below smallest": 0.0, "above largest": 1.0}.get(emm.status, 0.5)
    if emm.status == "estimated" and emm.value is not None:
        place = min(max(math.log(emm.value / left) / math.log(right / left), 0.0), 1.0)
        if emm.low is not None and emm.high is not None:
            axes.axvspan(
                max(emm.low, left),
                min(emm.high, right),
                color=COLOURS["orange"],
                alpha=0.25,
                linewidth=0,
                zorder=1,
            )
        axes.axvline(emm.value, color=COLOURS["vermillion"], linewidth=1.4, zorder=2)
    side = "left" if place < 0.2 else "right" if place > 0.8 else "center"
    axes.annotate(
        words,
        (place, 1),
        xycoords="axes fraction",
        xytext=(0, 3),
        textcoords="offset points",
        ha=side,
        va="bottom",
        fontsize=FONT_SIZE,
        fontweight="bold",
        color="#A34700",
        annotation_clip=False,
    )


def rmem_against_epochs(result: StudyResult) -> Figure:
    """Draw R_mem over training, a curve per run with its 95% interval, named at its end.

    An evaluation before the first epoch has no place on a logarithmic axis and is left out.

    Args:
        result: The study, with at least one run.

    Raises:
        UserError: There are no runs, or none was evaluated after training began.
    """
    runs = [run for run in _runs_of(result) if any(one.epoch > 0 for one in run.evaluations)]
    if not runs:
        raise UserError(
            f"No run of the study {result.title!r} was evaluated after epoch 0; there is no curve to draw."
        )
    figure = new_figure(height=max(4.4, 1.4 + 0.2 * len({run.size for run in runs})))
    axes = figure.subplots()
    dress(axes, "Epochs (log scale)", "Samples that are copies, R_mem")
    percent_axis(axes)
    epoch_axis(axes, [one.epoch for run in runs for one in run.evaluations if one.epoch > 0])
    line_of_epsilon(axes, result.epsilon, inside=True)

    sizes = sorted({run.size for run in runs})
    colours = dict(zip(sizes, ordered_colours(len(sizes)), strict=True))
    ends: dict[int, list[tuple[float, float]]] = defaultdict(list)
    for run in runs:
        shown = [one for one in run.evaluations if one.epoch > 0]
        epochs = [one.epoch for one in shown]
        rates = [one.memorized for one in shown]
        low, high = [100 * rate.low for rate in rates], [100 * rate.high for rate in rates]
        colour = colours[run.size]
        axes.fill_between(epochs, low, high, color=colour, alpha=0.18, linewidth=0)
        middle = [100 * rate.value for rate in rates]
        axes.plot(epochs, middle, color=colour, linewidth=1.6, marker="o", markersize=3.5)
        ends[run.size].append((epochs[-1], middle[-1]))
    _label_ends(axes, ends, colours, figure.get_figheight())
    return figure


def _label_ends(
    axes: Axes,
    ends: dict[int, list[tuple[float, float]]],
    colours: dict[int, tuple[float, float, float]],
    height: float,
) -> None:
    """Name each size at the right of the axes, with a thin line to where its curves end."""
    points = [(max(x for x, _ in found), sum(y for _, y in found) / len(found)) for found in ends.values()]
    gap = 106 * SMALL_FONT_SIZE * 1.25 / 72 / (height - 0.8)  # the x axis takes some of the height
    places = spread_labels([y for _, y in points], gap)
    for size, point, place in zip(ends, points, places, strict=True):
        seeds = f" ({len(ends[size])} seeds)" if len(ends[size]) > 1 else ""
        line = {"arrowstyle": "-", "linewidth": 0.6, "shrinkA": 1, "shrinkB": 3, "relpos": (0, 0.5)}
        axes.annotate(
            f"N = {size_text(size)}{seeds}",
            point,
            xytext=(1.05, place),
            textcoords=axes.get_yaxis_transform(),
            ha="left",
            va="center",
            fontsize=SMALL_FONT_SIZE,
            color=colours[size],
            annotation_clip=False,
            arrowprops={**line, "color": colours[size]},
        )
