"""Labels as arrays hold them (numbers, one-hot rows, words) as the number of each image's class."""

from __future__ import annotations

import sys
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from diffmem.data.conversions import name_text
from diffmem.data.reading import OPTIONS
from diffmem.errors import UserError

__all__ = ["ClassLabels", "class_labels", "form_text", "words"]

_MAX_WORDS = 10_000_000
_MOST_SHOWN = 10


class ClassLabels(NamedTuple):
    """Labels of the images of a set.

    Attributes:
        numbers: Class of each image (N,), whole numbers.
        class_names: Names by number, or none.
        form: How they were stored if not as numbers: 'one-hot' or 'words'; else empty.
    """

    numbers: NDArray[Any]
    class_names: tuple[str, ...] | None
    form: str = ""


def form_text(form: str, class_names: tuple[str, ...] | None) -> str:
    """Return the line of the history about labels that were not stored as numbers."""
    if form == "words" and class_names is not None:
        shown = ", ".join(map(name_text, class_names[:_MOST_SHOWN])) + (
            ", ..." if len(class_names) > _MOST_SHOWN else ""
        )
        return f"labels are words, numbered in this order: {shown}"
    return "labels are one-hot rows: the place of the one is the class"


def class_labels(values: NDArray[Any], class_names: tuple[str, ...] | None, what: str) -> ClassLabels:
    """Return labels as numbers.

    Args:
        values: Numbers or words (N,) or (N, 1), or one-hot rows (N, K): a one at the class and zeros elsewhere.
        class_names: Names by number, if the source has them; words are numbered by them, else in sorted order.
        what: Where they come from, for errors.

    Raises:
        UserError: A row is not one-hot, a word is no class, or numbers are not whole.
    """
    if values.ndim == 2 and values.shape[1] == 1:
        values = values[:, 0]
    if values.dtype.kind in "US":
        return _of_words(values, class_names, what)
    if values.ndim == 2:
        ones = values == 1
        wrong = np.flatnonzero((ones.sum(axis=1) != 1) | ~(ones | (values == 0)).all(axis=1))
        if len(wrong):
            raise UserError(
                f"{what} has shape {values.shape} but row {wrong[0]} is not one-hot (a single 1, else 0); an image has one"
                f" class. Choose other labels, or read the images without any: labels=none by --key ({OPTIONS})."
            )
        return ClassLabels(ones.argmax(axis=1), class_names, "one-hot")
    if values.dtype.kind not in "iub":
        raise UserError(f"{what} holds {values.dtype} values; save the class numbers as whole numbers.")
    return ClassLabels(values.astype(np.int64) if values.dtype.kind == "b" else values, class_names)


def words(array: NDArray[Any], what: str) -> tuple[str, ...]:
    """Return the texts of an array of text (NumPy's kinds U and S, the latter in UTF-8).

    Raises:
        UserError: There are too many.
        ValueError: They hold letters that Unicode does not have.
    """
    if array.size > _MAX_WORDS:
        raise UserError(f"{what} is refused: it has {array.size:,} texts; the limit is {_MAX_WORDS:,}.")
    if array.dtype.kind == "S":
        return tuple(word.decode("utf-8") for word in np.atleast_1d(array).reshape(-1).tolist())
    # NumPy makes texts of any numbers, and Python finds out when it looks at the letters.
    letters = np.ascontiguousarray(array).reshape(-1)
    letters = letters.view(np.dtype(np.uint32).newbyteorder(array.dtype.byteorder))
    if letters.size and int(letters.max()) > sys.maxunicode:
        raise ValueError("it holds letters that Unicode does not have")
    return tuple(str(word) for word in np.atleast_1d(array).reshape(-1))


def _of_words(values: NDArray[Any], class_names: tuple[str, ...] | None, what: str) -> ClassLabels:
    texts = words(values, what)
    names = tuple(sorted(set(texts))) if class_names is None else class_names
    number = {name: label for label, name in enumerate(names)}
    unknown = next((text for text in texts if text not in number), None)
    if unknown is not None:
        raise UserError(f"{what} holds {unknown!r:.60}, which is none of the class names; mend either.")
    return ClassLabels(
        np.array([number[text] for text in texts], np.int64).reshape(values.shape), names, "words"
    )
