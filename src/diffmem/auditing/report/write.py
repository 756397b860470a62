"""The folder of an audit: the page, the record, the matches as CSV, and the pictures."""

from __future__ import annotations

import csv
import io
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from diffmem.auditing.records import AuditResult, MatchRecord
from diffmem.auditing.report.gallery import AuditImages
from diffmem.auditing.report.page import audit_pictures, page_of
from diffmem.errors import DiffmemError
from diffmem.files import write_bytes, write_text
from diffmem.reports.write import write_numbers

__all__ = ["COLUMNS", "PICTURES", "AuditPaths", "matches_csv", "write_audit"]

COLUMNS = (
    "sample",
    "sample_hash",
    "sample_name",
    "training",
    "training_hash",
    "training_name",
    "rms",
    "ratio",
    "variant",
    "criteria",
)
"""Of `matches.csv`; a private one has no names, and so neither column of them."""

PICTURES = (
    "audit_distances.png",
    "audit_power.png",
    "audit_copied.png",
    "audit_worst.png",
    "audit_near.png",
)
"""Every picture that the folder can hold."""


@dataclass(frozen=True)
class AuditPaths:
    """Where an audit was written.

    Attributes:
        html: The page.
        json: The record; `AuditResult.model_validate_json` reads it back.
        csv: All matches.
        figures: The pictures, PNG.
    """

    html: Path
    json: Path
    csv: Path
    figures: tuple[Path, ...]


def write_audit(
    result: AuditResult, images: AuditImages | None, matches: Sequence[MatchRecord], folder: Path
) -> AuditPaths:
    """Write `audit.json`, `matches.csv`, the pictures that the audit can fill, and at last `audit.html`.

    The same audit gives the same bytes. Each file is whole or absent. An earlier page goes first and the new one comes last, so
    that a folder with a page is one audit; pictures of an earlier audit that this one does not write are removed, so that
    nothing that is private now stays behind.

    Args:
        result: The audit.
        images: Of its matches; none shows none.
        matches: Every match, in any order.
        folder: Made if it is missing.

    Raises:
        DiffmemError: A file cannot be written or removed, the record holds a number that JSON cannot (NaN, infinity), or it is
            private and comes with an image or a name.
    """
    if result.private:
        _check_private(result, images, matches)
    paths = AuditPaths(folder / "audit.html", folder / "audit.json", folder / "matches.csv", ())
    pictures = audit_pictures(result, images)
    html = page_of(result, pictures)
    written = tuple(folder / one.name for one in pictures)
    for stale in (paths.html, *(folder / name for name in PICTURES)):
        if stale not in written:
            _remove(stale)
    write_numbers(result, paths.json)
    write_text(paths.csv, matches_csv(matches, private=result.private))
    for one, path in zip(pictures, written, strict=True):
        write_bytes(path, one.png)
    write_text(paths.html, html)
    return AuditPaths(paths.html, paths.json, paths.csv, written)


def matches_csv(matches: Sequence[MatchRecord], *, private: bool) -> str:
    """Return matches as CSV, a header first, the nearest match next; keys of criteria are joined by '+'.

    A name that a spreadsheet would run as a formula gets an apostrophe in front.

    Args:
        matches: In any order.
        private: Whether the columns of names are left out.
    """
    columns = [name for name in COLUMNS if not (private and name.endswith("_name"))]
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(columns)
    for match in sorted(matches, key=lambda one: (one.rms, one.sample)):
        cells = match.model_dump() | {"criteria": "+".join(match.criteria)}
        writer.writerow([_cell(cells[name]) for name in columns])
    return text.getvalue()


def _cell(value: object) -> object:
    if value is None:
        return ""
    if isinstance(value, str) and value.startswith(("=", "+", "-", "@", "\t", "\r")):
        return f"'{value}"  # a spreadsheet would run it as a formula
    return value


def _check_private(result: AuditResult, images: AuditImages | None, matches: Sequence[MatchRecord]) -> None:
    named: list[MatchRecord] = [*matches, *(result.copies.worst if result.copies else [])]
    names = [
        *(one.source for one in result.inputs),
        None if result.model is None else result.model.source,
        *(name for one in named for name in (one.sample_name, one.training_name)),
        *(one.training_name for one in (result.copies.most_copied if result.copies else [])),
    ]
    if images is not None or any(name is not None for name in names):
        raise DiffmemError(
            "The audit is private but comes with an image or a name; nothing was written. Leave them out of its record."
        )


def _remove(path: Path) -> None:
    try:
        path.unlink(missing_ok=True)
    except OSError as error:
        raise DiffmemError(f"Cannot remove {path}: {error.strerror or error}.") from error
