"""Generated images beside their nearest training images, so that a reader sees what the numbers count."""

from __future__ import annotations

import math
import textwrap
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from diffmem.errors import UserError
from diffmem.reports.style import COLOURS, FONT_SIZE, SMALL_FONT_SIZE, TITLE_FONT_SIZE, new_figure
from diffmem.reports.text import threshold_text

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from diffmem.memorization.examples import Example

__all__ = ["Gallery", "example_gallery", "gallery_figure"]

Images = NDArray[np.uint8]
LEAST_WIDTH = 8.6  # inches, what the caption needs
ROWS = ("generated", "nearest\ntraining image", "second nearest")


@dataclass(frozen=True)
class Gallery:
    """The images of one gallery, a column per generated image, in the order of their seeds and not selected.

    Attributes:
        title: What made the images, for example '64 training images, epoch 5,000'.
        generated: uint8 (n, C, H, W) with C = 1 or 3.
        nearest: The training image nearest to each, same shape.
        second: The second nearest, same shape.
        ratios: Distance to the nearest over distance to the second nearest; NaN where there is none.
        threshold: A ratio below it is a copy.
    """

    title: str
    generated: Images
    nearest: Images
    second: Images
    ratios: Sequence[float]
    threshold: float

    def __post_init__(self) -> None:
        shape = self.generated.shape
        if len(shape) != 4 or shape[0] < 1 or shape[1] not in (1, 3):
            raise UserError(f"Gallery images must have the shape (n, 1 or 3, H, W), not {shape}.")
        for name, images in (
            ("generated", self.generated),
            ("nearest", self.nearest),
            ("second", self.second),
        ):
            if images.dtype != np.uint8:
                raise UserError(f"Gallery images ({name}) must be uint8, not {images.dtype}.")
            if images.shape != shape:
                raise UserError(
                    f"Gallery images differ in shape: {name} has {images.shape}, generated has {shape}."
                )
        if len(self.ratios) != shape[0]:
            raise UserError(f"The gallery has {shape[0]} images but {len(self.ratios)} ratios.")

    @property
    def copies(self) -> list[bool]:
        """Which of the generated images are copies."""
        return [ratio < self.threshold for ratio in self.ratios]

    @property
    def caption(self) -> str:
        """How the images were chosen and what the numbers below them are."""
        return (
            f"First {len(self.ratios)} seeds, not selected. Below each: distance to the nearest"
            " over distance to the second nearest training image;"
            f" below {threshold_text(self.threshold)} is a copy."
        )

    @property
    def alt(self) -> str:
        """The gallery in words, for those who cannot see it."""
        columns = [
            f"{'no ratio' if math.isnan(ratio) else format(ratio, '.2f')}{' (copy)' if copy else ''}"
            for ratio, copy in zip(self.ratios, self.copies, strict=True)
        ]
        return (
            f"{self.title}: {len(columns)} generated images above their nearest and second nearest"
            f" training images; {sum(self.copies)} are copies. Ratios: {', '.join(columns)}."
        )

    def figure(self) -> Figure:
        """Draw the gallery."""
        return gallery_figure(
            self.title, self.generated, self.nearest, self.second, self.ratios, self.threshold
        )


def example_gallery(title: str, example: Example, threshold: float) -> Gallery:
    """Return a study's example as a gallery; its own title follows the given one."""
    return Gallery(
        f"{title}: {example.title}",
        example.generated,
        example.nearest,
        example.second,
        example.ratios.tolist(),
        threshold,
    )


def gallery_figure(
    title: str, generated: Images, nearest: Images, second: Images, ratios: Sequence[float], threshold: float
) -> Figure:
    """Draw generated images, their nearest and their second nearest training images, one column each.

    Copies are marked by a frame and the word 'copy', not by colour alone.

    Args:
        title: Heading.
        generated: uint8 (n, C, H, W), C = 1 or 3; the first images by seed, not selected. About 8 look best.
        nearest: The training image nearest to each.
        second: The second nearest.
        ratios: Distance to the nearest over distance to the second nearest; NaN where there is none.
        threshold: A ratio below it is a copy.

    Raises:
        UserError: The shapes, types or counts do not fit.
    """
    from matplotlib.patches import Rectangle

    gallery = Gallery(title, generated, nearest, second, ratios, threshold)
    n, _, height, width = generated.shape
    cell, row = 1.0, height / width
    gap = 0.08
    step = row + gap
    bottom = 3 * step + 0.42
    across, down = 1.35 + n * (cell + gap), bottom + 0.75
    scale = min((9.0 if n <= 10 else 12.0) / across, 1.0)
    figure = new_figure(max(across * scale, LEAST_WIDTH), down * scale + 0.3)
    axes = figure.subplots()
    axes.set_xlim(-1.3, n * (cell + gap))
    axes.set_ylim(bottom, -0.05)
    axes.set_aspect("equal")
    axes.set_axis_off()
    for line, (name, images) in enumerate(zip(ROWS, (generated, nearest, second), strict=True)):
        top = line * step
        axes.text(-0.1, top + row / 2, name, ha="right", va="center", fontsize=FONT_SIZE)
        for column, image in enumerate(images):
            left = column * (cell + gap)
            options: dict[str, Any] = {
                "extent": (left, left + cell, top + row, top),
                "interpolation": "nearest",
            }
            if image.shape[0] == 1:
                axes.imshow(image[0], cmap="gray", vmin=0, vmax=255, **options)
            else:
                axes.imshow(image.transpose(1, 2, 0), **options)
            axes.add_patch(Rectangle((left, top), cell, row, fill=False, edgecolor="#C8C8C8", linewidth=0.6))
    for column, (ratio, copy) in enumerate(zip(ratios, gallery.copies, strict=True)):
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
    heading = textwrap.fill(title, 80).replace("$", r"\$")
    figure.suptitle(heading, x=0.01, ha="left", fontsize=TITLE_FONT_SIZE, fontweight="bold")
    figure.supxlabel(gallery.caption, x=0.01, ha="left", fontsize=SMALL_FONT_SIZE, color="#444444")
    return figure
