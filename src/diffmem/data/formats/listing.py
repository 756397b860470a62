"""Files that list images with a label and a caption each: CSV, and JSON lines, as `metadata.jsonl` of Hugging Face's imagefolder.

Format of metadata.jsonl and metadata.csv: Hugging Face datasets, "Create an image dataset": a column file_name with the path from
the file that lists it, and columns of any other names.
"""

from __future__ import annotations

import csv
import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple, TextIO

from diffmem.data.conversions import Conversion, name_text
from diffmem.data.formats.encoded import CAPTION_KEYS, LABEL_KEYS, REPEATS_KEY, first_key, label_of
from diffmem.data.formats.files import named
from diffmem.data.formats.guards import MAX_IMAGES, is_plain_file
from diffmem.data.formats.guards import reading as as_text
from diffmem.data.formats.sidecars import encoding_of
from diffmem.errors import UserError
from diffmem.text import count_text

__all__ = [
    "LISTING_ENDINGS",
    "METADATA",
    "Listing",
    "csv_rows",
    "is_listing",
    "json_rows",
    "open_text",
    "read_listing",
]

METADATA = ("metadata.jsonl", "metadata.csv")
"""Names of the files that describe the images of the folder they are in."""

LISTING_ENDINGS = (".csv", ".tsv", ".jsonl")

_PATH_KEYS = ("file_name", "filename", "file", "path", "image", "image_path", "filepath", "file_path")
_DELIMITERS = ",;\t"
_MAX_LINE = 2**20


class Listing(NamedTuple):
    """What a file says of images.

    Attributes:
        files: Path of each, from the folder of the file, with / between folders.
        labels: Of each, or none.
        captions: Of each, or none.
        conversions: Which columns are not read.
        repeats: How often an epoch of training holds each, or none.
    """

    files: list[str]
    labels: list[int | str | None] | None
    captions: list[str | None] | None
    conversions: tuple[Conversion, ...]
    repeats: list[int] | None = None


def is_listing(name: str, head: bytes) -> bool:
    """Whether a file lists images, by its name and its first bytes: it is a text that ends in .csv, .tsv or .jsonl."""
    return (
        name.lower().endswith(LISTING_ENDINGS)
        and bool(head)
        and (b"\0" not in head or encoding_of(head) == "utf-16")
    )


def read_listing(path: Path) -> Listing:
    """Read a file that lists images.

    The path is in the column file_name (or filename, file, path, image, image_path, filepath, file_path), the label in label (or
    labels, class, cls, target), the caption in text (or caption) and the number of repeats in repeats. A CSV
    without these names whose first line names a file has paths in its first column and labels in its second.

    Raises:
        UserError: It is damaged, lists nothing or no column of paths, or a path leads out of its folder.
    """
    files: list[str] = []
    labels: list[int | str | None] = []
    captions: list[str | None] = []
    keys: tuple[str | None, ...] = (None, None, None)
    others: set[str] = set()
    repeats: list[int] = []
    with as_text(str(path)), open_text(path) as stream:
        rows = json_rows(stream) if path.suffix.lower() == ".jsonl" else _of_csv(stream, path)
        for number, row in enumerate(rows, 1):
            where = f"{path} entry {number:,}"
            if number > MAX_IMAGES:
                raise UserError(f"{path} is refused: it lists more than {MAX_IMAGES:,} images.")
            if number == 1 or not row.keys() <= others | {*keys, REPEATS_KEY}:
                keys = tuple(first_key(names, row) for names in (_PATH_KEYS, LABEL_KEYS, CAPTION_KEYS))
                others |= row.keys() - {*keys, REPEATS_KEY}
            files.append(_path(None if keys[0] is None else row[keys[0]], row, where))
            labels.append(None if keys[1] is None else label_of(row.get(keys[1]), where))
            captions.append(_caption(None if keys[2] is None else row.get(keys[2]), where))
            if REPEATS_KEY in row:
                repeats.append(_repeats(row[REPEATS_KEY], where))
    if not files:
        raise UserError(f"{path} lists no images.")
    if repeats and len(repeats) < len(files):
        raise UserError(
            f"{path}: {len(files) - len(repeats):,} of {len(files):,} entries have no {REPEATS_KEY}; give all or none."
        )
    conversions: tuple[Conversion, ...] = ()
    if others:
        text = f"{count_text(len(others), 'column')} of {path.name} not read ({named(list(others))})"
        conversions = (Conversion("passed-over", "none", len(others), len(others) + 1, text, False),)
    return Listing(
        files,
        None if all(label is None for label in labels) else labels,
        None if all(caption is None for caption in captions) else captions,
        conversions,
        repeats or None,
    )


def open_text(path: Path) -> TextIO:
    """Open a text of UTF-8, or of UTF-16 with its mark, as `json_rows` and `csv_rows` read it."""
    with path.open("rb") as stream:
        encoding = encoding_of(stream.read(2))
    return path.open(encoding=encoding, newline="")


def json_rows(stream: TextIO) -> Iterator[dict[str, Any]]:
    """Yield the objects of JSON lines; empty lines are skipped.

    Raises:
        ValueError: A line is longer than 1 MiB, or no JSON object.
    """
    number = 0
    while line := stream.readline(_MAX_LINE):
        number += 1
        if len(line) == _MAX_LINE:
            raise ValueError(f"line {number:,} has more than {_MAX_LINE:,} letters")
        if not line.strip():
            continue
        try:
            row = json.loads(line)
        except ValueError as error:
            raise ValueError(f"line {number:,} is no JSON ({error})") from error
        if not isinstance(row, dict):
            raise ValueError(f"line {number:,} is no JSON object")
        yield row


def _of_csv(stream: TextIO, path: Path) -> Iterator[dict[str, Any]]:
    first = stream.readline(_MAX_LINE)
    stream.seek(0)
    delimiter = max(_DELIMITERS, key=first.count)
    rows = csv.reader(stream, delimiter=delimiter, strict=True)
    header = [cell.strip() for cell in next(rows, [])]
    if first_key(_PATH_KEYS, header) is None:
        if len(header) not in (1, 2) or not is_plain_file(path.parent / header[0]):
            raise UserError(
                f"{path} has no column of image paths: its first line is {name_text(first.strip())}. Name the column"
                f" {_PATH_KEYS[0]}, its label {LABEL_KEYS[0]} and its caption {CAPTION_KEYS[0]}."
            )
        stream.seek(0)
        header = ["file_name", "label"][: len(header)]
        rows = csv.reader(stream, delimiter=delimiter, strict=True)
    yield from _cells(rows, header)


def csv_rows(stream: TextIO) -> Iterator[dict[str, Any]]:
    """Yield the lines of a CSV by the names of its columns, which its first line has; cells are divided by comma, semicolon or tab.

    Raises:
        ValueError: A line has another number of cells, or two columns have one name.
    """
    first = stream.readline(_MAX_LINE)
    stream.seek(0)
    rows = csv.reader(stream, delimiter=max(_DELIMITERS, key=first.count), strict=True)
    yield from _cells(rows, [cell.strip() for cell in next(rows, [])])


def _cells(rows: Any, header: list[str]) -> Iterator[dict[str, Any]]:
    if len(set(header)) < len(header):
        raise ValueError("two of its columns have one name")
    for row in rows:
        if not row:
            continue
        if len(row) != len(header):
            quoted = "; a text with commas must stand in quotes" if len(row) > len(header) else ""
            raise ValueError(
                f"line {rows.line_num:,} has {len(row)} cells but the first has {len(header)}{quoted}"
            )
        yield dict(zip(header, row, strict=True))


def _path(value: object, row: dict[str, Any], where: str) -> str:
    if not isinstance(value, str) or not value.strip():
        found = name_text(", ".join(map(str, row)))
        raise UserError(f"{where} has no path of an image under {_PATH_KEYS[0]}; it has {found}.")
    name = value.strip().replace("\\", "/")
    if name.startswith(("http://", "https://", "s3://", "gs://")):
        raise UserError(f"{where} is a URL ({name_text(name)}); download the images and list the files.")
    if name.startswith("/") or re.match("[A-Za-z]:", name) or ".." in name.split("/"):
        raise UserError(f"{where} is refused: the path {name_text(name)} leaves the folder of the list.")
    if "\0" in name:
        raise UserError(f"{where} is refused: the path {name_text(name)} is none.")
    return "/".join(part for part in name.split("/") if part not in ("", "."))


def _caption(value: object, where: str) -> str | None:
    if value is None or isinstance(value, str):
        return value
    raise UserError(f"{where}: the caption {name_text(str(value))} is no text.")


def _repeats(value: object, where: str) -> int:
    text = str(value).strip()
    if isinstance(value, bool) or not (text.isascii() and text.isdigit() and 1 <= int(text[:19]) < 10**7):
        raise UserError(f"{where}: {REPEATS_KEY} is {name_text(text)}, not a whole number from 1 on.")
    return int(text)
