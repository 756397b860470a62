"""The two curves of a study: R_mem against the size of the training set, and against epochs."""

from __future__ import annotations

import io
import re
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from diffmem.files import atomic_path
from diffmem.memorization.rates import Rate
from diffmem.reports.style import (
    COLOURS,
    SMALL_FONT_SIZE,
    Colour,
)

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure
    from matplotlib.transforms import Transform

__all__ = [
    "DPI",
    "draw_intervals",
    "figure_svg",
    "line_of_epsilon",
    "save_figure",
    "spread_labels",
    "without_font_warnings",
]

DPI = 160


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


def line_of_epsilon(axes: Axes, epsilon: float, *, inside: bool = False) -> None:
    """Draw the line of 1 - epsilon, named at its right outside the axes or at its left below the line."""
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


def save_figure(figure: Figure, path: Path) -> None:
    """Write a figure as PNG, 160 dots per inch, whole or not at all.

    Args:
        figure: What to write.
        path: The file; its folder is made if it is missing.

    Raises:
        DiffmemError: The file cannot be written.
    """
    with atomic_path(path) as temporary, without_font_warnings():
        figure.savefig(temporary, format="png", dpi=DPI, metadata={"Software": None})


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
