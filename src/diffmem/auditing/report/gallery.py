"""The worst matches side by side, and beside them the nearest images that are no copies."""

from __future__ import annotations

import textwrap
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from diffmem.auditing.records import AuditResult, MatchRecord
from diffmem.auditing.report.text import match_text
from diffmem.errors import UserError
from diffmem.reports.style import COLOURS, TITLE_FONT_SIZE

if TYPE_CHECKING:
    from matplotlib.figure import Figure

__all__ = [
    "AuditImages",
    "NearMisses",
    "display_text",
    "near_figure",
    "near_text",
    "worst_figure",
    "worst_text",
]

Images = NDArray[np.uint8]

DPI = 100  # a pixel of a gallery is a pixel of its picture
CELL = 96  # pixels, of the longer side of a shown image; smaller images are enlarged by a whole factor
PER_ROW = 10
GAP = 10
LEFT, TOP, HEAD, FOOT = 118, 42, 18, 50
LEAST_WIDTH = 760
_EDGE = 200  # grey level of the frame of an image
_SMALL, _MIDDLE = 7.0, 7.8


@dataclass(frozen=True, eq=False)
class NearMisses:
    """The samples that are nearest to be copies and are none, by their ratios.

    Attributes:
        samples: uint8 (n, C, H, W), C = 1 or 3.
        nearest: The training image nearest to each, same shape.
        second: The second nearest, same shape.
        numbers: Of the samples.
        ratios: Distance to the nearest over that to the second nearest.
        rms: Distance to the nearest, RMS grey levels.
    """

    samples: Images
    nearest: Images
    second: Images
    numbers: Sequence[int]
    ratios: Sequence[float]
    rms: Sequence[float]

    def __post_init__(self) -> None:
        _check(self.samples, self.nearest, self.second)
        if not len(self.samples) == len(self.numbers) == len(self.ratios) == len(self.rms):
            raise UserError(f"There are {len(self.samples)} near misses but not as many numbers for them.")


@dataclass(frozen=True, eq=False)
class AuditImages:
    """What the galleries of an audit show.

    Attributes:
        samples: The samples of the worst matches in the order of the record, uint8 (n, C, H, W), C = 1 or 3; n may be 0.
        nearest: The training image that each copies, same shape.
        second: The nearest other training image, same shape.
        near: The nearest samples that are not flagged; none if there are none.
    """

    samples: Images
    nearest: Images
    second: Images
    near: NearMisses | None = None

    def __post_init__(self) -> None:
        _check(self.samples, self.nearest, self.second)


def _check(samples: Images, nearest: Images, second: Images) -> None:
    shape = samples.shape
    if len(shape) != 4 or shape[1] not in (1, 3):
        raise UserError(f"Images of a gallery must have the shape (n, 1 or 3, H, W), not {shape}.")
    for images in (samples, nearest, second):
        if images.dtype != np.uint8 or images.shape != shape:
            raise UserError(
                f"Images of a gallery must be uint8 of the shape {shape}, not {images.dtype} of {images.shape}."
            )


def worst_figure(matches: Sequence[MatchRecord], images: AuditImages) -> Figure:
    """Draw the worst matches in rows of ten: the sample, the training image that it copies, the nearest other one.

    Args:
        matches: At least one, in the order of the images.
        images: As many.

    Raises:
        UserError: There is no match, or not one for each image.
    """
    if not matches or len(matches) != len(images.samples):
        raise UserError(f"There are {len(images.samples)} images for {len(matches)} matches.")
    heads = [f"{one.sample} → {one.training}" for one in matches]
    feet = [
        f"ratio {one.ratio:.2f}\nRMS {one.rms:.1f}"
        + ("" if one.variant == "as is" else f"\n{_short(one.variant)}")
        for one in matches
    ]
    return _figure(
        f"The {len(matches)} nearest matches" if len(matches) > 1 else "The only match",
        (images.samples, images.nearest, images.second),
        ("sample", "training image\nit copies", "nearest other\ntraining image"),
        heads,
        feet,
        COLOURS["vermillion"],
    )


def near_figure(near: NearMisses) -> Figure:
    """Draw the samples that are nearest to be copies and are none."""
    return _figure(
        "Not flagged: the nearest to be copies",
        (near.samples, near.nearest, near.second),
        ("sample", "nearest\ntraining image", "second nearest"),
        [f"sample {number}" for number in near.numbers],
        [f"ratio {ratio:.2f}\nRMS {rms:.1f}" for ratio, rms in zip(near.ratios, near.rms, strict=True)],
        None,
    )


def worst_text(result: AuditResult) -> str:
    """Return the worst matches in words, for those who cannot see them."""
    worst = [] if result.copies is None else result.copies.worst
    lines = "; ".join(match_text(one) for one in worst)
    return f"Samples above the training images that they copy and the nearest other training images: {lines}."


def near_text(near: NearMisses) -> str:
    """Return the near misses in words."""
    told = "; ".join(
        f"sample {number}: ratio {ratio:.3f}, {rms:.2f} grey levels apart"
        for number, ratio, rms in zip(near.numbers, near.ratios, near.rms, strict=True)
    )
    return f"Samples that are not flagged above their two nearest training images: {told}."


def display_text(shape: Sequence[int]) -> str:
    """Return whether images of a shape (C, H, W) are shown smaller or larger than they are."""
    height, width = shape[-2:]
    wanted = _shown(height, width)
    if wanted[0] < height or wanted[1] < width:
        return f"Images of {height} x {width} pixels are shrunk to {wanted[0]} x {wanted[1]} for display; they were compared whole."
    if wanted[0] > height:
        return (
            f"Images of {height} x {width} pixels are enlarged {wanted[0] // height} times, pixel by pixel."
        )
    return f"Images are shown pixel by pixel, {height} x {width}."


def _shown(height: int, width: int) -> tuple[int, int]:
    """Return the size at which images of a size are shown."""
    longest = max(height, width)
    if longest > CELL:
        return max(1, round(height * CELL / longest)), max(1, round(width * CELL / longest))
    factor = CELL // longest
    return height * factor, width * factor


def _for_display(image: Images, size: tuple[int, int]) -> Images:
    """Return an image (C, H, W) as RGB of the size at which it is shown, uint8 (H, W, 3)."""
    from PIL import Image

    from diffmem.data.transforms import to_pil

    height, width = image.shape[1:]
    smaller = size[0] < height or size[1] < width
    filter_ = Image.Resampling.LANCZOS if smaller else Image.Resampling.NEAREST
    return np.asarray(to_pil(image).convert("RGB").resize((size[1], size[0]), filter_))


def _figure(
    title: str,
    rows: tuple[Images, Images, Images],
    names: tuple[str, str, str],
    heads: Sequence[str],
    feet: Sequence[str],
    mark: str | None,
) -> Figure:
    """Draw columns of three images, ten columns a band; `mark` colours the frame around a sample and its training image."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure
    from matplotlib.patches import Rectangle

    count = len(heads)
    high, wide = _shown(*rows[0].shape[2:])
    step = max(wide, 78) + GAP
    across = max(LEFT + min(count, PER_ROW) * step, LEAST_WIDTH)
    lines = max(foot.count("\n") for foot in feet) + 1
    foot_room = FOOT if lines > 2 else FOOT - 12
    band = HEAD + 3 * (high + 4) + foot_room
    bands = -(-count // PER_ROW)
    down = TOP + bands * band
    canvas = np.full((down, across, 3), 255, np.uint8)
    figure = Figure(figsize=(across / DPI, down / DPI), dpi=DPI, facecolor="white")
    FigureCanvasAgg(figure)
    axes = figure.add_axes((0, 0, 1, 1))
    axes.set_axis_off()
    for at in range(count):
        left = LEFT + (at % PER_ROW) * step
        top = TOP + (at // PER_ROW) * band + HEAD
        for line, images in enumerate(rows):
            y = top + line * (high + 4)
            canvas[y - 1 : y + high + 1, left - 1 : left + wide + 1] = _EDGE
            canvas[y : y + high, left : left + wide] = _for_display(images[at], (high, wide))
        middle = left + wide / 2
        axes.text(middle, top - 5, heads[at], ha="center", va="bottom", fontsize=_SMALL, color="#444444")
        axes.text(
            middle,
            top + 3 * (high + 4) + 2,
            feet[at].replace("$", r"\$"),
            ha="center",
            va="top",
            fontsize=_SMALL,
        )
        if mark is not None:
            axes.add_patch(
                Rectangle(
                    (left - 3.5, top - 3.5),
                    wide + 6,
                    2 * high + 10,
                    fill=False,
                    edgecolor=mark,
                    linewidth=1.8,
                )
            )
    for number in range(bands):
        top = TOP + number * band + HEAD
        for line, name in enumerate(names):
            axes.text(
                LEFT - 10, top + line * (high + 4) + high / 2, name, ha="right", va="center", fontsize=_MIDDLE
            )
    axes.text(
        8, 8, textwrap.shorten(title, 90), ha="left", va="top", fontsize=TITLE_FONT_SIZE, fontweight="bold"
    )
    axes.imshow(canvas, interpolation="nearest", aspect="auto", extent=(0, across, down, 0))
    axes.set_xlim(0, across)
    axes.set_ylim(down, 0)
    return figure


def _short(words: str) -> str:
    return words if len(words) <= 16 else words[:15] + "…"
