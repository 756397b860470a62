"""Smaller sets out of larger ones: balanced, first, random, held out. All are deterministic."""

from __future__ import annotations

import re
from collections.abc import Hashable, Sequence

import numpy as np
from numpy.typing import NDArray

from diffmem.data.images import ImageSet
from diffmem.errors import UserError, check_seed, nearest
from diffmem.text import count_text

__all__ = [
    "balanced",
    "check_count",
    "choose_classes",
    "first",
    "groups_by_name",
    "hold_out",
    "random_subset",
]


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


def hold_out(
    images: ImageSet, n: int, seed: int, together: Sequence[Hashable] | None = None
) -> tuple[ImageSet, ImageSet]:
    """Split a set in two at random: the rest, and n held-out images; each keeps the original order.

    The held-out images are the last n of the permutation of `random_subset`: for one seed they are nested
    across n.

    Args:
        images: The set to split.
        n: Number of held-out images, at least 1 and below the size of the set.
        seed: 0 or more.
        together: What belongs together, one value for each image (a patient, a clip): images of one value stay on one side. Whole groups
            are held out, in a random order, until they hold n images or more; see `groups_by_name`.

    Returns:
        (rest, held out): together they are the whole set.

    Raises:
        UserError: One of the two would be empty, the seed is negative, or there is not one value for each image.
    """
    _check_size(images, n)
    if len(images) == n:
        raise UserError(f"Holding out {n} of {len(images)} images leaves none to train on; hold out fewer.")
    if together is None:
        order = _permutation(len(images), seed)
        held, story = order[len(images) - n :], f"{n} of {len(images)} images, seed {seed}"
    else:
        held, groups = _whole_groups(together, len(images), n, seed)
        story = f"{len(held)} of {len(images)} images, in {groups}, seed {seed}"
    return (
        images.take(np.delete(np.arange(len(images)), held), f"the rest after holding out {story}"),
        images.take(np.sort(held), f"held out {story}"),
    )


def _whole_groups(
    together: Sequence[Hashable], count: int, n: int, seed: int
) -> tuple[NDArray[np.int64], str]:
    """Return the indices of whole groups with n images or more, drawn at random, and how many groups of how many they are."""
    if len(together) != count:
        raise UserError(
            f"There are {count} images but {len(together)} values that say what belongs together; give one for each."
        )
    numbers = {value: number for number, value in enumerate(dict.fromkeys(together))}
    group = np.array([numbers[value] for value in together])
    sizes = np.bincount(group)
    order = _permutation(len(sizes), seed)[::-1]
    chosen = order[: int(np.searchsorted(np.cumsum(sizes[order]), n)) + 1]
    if len(chosen) == len(sizes):
        raise UserError(
            f"Holding out {n} of {count} images by whole groups leaves none to train on: {count_text(len(sizes), 'group')}, the largest"
            f" of {sizes.max()} images. Hold out fewer, or make the groups smaller."
        )
    return np.flatnonzero(np.isin(group, chosen)), f"{len(chosen)} of {len(sizes)} groups"


def groups_by_name(images: ImageSet, pattern: str) -> tuple[str, ...]:
    """Return what belongs together by the names of the images: for each, what a regular expression finds in its name.

    Args:
        images: The set, whose names are paths where it was read from files.
        pattern: A regular expression, found anywhere in the name: its first group in parentheses, or else the whole match, names the group.
            `^[^/]+(?=/)` is the first folder, `patient(\\d+)` a number.

    Raises:
        UserError: The pattern is no regular expression, or is not found in a name.
    """
    try:
        compiled = re.compile(pattern)
    except re.error as error:
        raise UserError(f"{pattern!r} is no regular expression: {error}.") from error
    which = min(compiled.groups, 1)
    found = [match and match.group(which) for match in map(compiled.search, images.names)]
    lacking = [name for name, text in zip(images.names, found, strict=True) if text is None]
    if lacking:
        raise UserError(
            f"{pattern!r} is not found in the names of {len(lacking):,} of {len(images):,} images; the first is {lacking[0][:200]!r}."
            " Give a pattern that is in all of them."
        )
    return tuple(text for text in found if text is not None)


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
    check_seed(seed)
    # NumPy keeps the raw bits of PCG64 fixed across its versions, but not the algorithm of
    # Generator.permutation.
    return np.argsort(np.random.PCG64(seed).random_raw(count), kind="stable").astype(np.int64)
