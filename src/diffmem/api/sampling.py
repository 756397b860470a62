"""`generate`: images from a denoiser, one per seed."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from diffmem.api.inputs import Model, as_model
from diffmem.data import ImageSet, write_images
from diffmem.distributed import world
from diffmem.environment import choose_device
from diffmem.errors import UserError
from diffmem.folder_lock import locked_folder
from diffmem.models import Denoiser, origin_of
from diffmem.progress import show_progress
from diffmem.sampling import GeneratedImages, SamplerConfig, discard_shards, generate_resumable
from diffmem.sampling import generate as generate_in_memory
from diffmem.sampling.generate import LabelChoice

__all__ = ["check_samples_file", "generate"]


def check_samples_file(out: Path) -> None:
    """Refuse a file that samples are not written to."""
    if out.suffix.lower() not in (".npz", ".zip"):
        raise UserError(
            f"Samples are written as .npz or .zip, not as {out.name!r}; give the file one of these endings."
        )


def generate(
    model: Model,
    seeds: Sequence[int] = range(64),
    *,
    sampler: SamplerConfig | None = None,
    labels: LabelChoice = "random",
    batch_size: int = 64,
    device: str | None = None,
    out: str | Path | None = None,
) -> ImageSet:
    """Generate images, one per seed; the image of a seed does not depend on the others.

    Args:
        model: A denoiser, or anything that `open_model` reads.
        seeds: One for each image, 0 to 2^32 - 1.
        sampler: How; the deterministic sampler of second order in 18 steps if left out.
        labels: For a conditional model: 'random' (drawn from the seed), one class for all, or one for each seed.
        batch_size: Images at a time.
        device: Where a model that is read computes: 'cpu', 'cuda' or 'cuda:N'; by default a GPU where there is one.
        out: File to write, .npz or .zip. With it, a call that is interrupted goes on where it stopped.

    Returns:
        The images, with the names 'seed000000000' and so on.

    Raises:
        UserError: The model cannot be read, a label does not exist, or there are no seeds.
        BrokenModelError: The model produced values that are not finite.
    """
    file = None if out is None else Path(out)
    if file is not None:
        check_samples_file(file)
    config = sampler or SamplerConfig()
    denoiser = as_model(model, choose_device(device))
    wanted = None if denoiser.num_labels == 0 and labels == "random" else labels
    if file is None:
        with show_progress("Generating") as progress:
            made = generate_in_memory(
                denoiser, seeds, config, labels=wanted, batch_size=batch_size, progress=progress
            )
        return _image_set(made, seeds, denoiser, config)
    shards = file.with_name(file.name + ".shards")
    tag = f"{origin_of(denoiser).digest} {config.model_dump_json()} {labels}"
    with locked_folder(shards, "name another file to write"):
        with show_progress("Generating") as progress:
            made = generate_resumable(
                denoiser, seeds, config, shards, tag, labels=wanted, batch_size=batch_size, progress=progress
            )  # fmt: skip
        images = _image_set(made, seeds, denoiser, config)
        if world().is_main:
            write_images(images, file)
        world().wait()
        discard_shards(shards)
    return images


def _image_set(
    made: GeneratedImages, seeds: Sequence[int], denoiser: Denoiser, config: SamplerConfig
) -> ImageSet:
    names = tuple(f"seed{seed:09d}" for seed in seeds)
    return ImageSet(
        made.images,
        made.labels,
        names,
        None,
        (f"generated from {origin_of(denoiser).name}", config.describe()),
    )
