"""`diffmem generate`."""

from __future__ import annotations

from pathlib import Path

from diffmem.cli.common import Settings
from diffmem.errors import DiffmemError, UserError

__all__ = ["generate"]


def generate(
    model: Path,
    out: Path,
    *,
    seeds: str = "0-63",
    labels: str = "random",
    set_: Settings = None,
    batch_size: int = 64,
    device: str | None = None,
) -> None:
    """Generate images, one per seed; the image of a seed does not depend on the others.

    Interrupt with Ctrl-C: the same command goes on where it stopped.

    Example: diffmem generate runs/0123456789abcdef samples.npz --seeds 0-999

    Args:
        model: A run's folder (its last snapshot) or a snapshot, .safetensors.
        out: File to write, .npz or .zip.
        seeds: Seeds such as 0-9,15,20-29.
        labels: For a conditional model: random (drawn from the seed) or the number of one class.
        set_: Change a setting of the sampler, key=value, for example steps=40; may be repeated.
        batch_size: Images at a time.
        device: cpu, cuda or cuda:N; by default a GPU where there is one.
    """
    from diffmem.cli.common import choose_device
    from diffmem.data import ImageSet, write_images
    from diffmem.files import sha256_file
    from diffmem.models import load_denoiser
    from diffmem.progress import show_progress
    from diffmem.sampling import SamplerConfig, discard_shards, generate_resumable, parse_seeds
    from diffmem.studies.recipe import load_recipe

    if out.suffix.lower() not in (".npz", ".zip"):
        raise UserError(
            f"Samples are written as .npz or .zip, not as {out.name!r}; give the file one of these endings."
        )
    numbers = parse_seeds(seeds)
    config = load_recipe(SamplerConfig, None, set_ or [])
    path = _snapshot(model)
    try:
        denoiser, _, words = load_denoiser(path, choose_device(device))
    except DiffmemError as error:
        raise UserError(str(error)) from error  # whatever is wrong with it, the user named the file
    label: int | None = None
    if labels != "random":
        if not labels.isdecimal():
            raise UserError(f"--labels {labels!r} must be random or the number of a class.")
        label = int(labels)
    shards = out.with_name(out.name + ".shards")
    tag = f"{sha256_file(path)} {config.model_dump_json()} {labels}"
    with show_progress("Generating") as progress:
        made = generate_resumable(
            denoiser, numbers, config, shards, tag, labels=label, batch_size=batch_size, progress=progress
        )
    names = tuple(f"seed{seed:09d}" for seed in numbers)
    history = (f"generated from {path.name} at epoch {words.get('epoch', 'unknown')}", config.describe())
    write_images(ImageSet(made.images, made.labels, names, None, history), out)
    discard_shards(shards)
    channels, height, width = made.images.shape[1:]
    print(f"{out}: {len(made)} images of {height}x{width}x{channels} from {path}")


def _snapshot(model: Path) -> Path:
    if not model.is_dir():
        return model
    snapshots = sorted((model / "snapshots").glob("*.safetensors"))
    if not snapshots:
        raise UserError(
            f"{model} is not the folder of a run with snapshots; give one, or a .safetensors file."
        )
    return snapshots[-1]
