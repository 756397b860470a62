"""Colours, fonts and axes of every figure, in one place, without touching matplotlib's global state."""

from __future__ import annotations

import math
import textwrap
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from diffmem.reports.text import size_text

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure
    from matplotlib.transforms import Transform

__all__ = [
    "COLOURS",
    "FONT_SIZE",
    "SMALL_FONT_SIZE",
    "TITLE_FONT_SIZE",
    "Colour",
    "caption_figure",
    "dress",
    "epoch_axis",
    "legend_below",
    "moved",
    "new_figure",
    "ordered_colours",
    "percent_axis",
    "plain",
    "readable_ticks",
    "round_numbers",
    "show_image",
    "size_axis",
]

COLOURS = {
    "black": "#000000",
    "orange": "#E69F00",
    "sky": "#56B4E9",
    "green": "#009E73",
    "yellow": "#F0E442",
    "blue": "#0072B2",
    "vermillion": "#D55E00",
    "purple": "#CC79A7",
    "grey": "#6E6E6E",
}
"""The palette of Okabe and Ito (2008), which people with any colour vision can tell apart, and a grey."""

Colour = str | tuple[float, float, float]

FONT_SIZE, SMALL_FONT_SIZE, TITLE_FONT_SIZE = 10.0, 8.5, 11.5


def new_figure(width: float = 7.0, height: float = 4.4) -> Figure:
    """Return an empty white figure, size in inches, that lays itself out and draws without a screen."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height), layout="constrained", facecolor="white")
    FigureCanvasAgg(figure)
    return figure


def plain(text: str) -> str:
    """Return text that matplotlib draws as it stands: a dollar sign begins a formula."""
    return text.replace("$", r"\$")


def caption_figure(figure: Figure, title: str, caption: str, letters: int = 400) -> None:
    """Write a title above a figure and a caption below it.

    Args:
        title: Wrapped at 80 letters.
        caption: Small and grey.
        letters: Of the caption on a line.
    """
    figure.suptitle(
        plain(textwrap.fill(title, 80)), x=0.01, ha="left", fontsize=TITLE_FONT_SIZE, fontweight="bold"
    )
    text = plain(textwrap.fill(caption, letters))
    figure.supxlabel(text, x=0.01, ha="left", fontsize=SMALL_FONT_SIZE, color="#444444")


def show_image(axes: Axes, image: NDArray[np.uint8], left: float, top: float) -> None:
    """Draw an image one unit wide, pixel by pixel, on axes whose y runs down; the limits of the axes move to it.

    Args:
        image: uint8 (C, H, W), C = 1 or 3.
        left: Its left edge.
        top: Its upper edge.
    """
    channels, height, width = image.shape
    options: dict[str, Any] = {"cmap": "gray", "vmin": 0, "vmax": 255} if channels == 1 else {}
    axes.imshow(
        image[0] if channels == 1 else image.transpose(1, 2, 0),
        extent=(left, left + 1, top + height / width, top),
        interpolation="nearest",
        **options,
    )


def moved(axes: Axes, right: float, up: float = 0.0) -> Transform:
    """Return the axes' transform moved by a few points, so that marks at one place do not hide each other."""
    from matplotlib.transforms import ScaledTranslation

    figure = axes.get_figure()
    assert figure is not None
    return axes.transData + ScaledTranslation(right / 72, up / 72, figure.dpi_scale_trans)


def dress(axes: Axes, xlabel: str, ylabel: str) -> None:
    """Give axes their labels, a light horizontal grid and no box."""
    axes.set_facecolor("white")
    axes.set_xlabel(xlabel, fontsize=FONT_SIZE)
    axes.set_ylabel(ylabel, fontsize=FONT_SIZE)
    axes.tick_params(labelsize=SMALL_FONT_SIZE, color=COLOURS["grey"])
    axes.grid(axis="y", color="#E4E4E4", linewidth=0.7)
    axes.set_axisbelow(True)
    for side in ("top", "right"):
        axes.spines[side].set_visible(False)
    for side in ("left", "bottom"):
        axes.spines[side].set_color(COLOURS["grey"])


def legend_below(figure: Figure, handles: Sequence[Any], length: float) -> None:
    """Put one legend for all panels under a figure, four entries side by side.

    Args:
        handles: What is explained.
        length: Of the samples of lines, in letters.
    """
    figure.legend(
        handles=handles,
        loc="outside lower center",
        ncols=4,
        frameon=False,
        fontsize=SMALL_FONT_SIZE,
        handlelength=length,
    )


def percent_axis(axes: Axes) -> None:
    """Make the y axis run from 0% to 100%, with room for markers at both ends. Values are in percent."""
    axes.set_ylim(-3, 103)
    axes.set_yticks([0, 20, 40, 60, 80, 100], [f"{value}%" for value in (0, 20, 40, 60, 80, 100)])
    axes.spines["left"].set_bounds(0, 100)


def readable_ticks(values: Sequence[float], low: float, high: float, room: float = 0.075) -> list[float]:
    """Choose the values whose labels fit side by side on a logarithmic axis.

    Args:
        values: Positive candidates.
        low: Left end of the axis.
        high: Right end of the axis.
        room: Least distance of two labels, as a share of the axis.

    Returns:
        Ascending values, the smallest among them always.
    """
    span = math.log(high / low)
    kept: list[float] = []
    for value in sorted(set(values)):
        if not kept or math.log(value / kept[-1]) >= room * span:
            kept.append(value)
    largest = max(values)
    if kept[-1] != largest and len(kept) > 1:
        kept[-1] = largest
    return kept


def size_axis(axes: Axes, sizes: Sequence[float], room: float = 0.075) -> None:
    """Make the x axis a log2 axis with a plain number at each size, as far as the numbers fit.

    Args:
        sizes: Positive numbers.
        room: Least distance of two numbers, as a share of the axis.
    """
    low, high = min(sizes), max(sizes)
    margin = (high / low) ** 0.06 if high > low else 2.0
    axes.set_xscale("log", base=2)
    axes.set_xlim(low / margin, high * margin)
    shown = readable_ticks(list(sizes), low / margin, high * margin, room)
    axes.set_xticks(shown, [size_text(size) for size in shown])
    axes.set_xticks(sorted(set(sizes)), [""] * len(set(sizes)), minor=True)


def epoch_axis(axes: Axes, epochs: Sequence[float], dense: float = 3e3) -> None:
    """Make the x axis a log10 axis with plain numbers at 1, 2 and 5 times the powers of ten, or at the epochs where those are too few.

    Args:
        epochs: Positive numbers.
        dense: Only the powers of ten have numbers where the axis spans more than this factor.
    """
    low, high = min(epochs), max(epochs)
    margin = (high / low) ** 0.03 if high > low else 2.0
    left, right = low / margin, high * margin
    axes.set_xscale("log", base=10)
    axes.set_xlim(left, right)
    inside = round_numbers(left, right, (1,) if right / left > dense else (1, 2, 5))
    if len(inside) < 2:
        inside = readable_ticks(list(epochs), left, right)
    axes.set_xticks(inside, [size_text(number) for number in inside])
    axes.set_xticks([], minor=True)


def round_numbers(low: float, high: float, steps: Sequence[float]) -> list[float]:
    """Return the numbers from `low` to `high` that are one of the steps (1 to 9.99) times a power of ten."""
    powers = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
    numbers = (float(f"{step:g}e{power}") for power in powers for step in steps)
    return [number for number in numbers if low <= number <= high]


def ordered_colours(count: int) -> list[tuple[float, float, float]]:
    """Return `count` colours from dark blue to orange-yellow whose order can be seen, also in grey."""
    from matplotlib import colormaps

    ramp = colormaps["viridis"]
    # The yellow end is too light on white.
    places = [0.72 * index / max(count - 1, 1) for index in range(count)]
    return [(float(r), float(g), float(b)) for r, g, b, _ in map(ramp, places)]
