"""R_mem against the size of the training set; and what a search cost, beside a fixed grid of equal precision."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from diffmem.errors import UserError
from diffmem.reports.curves import Series, draw_nulls, draw_points, legend_above, looks, shifted
from diffmem.reports.figures import draw_target_rate, means
from diffmem.reports.level_rows import level_rows, short_names
from diffmem.reports.style import (
    COLOURS,
    FONT_SIZE,
    SMALL_FONT_SIZE,
    dress,
    new_figure,
    percent_axis,
    size_axis,
)
from diffmem.reports.text import large_text
from diffmem.studies.records import CostRecord, LevelRecord, StudyRecord
from diffmem.studies.report.text import emm_text, level_label, share_text

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

__all__ = ["cost_figure", "rmem_against_size"]


def rmem_against_size(result: StudyRecord) -> Figure:
    """Draw R_mem at the peak of training against the number of training images N, a curve per level, and a line at 1 - epsilon.

    Peaks carry 95% intervals; the null rate is the same rule on held-out images. Where a size was trained with several seeds,
    each has its point and the line runs through their means. Of a single level the ends of training are drawn too, fainter, and
    EMM.

    Raises:
        UserError: Nothing was measured yet.
    """
    shown = [level for level in result.levels if any(run.evaluations for run in level.runs)]
    if not shown:
        raise UserError(f"The study {result.title!r} has no finished runs, so there is nothing to draw.")
    alone, runs = len(result.levels) == 1, [run for run in result.runs if run.evaluations]
    figure = new_figure() if alone else new_figure(8.6, 4.6 + 0.2 * (len(shown) // 3))
    axes = figure.subplots()
    dress(axes, "Training images N (log scale)", "Samples that are copies, R_mem")
    percent_axis(axes)
    size_axis(axes, [run.size for run in runs])
    nulls = [(float(run.size), run.null) for run in runs if run.null is not None]
    if nulls:
        draw_nulls(axes, nulls, joined=True, label="null rate (held-out images)")
    if alone and any(run.peak.memorized.value != run.last.memorized.value for run in runs):
        sizes, shares = zip(*means([(float(run.size), run.last.memorized) for run in runs]), strict=True)
        axes.plot(
            sizes, shares, color=COLOURS["sky"], marker="o", markersize=5, markerfacecolor="white", linestyle="--",
            label="end of training",
        )  # fmt: skip
    names = short_names([level_label(level.name, result) for level in shown], 30)
    for index, (level, name, look) in enumerate(zip(shown, names, looks(len(shown)), strict=True)):
        points = [[(float(run.size), run.peak.memorized)] for run in level.runs if run.evaluations]
        one = Series("peak over training, 95% interval" if alone else name, look, points)
        draw_points(axes, one, shifted(axes, index, len(shown), 3), joined=True)
    draw_target_rate(axes, result.epsilon)
    if alone:
        _draw_emm(axes, shown[0])
    legend_above(figure, axes)
    return figure


def _draw_emm(axes: Axes, level: LevelRecord) -> None:
    emm = level.emm
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
        "EMM " + emm_text(emm, [run.size for run in level.runs]),
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


def cost_figure(result: StudyRecord) -> Figure:
    """Draw the cost of every level, and of the whole search, in percent of the grid's: training and sampling apart.

    The grid is the pale bar that ends at 100%. A level without a grid has no bar.
    """
    from matplotlib.patches import Patch

    rows: list[tuple[CostRecord, bool]] = [(level.cost, level.finished) for level in result.levels]
    if len(rows) > 1:
        rows.append((result.cost, result.finished))
    figure, axes = level_rows(
        [level.name for level in result.levels],
        "Cost, percent of the grid's",
        1.15,
        ["all levels"] if len(rows) > 1 else [],
    )
    most = max([100.0, *(100 * cost.share for cost, _ in rows)])
    axes.set_xlim(0, most * 1.005)
    if len(rows) > 1:
        axes.axhline(len(rows) - 1.5, color=COLOURS["grey"], linewidth=0.6)
        axes.get_yticklabels()[-1].set_fontweight("bold")
    for index, (cost, finished) in enumerate(rows):
        text = "no grid to compare with"
        if cost.grid_units:
            scale = 100 / cost.grid_units
            trained = scale * cost.images_trained
            axes.barh(index, 100, height=0.62, color="#ECECEC", zorder=1, gid="grid")
            axes.barh(index, trained, height=0.62, color=COLOURS["blue"], zorder=2, gid="training")
            axes.barh(
                index, scale * cost.units - trained, left=trained, height=0.62, color=COLOURS["orange"],
                hatch="////", edgecolor="white", linewidth=0, zorder=2, gid="sampling",
            )  # fmt: skip
            text = (
                f"{share_text(cost)}: {large_text(cost.units)} of {large_text(cost.grid_units)}"
                f"{'' if finished else ', so far'}"
            )
        # Inside the grid's bar where the search left room there.
        inside = cost.grid_units and cost.share < 0.62
        axes.annotate(
            text,
            (100 * cost.share if inside else most, index),
            xytext=(6, 0),
            textcoords="offset points",
            va="center",
            fontsize=FONT_SIZE - 0.5,
            annotation_clip=False,
            zorder=3,
        )
    axes.set_xticks(range(0, int(most) + 1, 25 if most <= 150 else 50 if most <= 400 else 200))
    axes.xaxis.set_major_formatter(lambda value, _: f"{value:.0f}%")
    handles = [
        Patch(color=COLOURS["blue"], label="this search: training"),
        Patch(
            facecolor=COLOURS["orange"], hatch="////", edgecolor="white", linewidth=0, label="this search: sampling"
        ),
        Patch(color="#DCDCDC", label="a fixed grid (100%)"),
    ]  # fmt: skip
    figure.legend(
        handles=handles,
        loc="outside upper left",
        ncols=3,
        frameon=False,
        fontsize=SMALL_FONT_SIZE,
        handlelength=2.2,
    )
    return figure
