"""The files that a sharded set is made of: listed by braces or found in a folder, with none of them missing."""

from __future__ import annotations

import itertools
import os
import re
from collections import defaultdict, deque
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from diffmem.data.conversions import Conversion
from diffmem.data.formats.files import SPLIT_NAMES, divide
from diffmem.data.formats.guards import is_plain_file, stays_inside
from diffmem.data.formats.signatures import LIKELY, ending_of
from diffmem.errors import UserError
from diffmem.text import count_text

__all__ = [
    "TABLE_ENDINGS",
    "TAR_ENDINGS",
    "Shards",
    "braces",
    "find_shards",
    "kind_of_shards",
    "listed_shards",
]

TAR_ENDINGS = (".tar", ".tar.gz", ".tgz")
TABLE_ENDINGS = (".parquet", ".pq")

_BRACES = re.compile(r"\{(\d+)\.\.(\d+)\}|\{([^{}]*,[^{}]*)\}")
_NUMBERED = re.compile(r"(.*?)(\d+)(?:-of-(\d+))?(?:-[0-9a-f]{16})?")
_WORD = re.compile(r"[^a-z]+")
_MOST_SHARDS = 100_000
_DEPTH = 6  # of folders; the cache of Hugging Face datasets has five
_LOOKED_AT = 10_000
_MOST_FILES = 1_000_000


class Shards(NamedTuple):
    """The shards of a set, in order.

    Attributes:
        files: Their paths.
        conversions: Which split was chosen, if there are several.
    """

    files: list[Path]
    conversions: tuple[Conversion, ...] = ()


def braces(pattern: str) -> list[str] | None:
    """Return the names that a list in braces stands for, `{000..012}` and `{train,val}`; none if there are no braces.

    Numbers keep their width, as in the shells and in WebDataset.

    Raises:
        UserError: They are more than 100,000, or a range runs downwards.
    """
    parts, choices, at = [], [], 0
    for found in _BRACES.finditer(pattern):
        first, last, words = found.groups()
        parts.append(pattern[at : found.start()])
        at = found.end()
        if words is not None:
            choices.append(words.split(","))
            continue
        if len(first) > 18 or len(last) > 18 or not 0 <= int(last) - int(first) < _MOST_SHARDS:
            raise UserError(
                f"{pattern[:200]}: {found[0][:60]} is no range from a number to a larger one of at most {_MOST_SHARDS:,} shards."
            )
        choices.append([str(number).zfill(len(first)) for number in range(int(first), int(last) + 1)])
    if not choices:
        return None
    total = 1
    for choice in choices:
        total *= len(choice)
    if total > _MOST_SHARDS:
        raise UserError(f"{pattern[:200]} stands for {total:,} shards; the limit is {_MOST_SHARDS:,}.")
    tail = pattern[at:]
    return [
        "".join(itertools.chain.from_iterable(zip(parts, words, strict=True))) + tail
        for words in itertools.product(*choices)
    ]


def listed_shards(pattern: str, names: Sequence[str]) -> list[Path]:
    """Return the files of a list; see `braces`.

    Raises:
        UserError: One of them is missing.
    """
    files = [Path(name).expanduser() for name in names]
    missing = [file for file in files if not is_plain_file(file)]
    if missing:
        raise UserError(
            f"{pattern}: {len(missing):,} of {count_text(len(files), 'shard')} are missing; the first is {missing[0]}."
        )
    return files


def kind_of_shards(folder: Path, kinds: Mapping[str, Sequence[str]]) -> str | None:
    """Return which kind of shards a folder, and folders of it, hold; none if there are images, or none of these.

    The first 10,000 entries tell.

    Args:
        folder: The folder.
        kinds: How the names of each kind end.
    """
    found: set[str] = set()
    for file in _walk(folder, _LOOKED_AT):
        if ending_of(file.name) in LIKELY:
            return None
        found.update(kind for kind, endings in kinds.items() if file.name.endswith(tuple(endings)))
    return next((kind for kind in kinds if kind in found), None)


def find_shards(
    folder: Path, endings: Sequence[str], wanted: str | None, skipped: tuple[str, ...] = ()
) -> Shards:
    """Return the shards in a folder, sorted by name.

    Shards that are numbered are a set of their own for each name before the number, with no number left out: 'train-000.tar',
    'train-001.tar'; names such as 'train-00000-of-00013.parquet' tell how many there are. If the names are those of splits, one of
    them is read; see `divide`.

    Args:
        folder: The folder.
        endings: Of their names.
        wanted: The split to read.
        skipped: How the names of files begin that are no shards.

    Raises:
        UserError: A number is missing, there are several sets, there are several splits and none is chosen, or one is a link
            out of the folder.
    """
    found = (file for file in _walk(folder, _MOST_FILES) if file.name.endswith(tuple(endings)))
    files = sorted(file for file in found if not (skipped and file.name.startswith(skipped)))
    if not files:
        raise UserError(f"{folder} holds no files that end in {' or '.join(endings)}.")
    root = folder.resolve()
    for file in files:
        if file.is_symlink() and not stays_inside(file, root):
            raise UserError(
                f"{file} is refused: it is a link that leads out of {folder}. Name the file that it links to."
            )
    groups: dict[str, list[tuple[int, int | None, Path]]] = defaultdict(list)
    for file in files:
        relative = file.relative_to(folder).as_posix()
        stem = relative.removesuffix(next(end for end in endings if relative.endswith(end)))
        match = _NUMBERED.fullmatch(stem)
        if match is None:
            groups[stem].append((0, None, file))
        else:
            count = None if match[3] is None else int(match[3])
            groups[match[1].strip("-_.") or "shards"].append((int(match[2]), count, file))
    for group in groups.values():
        _check_whole(folder, sorted(group, key=lambda one: one[0]))
    by_split: dict[str, str] = {}
    for name in groups:
        other = by_split.setdefault(_split_of(name), name)
        if other != name:
            raise UserError(
                f"{folder} holds several sets: {other} and {name}. Name the shards of one of them: {{000..012}}."
            )
    names = {file: _split_of(name) for name, group in groups.items() for _, _, file in group}
    if len(files) == 1:
        return Shards(files)
    division = divide(
        [f"{names[file]}/{index}" for index, file in enumerate(files)], wanted, str(folder), True, "shard"
    )
    return Shards([files[index] for index in division.chosen], division.conversions)


def _walk(folder: Path, most: int) -> Iterator[Path]:
    """Yield the files in a folder and in folders of it, those that lie higher first; links to folders are not followed."""
    waiting = deque([(folder, 1)])
    while waiting and most > 0:
        current, depth = waiting.popleft()
        try:
            with os.scandir(current) as listed:
                entries = sorted(itertools.islice(listed, most), key=lambda entry: entry.name)
        except OSError as error:
            raise UserError(f"Cannot read the folder {current}: {error.strerror}.") from error
        most -= len(entries)
        for entry in entries:
            if entry.name.startswith("."):
                continue
            if not entry.is_dir(follow_symlinks=False):
                yield current / entry.name
            elif depth < _DEPTH:
                waiting.append((current / entry.name, depth + 1))


def _check_whole(folder: Path, group: list[tuple[int, int | None, Path]]) -> None:
    """Refuse numbered shards of which one is missing or there twice."""
    counts = {count for _, count, _ in group}
    if len(counts) > 1:
        raise UserError(
            f"{folder} holds shards of several sets: {group[0][2].name} and {group[-1][2].name} tell different numbers of shards."
            " Keep those of one."
        )
    numbers = [number for number, _, _ in group]
    declared = counts.pop()
    first = 0 if declared is not None else min(numbers[0], 1)
    last = numbers[-1] if declared is None else declared - 1
    if len(set(numbers)) < len(numbers):
        twice = next(one for one, two in itertools.pairwise(group) if one[0] == two[0])
        raise UserError(f"{folder} holds shard {twice[0]} twice ({twice[2].name}); keep one of them.")
    if len(numbers) > 1 or declared is not None:
        missing = next((number for number in range(first, last + 1) if number not in set(numbers)), None)
        if missing is not None or numbers[-1] > last:
            raise UserError(
                f"{folder} is no whole set: of its shards {first} to {last}, {missing} is missing (there is"
                f" {group[-1][2].name}). Download it again, or list those that you want: {{000000..000012}}."
            )


def _split_of(group: str) -> str:
    """Return the split that a group's name tells, or the name itself."""
    words = [word for word in _WORD.split(group.lower()) if word in SPLIT_NAMES]
    return words[-1] if words else group.replace("/", "_")
