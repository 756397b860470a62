"""The figures of an audit: distances of samples beside the null, what is found of planted copies, the most copied images."""

from __future__ import annotations

import math
import textwrap
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from diffmem.auditing.records import AuditResult, DistanceRecord, MatchRecord, PowerRecord
from diffmem.auditing.report.text import fine_percent, ratio_threshold
from diffmem.memorization.rates import Rate
from diffmem.reports.style import (
    COLOURS,
    FONT_SIZE,
    SMALL_FONT_SIZE,
    TITLE_FONT_SIZE,
    dress,
    legend_below,
    new_figure,
)
from diffmem.reports.text import threshold_text
from diffmem.text import count_text

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

__all__ = [
    "FALSE_ALARMS",
    "PowerColumn",
    "copied_figure",
    "copied_text",
    "distance_figure",
    "distance_text",
    "kinds_of_power",
    "power_figure",
    "power_panels",
    "power_text",
]

FALSE_ALARMS = "null images (false positives)"
"""Heading of the row of images that were not planted."""

MOST_BARS = 20
_QUANTITIES = {
    "ratio": "Distance to the nearest over that to the second nearest",
    "rms": "Distance to the nearest training image (RMS grey levels)",
}
_SAMPLES, _NULL = COLOURS["vermillion"], COLOURS["blue"]


def distance_figure(result: AuditResult) -> Figure:
    """Draw how near samples and images that were never copied come to training images, a panel for each quantity.

    Shares are on a logarithmic axis, so that one sample among all is seen; the matches of the record are marked below.

    Args:
        result: With at least one histogram.
    """
    from matplotlib.lines import Line2D
    from matplotlib.patches import Patch

    panels = result.distances
    copies = result.copies
    worst = [] if copies is None else copies.worst
    threshold = ratio_threshold(result)
    figure = new_figure(5.4 * len(panels), 4.3)
    for axes, record in zip(np.atleast_1d(figure.subplots(1, len(panels))), panels, strict=True):
        _histogram(axes, record, worst)
        if record.quantity == "ratio" and threshold is not None:
            axes.axvline(threshold, color=COLOURS["black"], linestyle=":", linewidth=1.3)
            axes.annotate(
                f"copy below {threshold_text(threshold)}",
                (threshold, 1),
                xycoords=("data", "axes fraction"),
                xytext=(-5, -4),
                textcoords="offset points",
                ha="right",
                va="top",
                fontsize=SMALL_FONT_SIZE,
            )
    handles: list[Any] = [Patch(facecolor=_SAMPLES, alpha=0.45, edgecolor=_SAMPLES, label="samples")]
    if any(record.null for record in panels):
        handles.append(Line2D([], [], color=_NULL, linestyle="--", linewidth=1.6, label="null images"))
    if worst:
        label = "flagged samples" + (
            f", the {len(worst)} nearest" if copies and len(worst) < copies.samples else ""
        )
        handles.append(
            Line2D([], [], marker="^", linestyle="", color=_SAMPLES, markeredgecolor="black", label=label)
        )
    legend_below(figure, handles, 1.8)
    return figure


def _histogram(axes: Axes, record: DistanceRecord, worst: list[MatchRecord]) -> None:
    from matplotlib.ticker import FixedFormatter, FixedLocator

    dress(axes, _QUANTITIES[record.quantity], "Share of the images (log scale)")
    edges, counts = np.array(record.edges), [np.array(record.samples)]
    if record.null:
        counts.append(np.array(record.null))
    totals = [max(int(one.sum()), 1) for one in counts]
    least = 1 / max(totals)
    floor = least / 8
    shares = [np.maximum(one / total, floor) for one, total in zip(counts, totals, strict=True)]
    axes.set_yscale("log")
    axes.stairs(shares[0], edges, baseline=floor, fill=True, color=_SAMPLES, alpha=0.35)
    axes.stairs(shares[0], edges, baseline=floor, color=_SAMPLES, linewidth=1.2)
    if record.null:
        axes.stairs(shares[1], edges, baseline=floor, color=_NULL, linestyle="--", linewidth=1.6)
    places = [match.ratio if record.quantity == "ratio" else match.rms for match in worst]
    if places:
        axes.plot(
            places,
            [0.03] * len(places),
            transform=axes.get_xaxis_transform(),
            linestyle="",
            marker="^",
            markersize=6,
            color=_SAMPLES,
            markeredgecolor="black",
            markeredgewidth=0.5,
            label="flagged",
            clip_on=False,
            zorder=6,
        )
    filled = np.flatnonzero(sum(counts))
    last = edges[filled[-1] + 1] if len(filled) and record.quantity == "rms" else edges[-1]
    axes.set_xlim(edges[0], max([last, *places]) * 1.02)
    axes.set_ylim(floor, 1.6)
    powers = [10.0**power for power in range(math.floor(math.log10(least)), 1)]
    axes.yaxis.set_major_locator(FixedLocator(powers))
    axes.yaxis.set_major_formatter(
        FixedFormatter([f"{100 * power:.10f}".rstrip("0").rstrip(".") + "%" for power in powers])
    )
    axes.set_yticks([], minor=True)


def distance_text(result: AuditResult) -> str:
    """Return the histograms in words: where samples and null images lie, and how many samples are below the threshold."""
    lines = []
    for record in result.distances:
        name = "Ratio of distances" if record.quantity == "ratio" else "Distance in RMS grey levels"
        parts = [f"half of the samples below {_middle(record.edges, record.samples):.3g}"]
        if record.null:
            parts.append(f"half of the null images below {_middle(record.edges, record.null):.3g}")
        lines.append(f"{name}: {', '.join(parts)}.")
    copies = result.copies
    if copies is not None:
        lines.append(f"{count_text(copies.samples, 'sample is', 'samples are')} flagged.")
    return " ".join(lines)


def _middle(edges: list[float], counts: list[int]) -> float:
    """Return the upper edge of the bin that holds the median."""
    total = np.cumsum(counts)
    return edges[int(np.searchsorted(total, total[-1] / 2)) + 1] if total[-1] else math.nan


def kinds_of_power(columns: Iterable[Sequence[PowerRecord]]) -> dict[str, str]:
    """Return the text of every kind of copy that any criterion was tried on, by key, in the order of the records."""
    found: dict[str, str] = {}
    for column in columns:
        found |= {power.key: power.kind for power in column if power.key not in found}
    return found


@dataclass(frozen=True)
class PowerColumn:
    """One criterion as the figure of power shows it.

    Attributes:
        title: Heading of its column.
        power: What it finds of planted copies, one record for each kind.
        false_alarms: What it flags of images that were never copied; none if it is not known.
    """

    title: str
    power: Sequence[PowerRecord]
    false_alarms: Rate | None


def power_figure(result: AuditResult) -> Figure:
    """Draw which share of planted copies each criterion of an audit finds; see `power_panels`.

    Args:
        result: With power for at least one criterion.
    """
    columns = [PowerColumn(one.title, one.power, one.null) for one in result.criteria if one.power]
    return power_panels([("Fraction that each criterion finds", columns)])


def power_panels(panels: Sequence[tuple[str, Sequence[PowerColumn]]]) -> Figure:
    """Draw which share of planted copies each criterion finds, panels side by side: a row for each kind, a column for each
    criterion, the share in every cell. The last row has the false alarms.

    Args:
        panels: Heading and columns of each; at least one panel with at least one column that has power.
    """
    kinds = kinds_of_power(column.power for _, columns in panels for column in columns)
    across = 1.15 * sum(len(columns) for _, columns in panels) + 0.2 * (len(panels) - 1)
    figure = new_figure(3.4 + across, 1.9 + 0.33 * (len(kinds) + 1))
    widths = [len(columns) for _, columns in panels]
    drawn = figure.subplots(1, len(panels), squeeze=False, width_ratios=widths)[0]
    for at, (axes, (heading, columns)) in enumerate(zip(drawn, panels, strict=True)):
        _power_panel(axes, heading, columns, kinds, named=at == 0)
    return figure


def _power_panel(
    axes: Axes, heading: str, columns: Sequence[PowerColumn], kinds: dict[str, str], *, named: bool
) -> None:
    from matplotlib.colors import LinearSegmentedColormap
    from matplotlib.patches import Rectangle

    blues = LinearSegmentedColormap.from_list("found", ["#FFFFFF", "#A6CCE6", "#0072B2", "#003A5C"])
    reds = LinearSegmentedColormap.from_list("alarms", ["#FFFFFF", "#F3BE93", "#D55E00"])

    def cell(x: int, y: float, rate: Rate | None, colours: Any) -> None:
        face = "#EEEEEE" if rate is None else colours(rate.value)
        axes.add_patch(Rectangle((x, y), 1, 1, facecolor=face, edgecolor="#BBBBBB", linewidth=0.6))
        dark = rate is not None and colours is blues and rate.value > 0.62
        axes.text(
            x + 0.5,
            y + 0.5,
            "–" if rate is None else _cell_text(rate.value),
            ha="center",
            va="center",
            fontsize=SMALL_FONT_SIZE,
            color="white" if dark else "black",
        )

    gap = len(kinds) + 0.35
    for x, column in enumerate(columns):
        found = {power.key: power.detected for power in column.power}
        for y, key in enumerate(kinds):
            cell(x, y, found.get(key), blues)
        cell(x, gap, column.false_alarms, reds)
    axes.set_xlim(0, len(columns))
    axes.set_ylim(gap + 1, 0)
    names = ["\n".join(textwrap.wrap(one.title, 15, max_lines=5, placeholder=" …")) for one in columns]
    axes.set_xticks([x + 0.5 for x in range(len(columns))], [_safe(name) for name in names])
    axes.xaxis.tick_top()
    rows = [(y + 0.5, textwrap.shorten(text, 60)) for y, text in enumerate(kinds.values())]
    rows.append((gap + 0.5, FALSE_ALARMS))
    axes.set_yticks([y for y, _ in rows], [_safe(text) if named else "" for _, text in rows])
    axes.tick_params(length=0, labelsize=SMALL_FONT_SIZE)
    for side in axes.spines.values():
        side.set_visible(False)
    if named:
        axes.set_ylabel("Positive control", fontsize=FONT_SIZE)
    axes.set_title(_safe(heading), fontsize=TITLE_FONT_SIZE, loc="left", pad=12, fontweight="bold")


def _cell_text(share: float) -> str:
    """Return a share in as few letters as distinguish it from none and from all."""
    if share in (0, 1) or 0.1 <= share <= 0.99:
        return f"{100 * share:.0f}%"
    return fine_percent(share) if share < 0.01 else f"{math.floor(1000 * share) / 10:.1f}%"


def power_text(result: AuditResult) -> str:
    """Return the shares in words, criterion by criterion."""
    parts = []
    for one in result.criteria:
        if one.power:
            found = ", ".join(f"{power.kind} {fine_percent(power.detected.value)}" for power in one.power)
            alarms = "" if one.null is None else f"; false positives {fine_percent(one.null.value)}"
            parts.append(f"{one.title}: {found}{alarms}")
    return f"Fraction of positive controls that each criterion finds. {'. '.join(parts)}."


def copied_figure(result: AuditResult) -> Figure:
    """Draw how many samples copy each of the most copied training images, at most 20 of them.

    Args:
        result: With at least one match.
    """
    from matplotlib.ticker import MaxNLocator

    assert result.copies is not None
    shown = result.copies.most_copied[:MOST_BARS]
    figure = new_figure(7.0, 1.2 + 0.27 * len(shown))
    axes = figure.subplots()
    dress(axes, "Samples that copy it", "Training image")
    axes.grid(axis="y", visible=False)
    axes.grid(axis="x", color="#E4E4E4", linewidth=0.7)
    axes.barh(range(len(shown)), [one.times for one in shown], color=COLOURS["blue"], height=0.7)
    axes.set_yticks(range(len(shown)), [f"{one.training}" for one in shown])
    axes.set_ylim(len(shown) - 0.4, -0.6)
    longest = max(one.times for one in shown)
    axes.set_xlim(0, longest * 1.35)
    for row, one in enumerate(shown):
        held = "" if one.occurrences <= 1 else f"  held {one.occurrences:,} times"
        axes.text(
            one.times + longest * 0.012, row, f"{one.times:,}{held}", va="center", fontsize=SMALL_FONT_SIZE
        )
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    return figure


def copied_text(result: AuditResult) -> str:
    """Return the most copied training images in words."""
    assert result.copies is not None
    images = ", ".join(
        f"number {one.training} by {count_text(one.times, 'sample', 'samples')}"
        for one in result.copies.most_copied[:MOST_BARS]
    )
    return f"The most copied training images: {images}."


def _safe(text: str) -> str:
    return text.replace("$", r"\$")
