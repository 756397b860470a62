"""EMM of every level of a factor with its interval, beside the paper's values."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from diffmem.reports.level_axis import level_axis, numbers_of
from diffmem.reports.level_rows import ROWS_WIDTH, level_rows
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
from diffmem.reports.text import capitalized, size_text
from diffmem.studies.records import LevelRecord, StudyRecord
from diffmem.studies.report.text import level_emm

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

__all__ = ["emm_by_level"]

OURS = COLOURS["blue"]
_PAPER_STYLE: dict[str, Any] = {
    "marker": "D", "markersize": 7, "markerfacecolor": "white", "markeredgecolor": COLOURS["black"],
    "markeredgewidth": 1.3,
}  # fmt: skip
_STEPS: tuple[tuple[float, ...], ...] = (
    (1,), (1, 2, 5), (1, 1.5, 2, 3, 5, 7), (1, 1.2, 1.4, 1.6, 1.8, 2, 2.5, 3, 3.5, 4, 5, 6, 7, 8, 9),
)  # fmt: skip
"""Round numbers of an axis between two powers of ten, from few to many."""


class _Mark(LevelRecord):
    """A level with the sizes that were tried, or may be, and EMM in a few words."""

    sizes: list[int]
    words: str

    @property
    def value(self) -> float | None:
        """The point that is drawn; none where an arrow, a span or words alone stand for it."""
        return self.emm.value if self.emm.status == "estimated" else None

    @property
    def guess(self) -> bool:
        """Whether its ends are not those of an interval."""
        return self.emm.status not in ("estimated", "above largest", "below smallest")

    @property
    def ends(self) -> tuple[float | None, float | None]:
        """The lower and the upper end, as far as they are known."""
        if self.emm.status == "above largest":
            return self.emm.low or float(max(self.sizes)), None
        if self.emm.status == "below smallest":
            return None, self.emm.high or float(min(self.sizes))
        return self.emm.low, self.emm.high

    @property
    def seeds(self) -> list[float]:
        """EMM of each of several seeds alone, where it is known."""
        found = [one.value for one in self.by_seed.values() if one.value]
        return found if len(found) > 1 else []

    @property
    def known(self) -> list[float]:
        """All of these numbers."""
        return [one for one in (self.value, *self.ends) if one]


def emm_by_level(result: StudyRecord) -> Figure:
    """Draw EMM of every level with its interval, and the paper's value beside it where it is known.

    Levels that are positive numbers have a logarithmic axis; others are rows, in their order. An EMM above the largest size, or
    below the smallest, is an arrow; one that is not a single number, or not known yet, is a dashed span as far as it is known,
    and is named in words. With several seeds, each seed has a faint point.
    """
    levels = [
        _Mark(
            **vars(level),
            sizes=[run.size for run in level.runs] or result.sizes,
            words=level_emm(level, result),
        )
        for level in result.levels
    ]
    factor, sizes = result.factor, result.sizes
    numbers = numbers_of([level.name for level in levels])
    if numbers and len(numbers) > 1 and min(numbers) > 0 and len(set(numbers)) == len(numbers):
        figure = _over_numbers(levels, numbers, factor, sizes)
    else:
        figure = _rows(levels, sizes)
    _legend(figure, levels, result.confidence)
    return figure


def _limits(levels: Sequence[_Mark], sizes: Sequence[int]) -> list[float]:
    """Return every number that the axis of EMM must show."""
    found = [one for level in levels for one in level.known]
    if any(level.guess and level.ends.count(None) == 1 for level in levels):
        found += map(float, sizes)  # an end that is not known yet lies anywhere in these
    found += [level.published for level in levels if level.published]
    found += [value for level in levels for value in level.seeds]
    return found or [float(size) for size in sizes]


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
    low, high = mark.ends
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


def _draw_level(axes: Axes, level: _Mark, position: float, across: bool) -> None:
    """Draw a level's mark, each of several seeds faintly beside it, and the paper's value."""
    _draw_mark(axes, level, position, across)
    positions = [position] * len(level.seeds)
    xy = (level.seeds, positions) if across else (positions, level.seeds)
    axes.plot(
        *xy, color=COLOURS["blue"], marker="^" if across else "<", markersize=4.5, linestyle="", alpha=0.65,
        markeredgewidth=0, zorder=3, gid="seeds", transform=moved(axes, 0, -9) if across else moved(axes, 9),
    )  # fmt: skip
    if level.published:
        axes.plot(
            *_spot(level.published, position, across), **_PAPER_STYLE, linestyle="", zorder=4, gid="paper"
        )


def _rows(levels: Sequence[_Mark], sizes: Sequence[int]) -> Figure:
    """Draw levels as rows, the first on top, with their numbers in words at the right."""
    figure, axes = level_rows([level.name for level in levels], "EMM, training images (log scale)", 1.35)
    axes.grid(axis="x", color="#E4E4E4", linewidth=0.7)
    left, right, ticks = _axis_of_emm(_limits(levels, sizes))
    axes.set_xscale("log")
    axes.set_xlim(left, right)
    axes.set_xticks([], minor=True)
    axes.set_xticks(ticks, [size_text(tick) for tick in ticks])
    for position, level in enumerate(levels):
        _draw_level(axes, level, position, across=True)
        axes.annotate(
            level.words,
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
    return figure


def _over_numbers(
    levels: Sequence[_Mark], numbers: Sequence[float], factor: str, sizes: Sequence[int]
) -> Figure:
    """Draw EMM against levels that are positive numbers, both on logarithmic axes."""
    figure = new_figure(ROWS_WIDTH, 4.4)
    axes = figure.subplots()
    dress(axes, plain(f"{capitalized(factor)} (log scale)"), "EMM, training images (log scale)")
    low, high, ticks = _axis_of_emm(_limits(levels, sizes))
    axes.set_yscale("log")
    axes.set_ylim(low, high)
    axes.set_yticks([], minor=True)
    axes.set_yticks(ticks, [size_text(tick) for tick in ticks])
    level_axis(axes, numbers, [level.name for level in levels], logarithmic=True, width=ROWS_WIDTH - 1.0)
    known = sorted(
        (number, level.emm.value)
        for number, level in zip(numbers, levels, strict=True)
        if level.emm.value and level.emm.status == "estimated"
    )
    axes.plot([x for x, _ in known], [y for _, y in known], color=OURS, linewidth=1.0, alpha=0.45, zorder=1)
    for number, level in zip(numbers, levels, strict=True):
        _draw_level(axes, level, number, across=False)
        _name_number(axes, level, number, roomy=len(numbers) <= 8)
    return figure


def _name_number(axes: Axes, level: _Mark, number: float, *, roomy: bool) -> None:
    """Write EMM beside its point where there is room, and always where no point is drawn."""
    words = level.words
    if level.value is not None:
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
    if level.known:
        position = (
            level.value
            if level.value is not None
            else math.exp(sum(map(math.log, level.known)) / len(level.known))
        )
        axes.annotate(words, (number, position), xytext=(shift, 0), **style)
    else:
        axes.annotate(
            words, (number, 0), xycoords=axes.get_xaxis_transform(), xytext=(0, 4),
            **{**style, "rotation": 90, "ha": "center", "va": "bottom"},
        )  # fmt: skip


def _legend(figure: Figure, levels: Sequence[_Mark], confidence: float) -> None:
    from matplotlib.lines import Line2D

    def entry(label: str, **style: Any) -> Line2D:
        return Line2D([], [], **{"color": OURS, "linestyle": "", **style}, label=label)

    handles = [
        entry(
            f"EMM, {100 * confidence:.4g}% interval",
            marker="o",
            markersize=8,
            linestyle="-",
            linewidth=2.4,
        )
    ]
    if any(level.seeds for level in levels):
        handles.append(entry("each seed alone", marker="^", markersize=5, alpha=0.65))
    if any(level.published for level in levels):
        handles.append(entry("the paper's value for the corresponding level", **_PAPER_STYLE))
    if any(level.emm.status in ("above largest", "below smallest") for level in levels):
        handles.append(entry("outside the allowed sizes", marker="$\u2192$", markersize=11))
    if any(level.guess and level.known for level in levels):
        handles.append(entry("range, without a point estimate", linestyle=(0, (2, 1.5)), linewidth=1.8))
    figure.legend(
        handles=handles, loc="outside upper left", ncols=3, frameon=False, fontsize=SMALL_FONT_SIZE, handlelength=2.2,
    )  # fmt: skip
