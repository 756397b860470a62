"""`diffmem train`."""

from __future__ import annotations

from pathlib import Path

from diffmem.cli.options import Settings
from diffmem.console import console
from diffmem.errors import UserError

__all__ = ["train"]


def train(
    data: str | None = None,
    *,
    out: Path = Path("runs"),
    recipe: Path | None = None,
    set_: Settings = None,
    epochs: float | None = None,
    batch_size: int | None = None,
    conditional: bool = False,
    seed: int = 0,
    device: str | None = None,
    tensorboard: bool = False,
    list_settings: bool = False,
) -> None:
    """Train a denoiser on an image set; the run gets a folder named by the hash of its configuration.

    The defaults are the paper's basic setup: DDPM++ with VP preconditioning, 35 M parameters, 40,000 epochs.
    A finished run is not trained again; interrupt with Ctrl-C, and the same command resumes.
    Several processes share the work: torchrun --nproc-per-node=8 -m diffmem train ...

    Example: diffmem train cifar10-1k.zip --epochs 100 --set model.channels=32 --set training.batch_size=64

    Args:
        data: Image set to train on, all of it: a file of `diffmem data build`, or any source it reads.
        out: Folder in which the run's folder is made.
        recipe: YAML file with the groups model and training.
        set_: Change a setting, key=value; may be repeated.
        epochs: Passes over the set; short for --set training.epochs=...
        batch_size: Images per step; short for --set training.batch_size=...
        conditional: Train on the labels.
        seed: Seed of weights, data order and noise.
        device: cpu, cuda or cuda:N; by default a GPU where there is one.
        tensorboard: Also write the metrics as TensorBoard events (needs the extra diffmem[tensorboard]).
        list_settings: Print all settings with defaults and meaning, and stop.
    """
    from diffmem.runs.recipe import TrainRecipe
    from diffmem.settings import load_recipe, settings_table

    if list_settings:
        _print_settings(settings_table(TrainRecipe))
        return
    if data is None:
        raise UserError("Name the image set to train on, for example: diffmem train cifar10-1k.zip.")
    settings = list(set_ or [])
    for key, value in (("epochs", epochs), ("batch_size", batch_size)):
        beside = next((one for one in settings if one.startswith(f"training.{key}=")), None)
        if value is not None and beside is not None:
            raise UserError(
                f"--{key.replace('_', '-')} {value:g} and --set {beside} say the same; leave one out."
            )
        settings += [] if value is None else [f"training.{key}={value}"]
    chosen = load_recipe(TrainRecipe, recipe, settings)

    from diffmem.api.denoisers import train as train_model

    if tensorboard:
        from diffmem.training.loop import require_tensorboard

        require_tensorboard()
    done = train_model(
        data, model=chosen.model, training=chosen.training, seed=seed, out=out, conditional=conditional, device=device,
        report=print,
    )  # fmt: skip
    if tensorboard:
        done.write_tensorboard()
    print(done.snapshot)


def _print_settings(rows: list[tuple[str, str, str]]) -> None:
    from rich.table import Table

    table = Table("setting", "default", "meaning", box=None)
    for row in rows:
        table.add_row(*row)
    console().print(table)
