"""Generating many images so that an interrupted run goes on where it stopped: finished batches wait on disk as shards.

Processes that run together deal the batches out among themselves. Batches start at the same seeds however many processes
there are, so the images are the same, bit for bit on equal devices.
"""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from diffmem.distributed import world
from diffmem.errors import UserError
from diffmem.files import atomic_path
from diffmem.models.denoiser import Denoiser, pixel_shape_of
from diffmem.progress import NO_PROGRESS, Progress
from diffmem.sampling.config import SamplerConfig
from diffmem.sampling.generate import GeneratedImages, LabelChoice, iter_generated

__all__ = ["discard_shards", "generate_resumable"]


def _read(
    path: Path, seeds: Sequence[int], tag: str, wanted: LabelChoice, shape: tuple[int, int, int]
) -> GeneratedImages | None:
    """Return a shard, or none if it is missing, damaged or of other images."""
    if not path.exists():
        return None
    try:
        with np.load(path, allow_pickle=False) as held:
            labels = held["labels"] if len(held["labels"]) else None
            part = GeneratedImages(held["images"], labels, held["seeds"])
            whole = str(held["tag"]) == tag and np.array_equal(part.seeds, np.array(seeds) % 2**32)
        whole = whole and part.images.dtype == np.uint8 and part.images.shape == (len(seeds), *shape)
        if wanted is not None and wanted != "random":
            whole = whole and labels is not None and bool(np.all(labels == np.array(wanted)))
    except Exception:  # a damaged archive raises errors of many kinds; its images are made again
        return None
    return part if whole else None


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
    here = world()
    starts = range(here.rank * batch_size, len(seeds), here.size * batch_size)
    # The last batch may be short: what is this process's own of all images, for the progress of all.
    own = sum(min(batch_size, len(seeds) - start) for start in starts)
    parts, made = [], 0
    for start in starts:
        batch = list(seeds[start : start + batch_size])
        path = folder / f"shard-{start:09d}.npz"
        wanted = (
            labels
            if labels is None or isinstance(labels, int | str)
            else list(labels)[start : start + batch_size]
        )
        part = _read(path, batch, tag, wanted, pixel_shape_of(denoiser))
        if part is None:

            def on_progress(done: float, total: float, note: str = "", before: int = made) -> None:
                words = f"{before * len(seeds) // own} of {len(seeds)} images"
                progress((before + done) * len(seeds) / own, len(seeds), words)

            (part,) = iter_generated(
                denoiser, batch, config, labels=wanted, batch_size=batch_size, progress=on_progress
            )
            held_labels = np.array([], dtype=np.int64) if part.labels is None else part.labels
            with atomic_path(path) as temporary, temporary.open("wb") as stream:
                np.savez(stream, images=part.images, labels=held_labels, seeds=part.seeds, tag=np.array(tag))
        parts.append(part)
        made += len(batch)
        progress(made * len(seeds) / own, len(seeds))
    dealt = here.gather(parts)
    rounds = range(len(dealt[0]))
    return GeneratedImages.concatenate(
        [held[index] for index in rounds for held in dealt if index < len(held)]
    )


def discard_shards(folder: Path) -> None:
    """Remove the shards, once what was made of them is safely stored. Every process removes those that it sees."""
    shutil.rmtree(folder, ignore_errors=True)
