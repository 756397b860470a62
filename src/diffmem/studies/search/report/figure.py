"""EMM of every level with its interval, beside the paper's values; and what it cost, beside a fixed grid of equal precision."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from diffmem.reports.level_axis import level_axis, numbers_of
from diffmem.reports.style import (
    COLOURS,
    FONT_SIZE,
    SMALL_FONT_SIZE,
    dress,
    moved,
    new_figure,
    plain,
    round_numbers,
)
from diffmem.reports.text import capitalized, large_text, size_text
from diffmem.studies.search.records import CostRecord, LevelRecord, SearchResult
from diffmem.studies.search.report.panels import ROWS_WIDTH, level_rows
from diffmem.studies.search.report.text import level_emm, share_text

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

__all__ = ["cost_figure", "emm_by_level_figure"]

OURS = COLOURS["blue"]
_PAPER_STYLE: dict[str, Any] = {
    "marker": "D", "markersize": 7, "markerfacecolor": "white", "markeredgecolor": COLOURS["black"],
    "markeredgewidth": 1.3,
}  # fmt: skip
_STEPS: tuple[tuple[float, ...], ...] = (
    (1,), (1, 2, 5), (1, 1.5, 2, 3, 5, 7), (1, 1.2, 1.4, 1.6, 1.8, 2, 2.5, 3, 3.5, 4, 5, 6, 7, 8, 9),
)  # fmt: skip
"""Round numbers of an axis between two powers of ten, from few to many."""


@dataclass(frozen=True)
class _Mark:
    """What is drawn for one level: a point, an arrow where one end alone is known, a span without a point, or words alone."""

    value: float | None = None
    low: float | None = None
    high: float | None = None
    guess: bool = False  # its ends are not those of an interval

    @property
    def ends(self) -> list[float]:
        return [end for end in (self.value, self.low, self.high) if end]


def emm_by_level_figure(result: SearchResult) -> Figure:
    """Draw EMM of every level with its interval, and the paper's value beside it where it is known.

    Levels that are positive numbers have a logarithmic axis; others are rows, in their order. An EMM above the largest size, or
    below the smallest, is an arrow; one that is not a single number, or not known yet, is a dashed span as far as it is known,
    and is named in words. With several seeds, each seed has a faint point.

    Args:
        result: The search; levels without runs are named.
    """
    numbers = numbers_of([level.name for level in result.levels])
    if numbers and len(numbers) > 1 and min(numbers) > 0 and len(set(numbers)) == len(numbers):
        return _over_numbers(result, numbers)
    return _rows(result)


def _mark(level: LevelRecord, result: SearchResult) -> _Mark:
    emm, sizes = level.emm, [run.size for run in level.runs] or list(result.sizes)
    if emm.status == "above largest":
        return _Mark(low=float(max(sizes)))
    if emm.status == "below smallest":
        return _Mark(high=float(min(sizes)))
    answered = emm.status == "estimated"
    return _Mark(emm.value if answered else None, emm.low, emm.high, guess=not answered)


def _limits(result: SearchResult) -> list[float]:
    """Return every number that the axis of EMM must show."""
    marks = [_mark(level, result) for level in result.levels]
    found = [end for mark in marks for end in mark.ends]
    if any(mark.guess and (mark.low is None) != (mark.high is None) for mark in marks):
        found += [float(size) for size in result.sizes]  # an end that is not known yet lies anywhere in these
    found += [level.published for level in result.levels if level.published]
    found += [one.value for level in result.levels for one in level.by_seed.values() if one.value]
    return found or [float(size) for size in result.sizes]


def _several_seeds(level: LevelRecord) -> list[float]:
    values = [one.value for one in level.by_seed.values() if one.value]
    return values if len(level.by_seed) > 1 else []


def _axis_of_emm(values: Sequence[float]) -> tuple[float, float, list[float]]:
    """Return both ends of a logarithmic axis with room around the values, and its round numbers that fit."""
    low, high = min(values), max(values)
    margin = max((high / low) ** 0.09, 1.25)
    left, right = low / margin, high * margin
    inside: list[float] = []
    for steps in _STEPS:
        inside = round_numbers(left, right, steps)
        if len(inside) >= 4:
            break
    return left, right, inside or [low]


def _spot(value: float, position: float, across: bool) -> tuple[float, float]:
    """Return (x, y) of an EMM at the position of its level."""
    return (value, position) if across else (position, value)


def _draw_mark(axes: Axes, mark: _Mark, position: float, across: bool) -> None:
    """Draw one level at `position`; EMM runs along x if `across`, else along y."""
    dashes = (0, (2, 1.5)) if mark.guess else "-"
    low, high = mark.low, mark.high
    for end in (low, high):
        if end is not None:
            axes.plot(
                *_spot(end, position, across), color=OURS, marker="|" if across else "_", markersize=9,
                markeredgewidth=1.7, linestyle="",
            )  # fmt: skip
    if low is not None and high is not None:
        x, y = zip(_spot(low, position, across), _spot(high, position, across), strict=True)
        width = 1.8 if mark.guess else 2.6
        axes.plot(x, y, color=OURS, linestyle=dashes, linewidth=width, solid_capstyle="butt")
    elif mark.value is None and (low or high):
        # Known at one side: an arrow to the other.
        side = 1 if low is not None else -1
        axes.annotate(
            "",
            _spot(low or high or 1.0, position, across),
            xytext=(34 * side, 0) if across else (0, 26 * side),
            textcoords="offset points",
            arrowprops={
                "arrowstyle": "<|-", "color": OURS, "linewidth": 1.8, "linestyle": dashes, "mutation_scale": 14,
                "shrinkA": 0, "shrinkB": 0,
            },
            annotation_clip=False,
        )  # fmt: skip
    if mark.value is not None:
        axes.plot(
            *_spot(mark.value, position, across), color=OURS, marker="o", markersize=8.5, markeredgecolor="white",
            markeredgewidth=0.8, linestyle="", zorder=5, gid="EMM",
        )  # fmt: skip


def _draw_level(axes: Axes, level: LevelRecord, result: SearchResult, position: float, across: bool) -> None:
    """Draw a level's mark, each of several seeds faintly beside it, and the paper's value."""
    _draw_mark(axes, _mark(level, result), position, across)
    seeds = _several_seeds(level)
    positions = [position] * len(seeds)
    xy = (seeds, positions) if across else (positions, seeds)
    axes.plot(
        *xy, color=COLOURS["blue"], marker="^" if across else "<", markersize=4.5, linestyle="", alpha=0.65,
        markeredgewidth=0, zorder=3, gid="seeds", transform=moved(axes, 0, -9) if across else moved(axes, 9),
    )  # fmt: skip
    if level.published:
        axes.plot(
            *_spot(level.published, position, across), **_PAPER_STYLE, linestyle="", zorder=4, gid="paper"
        )


def _rows(result: SearchResult) -> Figure:
    """Draw levels as rows, the first on top, with their numbers in words at the right."""
    figure, axes = level_rows(
        [level.name for level in result.levels], "EMM, training images (log scale)", 1.35
    )
    axes.grid(axis="x", color="#E4E4E4", linewidth=0.7)
    left, right, ticks = _axis_of_emm(_limits(result))
    axes.set_xscale("log")
    axes.set_xlim(left, right)
    axes.set_xticks([], minor=True)
    axes.set_xticks(ticks, [size_text(tick) for tick in ticks])
    for position, level in enumerate(result.levels):
        _draw_level(axes, level, result, position, across=True)
        axes.annotate(
            level_emm(level, result),
            (1, position),
            xycoords=axes.get_yaxis_transform(),
            xytext=(10, 0),
            textcoords="offset points",
            va="center",
            fontsize=FONT_SIZE - 0.5,
            fontweight="bold" if level.emm.status == "estimated" else "normal",
            color=COLOURS["black"] if level.finished else COLOURS["grey"],
            annotation_clip=False,
        )
    _legend(figure, result)
    return figure


def _over_numbers(result: SearchResult, numbers: Sequence[float]) -> Figure:
    """Draw EMM against levels that are positive numbers, both on logarithmic axes."""
    figure = new_figure(ROWS_WIDTH, 4.4)
    axes = figure.subplots()
    dress(axes, plain(f"{capitalized(result.factor)} (log scale)"), "EMM, training images (log scale)")
    low, high, ticks = _axis_of_emm(_limits(result))
    axes.set_yscale("log")
    axes.set_ylim(low, high)
    axes.set_yticks([], minor=True)
    axes.set_yticks(ticks, [size_text(tick) for tick in ticks])
    level_axis(
        axes, numbers, [level.name for level in result.levels], logarithmic=True, width=ROWS_WIDTH - 1.0
    )
    known = sorted(
        (number, level.emm.value)
        for number, level in zip(numbers, result.levels, strict=True)
        if level.emm.value and level.emm.status == "estimated"
    )
    axes.plot([x for x, _ in known], [y for _, y in known], color=OURS, linewidth=1.0, alpha=0.45, zorder=1)
    for number, level in zip(numbers, result.levels, strict=True):
        _draw_level(axes, level, result, number, across=False)
        _name_number(axes, level, result, number, roomy=len(numbers) <= 8)
    _legend(figure, result)
    return figure


def _name_number(axes: Axes, level: LevelRecord, result: SearchResult, number: float, *, roomy: bool) -> None:
    """Write EMM beside its point where there is room, and always where no point is drawn."""
    mark, words = _mark(level, result), level_emm(level, result)
    if mark.value is not None:
        if not roomy:
            return
        words = words.partition(" [")[0]
    left, right = axes.get_xlim()
    near_end = math.log(number / left) > 0.75 * math.log(right / left)
    style: dict[str, Any] = {
        "textcoords": "offset points",
        "ha": "right" if near_end else "left",
        "va": "center",
        "fontsize": SMALL_FONT_SIZE + 0.5,
        "color": COLOURS["black"] if level.finished else COLOURS["grey"],
        "annotation_clip": False,
    }
    shift = -8 if near_end else 8
    if mark.ends:
        position = (
            mark.value if mark.value is not None else math.exp(sum(map(math.log, mark.ends)) / len(mark.ends))
        )
        axes.annotate(words, (number, position), xytext=(shift, 0), **style)
    else:
        axes.annotate(
            words, (number, 0), xycoords=axes.get_xaxis_transform(), xytext=(0, 4),
            **{**style, "rotation": 90, "ha": "center", "va": "bottom"},
        )  # fmt: skip


def _legend(figure: Figure, result: SearchResult) -> None:
    from matplotlib.lines import Line2D

    def entry(label: str, **style: Any) -> Line2D:
        return Line2D([], [], **{"color": OURS, "linestyle": "", **style}, label=label)

    handles = [
        entry(
            f"EMM, {100 * result.confidence:.4g}% interval",
            marker="o",
            markersize=8,
            linestyle="-",
            linewidth=2.4,
        )
    ]
    if any(_several_seeds(level) for level in result.levels):
        handles.append(entry("each seed alone", marker="^", markersize=5, alpha=0.65))
    if any(level.published for level in result.levels):
        handles.append(entry("the paper's value for the corresponding level", **_PAPER_STYLE))
    if any(level.emm.status in ("above largest", "below smallest") for level in result.levels):
        handles.append(entry("outside the allowed sizes", marker="$\u2192$", markersize=11))
    if any(mark.guess and mark.ends for mark in (_mark(level, result) for level in result.levels)):
        handles.append(entry("range, without a point estimate", linestyle=(0, (2, 1.5)), linewidth=1.8))
    figure.legend(
        handles=handles, loc="outside upper left", ncols=3, frameon=False, fontsize=SMALL_FONT_SIZE, handlelength=2.2,
    )  # fmt: skip


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
