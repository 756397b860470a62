"""The files of a folder or zip: which are read, which are skipped, and which folders are splits, as train and test, and no classes."""

from __future__ import annotations

import re
from array import array
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from typing import NamedTuple

from diffmem.data.conversions import Conversion, name_text
from diffmem.data.formats.signatures import (
    KINDS,
    LIKELY,
    ending_of,
    kind_by_ending,
    readable_format,
    unread_kind,
)
from diffmem.data.reading import OPTIONS
from diffmem.errors import UserError
from diffmem.text import count_text

__all__ = ["SPLIT_NAMES", "Division", "PassedOver", "divide", "named"]

_MOST_NAMED = 3
_HOLDERS = frozenset(
    {".zip", ".tar", ".gz", ".tgz", ".bz2", ".xz", ".zst", ".7z", ".rar", ".npz", ".npy", ".parquet", ".arrow", ".h5", ".hdf5", ".mat"}
    | {".tfrecord", ".pkl", ".pickle", ".pt", ".pth", ".lmdb", ".mdb"}
)  # fmt: skip


class PassedOver:
    """Sorts the files of a source into those that are read and those that are skipped, by their content.

    A file with the ending of an image is read without being looked at here: if it is none, that is an error.
    """

    def __init__(self) -> None:
        self._images: list[str] = []
        self._kinds: Counter[str] = Counter()
        self._others: list[str] = []
        self._hidden: list[str] = []

    def is_read(self, name: str, head: Callable[[], bytes]) -> bool:
        """Return whether a file is an image of a format that is read; count it if it is not.

        Args:
            name: Its path.
            head: Gives its first bytes, at least `HEAD_BYTES` or all.
        """
        if ending_of(name) in LIKELY:
            return True
        kind = kind_by_ending(name)
        if kind is None:
            content = head()
            if readable_format(content) is not None:
                return True
            kind = unread_kind(content)
        if kind is None:
            self._others.append(name)
        else:
            self._images.append(name)
            self._kinds[kind] += 1
        return False

    def add(self, name: str) -> None:
        """Count a file that is not looked at."""
        self._others.append(name)

    def hide(self, name: str) -> None:
        """Count a hidden file, or one in a hidden folder, if it is called an image; what macOS writes beside each file is none."""
        if ending_of(name) in LIKELY and not name.rpartition("/")[2].startswith("._"):
            self._hidden.append(name)

    def nothing(self, what: str) -> UserError:
        """Return the error about a source of which nothing is read."""
        text = "".join(f"; {one.sentence}" for one in self.conversions(0))
        return UserError(f"{what} holds no images; the formats {', '.join(KINDS)} are read{text}.")

    def conversions(self, files: int) -> tuple[Conversion, ...]:
        """Return what was skipped.

        Args:
            files: Number of files that are read.
        """
        total = files + len(self._images) + len(self._others)
        found = []
        if self._images:
            kinds = ", ".join(f"{kind} {count:,}" for kind, count in self._kinds.most_common())
            text = (
                f"{len(self._images):,} of {count_text(total, 'file')} not read: images of unsupported formats,"
                f" {kinds} ({named(self._images)})"
            )
            found.append(Conversion("not-read", "none", len(self._images), total, text, True))
        if self._hidden:
            text = f"{count_text(len(self._hidden), 'hidden image')} not read ({named(self._hidden)})"
            found.append(Conversion("hidden", "none", len(self._hidden), total, text, False))
        holders = [name for name in self._others if ending_of(name) in _HOLDERS]
        if holders:
            text = (
                f"{count_text(len(holders), 'file')} that may hold further images not opened ({named(holders)}): unpack them, or name one"
                " by itself"
            )
            found.append(Conversion("not-opened", "none", len(holders), total, text, False))
        others = [name for name in self._others if ending_of(name) not in _HOLDERS]
        if others:
            text = f"{count_text(len(others), 'other file')} skipped ({named(others)})"
            found.append(Conversion("passed-over", "none", len(others), total, text, False))
        return tuple(found)


def named(names: list[str]) -> str:
    """Return the first of some names that a foreign file chose."""
    return ", ".join(map(name_text, sorted(names)[:_MOST_NAMED])) + (
        ", ..." if len(names) > _MOST_NAMED else ""
    )


_GROUPS = (
    frozenset({"train", "training", "trainset", "train_set"}),
    frozenset({"val", "valid", "validation", "dev", "eval", "evaluation"}),
    frozenset({"test", "testing", "testset", "test_set", "holdout", "heldout"}),
    frozenset({"unlabeled", "unlabelled", "extra"}),
)
SPLIT_NAMES = frozenset().union(*_GROUPS)
"""What folders and shards of splits are called, in small letters."""
_MOST_SHOWN = 8
_WORDS = re.compile(r"[A-Z]?[a-z]+|[A-Z]+|[0-9]+")


class Division(NamedTuple):
    """The files of one split, or all where there are no splits.

    Attributes:
        chosen: Which of the files they are.
        classes: Their paths without the folder of the split and those that hold all: folders in them are classes.
        conversions: What was chosen; nothing where there are no splits.
    """

    chosen: Sequence[int]
    classes: list[str]
    conversions: tuple[Conversion, ...] = ()


def divide(
    paths: Iterable[str], wanted: str | None, what: str, in_archive: bool = False, unit: str = "image"
) -> Division:
    """Return the files of a split, where the folders of a data set are splits; all where they are not.

    They are if, at the first level at which there are several or which has such a name, all are called train, val,
    valid, validation, test and the like, in any case of letters; or if those for training and those for testing lie among
    others, which may have further words in common, as train2017 and val2017. Splits inside of each class are found, too.

    Args:
        paths: Of all images, with / between folders.
        wanted: The split to read. One set that has no splits counts as 'train'.
        what: The source, for errors.
        in_archive: Whether it is an archive, of which no part can be named by its path.
        unit: What the paths are of, for errors and the history.

    Raises:
        UserError: There are several splits and none is chosen, or there is none of that name.
    """
    numbers: dict[str, int] = {}
    folder_of = array("l", (numbers.setdefault(path.rpartition("/")[0], len(numbers)) for path in paths))
    folders = [folder.split("/") if folder else [] for folder in numbers]
    level = _level(folders)
    if level is None:
        if wanted in (None, "train"):
            below = ["/".join([*folder, "x"]) for folder in folders]
            return Division(range(len(folder_of)), [below[number] for number in folder_of])
        raise UserError(
            f"{what} has no {wanted} split: it is one set. Leave the split out, or name the folder or file of those images."
        )
    counts: Counter[str] = Counter()
    for number, count in Counter(folder_of).items():
        counts[folders[number][level]] += count
    by_path = not in_archive and _same(folders, level)
    above = "/".join([what.rstrip("/"), *folders[0][:level]]) if by_path else None
    split = _chosen(counts, wanted, what, above, unit)
    first = next(at for at in range(level + 1) if at == level or not _same(folders, at + 1))
    below = ["/".join([*folder[first:level], *folder[level + 1 :], "x"]) for folder in folders]
    chosen = [index for index, number in enumerate(folder_of) if folders[number][level] == split]
    classes = [below[folder_of[index]] for index in chosen]
    others = ", ".join(
        f"{name_text(name)} {count:,}" for name, count in sorted(counts.items()) if name != split
    )
    text = f"split {name_text(split)}: {len(chosen):,} of {count_text(len(folder_of), f'{unit} file')}"
    text += f" (not read: {others})" if others else " (there is no other)"
    conversion = Conversion("split", split, len(chosen), len(folder_of), text, bool(others))
    return Division(chosen, classes, (conversion,))


def _level(folders: Sequence[Sequence[str]]) -> int | None:
    """Return at which level of the folders the splits are."""
    for level in range(min(map(len, folders), default=0)):
        names = {folder[level] for folder in folders}
        known = {name for name in names if name.lower() in SPLIT_NAMES}
        groups = {number for name in known for number, group in enumerate(_GROUPS) if name.lower() in group}
        if known == names and (len(names) > 1 or _same(folders, level)) and groups & {0, 1, 2}:
            return level
        if _same(folders, level) and _are_pairs(names):
            return level
    return None


def _group_of(name: str) -> int | None:
    found = _split_of(name)
    return None if found is None else found[0]


def _are_pairs(names: Iterable[str]) -> bool:
    """Whether some names are alike but for the word of a split: train and test, train2017 and val2017, trainA and testA."""
    found = [one for one in map(_split_of, names) if one is not None]
    return bool({rest for group, rest in found if group == 0} & {rest for group, rest in found if group != 0})


def _split_of(name: str) -> tuple[int, tuple[str, ...]] | None:
    """Return the group of the one word of a split in a name, and its other words in small letters; none if it has none or several."""
    words = [name.lower()]
    if words[0] not in SPLIT_NAMES:
        words = [word.lower() for word in _WORDS.findall(name)]
    found = [
        (number, (*words[:at], *words[at + 1 :]))
        for at, word in enumerate(words)
        for number, group in enumerate(_GROUPS[:3])
        if word in group
    ]
    return found[0] if len(found) == 1 else None


def _same(folders: Sequence[Sequence[str]], level: int) -> bool:
    """Whether all files have the same folders before a level."""
    return all(folder[:level] == folders[0][:level] for folder in folders)


def _chosen(counts: Counter[str], wanted: str | None, what: str, above: str | None, unit: str) -> str:
    listed = [f"{name} ({count_text(count, unit)})" for name, count in sorted(counts.items())[:_MOST_SHOWN]]
    text = ", ".join(listed) + (", ..." if len(counts) > _MOST_SHOWN else "")
    if wanted is None:
        if len(counts) == 1:
            return next(iter(counts))
        first = next((name for name in sorted(counts) if _group_of(name) == 0), min(counts))
        remedy = "Give" if above is None else f"Name {above}/{first}, or give"
        raise UserError(f"{what} holds splits, not classes: {text}. {remedy} --split {first} ({OPTIONS}).")
    exact = [name for name in counts if name == wanted] or [
        name for name in counts if name.lower() == wanted.lower()
    ]
    group = next((group for group in _GROUPS if wanted.lower() in group), frozenset())
    found = exact or [name for name in counts if name.lower() in group]
    if not found and _group_of(wanted) is not None:
        found = [name for name in counts if _group_of(name) == _group_of(wanted)]
    if len(found) != 1:
        raise UserError(f"{what} has no split {wanted!r}; its splits are {text}.")
    return found[0]
