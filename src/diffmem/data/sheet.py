"""A contact sheet: many images of a set on one page, a row for each class."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from diffmem.data.images import ImageSet
from diffmem.data.transforms import to_pil
from diffmem.errors import UserError
from diffmem.files import atomic_path

__all__ = ["contact_sheet"]

_WIDTH = 1200
_GAP = 3
_MARGIN = 24
_TEXT = 15
_INK = (51, 51, 51)
_FAINT = (130, 130, 130)
_MAX_CLASS_ROWS = 20
_LONGEST_NAME = 18


def contact_sheet(
    images: ImageSet, out: Path, columns: int = 20, rows: int | None = None, scale: float | None = None
) -> None:
    """Write a PNG grid of the first images.

    A set with up to 20 classes shows the first images of each class beside the class name; any other set
    shows its first images in order.

    Args:
        images: What to show.
        out: The PNG to write.
        columns: Images per row.
        rows: Rows per class for a set shown by classes (1 if left out), else rows in all (10 if left out).
        scale: Size of a pixel on the sheet. If left out, the sheet is about 1200 pixels wide: small images
            are enlarged by a whole number so that their pixels stay sharp, large ones are reduced.

    Raises:
        UserError: A number is below 1, `scale` is not above 0, `out` does not end in .png, or the sheet would
            be huge.
    """
    if columns < 1 or (rows is not None and rows < 1):
        raise UserError(f"A contact sheet needs at least 1 column and 1 row, not {columns} and {rows}.")
    if scale is not None and not 0 < scale <= 64:
        raise UserError(f"The scale must lie between 0 and 64, not {scale}.")
    if out.suffix.lower() != ".png":
        raise UserError(f"A contact sheet is a .png, not {out.name!r}.")
    lines, labels = _lines(images, columns, rows)
    columns = max(len(line) for line in lines)
    font = ImageFont.load_default(_TEXT)
    gutter = round(max((font.getlength(label) for label in labels), default=0))
    gutter += 16 if gutter else 0
    cell_width, cell_height = _cell(images, (_WIDTH - 2 * _MARGIN - gutter) // columns - _GAP, scale)
    width = 2 * _MARGIN + gutter + columns * (cell_width + _GAP) - _GAP
    height = 2 * _MARGIN + len(lines) * (cell_height + _GAP) - _GAP + _TEXT + 14
    if width * height > 100_000_000:
        raise UserError(
            f"The contact sheet would have {width} x {height} pixels; take fewer rows or a smaller scale."
        )

    page = Image.new("RGB", (width, height), "white")
    draw = ImageDraw.Draw(page)
    for row, line in enumerate(lines):
        top = _MARGIN + row * (cell_height + _GAP)
        if labels and labels[row]:
            draw.text(
                (_MARGIN + gutter - 16, top + cell_height / 2), labels[row], fill=_INK, font=font, anchor="rm"
            )
        for column, index in enumerate(line):
            tile = to_pil(images.images[index])
            enlarged = cell_width >= tile.width
            resampling = Image.Resampling.NEAREST if enlarged else Image.Resampling.LANCZOS
            tile = tile.resize((cell_width, cell_height), resampling)
            page.paste(tile, (_MARGIN + gutter + column * (cell_width + _GAP), top))
    shown = sum(map(len, lines))
    channels, tall, wide = images.shape
    caption = f"{shown:,} of {len(images):,} images, {wide} x {tall} {'grey' if channels == 1 else 'RGB'}"
    if images.labels is not None:
        caption += f", {images.num_classes:,} classes"
    draw.text((_MARGIN + gutter, height - _MARGIN), caption, fill=_FAINT, font=font, anchor="ls")
    with atomic_path(out) as temporary:
        page.save(temporary, "PNG")


def _lines(images: ImageSet, columns: int, rows: int | None) -> tuple[list[list[int]], list[str]]:
    """Return the image indices of each row, and its label (no labels at all for a set shown in order)."""
    if images.labels is None or images.num_classes > _MAX_CLASS_ROWS:
        shown = min(len(images), columns * (rows or 10))
        return [list(range(start, min(start + columns, shown))) for start in range(0, shown, columns)], []
    lines, labels = [], []
    for label in range(images.num_classes):
        members = np.flatnonzero(images.labels == label)[: columns * (rows or 1)].tolist()
        for start in range(0, len(members), columns):
            lines.append(members[start : start + columns])
            name = images.class_names[label] if images.class_names else str(label)
            short = name if len(name) <= _LONGEST_NAME else name[: _LONGEST_NAME - 1] + "…"
            labels.append("" if start else short)
    return lines, labels


def _cell(images: ImageSet, room: int, scale: float | None) -> tuple[int, int]:
    _, height, width = images.shape
    if scale is None:
        # A whole number keeps every pixel the same size; one more than fits is fine while the page stays near
        # its width.
        scale = max(1, round(room / width)) if width <= room * 1.2 else max(1, room) / width
        scale = min(scale, 8)
    return max(1, round(width * scale)), max(1, round(height * scale))
