"""Generating many images so that an interrupted run goes on where it stopped: finished batches wait on disk as shards.

Processes that run together deal the batches out among themselves. Batches start at the same seeds however many processes
there are, so the images are the same, bit for bit on equal devices. Inside `spreading`, workers make the batches that are
missing, each with one thread, so that theirs do not depend on how many cores a worker has.
"""

from __future__ import annotations

import functools
import json
import shutil
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np

from diffmem.distributed import world
from diffmem.errors import DiffmemError, UserError
from diffmem.files import appears, atomic_path
from diffmem.models.denoiser import Denoiser, pixel_shape_of
from diffmem.models.pretrained.opening import open_model, origin_of
from diffmem.progress import NO_PROGRESS, Progress
from diffmem.sampling.config import SamplerConfig
from diffmem.sampling.generate import GeneratedImages, LabelChoice, iter_generated
from diffmem.spread import Piece, Spread, spread
from diffmem.threads import one_thread

__all__ = ["discard_shards", "generate_resumable", "make_shards"]

_PIECES = 4  # for each slot, so that a slow worker holds up little


@dataclass(frozen=True)
class _Batch:
    """Images that are made at once.

    Attributes:
        start: Position of the first among all.
        seeds: Theirs.
        labels: Theirs, see `LabelChoice`.
    """

    start: int
    seeds: list[int]
    labels: LabelChoice

    def path(self, folder: Path) -> Path:
        """Return the file of its shard."""
        return folder / f"shard-{self.start:09d}.npz"

    def read(self, folder: Path, tag: str, shape: tuple[int, int, int]) -> GeneratedImages | None:
        """Return its shard, or none if it is missing, damaged or of other images."""
        path = self.path(folder)
        if not path.exists():
            return None
        try:
            with np.load(path, allow_pickle=False) as held:
                labels = held["labels"] if len(held["labels"]) else None
                part = GeneratedImages(held["images"], labels, held["seeds"])
                whole = str(held["tag"]) == tag and np.array_equal(part.seeds, np.array(self.seeds) % 2**32)
            whole = whole and part.images.dtype == np.uint8 and part.images.shape == (len(self.seeds), *shape)
            if self.labels is not None and self.labels != "random":
                whole = whole and labels is not None and bool(np.all(labels == np.array(self.labels)))
        except Exception:  # a damaged archive raises errors of many kinds; its images are made again
            return None
        return part if whole else None

    def make(
        self, denoiser: Denoiser, config: SamplerConfig, folder: Path, tag: str, progress: Progress
    ) -> GeneratedImages:
        """Generate its images and write its shard."""
        (part,) = iter_generated(
            denoiser, self.seeds, config, labels=self.labels, batch_size=len(self.seeds), progress=progress
        )
        held_labels = np.array([], dtype=np.int64) if part.labels is None else part.labels
        with atomic_path(self.path(folder)) as temporary, temporary.open("wb") as stream:
            np.savez(stream, images=part.images, labels=held_labels, seeds=part.seeds, tag=np.array(tag))
        return part


def generate_resumable(
    denoiser: Denoiser,
    seeds: Sequence[int],
    config: SamplerConfig,
    folder: Path,
    tag: str,
    *,
    labels: LabelChoice = None,
    batch_size: int = 64,
    progress: Progress = NO_PROGRESS,
) -> GeneratedImages:
    """Generate one image per seed, keeping finished batches in `folder` until `discard_shards` is called.

    Processes that run together call it together, and all get all images. Each writes the shards of its own batches; it
    uses those that others wrote earlier if it sees them, and needs none of them.

    Args:
        denoiser: The model.
        seeds: One integer per image.
        config: The sampler.
        folder: Where shards wait; a later call with the same folder, seeds, labels and tag uses them.
        tag: Names the model and the sampler: shards with another tag are made anew.
        labels: See `iter_generated`.
        batch_size: Images at a time, and in a shard.
        progress: Called with the finished images; those of other processes are guessed to be as far as this one's.

    Returns:
        All images, in the order of `seeds`.

    Raises:
        UserError: As `generate`.
        DiffmemError: As `generate`, a shard cannot be written, or another process ended.
    """
    if len(seeds) == 0:
        raise UserError("There are no seeds to generate images for; give at least one, for example 0-63.")
    # Its checks cover all seeds and labels at once, and those of shards that are not made anew; nothing is generated yet.
    iter_generated(denoiser, seeds, config, labels=labels, batch_size=batch_size)
    batches = [
        _Batch(
            start,
            [int(seed) for seed in seeds[start : start + batch_size]],
            labels
            if labels is None or isinstance(labels, int | str)
            else list(labels)[start : start + batch_size],
        )
        for start in range(0, len(seeds), batch_size)
    ]
    shape, place = pixel_shape_of(denoiser), spread()
    if place is not None and place.model is not None:
        missing = [batch for batch in batches if batch.read(folder, tag, shape) is None]
        _made_elsewhere(place, missing, {"sampler": config.model_dump(mode="json"), "folder": str(folder.resolve()), "tag": tag,
                                         "digest": origin_of(denoiser).digest}, progress)  # fmt: skip
        if not appears(lambda: all(batch.read(folder, tag, shape) is not None for batch in missing)):
            raise DiffmemError(
                f"Workers have generated images, but they are not in {folder}: do the workers write to another disk than this one?"
            )
    here = world()
    mine = batches[here.rank :: here.size]
    # The last batch may be short: what is this process's own of all images, for the progress of all.
    own = sum(len(batch.seeds) for batch in mine)
    parts, made = [], 0
    for batch in mine:
        part = batch.read(folder, tag, shape)
        if part is None:

            def on_progress(done: float, total: float, note: str = "", before: int = made) -> None:
                words = f"{before * len(seeds) // own} of {len(seeds)} images"
                progress((before + done) * len(seeds) / own, len(seeds), words)

            part = batch.make(denoiser, config, folder, tag, on_progress)
        parts.append(part)
        made += len(batch.seeds)
        progress(made * len(seeds) / own, len(seeds))
    dealt = here.gather(parts)
    rounds = range(len(dealt[0]))
    return GeneratedImages.concatenate(
        [held[index] for index in rounds for held in dealt if index < len(held)]
    )


def _made_elsewhere(
    place: Spread, batches: list[_Batch], content: dict[str, Any], progress: Progress
) -> None:
    """Let workers make batches, some that follow each other in a piece."""
    if not batches:
        return
    count = min(len(batches), _PIECES * place.slots)
    cuts = [len(batches) * at // count for at in range(count + 1)]
    function = "diffmem.sampling.shards:make_shards"
    place.run(
        [
            Piece(
                function,
                {**content, "model": place.model, "device": place.device,
                 "batches": [[batch.start, batch.seeds, _plain(batch.labels)] for batch in batches[first:last]]},
            )
            for first, last in pairwise(cuts)
        ],
        progress,
    )  # fmt: skip


def _plain(labels: LabelChoice) -> LabelChoice:
    return labels if labels is None or isinstance(labels, int | str) else [int(label) for label in labels]


def make_shards(content: dict[str, Any], progress: Progress, warn: Callable[[str], None]) -> None:
    """Make batches with a model that is opened here, for a call of `generate_resumable` elsewhere.

    Raises:
        UserError: The model cannot be opened, or is another than there.
        BrokenModelError: It produced values that are not finite.
    """
    denoiser = _opened(json.dumps(content["model"], sort_keys=True), content["device"], content["digest"])
    if origin_of(denoiser).digest != content["digest"]:
        raise UserError(
            f"{content['model']['path']} is another model here than where the work began: was it replaced meanwhile? Start again."
        )
    config, folder, tag = SamplerConfig(**content["sampler"]), Path(content["folder"]), content["tag"]
    count, made = sum(len(seeds) for _, seeds, _ in content["batches"]), 0
    for batch in (_Batch(*each) for each in content["batches"]):
        if batch.read(folder, tag, pixel_shape_of(denoiser)) is None:

            def on_progress(done: float, total: float, note: str = "", before: int = made) -> None:
                progress(before + done, count, "sampling")

            with one_thread():
                batch.make(denoiser, config, folder, tag, on_progress)
        made += len(batch.seeds)
        progress(made, count, "sampling")


@functools.lru_cache(maxsize=1)
def _opened(arguments: str, device: str, digest: str) -> Denoiser:
    """Return a model; a worker that does piece after piece opens it once, and another of the same name anew."""
    given = json.loads(arguments)
    if isinstance(given.get("resolution"), list):
        given["resolution"] = tuple(given["resolution"])
    return open_model(**given, device=device)


def discard_shards(folder: Path) -> None:
    """Remove the shards, once what was made of them is safely stored. Every process removes those that it sees."""
    shutil.rmtree(folder, ignore_errors=True)
