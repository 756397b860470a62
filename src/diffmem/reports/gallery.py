"""Generated images beside their nearest training images, so that a reader sees what the numbers count."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from diffmem.memorization.examples import Example
from diffmem.reports.style import COLOURS, FONT_SIZE, caption_figure, new_figure, show_image
from diffmem.reports.text import threshold_text

if TYPE_CHECKING:
    from matplotlib.figure import Figure

__all__ = ["gallery_figure", "gallery_text"]

LEAST_WIDTH = 8.6  # inches, what a line of the caption needs
LETTERS = 142
ROWS = ("generated", "nearest\ntraining image", "second nearest")


def gallery_text(example: Example) -> str:
    """Return the gallery in words, for those who cannot see it."""
    columns = [
        f"{'no ratio' if math.isnan(ratio) else format(ratio, '.2f')}{' (copy)' if copy else ''}"
        for ratio, copy in zip(example.ratios, example.copies, strict=True)
    ]
    return (
        f"{example.title}: {len(columns)} generated images above their nearest and second nearest"
        f" training images; {sum(example.copies)} are copies. Ratios: {', '.join(columns)}."
    )


def gallery_figure(example: Example) -> Figure:
    """Draw generated images, their nearest and their second nearest training images, one column each.

    Copies are marked by a frame and the word 'copy', not by colour alone.

    Args:
        example: About 8 images look best.
    """
    from matplotlib.patches import Rectangle

    n, _, height, width = example.generated.shape
    cell, row, gap = 1.0, height / width, 0.08
    step = row + gap
    bottom = 3 * step + 0.42
    across, down = 1.35 + n * (cell + gap), bottom + 0.75
    scale = min((9.0 if n <= 10 else 12.0) / across, 1.0)
    figure = new_figure(max(across * scale, LEAST_WIDTH), down * scale + 0.3)
    axes = figure.subplots()
    axes.set_axis_off()
    kinds = zip(ROWS, (example.generated, example.nearest, example.second), strict=True)
    for number, (name, images) in enumerate(kinds):
        top = number * step
        axes.text(-0.1, top + row / 2, name, ha="right", va="center", fontsize=FONT_SIZE)
        for column, image in enumerate(images):
            left = column * (cell + gap)
            show_image(axes, image, left, top)
            axes.add_patch(Rectangle((left, top), cell, row, fill=False, edgecolor="#C8C8C8", linewidth=0.6))
    for column, (ratio, copy) in enumerate(zip(example.ratios, example.copies, strict=True)):
        left = column * (cell + gap)
        words = "–" if math.isnan(ratio) else f"{ratio:.2f}"
        axes.text(
            left + cell / 2,
            3 * step,
            f"{words}\ncopy" if copy else words,
            ha="center",
            va="top",
            fontsize=FONT_SIZE,
            fontweight="bold" if copy else "normal",
            color="#A34700" if copy else COLOURS["black"],
        )
        if copy:
            frame = (left - gap / 4, -gap / 4), cell + gap / 2, 2 * row + 1.5 * gap
            axes.add_patch(
                Rectangle(
                    *frame,
                    fill=False,
                    edgecolor=COLOURS["vermillion"],
                    linewidth=2.5,
                    clip_on=False,
                    zorder=5,
                )
            )
    # imshow moves the limits to its own image.
    axes.set_xlim(-1.3, n * (cell + gap))
    axes.set_ylim(bottom, -0.05)
    axes.set_aspect("equal")
    caption = (
        f"{example.selection or f'First {n} seeds, not selected'}. Below each: distance to the nearest over distance to the second nearest"
        f" training image; below {threshold_text(example.threshold)} is a copy."
    )
    caption_figure(figure, example.title, caption, letters=LETTERS)
    return figure
