"""The folder of a report: the page, the numbers as JSON, and every picture as PNG."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from pydantic import BaseModel

from diffmem.errors import DiffmemError
from diffmem.files import json_bytes, write_folder
from diffmem.reports.gallery import Gallery

__all__ = ["ReportPaths", "gallery_names", "numbers_bytes", "write_pages"]


@dataclass(frozen=True)
class ReportPaths:
    """Where a report was written.

    Attributes:
        html: The page.
        json: The numbers; `StudyResult.model_validate_json` reads them back.
        figures: The pictures, PNG.
    """

    html: Path
    json: Path
    figures: tuple[Path, ...]


def numbers_bytes(result: BaseModel) -> bytes:
    """Return a result as JSON that reads back as the same result.

    Raises:
        DiffmemError: The result holds a number that JSON cannot (NaN, infinity).
    """
    try:
        return json_bytes(result.model_dump(mode="json"))
    except ValueError as error:
        raise DiffmemError(f"Cannot write the result: it holds a NaN or an infinity ({error}).") from error


def gallery_names(galleries: Sequence[Gallery]) -> list[str]:
    """Return the names of the pictures of galleries, by their titles."""
    names: list[str] = []
    for number, gallery in enumerate(galleries, start=1):
        slug = re.sub(r"[^a-z0-9]+", "-", gallery.title.lower()).strip("-")[:60] or str(number)
        name = f"gallery_{slug}.png"
        names.append(name if name not in names else f"gallery_{slug}-{number}.png")
    return names


def write_pages(
    folder: Path, pictures: Mapping[str, bytes], html: str, record: str, numbers: bytes
) -> ReportPaths:
    """Write pictures, `report.html` and, last, a record: all of them, or none (see `write_folder`).

    Args:
        folder: Made if it is missing.
        pictures: Name -> content.
        html: The page.
        record: Name of the record.
        numbers: Its content.

    Raises:
        DiffmemError: A file cannot be written.
    """
    contents = {**pictures, "report.html": html.encode(), record: numbers}
    *drawn, page, last = write_folder(folder, contents)
    return ReportPaths(page, last, tuple(drawn))
