"""What is drawn inside the panels of an experiment: points with intervals, curves with bands, null rates."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING

from diffmem.memorization.rates import Rate
from diffmem.paper.report.series import Series
from diffmem.reports.figures import draw_band, draw_intervals, means
from diffmem.reports.style import COLOURS, moved

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.transforms import Transform

__all__ = ["draw_curves", "draw_line", "draw_nulls", "draw_points", "shifted"]


def shifted(axes: Axes, index: int, count: int, step: float) -> Transform:
    """Return the axes' transform moved sideways by a few points, so that intervals at one x do not hide each other."""
    # Many curves are distinguished by their height; moved that often they would leave their place.
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


def draw_nulls(axes: Axes, points: Sequence[tuple[float, Rate]], *, joined: bool, flat: bool) -> None:
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
        label="null rates",
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
