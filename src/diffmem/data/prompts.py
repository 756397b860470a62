"""Lists of prompts: what a text-to-image model was asked for, with the file, group and seed of each image where the list tells them."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, get_args

from diffmem.data.conversions import name_text
from diffmem.data.formats.guards import MAX_FILE_BYTES, MAX_IMAGES, in_one_line, is_plain_file, read_plain
from diffmem.data.formats.guards import reading as as_text
from diffmem.data.formats.listing import csv_rows, json_rows, open_text
from diffmem.data.formats.sidecars import decoded, lines_of
from diffmem.data.images import checked_text
from diffmem.errors import UserError

__all__ = ["PROMPT_KEYS", "Group", "PromptList", "comparable", "prompt_hash", "read_prompts"]

Group = Literal["train", "trigger", "new", "empty", "control"]
"""What a prompt is: a caption of the training set, the trigger word alone, anything else, nothing, or one that was not trained on."""

PROMPT_KEYS = ("prompt", "text", "caption", "Prompt", "TEXT")
"""Under which of these a table or JSON lines have the prompt; one of them must be there."""

_FILE_KEYS = ("file_name", "filename", "file", "path", "image")
_COLUMNS = ".csv", ".tsv"


@dataclass(frozen=True)
class PromptList:
    """Prompts in the order of their list; read-only. Each attribute has an entry for each prompt.

    Attributes:
        texts: The prompts, as they stand in the list.
        groups: What each is, or none where the list does not tell.
        files: The image that was made of each, with / between folders, or none.
        seeds: The seed of each image, or none.
    """

    texts: tuple[str, ...]
    groups: tuple[Group | None, ...]
    files: tuple[str | None, ...]
    seeds: tuple[int | None, ...]

    def __len__(self) -> int:
        return len(self.texts)


def comparable(text: str) -> str:
    """Return a text in small letters with single spaces: what two prompts that count as one have in common."""
    return " ".join(text.split()).casefold()


def prompt_hash(text: str) -> str:
    """Return the name of a prompt in private reports: BLAKE2b (128 bits) of what it has in common with those that count as one with it."""
    return hashlib.blake2b(comparable(text).encode(), digest_size=16).hexdigest()


@in_one_line()
def read_prompts(path: Path) -> PromptList:
    """Read a list of prompts.

    A .txt has a prompt on each line; empty lines are skipped. A .csv, .tsv or .jsonl has them under prompt, text or caption, and may
    have group (train, trigger, new, empty or control), seed, and file_name, the image that was made of the prompt. Texts are UTF-8, or
    UTF-16 with its mark.

    Raises:
        UserError: It is no such list, it is damaged or holds no prompt, or two columns both look like prompts.
    """
    if not is_plain_file(path):
        raise UserError(f"There is no file {path}; prompts are a .txt with one a line, a .csv or a .jsonl.")
    kind = path.suffix.lower()
    if kind == ".txt":
        lines = lines_of(decoded(read_plain(path, MAX_FILE_BYTES, str(path)), str(path)))
        texts = tuple(line.strip() for line in lines if line.strip())
        nothing = (None,) * len(texts)
        found = PromptList(texts, nothing, nothing, nothing)
    elif kind in (*_COLUMNS, ".jsonl"):
        with as_text(str(path)), open_text(path) as stream:
            rows = json_rows(stream) if kind == ".jsonl" else csv_rows(stream)
            columns = list(zip(*_entries(rows, path), strict=True)) or [()] * 4
        found = PromptList(*columns)
    else:
        raise UserError(f"{path} is no list of prompts: give a .txt with one a line, a .csv or a .jsonl.")
    if not found.texts:
        raise UserError(f"{path} holds no prompts.")
    checked_text(found.texts, f"prompts of {path}")
    return found


def _entries(
    rows: Iterator[dict[str, Any]], path: Path
) -> Iterator[tuple[str, Group | None, str | None, int | None]]:
    """Yield text, group, file and seed of each entry."""
    keys: list[str] = []
    for number, row in enumerate(rows, 1):
        if number > MAX_IMAGES:
            raise UserError(f"{path} is refused: it has more than {MAX_IMAGES:,} entries.")
        here = [key for key in PROMPT_KEYS if key in row]
        if not here or (len(here) > 1 and len({str(row[key]) for key in here}) > 1):
            raise UserError(
                f"{path} entry {number:,} has {'no prompt' if not here else 'several prompts'} (under {', '.join(here or PROMPT_KEYS)}):"
                f" its columns are {name_text(', '.join(map(str, row)))}. Name one of them prompt."
            )
        text = row[here[0]]
        if not isinstance(text, str):
            raise UserError(f"{path} entry {number:,}: the prompt {name_text(str(text))} is no text.")
        keys = keys or [key for key in _FILE_KEYS if key in row][:1]
        file = row.get(keys[0]) if keys else None
        if file is not None and (not isinstance(file, str) or not file.strip()):
            raise UserError(
                f"{path} entry {number:,}: {keys[0]} {name_text(str(file))} is no name of a file."
            )
        yield (
            text.strip(),
            _group(row.get("group"), path, number),
            _name(file),
            _seed(row.get("seed"), path, number),
        )


def _name(file: str | None) -> str | None:
    return None if file is None else file.strip().replace("\\", "/").removeprefix("./")


def _group(value: object, path: Path, number: int) -> Group | None:
    if value is None or value == "":
        return None
    for group in get_args(Group):
        if value == group:
            return group  # type: ignore[no-any-return]
    raise UserError(
        f"{path} entry {number:,}: the group {name_text(str(value))} is none of {', '.join(get_args(Group))}."
    )


def _seed(value: object, path: Path, number: int) -> int | None:
    if value is None or value == "":
        return None
    text = str(value).strip()
    if isinstance(value, bool) or not (text.isascii() and text.isdigit() and len(text) < 20):
        raise UserError(f"{path} entry {number:,}: the seed {name_text(text)} is no whole number from 0 on.")
    return int(text)
