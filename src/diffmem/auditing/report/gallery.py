"""The worst matches side by side, and beside them the nearest images that are no copies."""

from __future__ import annotations

import textwrap
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from diffmem.auditing.audit import Audited
from diffmem.auditing.criteria import PIXELS
from diffmem.auditing.records import MatchRecord
from diffmem.auditing.report.text import match_text
from diffmem.errors import UserError
from diffmem.memorization import RatioRule
from diffmem.memorization.neighbours.contents import taken
from diffmem.reports.style import COLOURS, TITLE_FONT_SIZE

if TYPE_CHECKING:
    from matplotlib.figure import Figure

__all__ = ["AuditGallery", "audit_images", "display_text", "gallery_figure", "near_gallery", "worst_gallery"]

Images = NDArray[np.uint8]

DPI = 100  # a pixel of a gallery is a pixel of its picture
CELL = 96  # pixels, of the longer side of a shown image; smaller images are enlarged by a whole factor
PER_ROW = 10
GAP = 10
LEFT, TOP, HEAD, FOOT = 118, 42, 18, 50
LEAST_WIDTH = 760
NEAR = 10  # samples that are shown although they are not flagged
_EDGE = 200  # grey level of the frame of an image
_SMALL, _MIDDLE = 7.0, 7.8


@dataclass(frozen=True, eq=False)
class AuditGallery:
    """Samples, each above the training image that it copies, or is nearest to, and the nearest other one.

    Attributes:
        title: Heading.
        names: Of the three rows.
        samples: uint8 (n, C, H, W), C = 1 or 3, n at least 1.
        nearest: The training image of each, same shape.
        second: The other one, same shape.
        heads: What stands above each column.
        feet: What stands below.
        text: All of it in words, for those who cannot see it.
        mark: Colour of a frame around a sample and its training image; none for no frame.
    """

    title: str
    names: tuple[str, str, str]
    samples: Images
    nearest: Images
    second: Images
    heads: Sequence[str]
    feet: Sequence[str]
    text: str
    mark: str | None = None

    def __post_init__(self) -> None:
        shape = self.samples.shape
        if len(shape) != 4 or not shape[0] or shape[1] not in (1, 3):
            raise UserError(f"Images of a gallery must have the shape (n, 1 or 3, H, W), not {shape}.")
        for images in (self.samples, self.nearest, self.second):
            if images.dtype != np.uint8 or images.shape != shape:
                raise UserError(
                    f"Images of a gallery must be uint8 of the shape {shape}, not {images.dtype} of {images.shape}."
                )
        if not shape[0] == len(self.heads) == len(self.feet):
            raise UserError(
                f"There are {shape[0]} images, and words above {len(self.heads)} and below {len(self.feet)}."
            )


def audit_images(audited: Audited) -> dict[str, AuditGallery]:
    """Return the galleries 'worst', of the worst matches, and 'near', of the nearest samples that are no matches, as far as there are any.

    There are none of a private audit, or of one without training images.
    """
    result, shown = audited.result, audited.shown
    if shown is None or result.private or result.copies is None:
        return {}
    first = 0 if result.model is None else result.model.seeds[0]
    samples, training = shown.samples.images, shown.training.images
    nearest = shown.found.batch.neighbours[PIXELS]
    pairs = shown.detector.distinct[nearest.indices[:, [0, min(1, nearest.k - 1)]]]
    galleries = {}
    worst = result.copies.worst
    if worst:
        rows = np.array([match.sample - first for match in worst])
        copied = np.array([match.training for match in worst])
        # The nearest in pixels is not always the one that a criterion names.
        other = np.where(pairs[rows, 0] == copied, pairs[rows, 1], pairs[rows, 0])
        galleries["worst"] = worst_gallery(
            worst, taken(samples, rows), taken(training, copied), taken(training, other)
        )
    ratio = RatioRule().ratio(nearest) if nearest.k > 1 else np.ones(len(nearest))
    # What is no match may still be no trial: constant images, and repeats of others.
    left = shown.found.trials
    left[[match.sample - first for match in shown.matches]] = False
    rows = np.argsort(ratio, kind="stable")
    rows = rows[left[rows]][:NEAR]
    if len(rows):
        ours, others = (taken(training, pairs[rows, at]) for at in (0, 1))
        galleries["near"] = near_gallery(
            (first + rows).tolist(), ratio[rows].tolist(), taken(samples, rows), ours, others
        )
    return galleries


def worst_gallery(
    matches: Sequence[MatchRecord], samples: Images, nearest: Images, second: Images
) -> AuditGallery:
    """Return the gallery of the worst matches.

    Args:
        matches: At least one, in the order of the images.
        samples: Of each.
        nearest: The training image that it copies.
        second: The nearest other one.
    """
    lines = "; ".join(match_text(one) for one in matches)
    return AuditGallery(
        f"The {len(matches)} nearest matches" if len(matches) > 1 else "The only match",
        ("sample", "training image\nit copies", "nearest other\ntraining image"),
        samples,
        nearest,
        second,
        [f"{one.sample} → {one.training}" for one in matches],
        [
            f"ratio {one.ratio:.2f}\nRMS {one.rms:.1f}"
            + (
                ""
                if one.variant == "as is"
                else f"\n{one.variant if len(one.variant) <= 16 else one.variant[:15] + '…'}"
            )
            for one in matches
        ],
        f"Samples above the training images that they copy and the nearest other training images: {lines}.",
        COLOURS["vermillion"],
    )


def near_gallery(
    numbers: Sequence[int], ratios: Sequence[float], samples: Images, nearest: Images, second: Images
) -> AuditGallery:
    """Return the gallery of the samples that are nearest to be copies and are none, by their ratios.

    Args:
        numbers: Of the samples.
        ratios: Distance to the nearest over that to the second nearest training image.
        samples: At least one.
        nearest: The training image nearest to each.
        second: The second nearest.
    """
    rms = np.sqrt(np.square(samples.astype(np.float64) - nearest).mean(axis=(1, 2, 3))).tolist()
    columns = list(zip(numbers, ratios, rms, strict=True))
    lines = "; ".join(
        f"sample {number}: ratio {ratio:.3f}, {gap:.2f} grey levels apart" for number, ratio, gap in columns
    )
    return AuditGallery(
        "Not flagged: the nearest to be copies",
        ("sample", "nearest\ntraining image", "second nearest"),
        samples,
        nearest,
        second,
        [f"sample {number}" for number in numbers],
        [f"ratio {ratio:.2f}\nRMS {gap:.1f}" for _, ratio, gap in columns],
        f"Samples that are not flagged above their two nearest training images: {lines}.",
    )


def display_text(shape: Sequence[int]) -> str:
    """Return whether images of a shape (C, H, W) are shown smaller or larger than they are."""
    height, width = shape[-2:]
    wanted = display_size(height, width)
    if wanted[0] < height or wanted[1] < width:
        return f"Images of {height} x {width} pixels are shrunk to {wanted[0]} x {wanted[1]} for display; they were compared whole."
    if wanted[0] > height:
        return (
            f"Images of {height} x {width} pixels are enlarged {wanted[0] // height} times, pixel by pixel."
        )
    return f"Images are shown pixel by pixel, {height} x {width}."


def display_size(height: int, width: int) -> tuple[int, int]:
    """Return the size at which images of a size are shown."""
    longest = max(height, width)
    if longest > CELL:
        return max(1, round(height * CELL / longest)), max(1, round(width * CELL / longest))
    factor = CELL // longest
    return height * factor, width * factor


def for_display(image: Images, size: tuple[int, int]) -> Images:
    """Return an image (C, H, W) as RGB of the size at which it is shown, uint8 (H, W, 3)."""
    from PIL import Image

    from diffmem.data.transforms import to_pil

    height, width = image.shape[1:]
    smaller = size[0] < height or size[1] < width
    filter_ = Image.Resampling.LANCZOS if smaller else Image.Resampling.NEAREST
    return np.asarray(to_pil(image).convert("RGB").resize((size[1], size[0]), filter_))


def gallery_figure(gallery: AuditGallery) -> Figure:
    """Draw columns of three images, ten columns a band."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure
    from matplotlib.patches import Rectangle

    rows = (gallery.samples, gallery.nearest, gallery.second)
    count = len(gallery.heads)
    high, wide = display_size(*gallery.samples.shape[2:])
    step = max(wide, 78) + GAP
    across = max(LEFT + min(count, PER_ROW) * step, LEAST_WIDTH)
    lines = max(foot.count("\n") for foot in gallery.feet) + 1
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
        for row, images in enumerate(rows):
            y = top + row * (high + 4)
            canvas[y - 1 : y + high + 1, left - 1 : left + wide + 1] = _EDGE
            canvas[y : y + high, left : left + wide] = for_display(images[at], (high, wide))
        middle = left + wide / 2
        axes.text(
            middle, top - 5, gallery.heads[at], ha="center", va="bottom", fontsize=_SMALL, color="#444444"
        )
        axes.text(
            middle,
            top + 3 * (high + 4) + 2,
            gallery.feet[at].replace("$", r"\$"),
            ha="center",
            va="top",
            fontsize=_SMALL,
        )
        if gallery.mark is not None:
            axes.add_patch(
                Rectangle(
                    (left - 3.5, top - 3.5),
                    wide + 6,
                    2 * high + 10,
                    fill=False,
                    edgecolor=gallery.mark,
                    linewidth=1.8,
                )
            )
    for number in range(bands):
        top = TOP + number * band + HEAD
        for row, name in enumerate(gallery.names):
            axes.text(
                LEFT - 10, top + row * (high + 4) + high / 2, name, ha="right", va="center", fontsize=_MIDDLE
            )
    axes.text(
        8,
        8,
        textwrap.shorten(gallery.title, 90),
        ha="left",
        va="top",
        fontsize=TITLE_FONT_SIZE,
        fontweight="bold",
    )
    axes.imshow(canvas, interpolation="nearest", aspect="auto", extent=(0, across, down, 0))
    axes.set_xlim(0, across)
    axes.set_ylim(down, 0)
    return figure
