"""`build` makes a data set out of a source: the choices in a fixed order."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal, get_args

import numpy as np
from numpy.typing import NDArray

from diffmem.data.imagenet import read_imagenet
from diffmem.data.images import ImageSet, frozen
from diffmem.data.reading import AS_USUAL, Reading, check_choice
from diffmem.data.shares import check_share, count_of_share, duplicated, random_labels, unique_labels
from diffmem.data.sources import open_images
from diffmem.data.storage import new_images
from diffmem.data.subsets import balanced, check_count, choose_classes, first, random_subset
from diffmem.data.transforms import grayscale, resize
from diffmem.errors import UserError
from diffmem.progress import NO_PROGRESS, Progress

__all__ = ["BuildConfig", "Labels", "Selection", "build", "mixture", "relabelled", "select"]

Selection = Literal["balanced", "first", "random"]
Labels = Literal["true", "random", "unique", "none"]


@dataclass(frozen=True)
class BuildConfig:
    """What `build` is to make of a source.

    Attributes:
        size: Number of different images; all if left out. A mixture needs it.
        resolution: Side of the square images in pixels; as they are if left out.
        gray: Whether to turn RGB into grey.
        classes: Names or numbers of the classes to keep; see `choose_classes`.
        selection: How `size` images are chosen: 'balanced' (the first of each class), 'first' or 'random'. If
            left out, balanced for a labelled set and first for an unlabelled one, which the history then
            says; of ImageNet, its own order, which goes round the synsets. A mixture takes the first images
            of each source, or random ones.
        seed: Of all that is random here.
        reading: How encoded images of the source and of `mix` become pixels, and which split of them is read.
        synsets: Which synsets of ImageNet are read: 'dogs' or a text file; see `read_imagenet`. The source is ImageNet's
            folder then.
        mix: A second source, as the first; see `mixture`.
        share: Share of `mix` in the mixture, from 0 to 1.
        mix_classes: As `classes`, for `mix`.
        mix_synsets: As `synsets`, for `mix`.
        labels: 'true' keeps the labels and insists on them; 'random', 'unique' (see `random_labels` and
            `unique_labels`) or 'none' replace them. If left out, labels stay as they are.
        label_classes: Number of classes of random labels.
        duplicate: Share of the images that occur `copies` times, from 0 to 1; see `duplicated`.
        copies: How often they occur in total.

    Raises:
        UserError: A value is out of range, or values do not go together.
    """

    size: int | None = None
    resolution: int | None = None
    gray: bool = False
    classes: Sequence[str | int] | None = None
    selection: Selection | None = None
    seed: int = 0
    reading: Reading = AS_USUAL
    synsets: str | Path | None = None
    mix: str | Path | None = None
    share: float | None = None
    mix_classes: Sequence[str | int] | None = None
    mix_synsets: str | Path | None = None
    labels: Labels | None = None
    label_classes: int | None = None
    duplicate: float | None = None
    copies: int | None = None

    def __post_init__(self) -> None:
        check_choice("selection", self.selection, (None, *get_args(Selection)))
        check_choice("labels", self.labels, (None, *get_args(Labels)))
        for share in (self.share, self.duplicate):
            if share is not None:
                check_share(share)
        if self.size is not None:
            check_count(self.size)
        only_mixed = {"share": self.share, "mix classes": self.mix_classes, "mix synsets": self.mix_synsets}
        alone = next((key for key, value in only_mixed.items() if value is not None), None)
        mixed = self.mix is not None
        lacking = "share" if self.share is None else "size"
        listed = "{0}classes and {0}synsets do not go together: list the synsets that you want in a file."
        for wrong, message in (
            (
                self.selection is not None and self.size is None,
                f"The selection {self.selection!r} needs a size: how many images to choose.",
            ),
            (self.classes is not None and self.synsets is not None, listed.format("")),
            (self.mix_classes is not None and self.mix_synsets is not None, listed.format("mix ")),
            (
                alone is not None and not mixed,
                f"The {alone} is about a mixture: name its second source with mix.",
            ),
            (
                mixed and (self.share is None or self.size is None),
                f"A mixture needs a {lacking}; give share and size.",
            ),
            (
                mixed and self.selection == "balanced",
                "A mixture is not balanced over classes: it takes the 'first' or 'random' images of each source.",
            ),
            (
                self.labels == "random" and self.label_classes is None,
                "Random labels need label classes: their number of classes.",
            ),
            (
                self.labels != "random" and self.label_classes is not None,
                f"{self.label_classes} label classes are for random labels only; choose labels 'random'.",
            ),
            (
                (self.duplicate is None) != (self.copies is None),
                "Duplication needs both: duplicate, the share of the images, and copies, their number.",
            ),
            (
                self.copies is not None and self.copies < 2,
                f"Images that are duplicated occur at least 2 times; copies is {self.copies}.",
            ),
        ):
            if wrong:
                raise UserError(message)


AS_IT_IS = BuildConfig()
"""All images of a source, unchanged."""


def build(
    source: str | Path | ImageSet, config: BuildConfig = AS_IT_IS, progress: Progress = NO_PROGRESS
) -> ImageSet:
    """Open a source, choose classes, choose images, resize, turn grey, relabel, duplicate: in this order.

    In a mixture, images are chosen from both sources, and resized, before they are put together.

    Args:
        source: See `open_images`; with synsets, ImageNet's folder. Or a set that is open already, of whose reading
            nothing is left to choose.
        config: What is made of it.
        progress: Called now and then.

    Raises:
        UserError: A source is not understood, or cannot give what is asked for.
    """
    if config.mix is None:
        return relabelled(_part(source, config, progress), config)
    assert config.size is not None
    assert config.share is not None
    of_mix = count_of_share(config.size, config.share)
    chosen = replace(config, selection=config.selection or "first")
    # A part of no images still takes one, whose shape is compared.
    one = replace(chosen, size=max(1, config.size - of_mix))
    other = replace(chosen, size=max(1, of_mix), classes=config.mix_classes, synsets=config.mix_synsets)
    parts = _part(source, one, progress), _part(config.mix, other, progress)
    return relabelled(mixture(*parts, config.size, config.share), config)


def _part(source: str | Path | ImageSet, config: BuildConfig, progress: Progress) -> ImageSet:
    """Return the chosen images of one source, resized and grey where that is asked for."""
    size, selection = config.size, config.selection
    if isinstance(source, ImageSet):
        images = source
    elif config.synsets is None:
        images = open_images(source, progress=progress, reading=config.reading)
    else:
        if config.reading.split not in (None, "train"):
            raise UserError("ImageNet is read from its training folders; leave the split out.")
        # Random images of all are drawn after they are read; every other selection is of the reader's first ones.
        images = read_imagenet(
            Path(source).expanduser(),
            config.synsets,
            size=None if selection == "random" else size,
            resolution=config.resolution,
            seed=config.seed,
            progress=progress,
            reading=config.reading,
        )
        size = None if selection in (None, "first") else size
    if config.classes is not None:
        images = choose_classes(images, list(config.classes))
    if size is not None:
        images = select(images, size, selection, config.seed)
    if config.resolution is not None:
        images = resize(images, config.resolution, progress)
    return grayscale(images) if config.gray else images


def mixture(one: ImageSet, other: ImageSet, n: int, share: float, seed: int | None = None) -> ImageSet:
    """Return n images, a share of which come from `other`: those of `one`, then those of `other`.

    Each part is the beginning of a fixed order. So for one share the sets are nested across n; for one n, a
    larger share has all images of `other` that a smaller one has, and `one` the other way round.

    The mixtures of CIFAR-10 and ImageNet dogs in Gu et al. 2023, "On Memorization in Diffusion Models", figure
    2(c), take the first images of each source; their alpha is `share`, with ImageNet as `other`.

    Args:
        one: The first source.
        other: The second source, of the same shape.
        n: Number of images, 1 or more.
        share: From 0 to 1. `other` gives n * share images, halves rounded up (never cut off).
        seed: If given, the order of each source is a permutation of this seed (see `random_subset`); if not,
            it is the source's own.

    Returns:
        n images with labels 0 (first) and 1 (second). The classes are named 'first' and 'second'.

    Raises:
        UserError: The shapes differ, a source has too few images, or n, share or seed is out of range.
    """
    if n < 1:
        raise UserError(f"A mixture needs at least 1 image; {n} were asked for.")
    if one.shape != other.shape:
        raise UserError(f"The sources of a mixture need one shape: {_difference(one, other)}")
    of_second = count_of_share(n, share)
    counts = n - of_second, of_second
    parts = []
    for which, source, count in zip(("first", "second"), (one, other), counts, strict=True):
        if count > len(source):
            raise UserError(
                f"{n} images at a share of {share:g} need {count} of the {which} source, which has "
                f"{len(source)}."
            )
        if count:
            parts.append(first(source, count) if seed is None else random_subset(source, count, seed))
    order = "the first of each" if seed is None else f"random, seed {seed}"
    story = (
        *(f"first source: {step}" for step in one.history),
        *(f"second source: {step}" for step in other.history),
        f"mixture: {counts[0]} images of the first source and {counts[1]} of the second "
        f"(share {share:g} of {n}), {order}",
    )
    pixels = new_images((n, *one.shape))
    np.concatenate([part.images for part in parts], out=pixels)
    return ImageSet(
        frozen(pixels),
        frozen(np.repeat(np.arange(2, dtype=np.int64), counts)),
        tuple(name for part in parts for name in part.names),
        ("first", "second"),
        story,
        (*one.conversions, *other.conversions),
        _captions(parts),
        _repeats(parts),
    )


def _captions(parts: Sequence[ImageSet]) -> tuple[str | None, ...] | None:
    """Return the captions of sets one after the other; none if no set has any."""
    if all(part.captions is None for part in parts):
        return None
    return tuple(caption for part in parts for caption in part.captions or (None,) * len(part))


def _repeats(parts: Sequence[ImageSet]) -> NDArray[np.int64] | None:
    """Return the repeats of sets one after the other, 1 in a set without; none if no set has any."""
    if all(part.repeats is None for part in parts):
        return None
    ones = (np.ones(len(part), np.int64) if part.repeats is None else part.repeats for part in parts)
    return frozen(np.concatenate(list(ones)))


def _difference(one: ImageSet, other: ImageSet) -> str:
    (channels_1, height_1, width_1), (channels_2, height_2, width_2) = one.shape, other.shape
    if (height_1, width_1) != (height_2, width_2):
        return (
            f"the first has {width_1} x {height_1} pixels, the second {width_2} x {height_2}; "
            "resize both to one resolution."
        )
    words = {1: "grey", 3: "RGB"}
    return (
        f"the first is {words[channels_1]}, the second {words[channels_2]}; turn the colour images grey, or the "
        "grey ones into RGB."
    )


def relabelled(images: ImageSet, config: BuildConfig) -> ImageSet:
    """Return a set with the labels and the copies that are asked for; nothing else of `config` counts.

    Raises:
        UserError: True labels are asked for and there are none, or a number is out of range.
    """
    if config.labels == "true" and images.labels is None:
        raise UserError("The images have no true labels; choose labels 'random', 'unique' or 'none'.")
    if config.labels == "none":
        images = images.with_labels(None, None, "labels removed")
    elif config.labels == "unique":
        images = unique_labels(images)
    elif config.labels == "random" and config.label_classes is not None:
        images = random_labels(images, config.label_classes, config.seed)
    if config.duplicate is not None and config.copies is not None:
        images = duplicated(images, config.duplicate, config.copies, config.seed)
    return images


def select(images: ImageSet, size: int, selection: Selection | None, seed: int) -> ImageSet:
    """Choose `size` images; `selection` and `seed` are those of `BuildConfig`.

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
