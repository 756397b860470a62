"""The folder of a report: the page, the numbers as JSON, and every picture as PNG."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

from pydantic import BaseModel

from diffmem.errors import DiffmemError
from diffmem.files import json_bytes, write_folder
from diffmem.memorization.examples import Example
from diffmem.reports.figures import DPI
from diffmem.reports.gallery import gallery_figure
from diffmem.reports.html import gallery_uris, png_bytes

if TYPE_CHECKING:
    from matplotlib.figure import Figure

__all__ = ["Picture", "ReportPaths", "gallery_pictures", "numbers_bytes", "write_drawn"]

_Result = TypeVar("_Result", bound=BaseModel)


@dataclass(frozen=True)
class ReportPaths:
    """Where a report was written.

    Attributes:
        html: The page.
        json: The numbers; `StudyRecord.model_validate_json` reads them back.
        figures: The pictures, PNG.
    """

    html: Path
    json: Path
    figures: tuple[Path, ...]


@dataclass(frozen=True)
class Picture:
    """A figure of a page: its file in the folder, its heading, its alternative text, what stands below it."""

    name: str
    heading: str
    figure: Figure
    alt: str
    caption: str = ""


def numbers_bytes(result: BaseModel) -> bytes:
    """Return a result as JSON that reads back as the same result.

    Raises:
        DiffmemError: The result holds a number that JSON cannot (NaN, infinity).
    """
    try:
        return json_bytes(result.model_dump(mode="json"))
    except ValueError as error:
        raise DiffmemError(f"Cannot write the result: it holds a NaN or an infinity ({error}).") from error


def gallery_pictures(examples: Sequence[Example], dpi: float = DPI) -> dict[str, bytes]:
    """Return the galleries of examples in their order as PNG files, named by the titles."""
    pictures: dict[str, bytes] = {}
    for number, example in enumerate(examples, start=1):
        slug = re.sub(r"[^a-z0-9]+", "-", example.title.lower()).strip("-")[:60] or str(number)
        while f"gallery_{slug}.png" in pictures:
            slug = f"{slug}-{number}"
        pictures[f"gallery_{slug}.png"] = png_bytes(gallery_figure(example), dpi)
    return pictures


def write_drawn(
    folder: Path,
    result: _Result,
    examples: Sequence[Example],
    draw: Callable[[_Result], list[Picture]],
    page: Callable[[_Result, Sequence[Picture], list[tuple[str, str]]], str],
    dpi: float = DPI,
    record: str = "report.json",
) -> ReportPaths:
    """Write a result's folder: its figures and a `gallery_*.png` per example, `report.html` and, last, its record; or nothing.

    Args:
        folder: Made if it is missing; files of an earlier report are replaced (see `write_folder`), its other galleries removed.
        draw: Returns the figures that the result can fill.
        page: Returns the page of a result, its figures and its galleries (alternative text, address).
        dpi: Of the galleries.
        record: Name of the record.

    Raises:
        DiffmemError: A file cannot be written, or the result holds a number that JSON cannot (NaN, infinity).
    """
    numbers = numbers_bytes(result)  # before anything is drawn, as a NaN cannot be drawn either
    pictures, galleries = draw(result), gallery_pictures(examples, dpi)
    # Before the pictures are saved: drawing a figure again moves its layout by a hair, and the page must not depend on it.
    html = page(result, pictures, gallery_uris(examples, galleries.values()))
    shown = {picture.name: png_bytes(picture.figure) for picture in pictures}
    contents = {**shown, **galleries, "report.html": html.encode(), record: numbers}
    # A page that grows shows other runs each time.
    before = [path.name for path in folder.glob("gallery_*.png")]
    *drawn, written, last = write_folder(folder, contents, before)
    return ReportPaths(written, last, tuple(drawn))
