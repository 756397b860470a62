"""P as a recipe states it: the images that training sets are drawn from, and the held-out images, which are none of these."""

from __future__ import annotations

import os
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path

from diffmem.data import (
    BuildConfig,
    ImageSet,
    Split,
    build,
    count_of_share,
    hold_out,
    mixture,
    open_images,
    random_subset,
    relabelled,
    select,
)
from diffmem.errors import UserError
from diffmem.progress import NO_PROGRESS, Progress
from diffmem.runs.recipe import DataConfig

__all__ = ["Distribution", "open_distribution"]


@dataclass(frozen=True)
class Distribution:
    """A data distribution P, of which training sets of any size are drawn.

    Attributes:
        config: What the recipe says.
        pool: Images that training sets are drawn from.
        second: The second source of a mixture, or none.
        heldout: Images for the null rate, of the same distribution and in no training set; or none.
    """

    config: DataConfig
    pool: ImageSet
    second: ImageSet | None
    heldout: ImageSet | None

    @property
    def shape(self) -> tuple[int, int, int]:
        """(C, H, W) of the images."""
        return self.pool.shape

    def draw(self, size: int) -> ImageSet:
        """Return the training set of this size; smaller ones are contained in larger ones.

        Args:
            size: Number of different images; with `duplication` the set is larger by the copies.

        Raises:
            UserError: The sources cannot give it.
        """
        config = self.config
        if self.second is not None and config.mixture is not None:
            images = mixture(self.pool, self.second, size, config.mixture.share)
        else:
            images = select(self.pool, size, config.selection, config.seed)
        if config.labels == "true" and images.labels is None:
            raise UserError(
                f"{config.source} has no labels; choose data.labels none, random or unique, or name a labelled set."
            )
        copied = config.duplication
        wanted = BuildConfig(
            labels=config.labels, label_classes=config.label_classes, seed=config.seed,
            duplicate=copied.share if copied else None, copies=copied.copies if copied else None,
        )  # fmt: skip
        return relabelled(images, wanted)

    def describe(self) -> str:
        """Return P in words, for reports."""
        channels, height, width = self.shape
        labels = {
            "none": "unconditional",
            "true": "conditional on the true labels",
            "random": f"conditional on random labels of {self.config.label_classes} classes",
            "unique": "conditional on a label for each image",
        }[self.config.labels]
        held = "none" if self.heldout is None else f"{len(self.heldout)} images"
        mixed = ""
        if self.config.mixture is not None:
            mixed = f"; a share of {self.config.mixture.share:g} from {Path(self.config.mixture.source).name}"
        copies = ""
        if self.config.duplication is not None:
            copies = f", {self.config.duplication.share:.0%} of them {self.config.duplication.copies} times"
        return (
            f"{Path(self.config.source).name}: {'; '.join(self.pool.history)}{mixed}; {height}x{width}x{channels},"
            f" {self.config.selection} nested subsets{copies}, {labels}; held out: {held}"
        )


def open_distribution(config: DataConfig, progress: Progress = NO_PROGRESS) -> Distribution:
    """Read the sources of a data distribution.

    Raises:
        UserError: A source cannot be read, or does not hold the images that are asked for.
    """
    pool, heldout = _split(config, _read(config, "train", progress), progress)
    second = None
    if config.mixture is not None:
        second = _read_second(config, progress)
        if config.heldout is not None and heldout is not None:
            wanted = count_of_share(config.heldout, config.mixture.share)
            held = None
            if wanted:
                second, held = hold_out(second, wanted, config.seed)
            heldout = (
                heldout if held is None else mixture(heldout, held, config.heldout, config.mixture.share)
            )
    return Distribution(config, pool, second, heldout)


def _split(config: DataConfig, pool: ImageSet, progress: Progress) -> tuple[ImageSet, ImageSet | None]:
    if config.heldout is None:
        return pool, None
    if config.heldout_split == "test":
        return pool, random_subset(_read(config, "test", progress), config.heldout, config.seed)
    return hold_out(pool, config.heldout, config.seed)


def _read(config: DataConfig, split: Split, progress: Progress) -> ImageSet:
    opened = _opened(_File.at(config.source, split, progress))
    return _built(_Request(opened, config.resolution, config.gray, config.classes, progress))


def _read_second(config: DataConfig, progress: Progress) -> ImageSet:
    mixed = config.mixture
    assert mixed is not None
    file = _File.at(mixed.source, "train", progress)
    source = _opened(file) if mixed.synsets is None else file  # of ImageNet, only the chosen images are read
    return _built(
        _Request(
            source,
            config.resolution,
            config.gray,
            mixed.classes,
            progress,
            mixed.synsets,
            mixed.images,
            config.seed,
        )
    )


@dataclass(frozen=True)
class _File:
    """A source as it is at a time, so that what was read before it changed is not taken for it."""

    source: str
    changed: int
    split: Split
    progress: Progress = field(compare=False)

    @classmethod
    def at(cls, source: str, split: Split, progress: Progress) -> _File:
        path = Path(source).expanduser()
        # A folder changes with what is directly in it.
        places = [path, *(Path(folder) for folder, _, _ in os.walk(path))]
        changed = max(place.stat().st_mtime_ns if place.exists() else 0 for place in places)
        return cls(source, changed, split, progress)


@dataclass(frozen=True)
class _Request:
    """The arguments of `build`."""

    source: ImageSet | _File
    resolution: int | None
    gray: bool
    classes: tuple[str | int, ...] | None
    progress: Progress = field(compare=False)
    synsets: str | None = None
    count: int | None = None
    seed: int = 0


# The levels of an experiment share sources, and experiments share archives: reading one takes seconds.
@lru_cache(maxsize=4)
def _opened(file: _File) -> ImageSet:
    return open_images(file.source, file.split, file.progress)


@lru_cache(maxsize=6)
def _built(request: _Request) -> ImageSet:
    wanted = BuildConfig(
        size=request.count, resolution=request.resolution, gray=request.gray, classes=request.classes, synsets=request.synsets,
        seed=request.seed,
    )  # fmt: skip
    return build(
        request.source.source if isinstance(request.source, _File) else request.source,
        wanted,
        request.progress,
    )
