"""Captions in text files beside their images, and the folders `N_name` that kohya's trainers repeat N times in an epoch.

Facts of the format (kohya-ss/sd-scripts, `train_util`, DreamBooth-style folders): the caption of `a.png` is the first line of `a.txt` or
`a.caption` in the same folder; a folder `10_sks dog` is gone through 10 times an epoch; an image without a caption gets the rest of its
folder's name, `sks dog`.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from diffmem.data.conversions import Conversion, name_text
from diffmem.data.formats.files import named
from diffmem.data.formats.guards import read_plain
from diffmem.errors import UserError
from diffmem.text import count_text

__all__ = [
    "SIDECAR_ENDINGS",
    "Sidecars",
    "decoded",
    "encoding_of",
    "lines_of",
    "read_sidecars",
    "repeats_in",
    "stem_of",
]

SIDECAR_ENDINGS = (".txt", ".caption")

_REPEATED = re.compile(r"([1-9][0-9]{0,6})_(.+)", re.DOTALL)
_MAX_BYTES = 2**20


class Sidecars(NamedTuple):
    """What lies beside the images of a folder.

    Attributes:
        captions: Of each image, or none.
        repeats: How often an epoch of training holds each image; none where the folders do not say.
        conversions: What was found, and what is wrong with it.
    """

    captions: list[str | None]
    repeats: list[int] | None
    conversions: tuple[Conversion, ...]


def encoding_of(head: bytes) -> str:
    """Return how a text is encoded, by its first bytes: UTF-16 where its mark says so, else UTF-8, with or without its mark."""
    return "utf-16" if head[:2] in (b"\xff\xfe", b"\xfe\xff") else "utf-8-sig"


def decoded(content: bytes, what: str) -> str:
    """Return a text of UTF-8, or of UTF-16 with its mark.

    Raises:
        UserError: It is neither.
    """
    try:
        text = content.decode(encoding_of(content))
    except UnicodeDecodeError as error:
        raise UserError(
            f"{what} is no text in UTF-8 or UTF-16 ({error.reason} at byte {error.start:,}); save it as UTF-8."
        ) from error
    if "\0" in text:
        raise UserError(f"{what} holds zero bytes, as UTF-16 without its mark does; save it as UTF-8.")
    return text


def lines_of(text: str) -> list[str]:
    """Return the lines of a text as other programs see them: other letters that Unicode lets end a line, as U+2028, are of a caption."""
    return text.replace("\r\n", "\n").replace("\r", "\n").split("\n")


def repeats_in(folder: str) -> int | None:
    """Return the N of a folder's name `N_name`; none of another name, and of an N of 0."""
    found = _REPEATED.fullmatch(folder)
    return None if found is None else int(found.group(1))


def stem_of(name: str) -> str:
    """Return the path of a file without its ending: 'a/b' of 'a/b.png'."""
    folder, slash, file = name.rpartition("/")
    return f"{folder}{slash}{file.rpartition('.')[0] or file}"


def read_sidecars(
    path: Path, names: Sequence[str], classes: Sequence[str], texts: Sequence[str], others: Sequence[str]
) -> Sidecars | None:
    """Read the captions beside images; none where no text belongs to an image.

    Where all images lie in folders `N_name` with N of 1 or more, which may have one folder above them (`img`), these are repeats and no
    classes, and an image without a text has the caption `name`, as kohya's trainers have it. Elsewhere it has none.

    Args:
        path: The folder.
        names: Path of each image within it.
        classes: The same without what is above the folders of the first level; see `divide`.
        texts: Paths of the files of `SIDECAR_ENDINGS` that have the path of an image but for the ending.
        others: Paths of the other ones.

    Raises:
        UserError: Two texts give an image two captions, one is no text or larger than 1 MiB, or one in a folder `N_name` is of no image.
    """
    of_stem: dict[str, list[str]] = {}
    for text in texts:
        of_stem.setdefault(stem_of(text), []).append(text)
    stems = [stem_of(name) for name in names]
    found = {stem: _caption(path, of_stem[stem]) for stem in dict.fromkeys(stems) if stem in of_stem}
    if not found:
        return None
    captions = [None if stem not in found else found[stem][0] for stem in stems]
    folders = [below.split("/")[:-1] for below in _below(classes)]
    tokens = [_REPEATED.fullmatch(levels[0]) if levels else None for levels in folders]
    repeated = [token for token in tokens if token is not None]
    kohya = len(repeated) == len(names)
    lacking = sum(caption is None for caption in captions)
    notes = []
    if kohya:
        places = {name.rpartition("/")[0] for name in names}
        beside = [text for text in others if text.rpartition("/")[0] in places]
        if beside:
            raise UserError(
                f"{path}: {count_text(len(beside), 'caption')} of no image ({named(beside)}). Put the images back, or take the texts out."
            )
        captions = [
            token.group(2) if caption is None else caption
            for caption, token in zip(captions, repeated, strict=True)
        ]
    given = "the rest of the folder's name" if kohya else "none"
    if lacking:
        notes.append(
            _note(f"{count_text(lacking, 'image')} of {len(names):,} without a caption, which is {given}", lacking, len(names))
        )  # fmt: skip
    empty = sum(caption == "" for caption in captions)
    if empty:
        notes.append(_note(f"{count_text(empty, 'caption')} empty", empty, len(names)))
    longer = sum(more for _, more in found.values())
    if longer:
        notes.append(
            _note(f"{count_text(longer, 'text')} of several lines, of which the first is the caption", longer, len(found))
        )  # fmt: skip
    text = "captions of the texts beside the images"
    if kohya:
        text += "; folders N_name are repeats, not classes"
    elif any(repeats_in(level) for levels in folders for level in levels):
        apart = {levels[0] for levels in folders if levels and not repeats_in(levels[0])}
        text += f"; not all folders are N_name ({named(list(apart))}), so that they are classes, and repeats are not known"
    conversions = (_note(text, len(names), len(names)), *notes)
    return Sidecars(captions, [int(token.group(1)) for token in repeated] if kohya else None, conversions)


def _below(paths: Sequence[str]) -> Sequence[str]:
    """Return the paths of images without the folders that hold all of them, down to one `N_name`."""
    while True:
        first = {path.partition("/")[0] if "/" in path else "" for path in paths}
        above = first.pop() if len(first) == 1 else ""
        if not above or repeats_in(above):
            return paths
        paths = [path.partition("/")[2] for path in paths]


def _caption(path: Path, texts: list[str]) -> tuple[str, bool]:
    """Return the first line of an image's text, and whether there are more."""
    contents = []
    for text in texts:
        what = f"{path}: {name_text(text)}"
        lines = lines_of(decoded(read_plain(f"{path}/{text}", _MAX_BYTES, what), what).strip())
        contents.append((lines[0].strip(), len(lines) > 1))
    if any(one[0] != contents[0][0] for one in contents):
        raise UserError(f"{path}: an image has two captions ({named(texts)}); keep one of the texts.")
    return contents[0]


def _note(text: str, count: int, total: int) -> Conversion:
    return Conversion("described", "texts", count, total, text, False)
