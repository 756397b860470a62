"""From seeds to uint8 images, in batches, without a disk in between."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from diffmem.errors import DiffmemError, UserError
from diffmem.memory import within_memory
from diffmem.models.denoiser import Denoiser, Latent
from diffmem.progress import NO_PROGRESS, Progress
from diffmem.sampling.config import SamplerConfig
from diffmem.sampling.samplers import StepCallback, sample_latents
from diffmem.sampling.seeds import SeededNoise, latents_for_seeds, random_labels

__all__ = [
    "BrokenModelError",
    "GeneratedImages",
    "LabelChoice",
    "generate",
    "iter_generated",
    "parse_seeds",
    "to_uint8",
]

LabelChoice = None | int | Literal["random"] | Sequence[int]
"""None, 'random': drawn from the seed; an integer: that class for all; a sequence: the class of each seed."""

MAX_SEEDS = 10_000_000


class BrokenModelError(DiffmemError):
    """A model produced values that are not finite."""


@dataclass(frozen=True)
class GeneratedImages:
    """Generated images with what made them.

    Attributes:
        images: uint8 (N, C, H, W).
        labels: int64 (N,), the class each image was generated for; none for an unconditional model.
        seeds: int64 (N,), the seed of each image, modulo 2^32.
    """

    images: NDArray[np.uint8]
    labels: NDArray[np.int64] | None
    seeds: NDArray[np.int64]

    def __len__(self) -> int:
        return len(self.images)

    @staticmethod
    def concatenate(parts: Sequence[GeneratedImages]) -> GeneratedImages:
        """Join batches in the given order; all with labels or all without.

        Raises:
            UserError: There are no parts, or only some have labels.
        """
        if not parts:
            raise UserError("There are no generated images to join.")
        labels = [part.labels for part in parts if part.labels is not None]
        if labels and len(labels) != len(parts):
            raise UserError("Cannot join generated images of which only some have labels.")
        return GeneratedImages(
            images=np.concatenate([part.images for part in parts]),
            labels=np.concatenate(labels) if labels else None,
            seeds=np.concatenate([part.seeds for part in parts]),
        )


def to_uint8(x: Tensor) -> Tensor:
    """Turn images in [-1, 1] units into uint8: x * 127.5 + 128, clipped to [0, 255] and truncated.

    Gu et al. (TMLR 2025) measure on images decoded so, truncated and not rounded; -1 becomes 0 (from 0.5), 1
    becomes 255, 0 becomes 128.

    Args:
        x: Float tensor of any shape, finite.

    Returns:
        uint8 of the same shape, on the same device.
    """
    return (x * 127.5 + 128).clip(0, 255).to(torch.uint8)


def iter_generated(
    denoiser: Denoiser,
    seeds: Sequence[int],
    config: SamplerConfig | None = None,
    *,
    labels: LabelChoice = None,
    batch_size: int = 64,
    progress: Progress = NO_PROGRESS,
) -> Iterator[GeneratedImages]:
    """Generate one image per seed and yield them batch by batch.

    So a caller can save each batch and resume later with the seeds that are missing. The image of a seed
    depends on no other seed. A network may add floating-point noise that depends on the batch size. What a
    `Latent` denoiser samples is decoded: the images are always pixels.

    Args:
        denoiser: The model.
        seeds: One integer per image.
        config: The sampler; none for the default (deterministic Heun, 18 steps).
        labels: Classes: none or 'random' draws each from its seed, uniformly, if the model has classes; an
            integer is the class of all images; a sequence gives the class of each seed.
        batch_size: Images at a time.
        progress: Called with the finished images.

    Yields:
        The images of the next at most `batch_size` seeds, in the order of `seeds`.

    Raises:
        UserError: A label does not exist, labels are wanted from an unconditional model, the batch size is below 1,
            or the GPU has too little memory for it: the message says how many images at a time fit.
        BrokenModelError: The model produced values that are not finite.
    """
    chosen = config or SamplerConfig()
    seeds = [int(seed) for seed in seeds]
    if batch_size < 1:
        raise UserError(f"The batch size must be at least 1, not {batch_size}.")
    given = _given_labels(labels, len(seeds), denoiser.num_labels)
    return _batches(denoiser, seeds, chosen, given, batch_size, progress)


def generate(
    denoiser: Denoiser,
    seeds: Sequence[int],
    config: SamplerConfig | None = None,
    *,
    labels: LabelChoice = None,
    batch_size: int = 64,
    progress: Progress = NO_PROGRESS,
) -> GeneratedImages:
    """Generate one image per seed; the arguments are those of `iter_generated`.

    Returns:
        All images, in the order of `seeds`.

    Raises:
        UserError: There are no seeds, a label does not exist, or the batch size is below 1.
        BrokenModelError: The model produced values that are not finite.
    """
    if len(seeds) == 0:
        raise UserError("There are no seeds to generate images for; give at least one, for example 0-63.")
    batches = iter_generated(denoiser, seeds, config, labels=labels, batch_size=batch_size, progress=progress)
    return GeneratedImages.concatenate(list(batches))


def _given_labels(labels: LabelChoice, count: int, num_labels: int) -> list[int] | None:
    """Return the class of each image, or none where it is drawn from the seed (or there are no classes)."""
    if labels is None:
        return None
    if num_labels == 0:
        raise UserError(
            f"Labels {labels!r} were asked for, but the model is unconditional; leave the labels out."
        )
    if isinstance(labels, str):
        if labels != "random":
            raise UserError(f"Labels must be 'random', an integer or one integer per seed, not {labels!r}.")
        return None
    given = [labels] * count if isinstance(labels, int) else [int(label) for label in labels]
    if len(given) != count:
        raise UserError(f"There are {len(given)} labels for {count} seeds; give one label per seed.")
    for label in given:
        if not 0 <= label < num_labels:
            raise UserError(f"Label {label} does not exist; the model has labels 0 to {num_labels - 1}.")
    return given


def _batches(
    denoiser: Denoiser,
    seeds: list[int],
    config: SamplerConfig,
    given: list[int] | None,
    batch_size: int,
    progress: Progress,
) -> Iterator[GeneratedImages]:
    for start in range(0, len(seeds), batch_size):
        batch = seeds[start : start + batch_size]
        labels = None if given is None else given[start : start + batch_size]

        def on_step(
            done: int, steps: int, x: Tensor, sigma: float, start: int = start, size: int = len(batch)
        ) -> None:
            progress(start + size * done / steps, len(seeds), f"{start} of {len(seeds)} images")

        work = partial(_generated, denoiser, batch, labels, config, on_step)
        yield within_memory(work, len(batch), "batch_size")


def _generated(
    denoiser: Denoiser,
    seeds: list[int],
    given: list[int] | None,
    config: SamplerConfig,
    on_step: StepCallback,
    count: int,
) -> GeneratedImages:
    """Generate the images of the first `count` seeds at once."""
    device, seeds = denoiser.device, seeds[:count]
    latents, generators = latents_for_seeds(seeds, denoiser.image_shape, device)
    labels: Tensor | None = None
    if given is not None:
        labels = torch.tensor(given[:count], dtype=torch.int64, device=device)
    elif denoiser.num_labels > 0:
        labels = random_labels(generators, denoiser.num_labels, device)
    images = sample_latents(denoiser, latents, labels, config, SeededNoise(generators), on_step)
    bad = ~torch.isfinite(images).flatten(1).all(dim=1).cpu()
    if isinstance(denoiser, Latent):
        with torch.no_grad():
            images = denoiser.decode(images)
        bad |= ~torch.isfinite(images).flatten(1).all(dim=1).cpu()
    if bad.any():
        names = [seed for seed, is_bad in zip(seeds, bad.tolist(), strict=True) if is_bad]
        shown = ", ".join(map(str, names[:8])) + (", ..." if len(names) > 8 else "")
        raise BrokenModelError(
            f"The model produced values that are not finite for {len(names)} of {len(seeds)} images"
            f" (seeds {shown}); its weights are broken or its training diverged."
        )
    return GeneratedImages(
        images=to_uint8(images).cpu().numpy(),
        labels=None if labels is None else labels.cpu().numpy(),
        seeds=np.array([seed % 2**32 for seed in seeds], dtype=np.int64),
    )


def parse_seeds(text: str) -> list[int]:
    """Read a list of seeds such as '0-9,15,20-29': numbers and inclusive ranges, separated by commas.

    Args:
        text: Seeds from 0 to 2^32 - 1, each at most once.

    Returns:
        The seeds in the order written.

    Raises:
        UserError: The text is not such a list, a range runs backwards, or a seed is too large or named twice.
    """
    seeds: list[int] = []
    for part in text.split(","):
        first, dash, last = (word.strip() for word in part.partition("-"))
        if not (_is_number(first) and (not dash or _is_number(last))):
            raise UserError(
                f"Cannot read the seeds {text!r}: {part.strip()!r} is no number or range;"
                " write for example 0-9,15."
            )
        low, high = int(first), int(last or first)
        if high < low:
            raise UserError(f"Cannot read the seeds {text!r}: the range {part.strip()!r} runs backwards.")
        if high >= 2**32:
            raise UserError(f"Seed {high} is too large; seeds go from 0 to {2**32 - 1}.")
        if high - low + 1 + len(seeds) > MAX_SEEDS:
            raise UserError(f"The seeds {text!r} are more than {MAX_SEEDS:,}; generate them in parts.")
        seeds.extend(range(low, high + 1))
    if len(set(seeds)) != len(seeds):
        raise UserError(
            f"The seeds {text!r} name a seed twice, which would give the same image twice; name each once."
        )
    return seeds


def _is_number(word: str) -> bool:
    return word.isascii() and word.isdigit() and len(word) <= 12
