"""Figures of several levels: a panel for each that has something to show."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import TYPE_CHECKING

from diffmem.errors import UserError
from diffmem.reports.level_rows import short_names
from diffmem.reports.style import FONT_SIZE, SMALL_FONT_SIZE, new_figure
from diffmem.reports.text import capitalized
from diffmem.studies.records import LevelRecord, StudyRecord
from diffmem.studies.report.tables import answers_of
from diffmem.studies.report.text import level_label, level_text

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

__all__ = ["level_panels"]

WIDTH = 10.0


def level_panels(
    result: StudyRecord, height: Callable[[LevelRecord], float], most: int, *, pad: float = 4
) -> tuple[Figure, list[tuple[Axes, LevelRecord]], float]:
    """Return a figure with an empty panel for each measured level, named with its answer above it.

    Args:
        height: Level -> height of its panel in inches; a row is as high as its highest panel.
        most: Most panels side by side.
        pad: Free points between a panel and what is written over it.

    Returns:
        The figure, its panels with their levels, and the width of a panel in inches, labels included.

    Raises:
        UserError: Nothing was measured yet.
    """
    levels = [level for level in result.levels if any(run.curve for run in level.runs)]
    if not levels:
        raise UserError(
            f"No run of the study {result.title!r} was evaluated after epoch 0; there is no curve to draw."
        )
    columns = min(most, 2 if len(levels) == 4 else len(levels))
    rows = math.ceil(len(levels) / columns)
    heights = [max(map(height, levels[row * columns : (row + 1) * columns])) for row in range(rows)]
    width = WIDTH if columns > 1 else 7.4
    letters = int((width / columns - 1.0) / 0.088)
    names = ["" if level.name == "base" else level_label(level.name, result) for level in levels]
    if max(map(len, names)) > letters:  # the factor is left out, as a second line would lie on EMM
        names = [level_text(level.name) for level in levels]
    titles = short_names(names, letters)
    heights = [one + 0.75 + pad / 72 for one in heights]
    figure = new_figure(width, sum(heights) + 0.5)
    grid = figure.subplots(rows, columns, squeeze=False, gridspec_kw={"height_ratios": heights})
    flat = [axes for row in grid for axes in row]
    for axes in flat[len(levels) :]:
        axes.set_axis_off()
    panels = list(zip(flat, levels, strict=False))
    heading, answer = answers_of(result)
    for (axes, level), title in zip(panels, titles, strict=True):
        axes.set_title(title, loc="left", fontsize=FONT_SIZE, fontweight="bold", pad=13 + pad)
        axes.annotate(
            capitalized(f"{heading} {answer(level)}"),
            (0, 1),
            xycoords="axes fraction",
            xytext=(0, pad),
            textcoords="offset points",
            va="bottom",
            fontsize=SMALL_FONT_SIZE + 0.5,
            color="#444444",
            annotation_clip=False,
        )
    return figure, panels, width / columns
