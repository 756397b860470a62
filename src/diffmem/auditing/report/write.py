"""The folder of an audit: the page, the record, the matches as CSV, and the pictures."""

from __future__ import annotations

import csv
import io
from collections.abc import Mapping, Sequence
from pathlib import Path

from diffmem.auditing.records import AuditResult, MatchRecord
from diffmem.auditing.report.gallery import AuditGallery
from diffmem.auditing.report.page import ReportPart, audit_pictures, page_of
from diffmem.errors import DiffmemError
from diffmem.files import unfinished, write_folder
from diffmem.reports.folder import numbers_bytes

__all__ = ["COLUMNS", "PARTS", "PICTURES", "csv_cell", "matches_csv", "write_audit"]

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
    "audit_denoising.png",
)
"""Every picture that the folder can hold."""


PARTS = ("prompts.json", "prompts.csv", "detectors.json", "detectors.csv")
"""Every file of a further part of the page that the folder can hold."""


def write_audit(
    result: AuditResult,
    galleries: Mapping[str, AuditGallery],
    matches: Sequence[MatchRecord],
    folder: Path,
    parts: Sequence[ReportPart] = (),
) -> Path:
    """Write `audit.html`, `matches.csv`, the pictures that the audit can fill, and at last `audit.json`; return the page.

    The same audit gives the same bytes. All is written under temporary names first, so that an earlier audit stands whole if
    the disk fills up; a folder with a record is one whole audit (see `write_folder`). Pictures of an earlier audit that this one
    does not write are gone before the record stands, so that nothing that is private now stays behind. Other files are left.

    Raises:
        DiffmemError: A file cannot be written or removed, and the message says what is missing; the record holds a number that
            JSON cannot (NaN, infinity), or it is private and comes with an image or a name.
    """
    if result.private:
        _check_private(result, galleries, matches)
    numbers = numbers_bytes(result)
    pictures = audit_pictures(result, galleries)
    contents = {
        "audit.html": page_of(result, pictures, parts).encode(),
        "matches.csv": matches_csv(matches, private=result.private).encode(),
        **{one.name: one.png for one in pictures},
        **{name: content for part in parts for name, content in part.files.items()},
        "audit.json": numbers,
    }
    # Temporary files of an audit that was killed while it wrote can hold what is private now.
    left = [
        path.name
        for name in ("audit", "matches", "prompts", "detectors")
        for path in unfinished(folder, name)
    ]
    return write_folder(folder, contents, [*PICTURES, *PARTS, *left])[0]


def matches_csv(matches: Sequence[MatchRecord], *, private: bool) -> str:
    """Return matches as CSV, a header first, the nearest match next; keys of criteria are joined by '+'.

    A name that a spreadsheet would run as a formula gets an apostrophe in front.

    Args:
        private: Whether the columns of names are left out.
    """
    columns = [name for name in COLUMNS if not (private and name.endswith("_name"))]
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(columns)
    for match in sorted(matches, key=lambda one: (one.rms, one.sample)):
        cells = match.model_dump() | {"criteria": "+".join(match.criteria)}
        writer.writerow([csv_cell(cells[name]) for name in columns])
    return text.getvalue()


def csv_cell(value: object) -> object:
    """Return a cell of a CSV, with an apostrophe in front of what a spreadsheet would run as a formula."""
    if value is None:
        return ""
    if isinstance(value, str) and value.startswith(("=", "+", "-", "@", "\t", "\r")):
        return f"'{value}"
    return value


def _check_private(
    result: AuditResult, galleries: Mapping[str, AuditGallery], matches: Sequence[MatchRecord]
) -> None:
    named: list[MatchRecord] = [*matches, *(result.copies.worst if result.copies else [])]
    names = [
        *(one.source for one in result.inputs),
        None if result.model is None else result.model.source,
        *(name for one in named for name in (one.sample_name, one.training_name)),
        *(one.training_name for one in (result.copies.most_copied if result.copies else [])),
    ]
    if galleries or any(name is not None for name in names):
        raise DiffmemError(
            "The audit is private but comes with an image or a name; nothing was written. Leave them out of its record."
        )
