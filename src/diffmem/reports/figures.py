"""What figures of rates share: intervals, bands, means, names of curves; and how a figure is saved."""

from __future__ import annotations

import io
import re
import warnings
from collections import defaultdict
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING

from diffmem.memorization.rates import Rate
from diffmem.reports.style import COLOURS, SMALL_FONT_SIZE, Colour

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure
    from matplotlib.transforms import Transform

__all__ = [
    "DPI",
    "draw_band",
    "draw_intervals",
    "draw_target_rate",
    "figure_svg",
    "means",
    "name_ends",
    "spread_labels",
    "without_font_warnings",
]

DPI = 160


def means(points: Sequence[tuple[float, Rate]], least: int = 1) -> list[tuple[float, float]]:
    """Return (x, mean percent) at each x that has at least `least` points, ascending in x."""
    found: dict[float, list[float]] = defaultdict(list)
    for x, rate in points:
        found[x].append(100 * rate.value)
    return [(x, sum(found[x]) / len(found[x])) for x in sorted(found) if len(found[x]) >= least]


def draw_band(axes: Axes, points: Sequence[tuple[float, Rate]], colour: Colour) -> None:
    """Draw the 95% intervals of a curve (x, rate) as a band."""
    low, high = [100 * rate.low for _, rate in points], [100 * rate.high for _, rate in points]
    axes.fill_between([x for x, _ in points], low, high, color=colour, alpha=0.18, linewidth=0)


def draw_intervals(
    axes: Axes,
    points: Sequence[tuple[float, Rate]],
    colour: Colour,
    *,
    capsize: float = 2.5,
    zorder: float = 3,
    alpha: float | None = None,
    transform: Transform | None = None,
) -> None:
    """Draw the 95% interval of each (x, rate) as a bar, without its point."""
    rates = [rate for _, rate in points]
    axes.errorbar(
        [x for x, _ in points],
        [100 * rate.value for rate in rates],
        yerr=[
            [100 * max(rate.value - rate.low, 0.0) for rate in rates],
            [100 * max(rate.high - rate.value, 0.0) for rate in rates],
        ],
        fmt="none",
        ecolor=colour,
        elinewidth=1.2,
        capsize=capsize,
        alpha=alpha,
        zorder=zorder,
        transform=axes.transData if transform is None else transform,
    )


def draw_target_rate(axes: Axes, epsilon: float, *, inside: bool = False) -> None:
    """Draw a line at 1 - epsilon, named at its right outside the axes or at its left below the line."""
    level = 100 * (1 - epsilon)
    axes.axhline(level, color=COLOURS["black"], linestyle="--", linewidth=1, zorder=1 if inside else 2)
    axes.annotate(
        f"{level:.4g}%",
        (0 if inside else 1, level),
        xycoords=axes.get_yaxis_transform(),
        xytext=(3, -2) if inside else (4, 0),
        textcoords="offset points",
        va="top" if inside else "center",
        fontsize=SMALL_FONT_SIZE,
        annotation_clip=False,
    )


def name_ends(
    axes: Axes, ends: Sequence[tuple[str, Sequence[tuple[float, float]], Colour]], height: float
) -> None:
    """Name curves at the right of the axes, with a thin line to where they end.

    Args:
        axes: Axes in percent.
        ends: (name, the last point of each curve of this name, colour); of equal height the first is named on top.
        height: Of the axes in inches.
    """
    points = [(max(x for x, _ in last), sum(y for _, y in last) / len(last)) for _, last, _ in ends]
    gap = 106 * SMALL_FONT_SIZE * 1.25 / 72 / height
    places = spread_labels([y - 1e-6 * index for index, (_, y) in enumerate(points)], gap)
    for (name, _, colour), point, place in zip(ends, points, places, strict=True):
        axes.annotate(
            name,
            point,
            xytext=(1.05, place),
            textcoords=axes.get_yaxis_transform(),
            ha="left",
            va="center",
            fontsize=SMALL_FONT_SIZE,
            color=colour,
            annotation_clip=False,
            arrowprops={
                "arrowstyle": "-", "linewidth": 0.6, "shrinkA": 1, "shrinkB": 3, "relpos": (0, 0.5), "color": colour,
            },
        )  # fmt: skip


def spread_labels(values: Sequence[float], gap: float, low: float = 0.0, high: float = 100.0) -> list[float]:
    """Move label positions apart until they are at least `gap` from each other, keeping their order.

    Args:
        values: Where the labels would like to be.
        gap: Least distance of two labels; made smaller where they would not fit between `low` and `high`.
        low: Lowest place.
        high: Highest place.

    Returns:
        The place of each label, in the order of `values`.
    """
    order = sorted(range(len(values)), key=lambda index: values[index])
    gap = min(gap, (high - low) / max(len(values) - 1, 1))
    places = [0.0] * len(values)
    floor = low
    for index in order:
        places[index] = max(values[index], floor)
        floor = places[index] + gap
    ceiling = high
    for index in reversed(order):
        places[index] = min(places[index], ceiling)
        ceiling = places[index] - gap
    return places


@contextmanager
def without_font_warnings() -> Iterator[None]:
    """Draw without a warning for each letter of a name that the font lacks: it becomes a box, which shows it."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Glyph .* missing from font")
        yield


def figure_svg(figure: Figure) -> str:
    """Return a figure as an SVG element, the same text for the same figure.

    It has no date and refers to nothing outside itself; letters are drawn as outlines.
    """
    import matplotlib as mpl

    stream = io.StringIO()
    with mpl.rc_context({"svg.hashsalt": "diffmem", "svg.fonttype": "path"}), without_font_warnings():
        figure.savefig(stream, format="svg", metadata={"Date": None, "Creator": None})
    text = stream.getvalue()
    text = re.sub(r"<metadata>.*?</metadata>\s*", "", text, flags=re.DOTALL)
    return text[text.index("<svg") :]
