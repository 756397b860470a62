"""Curves of rates over one axis: each with a colour and a marker of its own, intervals, and the means of several runs."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from diffmem.memorization.rates import Rate
from diffmem.reports.figures import draw_band, draw_intervals, means
from diffmem.reports.style import COLOURS, SMALL_FONT_SIZE, Colour, moved, ordered_colours

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure
    from matplotlib.transforms import Transform

__all__ = [
    "Look",
    "Series",
    "draw_curves",
    "draw_line",
    "draw_nulls",
    "draw_points",
    "legend_above",
    "looks",
    "shifted",
]

_COLOURS = ("blue", "vermillion", "green", "orange", "purple", "sky", "black")
_MARKERS = "osD^v<>"


@dataclass(frozen=True)
class Look:
    """Colour and marker of a curve."""

    colour: Colour
    marker: str

    @property
    def style(self) -> dict[str, Any]:
        """Both, with a white edge of the marker, for matplotlib."""
        edge = {"markeredgecolor": "white", "markeredgewidth": 0.6}
        return {"color": self.colour, "marker": self.marker, **edge}


@dataclass(frozen=True)
class Series:
    """One entry of the legend.

    Attributes:
        label: Its name in the legend.
        look: The same in both panels.
        ours: The runs' points (x, rate): one point per run, or a curve per run over epochs.
        paper: The paper's known points (x, percent).
        gaps: Where the paper has a point that is not known, or a category begins: no line runs across.
        breaks: Where a category begins among the runs.
    """

    label: str
    look: Look
    ours: list[list[tuple[float, Rate]]] = field(default_factory=list)
    paper: list[tuple[float, float]] = field(default_factory=list)
    gaps: list[float] = field(default_factory=list)
    breaks: list[float] = field(default_factory=list)


def looks(count: int) -> list[Look]:
    """Return `count` looks that differ in colour and in marker; above seven the colours are a ramp."""
    if count <= len(_COLOURS):
        return [Look(COLOURS[name], mark) for name, mark in zip(_COLOURS, _MARKERS, strict=True)][:count]
    return [
        Look(colour, _MARKERS[index % len(_MARKERS)]) for index, colour in enumerate(ordered_colours(count))
    ]


def shifted(axes: Axes, index: int, count: int, step: float) -> Transform:
    """Return the axes' transform moved sideways by a few points, so that intervals at one x do not hide each other."""
    # Many curves are distinguished by their height; moved that often they would leave their position.
    return moved(axes, (index - (count - 1) / 2) * step if count <= 7 else 0.0)


def draw_line(
    axes: Axes,
    points: Sequence[tuple[float, float]],
    one: Series,
    *,
    joined: bool,
    transform: Transform | None = None,
    size: float = 6.5,
) -> None:
    """Draw points (x, percent) in the look of a series, with or without a line through them; NaN breaks the line."""
    axes.plot(
        [x for x, _ in points],
        [y for _, y in points],
        **one.look.style,
        markersize=size,
        linestyle="-" if joined else "",
        linewidth=1.6,
        zorder=4,
        transform=axes.transData if transform is None else transform,
        label=one.label,
    )


def draw_points(axes: Axes, one: Series, transform: Transform, *, joined: bool) -> None:
    """Draw each run's point with its interval, and their means; `joined`: a line through the means."""
    points = [point for points in one.ours for point in points]
    mean = means(points)
    several = len(points) > len(mean)
    draw_intervals(axes, points, one.look.colour, alpha=0.55 if several else 1.0, transform=transform)
    if several:
        axes.plot(
            [x for x, _ in points],
            [100 * rate.value for _, rate in points],
            color=one.look.colour,
            marker=one.look.marker,
            markersize=4.5,
            linestyle="",
            alpha=0.4,
            markeredgewidth=0,
            zorder=3,
            transform=transform,
            label=f"runs of {one.label}",
        )
    broken = sorted([*mean, *((x, math.nan) for x in one.breaks)]) if joined else mean
    draw_line(axes, broken, one, joined=joined, transform=transform)


def draw_curves(axes: Axes, one: Series) -> None:
    """Draw each run's curve with its band of intervals, and their mean at the x that all of them have."""
    several = len(one.ours) > 1
    for points in one.ours:
        if len(points) == 1:
            draw_intervals(axes, points, one.look.colour, alpha=1.0)
        draw_band(axes, points, one.look.colour)
        if several:
            axes.plot(
                [x for x, _ in points],
                [100 * rate.value for _, rate in points],
                color=one.look.colour,
                linewidth=0.9,
                alpha=0.45,
                label=f"runs of {one.label}",
            )
    shared = means([point for points in one.ours for point in points], least=len(one.ours))
    draw_line(axes, shared, one, joined=True, size=4.5)


def draw_nulls(
    axes: Axes,
    points: Sequence[tuple[float, Rate]],
    *,
    joined: bool,
    flat: bool = False,
    label: str = "null rates",
) -> None:
    """Draw null rates; `flat`: one line through all, because they do not depend on x."""
    grey = COLOURS["grey"]
    draw_intervals(axes, points, grey, alpha=0.8)
    axes.plot(
        [x for x, _ in points],
        [100 * rate.value for _, rate in points],
        color=grey,
        marker="s",
        markersize=3.2,
        linestyle="",
        zorder=2,
        label=label,
    )
    if flat:
        mean = sum(100 * rate.value for _, rate in points) / len(points)
        axes.axhline(mean, color=grey, linestyle=":", linewidth=1.4, zorder=1)
    elif joined:
        mean_points = means(points)
        axes.plot(
            [x for x, _ in mean_points],
            [y for _, y in mean_points],
            color=grey,
            linestyle=":",
            linewidth=1.4,
            zorder=1,
        )


def legend_above(figure: Figure, axes: Axes) -> None:
    """Put a legend over a figure, with an entry for each named line but those of single runs."""
    handles, labels = axes.get_legend_handles_labels()
    figure.legend(
        handles=[handle for handle, label in zip(handles, labels, strict=True) if not label.startswith("runs of")],
        loc="outside upper left", ncols=3, frameon=False, fontsize=SMALL_FONT_SIZE, handlelength=2.2,
    )  # fmt: skip
