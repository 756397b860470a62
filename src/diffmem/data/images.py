"""`ImageSet`: images, their labels and names, and the story of how they came to be."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any, TypeVar

import numpy as np
from numpy.typing import ArrayLike, NDArray

from diffmem.data.conversions import Conversion
from diffmem.data.names import LazyNames
from diffmem.data.storage import contiguous, gather, parts
from diffmem.errors import UserError

__all__ = ["ImageSet", "checked_images", "checked_labels", "checked_text", "frozen"]

_Scalar = TypeVar("_Scalar", bound=np.generic)


@dataclass(frozen=True, eq=False)
class ImageSet:
    """A set of images of one shape. Immutable; two sets are equal only if they are the same object.

    Compare contents by `fingerprint`. Operations return a new set whose history has one more step.

    Attributes:
        images: uint8 (N, C, H, W), C is 1 (grey) or 3 (RGB), N at least 1; read-only, its values in this order.
            It may be a read-only memory map, also one that is larger than memory, which is kept as it is.
            A writeable array, or one in another order, is copied.
        labels: Class of each image, int64 (N,), 0 or more; read-only; or none.
        names: Name of each image, for people: where it came from. A tuple, or `LazyNames`, which equal the tuple of
            the same texts and make each one when it is asked for.
        class_names: Name of each class, by label; or none. Needs labels, and an entry for the largest one at
            least. More entries are classes that have no images in this set.
        history: How the set was made, in words, one step per entry.
        conversions: What reading did to the images of its source; its sentences are in the history, too. Sets made of
            this one keep it; files that are written keep the history alone.
        captions: What describes each image, or none where it has no description; or none for a set without captions.
        repeats: How often an epoch of training holds each image, int64 (N,), 1 or more; read-only; or none where that is not told.

    Raises:
        UserError: An array has the wrong type or shape, or the parts do not fit together.
    """

    images: NDArray[np.uint8]
    labels: NDArray[np.int64] | None
    names: Sequence[str]
    class_names: tuple[str, ...] | None = None
    history: tuple[str, ...] = ()
    conversions: tuple[Conversion, ...] = ()
    captions: tuple[str | None, ...] | None = None
    repeats: NDArray[np.int64] | None = None

    def __post_init__(self) -> None:
        images = checked_images(self.images)
        count = len(images)
        object.__setattr__(self, "images", images)
        if self.labels is not None:
            object.__setattr__(self, "labels", checked_labels(self.labels, count))
        for field in ("names", "class_names", "history"):
            value = getattr(self, field)
            if value is not None and not isinstance(value, LazyNames):
                object.__setattr__(self, field, checked_text(value, field.replace("_", " ")))
        if len(self.names) != count:
            raise UserError(f"There are {count} images but {len(self.names)} names; give one name per image.")
        if self.captions is not None:
            object.__setattr__(self, "captions", tuple(self.captions))
            checked_text([caption for caption in self.captions if caption is not None], "captions")
            if len(self.captions) != count:
                raise UserError(
                    f"There are {count} images but {len(self.captions)} captions; give one per image, or None."
                )
        if self.repeats is not None:
            object.__setattr__(self, "repeats", _checked_repeats(self.repeats, count))
        if self.class_names is not None and self.labels is None:
            raise UserError("Class names were given without labels; give both or neither.")
        if self.class_names is not None and len(self.class_names) < self._labels_end:
            raise UserError(
                f"There are {len(self.class_names)} class names but the largest label is "
                f"{self._labels_end - 1}; "
                f"give at least {self._labels_end} class names."
            )

    def __len__(self) -> int:
        return len(self.images)

    def __repr__(self) -> str:
        classes = "unlabelled" if self.labels is None else f"{self.num_classes} classes"
        return f"ImageSet({len(self)} images {self.shape}, {classes})"

    @property
    def shape(self) -> tuple[int, int, int]:
        """(C, H, W) of each image."""
        _, channels, height, width = self.images.shape
        return channels, height, width

    @property
    def num_classes(self) -> int:
        """The number of classes, K: of class names if there are any, else the largest label plus one.

        0 without labels. A class of no images counts if it has a name, so that a model's shape does not
        depend on which images were drawn.
        """
        return self._labels_end if self.class_names is None else len(self.class_names)

    @property
    def _labels_end(self) -> int:
        return 0 if self.labels is None else int(self.labels.max()) + 1

    @cached_property
    def fingerprint(self) -> str:
        """SHA-256 in hexadecimal of the shape, the pixels, the labels and the number of classes.

        Names, captions, repeats and history do not count.
        """
        digest = hashlib.sha256(" ".join(map(str, self.images.shape)).encode())
        for part in parts(len(self), math.prod(self.shape)):
            digest.update(self.images[part].reshape(-1).data)
        digest.update(b"labels" if self.labels is not None else b"no labels")
        if self.labels is not None:
            digest.update(self.labels.astype("<i8").data)
        if self.num_classes != self._labels_end:
            # Only then, so that a set whose labels tell the number has the fingerprint of its bare arrays.
            digest.update(f"classes {self.num_classes}".encode())
        return digest.hexdigest()

    def take(self, indices: ArrayLike, step: str) -> ImageSet:
        """Return the images at `indices`, in that order.

        Images that follow one another in a memory map stay in it; others are copied, see `new_images`.

        Args:
            indices: Whole numbers (n,), each from 0 to N - 1, n at least 1. Repeats are allowed.
            step: What this does, for the history.

        Raises:
            UserError: An index is outside the set, or there is none.
        """
        chosen = np.asarray(indices)
        if chosen.ndim != 1 or len(chosen) == 0 or not np.issubdtype(chosen.dtype, np.integer):
            raise UserError(
                f"Images are taken by a list of at least one whole number, not by {chosen.dtype} of shape "
                f"{chosen.shape}."
            )
        if chosen.min() < 0 or chosen.max() >= len(self):
            wrong = chosen[(chosen < 0) | (chosen >= len(self))][0]
            raise UserError(f"There is no image {wrong}: the set has images 0 to {len(self) - 1}.")
        names = (
            self.names.take(chosen)
            if isinstance(self.names, LazyNames)
            else tuple(self.names[index] for index in chosen)
        )
        labels = None if self.labels is None else frozen(self.labels[chosen])
        pixels = gather(self.images, chosen)
        return self._with(
            step,
            images=pixels,
            labels=labels,
            names=names,
            captions=self.captions_at(chosen),
            repeats=self.repeats_at(chosen),
        )

    def captions_at(self, indices: NDArray[np.integer[Any]]) -> tuple[str | None, ...] | None:
        """Return the captions of some images, each from 0 to N - 1; none if the set has none."""
        captions = self.captions
        return None if captions is None else tuple(captions[index] for index in indices.tolist())

    def repeats_at(self, indices: NDArray[np.integer[Any]]) -> NDArray[np.int64] | None:
        """Return the repeats of some images, each from 0 to N - 1; none if the set has none."""
        return None if self.repeats is None else frozen(self.repeats[indices])

    def with_labels(self, labels: ArrayLike | None, class_names: Sequence[str] | None, step: str) -> ImageSet:
        """Return the same images with other labels.

        Args:
            labels: int (N,), 0 or more, or none for an unlabelled set.
            class_names: Names by label, or none.
            step: What this does, for the history.

        Raises:
            UserError: There is not one label per image, or class names are missing.
        """
        return self._with(step, labels=labels, class_names=class_names)

    def with_images(self, images: NDArray[np.uint8], step: str) -> ImageSet:
        """Return a set with other pixels, (N, C', H', W'), and the same labels and names.

        Raises:
            UserError: The number of images differs, or they are not uint8 of 1 or 3 channels.
        """
        return self._with(step, images=images)

    def _with(self, step: str, **changes: Any) -> ImageSet:
        """Return a set with some fields changed, and one more step in its history."""
        return replace(self, history=(*self.history, step), **changes)


def frozen(array: NDArray[_Scalar]) -> NDArray[_Scalar]:
    """Mark an array that nobody else writes to as read-only, so that `ImageSet` need not copy it."""
    array.flags.writeable = False
    return array


def checked_images(images: object) -> NDArray[np.uint8]:
    """Return images as `ImageSet` keeps them, or refuse them; see there."""
    if not isinstance(images, np.ndarray) or images.dtype != np.uint8:
        kind = images.dtype if isinstance(images, np.ndarray) else type(images).__name__
        raise UserError(f"Images must be a uint8 array with values from 0 to 255, not {kind}.")
    if images.ndim != 4 or images.shape[1] not in (1, 3) or 0 in images.shape:
        raise UserError(
            "Images must have shape (N, C, H, W) with at least one image and C = 1 or 3, not "
            f"{tuple(images.shape)}."
        )
    if images.flags.writeable or not images.flags.c_contiguous:
        return contiguous(images)
    return images


def checked_labels(labels: object, count: int) -> NDArray[np.int64]:
    """Return the labels of `count` images as `ImageSet` keeps them, or refuse them; see there."""
    array = np.asarray(labels)
    if array.shape != (count,):
        raise UserError(
            f"There are {count} images but the labels have shape {array.shape}; give one label per image."
        )
    if not np.issubdtype(array.dtype, np.integer):
        raise UserError(f"Labels must be whole numbers, not {array.dtype}.")
    if array.min() < 0 or array.max() > np.iinfo(np.int32).max:
        raise UserError(
            f"Labels must lie between 0 and {np.iinfo(np.int32).max}; found {array.min()} to {array.max()}."
        )
    if array.dtype == np.int64 and not array.flags.writeable:
        return array
    return frozen(array.astype(np.int64, order="C", copy=True))


def _checked_repeats(repeats: object, count: int) -> NDArray[np.int64]:
    array = np.asarray(repeats)
    if array.shape != (count,) or not np.issubdtype(array.dtype, np.integer) or array.min() < 1:
        raise UserError(
            f"There are {count} images; their repeats must be as many whole numbers from 1 on, not {array.dtype} of shape {array.shape}."
        )
    return frozen(array.astype(np.int64, order="C", copy=True))


def checked_text(words: object, field: str) -> tuple[str, ...]:
    """Return words as a tuple.

    Args:
        words: Some.
        field: What they are, for errors.

    Raises:
        UserError: One is no text, or one that cannot be written and read.
    """
    texts = tuple(words) if isinstance(words, Sequence) and not isinstance(words, str) else (words,)
    for word in texts:
        # A NUL at the end is lost in NumPy's text, a lone surrogate cannot be written at all.
        if not isinstance(word, str) or "\0" in word or _has_surrogate(word):
            raise UserError(f"The {field} must be plain Unicode text; found {word!r:.60}.")
    return texts


def _has_surrogate(word: str) -> bool:
    return not word.isascii() and any("\ud800" <= letter <= "\udfff" for letter in word)
