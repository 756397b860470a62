"""Smaller sets out of larger ones: balanced, first, random, held out. All are deterministic."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from diffmem.data.images import ImageSet
from diffmem.errors import UserError, nearest

__all__ = ["balanced", "check_count", "choose_classes", "first", "hold_out", "random_subset"]


def balanced(images: ImageSet, n: int) -> ImageSet:
    """Return the first n / K images of each of the K classes, sorted by class and then by the original order.

    This is the training set of size |D| = n of Gu et al. 2023, "On Memorization in Diffusion Models", section
    3.

    Args:
        images: A labelled set.
        n: Number of images, a multiple of the number of classes: no class takes a remainder.

    Raises:
        UserError: The set has no labels, n is no multiple of K, or a class has too few images or none.
    """
    _check_size(images, n)
    if images.labels is None:
        raise UserError(
            "A balanced selection needs labels and this set has none; choose 'first' or 'random' instead."
        )
    classes = images.num_classes
    counts = np.bincount(images.labels, minlength=classes)
    empty = np.flatnonzero(counts == 0)
    if len(empty):
        raise UserError(
            f"A balanced selection needs images of every class and {len(empty)} of {classes} have none, the "
            f"first is class {_class_text(images, int(empty[0]))}; keep only classes that have images, or choose "
            "'first' or 'random'."
        )
    if n % classes:
        below, above = n - n % classes, n - n % classes + classes
        sizes = [size for size in (below, above) if classes <= size <= len(images)]
        text = (
            f"the nearest sizes are {' and '.join(map(str, sizes))}"
            if sizes
            else f"it needs at least {classes}"
        )
        raise UserError(
            f"{n} images cannot be balanced over {classes} classes: {text}. Or choose 'first' or 'random'."
        )
    need = n // classes
    order = np.argsort(images.labels, kind="stable")
    short = np.flatnonzero(counts < need)
    if len(short):
        label = int(short[0])
        raise UserError(
            f"Class {_class_text(images, label)} has {counts[label]} images but {n} images over {classes} classes need "
            f"{need} each; "
            f"the largest balanced size is {counts.min() * classes}."
        )
    starts = np.cumsum(counts) - counts
    chosen = order[(starts[:, None] + np.arange(need)).reshape(-1)]
    return images.take(chosen, f"balanced: the first {need} of each of {classes} classes, {n} images")


def first(images: ImageSet, n: int) -> ImageSet:
    """Return the first n images in their order.

    Raises:
        UserError: n is below 1 or above the number of images.
    """
    _check_size(images, n)
    return images.take(np.arange(n), f"first {n} of {len(images)} images")


def random_subset(images: ImageSet, n: int, seed: int) -> ImageSet:
    """Return n random images: the first n of a permutation that depends on the seed and the set's size only.

    So the subset of size n is the beginning of any larger one of the same seed.

    Args:
        images: The set to draw from.
        n: Number of images.
        seed: 0 or more.

    Raises:
        UserError: n is below 1 or above the number of images, or the seed is negative.
    """
    _check_size(images, n)
    chosen = _permutation(len(images), seed)[:n]
    return images.take(chosen, f"random {n} of {len(images)} images, seed {seed}")


def hold_out(images: ImageSet, n: int, seed: int) -> tuple[ImageSet, ImageSet]:
    """Split a set in two at random: the rest, and n held-out images; each keeps the original order.

    The held-out images are the last n of the permutation of `random_subset`: for one seed they are nested
    across n.

    Args:
        images: The set to split.
        n: Number of held-out images, at least 1 and below the size of the set.
        seed: 0 or more.

    Returns:
        (rest, held out): together they are the whole set.

    Raises:
        UserError: One of the two would be empty, or the seed is negative.
    """
    _check_size(images, n)
    rest = len(images) - n
    if rest == 0:
        raise UserError(f"Holding out {n} of {len(images)} images leaves none to train on; hold out fewer.")
    order = _permutation(len(images), seed)
    story = f"{n} of {len(images)} images, seed {seed}"
    return (
        images.take(np.sort(order[:rest]), f"the rest after holding out {story}"),
        images.take(np.sort(order[rest:]), f"held out {story}"),
    )


def choose_classes(images: ImageSet, classes: list[str | int]) -> ImageSet:
    """Return the images of some classes, in their order, with the classes renumbered from 0 on.

    Args:
        images: A labelled set.
        classes: Class names, or class numbers as numbers or text; a name wins over a number. Their order does
            not matter: classes keep the order that they have in the set.

    Raises:
        UserError: The set has no labels, or a class is unknown, empty or named twice.
    """
    if images.labels is None:
        raise UserError("Classes can be chosen only from a labelled set and this one has no labels.")
    numbers = [_class_number(images, name) for name in classes]
    if not numbers or len(set(numbers)) < len(numbers):
        raise UserError(
            f"Name each class once and at least one; got {', '.join(map(str, classes)) or 'none'}."
        )
    numbers.sort()
    for number in numbers:
        if not np.any(images.labels == number):
            raise UserError(f"Class {_class_text(images, number)} has no images in this set.")
    inside = np.flatnonzero(np.isin(images.labels, numbers))
    all_names = images.class_names
    text = ", ".join(all_names[number] if all_names else str(number) for number in numbers)
    taken = images.take(inside, f"classes {text}: {len(inside)} of {len(images)} images")
    if numbers == list(range(len(numbers))) and (all_names is None or len(all_names) == len(numbers)):
        return taken
    assert taken.labels is not None
    names = tuple(all_names[number] for number in numbers) if all_names else None
    return taken.with_labels(
        np.searchsorted(numbers, taken.labels), names, f"classes renumbered 0 to {len(numbers) - 1}"
    )


def _class_text(images: ImageSet, label: int) -> str:
    return f"{label} ({images.class_names[label]})" if images.class_names else str(label)


def _class_number(images: ImageSet, name: str | int) -> int:
    names = images.class_names or ()
    if isinstance(name, str) and name in names:
        return names.index(name)
    text = str(name)
    if text.isascii() and text.isdigit() and int(text) < images.num_classes:
        return int(text)
    known = ", ".join(names[:20]) + (", ..." if len(names) > 20 else "") if names else ""
    numbers = f"the numbers 0 to {images.num_classes - 1}"
    raise UserError(
        f"There is no class {name!r}.{nearest(text, list(names))} Classes are "
        f"{known + ' or ' if known else ''}{numbers}."
    )


def check_count(n: int) -> None:
    """Refuse a number of images below 1."""
    if n < 1:
        raise UserError(f"A set needs at least 1 image; {n} were asked for.")


def _check_size(images: ImageSet, n: int) -> None:
    check_count(n)
    if n > len(images):
        raise UserError(f"{n} images were asked for but there are only {len(images)}.")


def _permutation(count: int, seed: int) -> NDArray[np.int64]:
    if seed < 0:
        raise UserError(f"The seed must be 0 or more, not {seed}.")
    # NumPy keeps the raw bits of PCG64 fixed across its versions, but not the algorithm of
    # Generator.permutation.
    return np.argsort(np.random.PCG64(seed).random_raw(count), kind="stable").astype(np.int64)
