"""A set of encoded images with their labels and captions, whatever holds them, and the `ImageSet` that is made of it."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from diffmem.data.conversions import Conversion, name_text
from diffmem.data.formats.arrays import naming
from diffmem.data.formats.decoding import Files
from diffmem.data.formats.guards import reading as as_text
from diffmem.data.formats.stack import stack_images
from diffmem.data.images import ImageSet, frozen
from diffmem.data.reading import Reading
from diffmem.errors import UserError
from diffmem.progress import Progress
from diffmem.text import count_text

__all__ = [
    "CAPTION_KEYS",
    "LABEL_KEYS",
    "NOTE_FILE",
    "REPEATS_KEY",
    "Encoded",
    "first_key",
    "image_set_of",
    "label_of",
    "noted",
    "numbered",
]

NOTE_FILE = ".diffmem.json"
"""The hidden file of folders and tars that `write_images` writes: names of classes, and the history."""

LABEL_KEYS = ("label", "labels", "class", "cls", "target")
"""Under which of these a table or a JSON file has the label; the first that is there counts."""

CAPTION_KEYS = ("text", "caption")
"""Likewise, the caption."""

REPEATS_KEY = "repeats"
"""Under which a table has how often an epoch of training holds the image."""


@dataclass(frozen=True)
class Encoded(Files):
    """Encoded images with what is said of them.

    Attributes:
        labels: A class number or the name of a class for each file, or none; none for no labels at all.
        captions: A text for each file, or none; none for no captions at all.
        class_names: Names of the classes by number, where the source tells them.
        conversions: What was chosen or skipped.
        history: Of the set before it was written, where that is told.
        repeats: How often an epoch of training holds each file, 1 or more; none where the source does not tell.
    """

    labels: Sequence[int | str | None] | None = None
    captions: Sequence[str | None] | None = None
    class_names: tuple[str, ...] | None = None
    conversions: tuple[Conversion, ...] = ()
    history: tuple[str, ...] = ()
    repeats: Sequence[int] | None = None


def image_set_of(encoded: Encoded, what: str, title: str, reading: Reading, progress: Progress) -> ImageSet:
    """Decode a set of encoded images.

    Args:
        encoded: The images, with labels and captions.
        what: The source, for errors.
        title: What it is, for the history: 'tar photos.tar'.
        reading: How images are decoded.
        progress: Called now and then.

    Raises:
        UserError: See `stack_images` and `numbered`.
    """
    labels, class_names = numbered(encoded.labels, encoded.names, what, encoded.class_names)
    stacked = stack_images(encoded, what, reading, progress)
    captions = _captions(encoded.captions, stacked.files)
    step = f"{title}: {len(stacked.images)} images"
    step += f" in {len(class_names)} classes" if class_names else ""
    if captions is not None:
        given = sum(caption is not None for caption in captions)
        step += ", with captions" if given == len(captions) else f", {given:,} of them with captions"
    repeats = None if encoded.repeats is None else frozen(np.array(encoded.repeats, np.int64)[stacked.files])
    conversions = (*encoded.conversions, *stacked.conversions)
    history = (*encoded.history, step, *(one.sentence for one in conversions))
    with naming(what):
        return ImageSet(
            stacked.images,
            None if labels is None else frozen(labels[stacked.files]),
            stacked.names,
            class_names,
            history,
            conversions,
            captions,
            repeats,
        )


def _captions(
    captions: Sequence[str | None] | None, files: NDArray[np.int64]
) -> tuple[str | None, ...] | None:
    if captions is None or all(caption is None for caption in captions):
        return None
    return tuple(captions[file] for file in files.tolist())


def numbered(
    values: Sequence[int | str | None] | None,
    names: Sequence[str],
    what: str,
    class_names: tuple[str, ...] | None = None,
) -> tuple[NDArray[np.int64] | None, tuple[str, ...] | None]:
    """Return labels as numbers, and the names of the classes.

    Names of classes are numbered in sorted order. The number -1, by which Hugging Face datasets say that there is no label,
    is none.

    Args:
        values: Of each file; see `Encoded`.
        names: Of each file, for errors.
        what: The source, for errors.
        class_names: As the source tells them; then the labels are numbers.

    Raises:
        UserError: Some files have a label and others none, some have numbers and others names, or a number is no class.
    """
    if values is None:
        return None, None
    lacking = [place for place, value in enumerate(values) if value is None or value == -1]
    if len(lacking) == len(values):
        return None, None
    if lacking:
        first = name_text(names[lacking[0]])
        raise UserError(
            f"{what}: {count_text(len(lacking), 'image')} of {len(values):,} have no label where others have one; the first is"
            f" {first}. Label them, or take them out."
        )
    texts = [place for place, value in enumerate(values) if isinstance(value, str)]
    if not texts:
        labels = np.array(values, np.int64)
        if labels.min() < 0 or (class_names is not None and labels.max() >= len(class_names)):
            wrong = int(np.argmax(labels if labels.min() >= 0 else -labels))
            of = "" if class_names is None else f" of the {len(class_names)} that it names"
            raise UserError(
                f"{what}: the label of {name_text(names[wrong])} is {labels[wrong]}, no class{of}."
            )
        return labels, class_names
    if len(texts) < len(values):
        number = next(place for place, value in enumerate(values) if not isinstance(value, str))
        one, two = texts[0], number
        raise UserError(
            f"{what}: some labels are names ({name_text(names[one])}: {name_text(str(values[one]))}), others numbers"
            f" ({name_text(names[two])}: {values[two]}). Make them all one or the other."
        )
    found = tuple(sorted(set(map(str, values))))
    number_of = {name: number for number, name in enumerate(found)}
    return np.array([number_of[str(value)] for value in values], np.int64), found


def label_of(value: object, what: str) -> int | str | None:
    """Return a label as files give it: digits are a class number, other text is the name of a class, nothing is none.

    Args:
        value: A text, a whole number or none.
        what: Where it stands, for errors.

    Raises:
        UserError: It is anything else.
    """
    if value is None or type(value) is int:
        return value
    if isinstance(value, str):
        text = value.strip()
        digits = text.removeprefix("-")
        if digits.isascii() and digits.isdigit() and len(digits) < 19:
            return int(text)
        if text and not _is_number(text):
            return text
        if not text:
            return None
    raise UserError(
        f"{what}: the label {name_text(str(value))} is neither a class number (0, 1, 2, ...) nor a name."
    )


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return text.lower().lstrip("+-") not in ("nan", "inf", "infinity")


def noted(content: bytes, what: str) -> tuple[tuple[str, ...] | None, tuple[str, ...]]:
    """Return the names of the classes, if there are any, and the history that a `NOTE_FILE` tells.

    Raises:
        UserError: It is damaged.
    """
    with as_text(what):
        said = json.loads(content)
        class_names, history = said["class_names"], said["history"]
        for texts in (class_names or [], history):
            if not isinstance(texts, list) or not all(isinstance(text, str) for text in texts):
                raise ValueError("it must list texts")
        return (tuple(class_names) if class_names else None), tuple(history)


def first_key(keys: Sequence[str], found: Mapping[str, Any] | Sequence[str]) -> str | None:
    """Return the first of some keys that is there."""
    return next((key for key in keys if key in found), None)
