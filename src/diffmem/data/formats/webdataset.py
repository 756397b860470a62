"""Images in tar archives: plain ones, and the shards of WebDataset, whose members of one key belong together.

Format: "The WebDataset format", https://github.com/webdataset/webdataset: members `key.ending`, the key being the path up to
the first dot of the file's name. `.cls` holds a class number, `.txt` a caption, `.json` an object with either.
"""

from __future__ import annotations

import json
from array import array
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from diffmem.data.conversions import Conversion, name_text
from diffmem.data.formats.decoding import identity_of
from diffmem.data.formats.encoded import (
    CAPTION_KEYS,
    LABEL_KEYS,
    NOTE_FILE,
    Encoded,
    first_key,
    image_set_of,
    label_of,
    noted,
)
from diffmem.data.formats.files import PassedOver, divide
from diffmem.data.formats.folder import labels_of
from diffmem.data.formats.guards import MAX_FILE_BYTES
from diffmem.data.formats.guards import reading as as_text
from diffmem.data.formats.signatures import HEAD_BYTES, LIKELY, ending_of
from diffmem.data.formats.tar import Member, TarStream
from diffmem.data.images import ImageSet
from diffmem.data.reading import Reading
from diffmem.errors import UserError
from diffmem.progress import Progress, Stages

__all__ = ["read_tars"]

_SIDES = ("cls", "txt", "json")
_MAX_SIDE_BYTES = 2**20


class _Index:
    """The images of some tars: where each lies, and what is said of it."""

    def __init__(self, shards: Sequence[Path]) -> None:
        self.shards = shards
        self.names: list[str] = []
        self.labels: list[int | str | None] = []
        self.captions: list[str | None] = []
        self.shard_of, self.offsets, self.sizes = array("l"), array("q"), array("q")
        self._by = bytearray()  # of each image, a bit for each of `_SIDES` that describes it
        self.passed_over = PassedOver()
        self.matched: Counter[str] = Counter()  # by ending, those that describe an image
        self.alone: dict[str, list[str]] = {}  # by ending, those that describe none
        self._stream: TarStream | None = None
        self._open = -1
        self.class_names: tuple[str, ...] | None = None
        self.history: tuple[str, ...] = ()

    def add(self, number: int) -> None:
        """Look through one tar.

        Raises:
            UserError: It is damaged or cut short, or two members have one name or two images one key.
        """
        shard = self.shards[number]
        by_key: dict[str, int] = {}
        waiting: dict[str, dict[str, bytes | None]] = {}  # what describes an image that has not come yet
        with as_text(str(shard)), TarStream(shard) as stream:
            for member in stream.members():
                name = member.name
                if name == NOTE_FILE and member.size <= MAX_FILE_BYTES:
                    said = noted(stream.read(member.size), f"{shard}: {name}")
                    self.class_names, self.history = said
                    continue
                if any(part.startswith(".") or part == "__MACOSX" for part in name.split("/")):
                    continue
                key, ending = _key(name)
                if ending in _SIDES:
                    place = by_key.get(key)
                    known = waiting.get(key, ()) if place is None else self._described(place)
                    if ending in known:
                        raise UserError(f"{shard} is refused: it holds {name[:100]!r} twice.")
                    content = stream.read(member.size) if member.size <= _MAX_SIDE_BYTES else None
                    if place is None:
                        waiting.setdefault(key, {})[ending] = content
                    else:
                        self._describe(number, key, place, {ending: content})
                elif self._is_image(member, stream, number):
                    if key in by_key:
                        other = self.names[by_key[key]]
                        raise UserError(
                            f"{shard} is refused: {other} and {name} are two images of the one key {key}. Keep one of them; or, if"
                            " keys mean nothing, unpack the archive and name the folder."
                        )
                    by_key[key] = len(self.names)
                    self._append(number, member)
                    self._describe(number, key, by_key[key], waiting.pop(key, {}))
        for key, contents in waiting.items():
            for ending in contents:
                self.alone.setdefault(ending, []).append(self._shown(number, f"{key}.{ending}"))

    def _described(self, place: int) -> list[str]:
        """Return the endings of the members that describe an image."""
        return [ending for bit, ending in enumerate(_SIDES) if self._by[place] >> bit & 1]

    def _is_image(self, member: Member, stream: TarStream, number: int) -> bool:
        shown = self._shown(number, member.name)
        if ending_of(member.name) in LIKELY:
            return True
        return self.passed_over.is_read(shown, lambda: stream.read(min(member.size, HEAD_BYTES)))

    def _shown(self, number: int, name: str) -> str:
        return name if len(self.shards) == 1 else f"{self.shards[number].name}/{name}"

    def _append(self, number: int, member: Member) -> None:
        shown = self._shown(number, member.name)
        if member.size > MAX_FILE_BYTES:
            raise UserError(
                f"{self.shards[number]}: {member.name} is refused: it has {member.size:,} bytes; the limit is {MAX_FILE_BYTES:,}."
            )
        self.names.append(shown)
        self.labels.append(None)
        self.captions.append(None)
        self._by.append(0)
        self.shard_of.append(number)
        self.offsets.append(member.offset)
        self.sizes.append(member.size)

    def _describe(self, number: int, key: str, place: int, contents: dict[str, bytes | None]) -> None:
        shard = self.shards[number]
        for ending, content in contents.items():
            name = f"{key}.{ending}"
            if content is None:
                raise UserError(f"{shard}: {name} is refused: it has more than {_MAX_SIDE_BYTES:,} bytes.")
            self.matched[ending] += 1
            self._by[place] |= 1 << _SIDES.index(ending)
            label, caption = _said(ending, content, f"{shard}: {name}")
            if label is not None and self.labels[place] not in (None, label):
                raise UserError(f"{shard}: {key} has two labels, {self.labels[place]} and {label}; keep one.")
            self.labels[place] = self.labels[place] if label is None else label
            self.captions[place] = self.captions[place] if caption is None else caption

    def check_alone(self, what: str) -> None:
        """Refuse labels and captions that describe no image, where others do; count them as other files where none does."""
        for ending, names in self.alone.items():
            if self.matched[ending]:
                raise UserError(
                    f"{what}: {name_text(names[0])} describes no image ({len(names):,} such members): no image has its key. Add the"
                    " image, or take the member out."
                )
            for name in names:
                self.passed_over.add(name)

    def read(self, index: int) -> bytes:
        """Return the bytes of an image; ascending indices go through each tar once."""
        number = self.shard_of[index]
        shard = self.shards[number]
        with as_text(str(shard)):
            stream = self._stream
            if (
                stream is None
                or self._open != number
                or (stream.packed and stream.position > self.offsets[index])
            ):
                self.close()
                self._stream = stream = TarStream(shard)
                self._open = number
            stream.skip_to(self.offsets[index])
            return stream.read(self.sizes[index])

    def close(self) -> None:
        """Close the tar that is open."""
        if self._stream is not None:
            self._stream.close()
            self._stream = None


def read_tars(
    shards: Sequence[Path],
    what: str,
    progress: Progress,
    reading: Reading,
    split: str | None,
    conversions: tuple[Conversion, ...] = (),
) -> ImageSet:
    """Read the images of tars, in the order of the tars and of their members.

    Each tar is gone through twice: first to find its members, labels and captions, then to decode. No more than one image
    is held at a time beside the pixels.

    Args:
        shards: The files.
        what: What they are together, for errors.
        progress: Called now and then.
        reading: How images are decoded.
        split: Which split is read, where the folders in one tar are splits; see `divide`.
        conversions: What was chosen among the shards.

    Returns:
        The images with the labels and captions of the members of their keys. Folders are classes only inside of a
        split.

    Raises:
        UserError: A tar or an image is damaged or refused, two images have one key, or a label has no image or an image no
            label where others have one.
    """
    stages = Stages(progress, look=1, decode=6)
    index = _Index(shards)
    for number in range(len(shards)):
        index.add(number)
        stages.look(number + 1, len(shards), "looking through shards")
    index.check_alone(what)
    if not index.names:
        raise index.passed_over.nothing(what)
    passed = index.passed_over.conversions(len(index.names))
    labels: Sequence[int | str | None] = index.labels
    chosen: Sequence[int] = range(len(index.names))
    names = index.names
    class_names = index.class_names if any(label is not None for label in labels) else None
    if len(shards) == 1:
        chosen, classes, division = divide(names, split, what, in_archive=True)
        conversions = (*conversions, *division)
        labels = [labels[place] for place in chosen]
        names = [names[place] for place in chosen]
        if division and all(label is None for label in labels) and all("/" in below for below in classes):
            numbers, class_names = labels_of(classes, np.arange(len(classes)))
            labels = numbers.tolist()
    encoded = Encoded(
        names,
        lambda place: index.read(chosen[place]),
        sum(index.sizes),
        identity=identity_of(shards),
        labels=labels,
        captions=[index.captions[place] for place in chosen],
        class_names=class_names,
        conversions=(*conversions, *passed),
        history=index.history,
    )
    title = f"tar {shards[0].name}" if len(shards) == 1 else f"{len(shards)} tar shards {Path(what).name}"
    try:
        return image_set_of(encoded, what, title, reading, stages.decode)
    finally:
        index.close()


def _key(name: str) -> tuple[str, str]:
    """Return the key of a member and its last ending, in small letters: ('a/1', 'png') of 'a/1.png'."""
    folder, slash, file = name.rpartition("/")
    stem, _, endings = file.partition(".")
    return f"{folder}{slash}{stem}", endings.lower().rpartition(".")[2]


def _said(ending: str, content: bytes, what: str) -> tuple[int | str | None, str | None]:
    """Return the label and the caption that a member gives."""
    with as_text(what):
        text = content.decode()
        if ending == "cls":
            return label_of(text, what), None
        if ending == "txt":
            return None, text
        said = json.loads(text)
        if not isinstance(said, dict):
            return None, None
        label, caption = (first_key(keys, said) for keys in (LABEL_KEYS, CAPTION_KEYS))
        value = None if caption is None else said[caption]
        return (
            None if label is None else label_of(said[label], what),
            value if isinstance(value, str) else None,
        )
