"""The two curves of a study: R_mem against the size of the training set, and against epochs."""

from __future__ import annotations

import math
from collections import defaultdict
from typing import TYPE_CHECKING

from diffmem.errors import UserError
from diffmem.reports.curves import Look, Series, draw_curves, draw_nulls, draw_points, legend_above, looks
from diffmem.reports.figures import draw_target_rate, means, name_ends
from diffmem.reports.style import (
    COLOURS,
    FONT_SIZE,
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
from diffmem.studies.report.text import ascending, emm_text

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

__all__ = ["rmem_against_epochs", "rmem_against_size"]


def rmem_against_size(result: StudyResult) -> Figure:
    """Draw R_mem against the number of training images N, a line at 1 - epsilon, and EMM.

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

    nulls = [(float(run.size), run.null) for run in runs if run.null is not None]
    if nulls:
        draw_nulls(axes, nulls, joined=True, label="null rate (held-out images)")
    last = [(float(run.size), run.last.memorized) for run in runs]
    peak = [(float(run.size), run.peak.memorized) for run in runs]
    if any(a.value != b.value for (_, a), (_, b) in zip(peak, last, strict=True)):
        sizes, shares = zip(*means(last), strict=True)
        axes.plot(
            sizes, shares, color=COLOURS["sky"], marker="o", markersize=5, markerfacecolor="white", linestyle="--",
            label="end of training",
        )  # fmt: skip
    label = "peak over training, 95% interval"
    draw_points(axes, Series(label, looks(1)[0], [peak]), axes.transData, joined=True)

    draw_target_rate(axes, result.epsilon)
    _draw_emm(axes, result)
    legend_above(figure, axes)
    return figure


def _runs_of(result: StudyResult) -> list[RunRecord]:
    if not result.runs:
        raise UserError(f"The study {result.title!r} has no finished runs, so there is nothing to draw.")
    return ascending(result)


def _draw_emm(axes: Axes, result: StudyResult) -> None:
    emm = result.emm
    left, right = axes.get_xlim()
    across = {"below smallest": 0.0, "above largest": 1.0}.get(emm.status, 0.5)
    if emm.status == "estimated" and emm.value is not None:
        across = min(max(math.log(emm.value / left) / math.log(right / left), 0.0), 1.0)
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
    side = "left" if across < 0.2 else "right" if across > 0.8 else "center"
    axes.annotate(
        "EMM " + emm_text(emm, [run.size for run in result.runs]),
        (across, 1),
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
    draw_target_rate(axes, result.epsilon, inside=True)

    grouped: dict[int, list[RunRecord]] = defaultdict(list)
    for run in runs:
        grouped[run.size].append(run)
    ends = []
    for (size, same), colour in zip(grouped.items(), ordered_colours(len(grouped)), strict=True):
        seeds = f" ({len(same)} seeds)" if len(same) > 1 else ""
        name = f"N = {size_text(size)}{seeds}"
        curves = [[(one.epoch, one.memorized) for one in run.evaluations if one.epoch > 0] for run in same]
        draw_curves(axes, Series(name, Look(colour, "o"), curves))
        ends.append((name, [(curve[-1][0], 100 * curve[-1][1].value) for curve in curves], colour))
    name_ends(axes, ends, figure.get_figheight() - 0.8)  # the x axis takes some of the height
    return figure
