"""What is drawn inside the panels of an experiment, and under them.

Points with intervals, curves with bands, null rates; masks as squares, the names of their groups, words in empty panels.
"""

from __future__ import annotations

import textwrap
from collections.abc import Sequence
from itertools import groupby
from typing import TYPE_CHECKING

from diffmem.paper.report.match import mask_group
from diffmem.reports.level_axis import CHARACTER, mask_of
from diffmem.reports.style import COLOURS, FONT_SIZE, SMALL_FONT_SIZE, plain

if TYPE_CHECKING:
    from matplotlib.axes import Axes

__all__ = [
    "GROUPS",
    "group_text",
    "mask_axis",
    "panel_text",
    "slot_text",
]


GROUPS = ("", "highest resolution", "middle", "lowest")
"""Where a mask keeps its skips, by `mask_group`."""


def mask_axis(
    axes: Axes, positions: Sequence[float], names: Sequence[str], *, height: float, width: float
) -> None:
    """Draw each level's mask as a column of squares: filled where the skip connection is kept.

    The top square is the first skip connection, at the highest resolution. A name that is no mask is written.

    Args:
        positions: Where each level is.
        names: Its mask; empty for none.
        height: Height of the axes in inches.
        width: Width of the axes in inches.
    """
    masks = [mask_of(name) for name in names]
    rows = max((len(mask) for mask in masks if mask is not None), default=1)
    thirds = rows % 3 == 0 and rows > 3
    gap = 0.5 if thirds else 0.0
    down = [row + gap * (row // (rows // 3) if thirds else 0) for row in range(rows)]
    low, high = min(positions) - 0.6, max(positions) + 0.6
    axes.set_xlim(low, high)
    axes.set_ylim(down[-1] + 0.7, -0.7)
    side = min(0.82 * width / (high - low), 0.82 * height / (down[-1] + 1.4), 0.16)
    for kept, face in ((True, COLOURS["black"]), (False, "white")):
        squares = [
            (position, down[row])
            for position, mask in zip(positions, masks, strict=True)
            for row, on in enumerate(mask or ())
            if on is kept
        ]
        axes.scatter(
            [x for x, _ in squares],
            [y for _, y in squares],
            s=(72 * side) ** 2,
            marker="s",
            facecolor=face,
            edgecolor=COLOURS["grey"],
            linewidth=0.7,
            gid="kept skips" if kept else "dropped skips",
        )
    for position, name, mask in zip(positions, names, masks, strict=True):
        if name and mask is None:
            axes.text(
                position,
                down[-1] / 2,
                plain(textwrap.shorten(name, 16, placeholder="…")),
                rotation=90,
                ha="center",
                va="center",
                fontsize=SMALL_FONT_SIZE,
            )
    if thirds:
        third = rows // 3
        middles = [sum(down[start : start + third]) / third for start in range(0, rows, third)]
        axes.set_yticks(middles, ["highest", "middle", "lowest"])
    else:
        axes.set_yticks([down[0], down[-1]], ["first", "last"])
    axes.set_xticks([])
    axes.tick_params(labelsize=SMALL_FONT_SIZE, length=0)
    axes.set_facecolor("white")
    for spine in axes.spines.values():
        spine.set_visible(False)


def group_text(axes: Axes, positions: Sequence[float], names: Sequence[str], *, width: float) -> None:
    """Name the groups of masks above the panel and part them by thin lines; nothing if there is only one group.

    Args:
        positions: Where each level is, one step each.
        names: Its mask.
        width: Width of the axes in inches.
    """
    slot = width / (max(positions) - min(positions) + 1.2)
    grouped = groupby(zip(positions, names, strict=True), key=lambda one: mask_group(one[1]))
    groups = [(group, [position for position, _ in members]) for group, members in grouped]
    if len(groups) < 2:
        return
    for index, (group, found) in enumerate(groups):
        if index:
            axes.axvline(found[0] - 0.5, color="#C8C8C8", linewidth=0.8, zorder=0)
        name = GROUPS[group]
        if name:
            axes.annotate(
                name if len(name) * CHARACTER < len(found) * slot else name.split()[0],
                (sum(found) / len(found), 1),
                xycoords=axes.get_xaxis_transform(),
                xytext=(0, 1),
                textcoords="offset points",
                ha="center",
                va="bottom",
                fontsize=SMALL_FONT_SIZE,
                color="#444444",
            )


def slot_text(axes: Axes, positions: Sequence[float], words: str) -> None:
    """Write the same word, upright, at each position: why nothing is drawn there."""
    for position in positions:
        axes.annotate(
            words,
            (position, 0.5),
            xycoords=axes.get_xaxis_transform(),
            rotation=90,
            ha="center",
            va="center",
            fontsize=SMALL_FONT_SIZE,
            color=COLOURS["grey"],
            fontstyle="italic",
        )


def panel_text(axes: Axes, heading: str, text: str, width: float) -> None:
    """Say in words, in the middle of an empty panel, why it is empty.

    Args:
        heading: The first line, bold.
        text: The rest, wrapped.
        width: Width of the axes in inches.
    """
    axes.set_xticks([])
    lines = textwrap.wrap(text, max(int(0.9 * width / (CHARACTER * FONT_SIZE / SMALL_FONT_SIZE)), 20))
    if len(lines) > 10:
        lines = [*lines[:9], lines[9].rstrip(".,; ") + " …"]
    for words, weight, va, shift in ((heading, "bold", "bottom", 6), ("\n".join(lines), "normal", "top", 0)):
        axes.annotate(
            plain(words),
            (0.5, 0.68),
            xycoords="axes fraction",
            xytext=(0, shift),
            textcoords="offset points",
            ha="center",
            va=va,
            fontsize=FONT_SIZE,
            fontweight=weight,
            color="#444444",
        )
