"""Groups of near-duplicates side by side, so that a reader sees what a radius joins."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from diffmem.errors import UserError
from diffmem.reports.style import (
    COLOURS,
    FONT_SIZE,
    SMALL_FONT_SIZE,
    caption_figure,
    new_figure,
    plain,
    show_image,
)

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

__all__ = ["ShownGroup", "duplicates_figure"]

MOST_IMAGES = 10  # of a group
CELL = 0.78  # inches; the other lengths are in cells, the width of an image
ACROSS = 12.7  # two groups of five images, and how many more there are
LEAST_GROUP = 2.1  # what a heading needs
BETWEEN = 0.45
GAP = 0.08
HEAD, FOOT = 0.24, 0.19  # a line of text
LEAST_WIDTH = 6.4  # inches, what the caption needs
LONGEST = 12  # letters below an image


@dataclass(frozen=True)
class ShownGroup:
    """One group of the gallery.

    Attributes:
        heading: How many images and how near, in a few words: '2 images, 0.43 apart'.
        images: uint8 (n, C, H, W) with C = 1 or 3: those that are shown, 1 to 10.
        words: What stands below each image, for example its position and its class; up to two lines.
        more: How many images of the group are not shown.
        warning: Stands below the heading in bold if there is something wrong, such as 'labels differ'.
    """

    heading: str
    images: NDArray[np.uint8]
    words: Sequence[str]
    more: int = 0
    warning: str = ""

    def __post_init__(self) -> None:
        shape = self.images.shape
        if self.images.dtype != np.uint8 or len(shape) != 4 or shape[1] not in (1, 3):
            raise UserError(
                f"Images of a group must be uint8 (n, 1 or 3, H, W), not {self.images.dtype} of shape {shape}."
            )
        if not 1 <= shape[0] <= MOST_IMAGES or len(self.words) != shape[0]:
            raise UserError(
                f"A group shows 1 to {MOST_IMAGES} images with words for each, not {shape[0]} with {len(self.words)}."
            )


def duplicates_figure(title: str, groups: Sequence[ShownGroup], caption: str) -> Figure:
    """Draw groups of images one after the other, as many beside each other as fit.

    Args:
        title: Heading.
        groups: At least one; all images of one shape. About 24 fit a page.
        caption: What is shown, how it was chosen, and what the numbers are.

    Raises:
        UserError: There is no group, or the images differ in shape.
    """
    shapes = {group.images.shape[1:] for group in groups}
    if len(shapes) != 1:
        raise UserError(f"A gallery needs groups of images of one shape, not {len(shapes)} shapes.")
    _, height, width = shapes.pop()
    row = height / width
    lines = max(word.count("\n") for group in groups for word in group.words) + 1

    rows: list[list[tuple[float, ShownGroup]]] = [[]]
    left = 0.0
    for group in groups:
        across = max(len(group.images) * (1 + GAP) + (0.6 if group.more else 0), LEAST_GROUP)
        if rows[-1] and left + across > ACROSS:
            rows.append([])
            left = 0.0
        rows[-1].append((left, group))
        left += across + BETWEEN
    across = max(at + len(group.images) * (1 + GAP) + 0.6 for line in rows for at, group in line)
    heads = [HEAD * (1 + any(group.warning for _, group in line)) for line in rows]
    feet = row + FOOT * lines + 0.3
    down = sum(heads) + len(rows) * feet
    figure = new_figure(max(across * CELL, LEAST_WIDTH), down * CELL + 0.85)
    axes = figure.subplots()
    axes.set_axis_off()
    top = 0.0
    for line, head in zip(rows, heads, strict=True):
        for at, group in line:
            _draw(axes, group, at, top + head, row)
        top += head + feet
    # imshow moves the limits to its own image.
    axes.set_xlim(-0.05, max(across, LEAST_WIDTH / CELL))
    axes.set_ylim(down, -0.1)
    axes.set_aspect("equal", anchor="NW")
    caption_figure(figure, title, caption, int(15 * max(across * CELL, LEAST_WIDTH)))
    return figure


def _draw(axes: Axes, group: ShownGroup, left: float, top: float, row: float) -> None:
    """Draw one group, its images from `top` on and its heading above."""
    from matplotlib.patches import Rectangle

    lines = [(group.heading, "normal", COLOURS["black"])]
    if group.warning:
        lines.append((group.warning, "bold", "#A34700"))
    for number, (words, weight, colour) in enumerate(reversed(lines)):
        axes.text(
            left,
            top - 0.05 - number * HEAD,
            words,
            ha="left",
            va="bottom",
            fontsize=SMALL_FONT_SIZE,
            fontweight=weight,
            color=colour,
        )
    for number, (image, words) in enumerate(zip(group.images, group.words, strict=True)):
        at = left + number * (1 + GAP)
        show_image(axes, image, at, top)
        edge, width = (COLOURS["vermillion"], 1.8) if group.warning else ("#C8C8C8", 0.6)
        axes.add_patch(Rectangle((at, top), 1, row, fill=False, edgecolor=edge, linewidth=width))
        axes.text(
            at + 0.5,
            top + row + 0.04,
            plain("\n".join(_short(part) for part in words.split("\n"))),
            ha="center",
            va="top",
            fontsize=SMALL_FONT_SIZE - 1,
            color="#444444",
            linespacing=1.1,
        )
    if group.more:
        at = left + len(group.images) * (1 + GAP)
        axes.text(at, top + row / 2, f"+{group.more:,}", ha="left", va="center", fontsize=FONT_SIZE)


def _short(words: str) -> str:
    return words if len(words) <= LONGEST else words[: LONGEST - 1] + "…"
