"""`diffmem generate`."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING

from diffmem.cli.options import NO_MODEL_OPTIONS, Executor, ModelOptions, Settings
from diffmem.distributed import world
from diffmem.environment import choose_device
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
    opening: ModelOptions = NO_MODEL_OPTIONS,
    executor: Executor = None,
) -> None:
    """Generate images, one per seed; the image of a seed does not depend on the others.

    Interrupt with Ctrl-C: the same command resumes.
    Several processes share the work: torchrun --nproc-per-node=8 -m diffmem generate ...

    Example: diffmem generate runs/0123456789abcdef samples.npz --seeds 0-999

    The optimum needs no model: it is the closed-form minimizer of the training
    loss on DATA, and can only copy DATA.

    Example: diffmem generate --optimum cifar10-1k.zip samples.npz --seeds 0-49999

    Args:
        paths: MODEL OUT: a run's folder (its last snapshot), a snapshot (.safetensors), an EDM network pickle, a diffusers
            folder, or a checkpoint of another trainer (see open-a-model.md); then the file to write, .npz or
            .zip. With --optimum, OUT alone.
        optimum: Image set whose optimal denoiser generates.
        conditional: With --optimum: the optimum of each class, from the labels of the set.
        seeds: Seeds such as 0-9,15,20-29.
        labels: For a conditional model: random (drawn from the seed) or the number of one class.
        set_: Change a setting of the sampler, key=value, for example steps=40; may be repeated.
        batch_size: Images at a time.
        device: cpu, cuda or cuda:N; by default a GPU where there is one.
        workspace: With --optimum: megabytes it may use beside two copies of the images, one byte for each value. Batches that
            need more are computed in parts.
        executor: Generate in pieces elsewhere: local (processes of this machine), or a YAML file of the settings under `executor:` of a
            study's recipe, for example of a cluster. The images are those of one machine with one thread (OMP_NUM_THREADS=1).
    """
    from diffmem.api.denoisers import check_samples_file, shards_of
    from diffmem.api.denoisers import generate as generate_images
    from diffmem.api.spreading import model_by_path, spread_over
    from diffmem.models import open_model, origin_of
    from diffmem.models.denoiser import model_text
    from diffmem.sampling import SamplerConfig, parse_seeds
    from diffmem.settings import load_recipe

    model, out = _model_and_out(paths, optimum)
    check_samples_file(out)
    numbers = parse_seeds(seeds)
    config = load_recipe(SamplerConfig, None, set_ or [])
    if labels != "random" and not labels.isdecimal():
        raise UserError(f"--labels {labels!r} must be random or the number of a class.")
    if executor is not None and optimum is not None:
        raise UserError("--executor is for a trained model; the optimum is computed here.")
    if conditional and optimum is None:
        raise UserError("--conditional belongs to --optimum; a trained model knows whether it has classes.")
    if optimum is not None:
        opening.refuse("the optimum is made of images")
    device = choose_device(device)
    denoiser = (
        open_model(model, device=device, **opening.details())
        if model is not None
        else _optimum(str(optimum), conditional, device, workspace)
    )
    if optimum is None and world().is_main:
        print(f"model: {model_text(denoiser)}", file=sys.stderr)
    elsewhere = None if executor is None else model_by_path(model, opening.details())
    with spread_over(executor, device, shards_of(out), elsewhere):
        images = generate_images(
            denoiser, numbers, sampler=config, labels="random" if labels == "random" else int(labels), batch_size=batch_size, out=out,
        )  # fmt: skip
    channels, height, width = images.shape
    origin = origin_of(denoiser)
    source = origin.path if optimum is None else f"{origin.name} of {optimum}"
    print(f"{out}: {len(images)} images of {height}x{width}x{channels} from {source}")
    _print_evaluations(denoiser)


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


def _print_evaluations(denoiser: Denoiser) -> None:
    from diffmem.optimum.optimum import Optimum

    if not isinstance(denoiser, Optimum):
        return
    if denoiser.work.calls:
        print(
            f"denoised {denoiser.work.queries:,} times, at any pixel within {denoiser.work.bound:.1e} of the formula (proven;"
            " images are in [-1, 1])"
        )


def _optimum(data: str, conditional: bool, device: str, workspace: int) -> Denoiser:
    """Return the optimum of an image set, named by its content."""
    from diffmem.api.inputs import as_images
    from diffmem.models import Origin
    from diffmem.optimum.optimum import Optimum

    images = as_images(data)
    kind = "the conditional optimum" if conditional else "the optimum"
    denoiser = Optimum(images, conditional, device=device, workspace_bytes=workspace * 10**6)
    denoiser.origin = Origin("optimum", f"{kind} of {len(images)} images", f"{kind} {images.fingerprint}")
    return denoiser
