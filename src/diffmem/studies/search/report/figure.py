"""EMM of every level of a search; and what it cost, beside a fixed grid of equal precision."""

from __future__ import annotations

from typing import TYPE_CHECKING

from diffmem.reports.level_rows import level_rows
from diffmem.reports.style import COLOURS, FONT_SIZE, SMALL_FONT_SIZE
from diffmem.reports.text import large_text
from diffmem.studies.report.emm_figure import EmmMark, draw_emm_by_level
from diffmem.studies.search.records import CostRecord, SearchResult
from diffmem.studies.search.report.text import level_emm, share_text

if TYPE_CHECKING:
    from matplotlib.figure import Figure

__all__ = ["cost_figure", "emm_by_level_figure"]


def emm_by_level_figure(result: SearchResult) -> Figure:
    """Draw EMM of every level, as `draw_emm_by_level`; levels without runs are named."""
    marks = [
        EmmMark(
            level.name,
            level.emm,
            [run.size for run in level.runs] or list(result.sizes),
            level_emm(level, result),
            level.published,
            [one.value for one in level.by_seed.values() if one.value],
            level.finished,
        )
        for level in result.levels
    ]
    return draw_emm_by_level(marks, result.factor, result.sizes, result.confidence)


def cost_figure(result: SearchResult) -> Figure:
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
