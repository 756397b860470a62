"""When training reaches a rate of copies, against the number of training images."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from diffmem.reports.curves import Look
from diffmem.reports.style import COLOURS, SMALL_FONT_SIZE, dress, moved, round_numbers, size_axis
from diffmem.reports.text import large_text
from diffmem.studies.onset_records import Growth, OnsetRecord, SizeTime, Times
from diffmem.studies.records import StudyRecord
from diffmem.studies.report.onset_text import line_text
from diffmem.studies.report.panels import level_panels

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

__all__ = ["draw_onset", "onset_by_level"]

_LOOKS = (
    Look(COLOURS["orange"], "o"),
    Look(COLOURS["vermillion"], "s"),
    Look(COLOURS["purple"], "^"),
    Look(COLOURS["black"], "v"),
)
_BEST = Look(COLOURS["blue"], "D")


def onset_by_level(result: StudyRecord) -> Figure:
    """Draw when training begins to copy, a panel per level; see `draw_onset`.

    Raises:
        UserError: Nothing was measured yet.
    """
    figure, panels, _ = level_panels(result, lambda level: 3.6, 2)
    for axes, level in panels:
        if level.onset is not None and level.onset.lines[0].runs:
            draw_onset(axes, level.onset)
    return figure


def draw_onset(axes: Axes, record: OnsetRecord) -> None:
    """Draw the images seen when R_mem reaches each line against N, and when the Frechet distance was least.

    A point is the mean of a size's runs (of ln t) with its interval, an arrow where it is open at one side. A line is the power law,
    the band its prediction interval for one more run.

    Args:
        record: With at least one run that was evaluated.
    """
    dress(axes, "Training images N (log scale)", "Images seen (log scale)")
    shown: list[tuple[Times, Look, str]] = [
        (line, look, f"{line_text(line.line)} copies")
        for line, look in zip(record.lines, _LOOKS, strict=False)
    ]
    if record.best_frechet is not None:
        shown.append((record.best_frechet, _BEST, "least Frechet distance"))
    sizes = sorted({float(size.size) for times, _, _ in shown for size in times.sizes})
    size_axis(axes, sizes)
    low, high = axes.get_xlim()
    if any(times.growth is not None for times, _, _ in shown):
        low, high = min(low, min(sizes) / 1.25), max(high, 2.2 * max(sizes))
    axes.set_xlim(low, high)
    _time_axis(axes, shown, high)
    for index, (times, look, name) in enumerate(shown):
        _draw_law(axes, times, look, high)
        _draw_sizes(axes, times.sizes, look, 5.0 * (index - (len(shown) - 1) / 2))
        law = "" if times.growth is None else _law_text(times.growth)
        axes.plot(
            [], [], **look.style, markersize=6.5, linestyle="" if times.growth is None else "-", linewidth=1.6,
            label=f"{name}{law}",
        )  # fmt: skip
    axes.legend(
        loc="upper left", frameon=False, fontsize=SMALL_FONT_SIZE, handlelength=2.2, borderaxespad=0.2
    )


def _law_text(growth: Growth) -> str:
    exponent = growth.exponent
    return rf", $N^{{{exponent.value:.2f}}}$ [{exponent.low:.2f}, {exponent.high:.2f}]"


def _time_axis(axes: Axes, shown: Sequence[tuple[Times, Look, str]], rightmost: float) -> None:
    """Make the y axis logarithmic, with room for every time that is drawn."""
    values = [
        one
        for times, _, _ in shown
        for size in times.sizes
        for one in (size.value, size.low, size.high)
        if one is not None
    ]
    values += [
        one
        for times, _, _ in shown
        if times.growth is not None
        for at in times.growth.band
        if at.size <= rightmost
        for one in (at.low, at.high)
    ]
    low, high = min(values, default=1.0) / 1.5, max(values, default=10.0) * 1.5
    high = max(high * (high / low) ** 0.4, 30 * low)  # room for the legend
    axes.set_yscale("log")
    axes.set_ylim(low, high)
    steps = (1,) if high / low > 1e4 else (1, 3) if high / low > 1e2 else (1, 2, 5)
    ticks = round_numbers(low, high / (high / low) ** 0.06, steps)  # the panel's name stands above
    axes.set_yticks(ticks, [large_text(tick) for tick in ticks])
    axes.set_yticks([], minor=True)


def _draw_law(axes: Axes, times: Times, look: Look, rightmost: float) -> None:
    if times.growth is None:
        return
    band = [at for at in times.growth.band if at.size <= 1.3 * rightmost]
    sizes = [at.size for at in band]
    axes.fill_between(
        sizes, [at.low for at in band], [at.high for at in band], color=look.colour, alpha=0.13, linewidth=0
    )
    axes.plot(sizes, [at.value for at in band], color=look.colour, linewidth=1.6, zorder=2)


def _draw_sizes(axes: Axes, sizes: Sequence[SizeTime], look: Look, shift: float) -> None:
    """Draw each size's time with its interval, a few points to the side so that lines do not hide each other."""
    where = moved(axes, shift)
    style: dict[str, Any] = {"color": look.colour, "zorder": 4, "transform": where}
    for size in sizes:
        if size.low is not None and size.high is not None:
            axes.plot(
                [size.size] * 2, [size.low, size.high], linewidth=1.3, marker="_", markersize=6, **style
            )
        elif size.low is not None or size.high is not None:
            end, up = (size.low, 1) if size.low is not None else (size.high, -1)
            _draw_open(axes, size.size, end or 1.0, up, look, shift)
        if size.value is not None and None not in (size.low, size.high):
            axes.plot([size.size], [size.value], **look.style, markersize=6.5, zorder=5, transform=where)


def _draw_open(axes: Axes, size: float, end: float, up: int, look: Look, shift: float) -> None:
    """Draw an arrow from the end that is known to where the time may be."""
    start = moved(axes, shift)
    axes.plot([size], [end], color=look.colour, marker="_", markersize=7, zorder=4, transform=start)
    low, high = axes.get_ylim()
    tip = math.exp(min(max(math.log(end) + up * 0.07 * math.log(high / low), math.log(low)), math.log(high)))
    axes.annotate(
        "", (size, tip), xytext=(size, end), xycoords=start, textcoords=start,
        arrowprops={"arrowstyle": "-|>", "color": look.colour, "linewidth": 1.3, "shrinkA": 0, "shrinkB": 0},
    )  # fmt: skip
