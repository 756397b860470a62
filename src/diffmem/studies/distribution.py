"""P as a recipe states it: the images that training sets are drawn from, and the held-out images, which are none of these."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

from diffmem.data import (
    ImageSet,
    build,
    duplicated,
    hold_out,
    mixture,
    random_labels,
    random_subset,
    select,
    unique_labels,
)
from diffmem.data.shares import count_of_share
from diffmem.errors import UserError
from diffmem.progress import NO_PROGRESS, Progress
from diffmem.studies.recipe import DataConfig

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
        if config.labels == "none":
            images = images.with_labels(None, None, "without labels")
        elif config.labels == "random" and config.label_classes is not None:
            images = random_labels(images, config.label_classes, config.seed)
        elif config.labels == "unique":
            images = unique_labels(images)
        elif images.labels is None:
            raise UserError(
                f"{config.source} has no labels; choose data.labels none, random or unique, or name a labelled set."
            )
        if config.duplication is not None:
            images = duplicated(images, config.duplication.share, config.duplication.copies, config.seed)
        return images

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
        UserError: A source or a wish cannot be met.
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


def _read(config: DataConfig, split: str, progress: Progress) -> ImageSet:
    return _built(
        config.source, _changed(config.source), config.resolution, config.gray, config.classes, None, None, split,
        config.seed, _Quiet(progress),
    )  # fmt: skip


def _read_second(config: DataConfig, progress: Progress) -> ImageSet:
    wish = config.mixture
    assert wish is not None
    return _built(
        wish.source, _changed(wish.source), config.resolution, config.gray, wish.classes, wish.synsets,
        wish.images, "train", config.seed, _Quiet(progress),
    )  # fmt: skip


class _Quiet:
    """A progress that all cached calls share: it is not part of what is read."""

    def __init__(self, progress: Progress) -> None:
        self.progress = progress

    def __eq__(self, other: object) -> bool:
        return isinstance(other, _Quiet)

    def __hash__(self) -> int:
        return 0


def _changed(source: str) -> int:
    """When a file was changed, so that what was read before is not taken for it."""
    path = Path(source).expanduser()
    return path.stat().st_mtime_ns if path.exists() else 0


@lru_cache(maxsize=6)  # the levels of an experiment share their sources; an archive takes seconds to read
def _built(
    source: str,
    changed: int,
    resolution: int | None,
    gray: bool,
    classes: tuple[str | int, ...] | None,
    synsets: str | None,
    count: int | None,
    split: str,
    seed: int,
    progress: _Quiet,
) -> ImageSet:
    return build(
        source, size=count, resolution=resolution, gray=gray, classes=classes, synsets=synsets, seed=seed,
        split="test" if split == "test" else "train", progress=progress.progress,
    )  # fmt: skip
