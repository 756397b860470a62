"""`diffmem generate`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from diffmem.cli.common import Settings
from diffmem.errors import UserError

if TYPE_CHECKING:
    from diffmem.models import Denoiser

__all__ = ["generate"]


def generate(
    *paths: Path,
    optimum: str | None = None,
    conditional: bool = False,
    seeds: str = "0-63",
    labels: str = "random",
    set_: Settings = None,
    batch_size: int = 64,
    device: str | None = None,
    workspace: int = 256,
) -> None:
    """Generate images, one per seed; the image of a seed does not depend on the others.

    Interrupt with Ctrl-C: the same command resumes.
    Several processes share the work: torchrun --nproc-per-node=8 -m diffmem generate ...

    Example: diffmem generate runs/0123456789abcdef samples.npz --seeds 0-999

    The optimum needs no model: it is the closed-form minimizer of the training
    loss on DATA, and can only copy DATA.

    Example: diffmem generate --optimum cifar10-1k.zip samples.npz --seeds 0-49999

    Args:
        paths: MODEL OUT: a run's folder (its last snapshot), a snapshot (.safetensors), an EDM network pickle, or a diffusers
            folder; then the file to write, .npz or .zip. With --optimum, OUT alone.
        optimum: Image set whose optimal denoiser generates.
        conditional: With --optimum: the optimum of each class, from the labels of the set.
        seeds: Seeds such as 0-9,15,20-29.
        labels: For a conditional model: random (drawn from the seed) or the number of one class.
        set_: Change a setting of the sampler, key=value, for example steps=40; may be repeated.
        batch_size: Images at a time.
        device: cpu, cuda or cuda:N; by default a GPU where there is one.
        workspace: With --optimum: megabytes it may use beside the images. What it keeps of a batch is 32 bytes per
            generated image and image of the set; batches that do not fit are followed in parts.
    """
    from diffmem.cli.common import choose_device
    from diffmem.data import ImageSet, write_images
    from diffmem.distributed import world
    from diffmem.folder_lock import locked_folder
    from diffmem.progress import show_progress
    from diffmem.sampling import SamplerConfig, discard_shards, generate_resumable, parse_seeds
    from diffmem.studies.recipe import load_recipe

    model, out = _model_and_out(paths, optimum)
    if out.suffix.lower() not in (".npz", ".zip"):
        raise UserError(
            f"Samples are written as .npz or .zip, not as {out.name!r}; give the file one of these endings."
        )
    numbers = parse_seeds(seeds)
    config = load_recipe(SamplerConfig, None, set_ or [])
    label: int | None = None
    if labels != "random":
        if not labels.isdecimal():
            raise UserError(f"--labels {labels!r} must be random or the number of a class.")
        label = int(labels)
    if conditional and optimum is None:
        raise UserError("--conditional belongs to --optimum; a trained model knows whether it has classes.")
    place = choose_device(device)
    shards = out.with_name(out.name + ".shards")
    with locked_folder(shards, "name another file to write"):
        if optimum is not None:
            denoiser, source, identity, origin = _optimum(optimum, conditional, place, workspace)
        else:
            assert model is not None
            denoiser, source, identity, origin = _trained(model, place)
        tag = f"{identity} {config.model_dump_json()} {labels}"
        with show_progress("Generating") as progress:
            made = generate_resumable(
                denoiser, numbers, config, shards, tag, labels=label, batch_size=batch_size, progress=progress
            )
        if world().is_first:
            names = tuple(f"seed{seed:09d}" for seed in numbers)
            history = (f"generated from {origin}", config.describe())
            write_images(ImageSet(made.images, made.labels, names, None, history), out)
        world().wait()
        discard_shards(shards)
    channels, height, width = made.images.shape[1:]
    print(f"{out}: {len(made)} images of {height}x{width}x{channels} from {source}")
    if optimum is not None:
        _tell_evaluations(denoiser)


def _model_and_out(paths: tuple[Path, ...], optimum: str | None) -> tuple[Path | None, Path]:
    if optimum is None:
        if len(paths) != 2:
            raise UserError(
                f"Name a model and a file to write, not {len(paths)} paths: diffmem generate MODEL OUT, or"
                " diffmem generate --optimum DATA OUT."
            )
        return paths[0], paths[1]
    if len(paths) != 1:
        raise UserError(
            f"With --optimum, name the file to write alone, not {len(paths)} paths: diffmem generate --optimum DATA OUT."
        )
    return None, paths[0]


def _trained(model: Path, device: str) -> tuple[Denoiser, str, str, str]:
    """Return a trained denoiser, its source for messages, its identity for shards, its origin for the history."""
    from diffmem.models import open_model

    opened = open_model(model, device)
    return opened.denoiser, str(opened.path), opened.digest, opened.name


def _tell_evaluations(denoiser: Denoiser) -> None:
    from diffmem.models import Optimum

    assert isinstance(denoiser, Optimum)
    tally = denoiser.evaluations
    if tally.asked:
        print(
            f"image evaluations: {tally.computed:,} of the {tally.asked:,} of dense passes"
            f" ({tally.computed / tally.asked:.1%}); skipped: less than {denoiser.tolerance:g} of the weight at every call"
        )


def _optimum(data: str, conditional: bool, device: str, workspace: int) -> tuple[Denoiser, str, str, str]:
    """Return the optimum of an image set, and what `_trained` returns with it."""
    from diffmem.data import open_images
    from diffmem.models import Optimum
    from diffmem.progress import show_progress

    with show_progress("Reading images") as progress:
        images = open_images(data, progress=progress)
    kind = "the conditional optimum" if conditional else "the optimum"
    source = f"{kind} of {len(images)} images"
    identity = f"{kind} {images.fingerprint}"
    denoiser = Optimum(images, conditional, device=device, workspace_bytes=workspace * 10**6)
    return denoiser, f"{source} of {data}", identity, source
