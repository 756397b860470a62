"""`build` makes a data set out of a source: the choices in a fixed order."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Literal

from diffmem.data.duplication import duplicated
from diffmem.data.imagenet import read_imagenet
from diffmem.data.images import ImageSet
from diffmem.data.labels import random_labels, unique_labels
from diffmem.data.mixture import mixture
from diffmem.data.reading import AS_USUAL, Reading
from diffmem.data.shares import check_share, count_of_share
from diffmem.data.sources import open_images
from diffmem.data.subsets import balanced, choose_classes, first, random_subset
from diffmem.data.transforms import grayscale, resize
from diffmem.errors import UserError
from diffmem.progress import NO_PROGRESS, Progress

__all__ = ["Labels", "Selection", "build", "relabelled", "select"]

Selection = Literal["balanced", "first", "random"]
Labels = Literal["true", "random", "unique", "none"]


def build(
    source: str | Path | ImageSet,
    *,
    size: int | None = None,
    resolution: int | None = None,
    gray: bool = False,
    classes: Sequence[str | int] | None = None,
    selection: Selection | None = None,
    seed: int = 0,
    split: str | None = None,
    reading: Reading = AS_USUAL,
    synsets: str | Path | None = None,
    mix: str | Path | None = None,
    share: float | None = None,
    mix_classes: Sequence[str | int] | None = None,
    mix_synsets: str | Path | None = None,
    labels: Labels | None = None,
    label_classes: int | None = None,
    duplicate: float | None = None,
    copies: int | None = None,
    progress: Progress = NO_PROGRESS,
) -> ImageSet:
    """Open a source, choose classes, choose images, resize, turn grey, relabel, duplicate: in this order.

    In a mixture, images are chosen from both sources, and resized, before they are put together.

    Args:
        source: See `open_images`; with `synsets`, ImageNet's folder. Or a set that is open already, of which `split` says
            nothing.
        size: Number of different images; all if left out. A mixture needs it.
        resolution: Side of the square images in pixels; as they are if left out.
        gray: Whether to turn RGB into grey.
        classes: Names or numbers of the classes to keep; see `choose_classes`.
        selection: How `size` images are chosen: 'balanced' (the first of each class), 'first' or 'random'. If
            left out, balanced for a labelled set and first for an unlabelled one, which the history then
            says; of ImageNet, its own order, which goes round the synsets. A mixture takes the first images
            of each source, or random ones.
        seed: Of all that is random here.
        split: Which split of `source` and of `mix`; see `open_images`.
        reading: How encoded images of `source` and of `mix` become pixels.
        synsets: Which synsets of ImageNet are read: 'dogs' or a text file; see `read_imagenet`.
        mix: A second source, as `source`; see `mixture`.
        share: Share of `mix` in the mixture, from 0 to 1.
        mix_classes: As `classes`, for `mix`.
        mix_synsets: As `synsets`, for `mix`.
        labels: 'true' keeps the labels and insists on them; 'random', 'unique' (see `random_labels` and
            `unique_labels`) or 'none' replace them. If left out, labels stay as they are.
        label_classes: Number of classes of random labels.
        duplicate: Share of the images that occur `copies` times, from 0 to 1; see `duplicated`.
        copies: How often they occur in total.
        progress: Called now and then.

    Raises:
        UserError: A source is not understood, a wish cannot be met, or wishes do not go together.
    """
    _check_wishes(size, classes, selection, synsets, mix, share, mix_classes, mix_synsets)
    _check_changes(labels, label_classes, duplicate, copies)

    def part(place: str | Path | ImageSet, kept: Sequence[str | int] | None, folders: str | Path | None,
             count: int | None, chosen_by: Selection | None) -> ImageSet:  # fmt: skip
        if folders is not None and not isinstance(place, ImageSet):
            images = _from_imagenet(
                place, folders, count, resolution, chosen_by, seed, split, reading, progress
            )
        else:
            images = place if isinstance(place, ImageSet) else open_images(place, split, progress, reading)
            if kept is not None:
                images = choose_classes(images, list(kept))
            if count is not None:
                images = select(images, count, chosen_by, seed)
        if resolution is not None:
            images = resize(images, resolution, progress)
        return grayscale(images) if gray else images

    if mix is None:
        images = part(source, classes, synsets, size, selection)
    else:
        assert size is not None
        assert share is not None
        of_mix = count_of_share(size, share)
        chosen_by: Selection = "first" if selection is None else selection
        # A part of no images still takes one, whose shape is compared.
        one = part(source, classes, synsets, max(1, size - of_mix), chosen_by)
        other = part(mix, mix_classes, mix_synsets, max(1, of_mix), chosen_by)
        images = mixture(one, other, size, share)
    return relabelled(images, labels, label_classes, duplicate, copies, seed)


def _from_imagenet(
    place: str | Path,
    synsets: str | Path,
    count: int | None,
    resolution: int | None,
    selection: Selection | None,
    seed: int,
    split: str | None,
    reading: Reading,
    progress: Progress,
) -> ImageSet:
    if split not in (None, "train") or reading.split not in (None, "train"):
        raise UserError("ImageNet is read from its training folders; leave the split out.")
    # Random images of all are drawn after they are read; every other selection is of the reader's first ones.
    read = None if selection == "random" else count
    images = read_imagenet(
        Path(place).expanduser(),
        synsets,
        size=read,
        resolution=resolution,
        seed=seed,
        progress=progress,
        reading=reading,
    )
    if count is None or selection in (None, "first"):
        return images
    return select(images, count, selection, seed)


def relabelled(
    images: ImageSet,
    labels: Labels | None,
    label_classes: int | None,
    duplicate: float | None,
    copies: int | None,
    seed: int,
) -> ImageSet:
    """Return a set with the labels and the copies that are wished for; the arguments are those of `build`.

    Raises:
        UserError: True labels are wanted and there are none, or a number is out of range.
    """
    if labels == "true" and images.labels is None:
        raise UserError("The images have no true labels; choose labels 'random', 'unique' or 'none'.")
    if labels == "none":
        images = images.with_labels(None, None, "labels removed")
    elif labels == "unique":
        images = unique_labels(images)
    elif labels == "random" and label_classes is not None:
        images = random_labels(images, label_classes, seed)
    if duplicate is not None and copies is not None:
        images = duplicated(images, duplicate, copies, seed)
    return images


def _check_wishes(
    size: int | None,
    classes: object,
    selection: Selection | None,
    synsets: object,
    mix: object,
    share: float | None,
    mix_classes: object,
    mix_synsets: object,
) -> None:
    if selection not in (None, "balanced", "first", "random"):
        raise UserError(f"There is no selection {selection!r}; choose 'balanced', 'first' or 'random'.")
    if selection is not None and size is None:
        raise UserError(f"The selection {selection!r} needs a size: how many images to choose.")
    for chosen, listed, word in ((classes, synsets, ""), (mix_classes, mix_synsets, "mix ")):
        if chosen is not None and listed is not None:
            raise UserError(
                f"{word}classes and {word}synsets do not go together: list the synsets that you want in a file."
            )
    if mix is None:
        for value, word in ((share, "share"), (mix_classes, "mix classes"), (mix_synsets, "mix synsets")):
            if value is not None:
                raise UserError(f"The {word} is about a mixture: name its second source with mix.")
        return
    if share is None or size is None:
        raise UserError(f"A mixture needs a {'share' if share is None else 'size'}; give share and size.")
    check_share(share)
    if size < 1:
        raise UserError(f"A set needs at least 1 image; {size} were asked for.")
    if selection == "balanced":
        raise UserError(
            "A mixture is not balanced over classes: it takes the 'first' or 'random' images of each source."
        )


def _check_changes(
    labels: Labels | None, label_classes: int | None, duplicate: float | None, copies: int | None
) -> None:
    if labels not in (None, "true", "random", "unique", "none"):
        raise UserError(f"There are no labels {labels!r}; choose 'true', 'random', 'unique' or 'none'.")
    if labels == "random" and label_classes is None:
        raise UserError("Random labels need label classes: their number of classes.")
    if labels != "random" and label_classes is not None:
        raise UserError(f"{label_classes} label classes are for random labels only; choose labels 'random'.")
    if (duplicate is None) != (copies is None):
        raise UserError(
            "Duplication needs both: duplicate, the share of the images, and copies, their number."
        )
    if duplicate is not None:
        check_share(duplicate)
    if copies is not None and copies < 2:
        raise UserError(f"Images that are duplicated occur at least 2 times; copies is {copies}.")


def select(images: ImageSet, size: int, selection: Selection | None, seed: int) -> ImageSet:
    """Choose `size` images; `selection` and `seed` are those of `build`.

    Raises:
        UserError: The set cannot give them.
    """
    if selection == "random":
        return random_subset(images, size, seed)
    if selection == "balanced" or (selection is None and images.labels is not None):
        return balanced(images, size)
    chosen = first(images, size)
    if selection is None:
        note = f"{chosen.history[-1]} (no labels to balance)"
        return replace(chosen, history=(*images.history, note))
    return chosen
