"""Denoisers: `train` makes one of images, `generate` makes images with one."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from numbers import Integral
from pathlib import Path
from typing import Any, TypeVar

from diffmem.api.inputs import Images, Model, as_images, as_model
from diffmem.api.spreading import model_by_path, spread_over
from diffmem.console import warn
from diffmem.data import ImageSet, write_images
from diffmem.distributed import world
from diffmem.environment import choose_device
from diffmem.errors import UserError
from diffmem.folder_lock import locked_folder
from diffmem.models import Denoiser, ModelConfig, origin_of
from diffmem.progress import show_progress
from diffmem.runs.opening import remember_data
from diffmem.runs.run import Run
from diffmem.sampling import GeneratedImages, SamplerConfig, discard_shards, generate_resumable
from diffmem.sampling import generate as generate_in_memory
from diffmem.sampling.generate import LabelChoice
from diffmem.settings import validated
from diffmem.text import html_table
from diffmem.training import TrainingConfig

__all__ = ["Trained", "check_samples_file", "generate", "shards_of", "train"]


_Config = TypeVar("_Config", ModelConfig, TrainingConfig)


def _as_config(kind: type[_Config], given: _Config | Mapping[str, Any] | None, name: str) -> _Config:
    """Return a group of settings: as it is, checked where they are given as keys and values, or with the defaults."""
    return given if isinstance(given, kind) else validated(kind, given or {}, name)


@dataclass(frozen=True, eq=False)
class Trained:
    """A finished training.

    Attributes:
        run: Its identity, its folder and its snapshots.
        snapshot: The last snapshot, with the averaged weights.
        device: Where it was trained.
    """

    run: Run
    snapshot: Path
    device: str

    @property
    def folder(self) -> Path:
        """Where the run lies; `open_model`, `measure_run` and the commands read it."""
        return self.run.folder

    @cached_property
    def model(self) -> Denoiser:
        """The trained denoiser, at the end of training."""
        return self.run.denoiser(self.run.points[-1], self.device)

    def write_tensorboard(self) -> None:
        """Write the metrics as TensorBoard events into the run's folder (needs the extra diffmem[tensorboard])."""
        from diffmem.training.loop import write_tensorboard

        if world().is_main:
            write_tensorboard(self.folder)

    def _rows(self) -> list[tuple[str, object]]:
        run = self.run
        return [
            ("folder", self.folder),
            ("images", run.training_set),
            ("model", run.model.describe()),
            ("training", run.training.describe()),
            ("snapshots", len(run.points)),
        ]

    def __str__(self) -> str:
        return "\n".join(f"{name}: {value}" for name, value in self._rows())

    def _repr_html_(self) -> str:
        return html_table("Training", self._rows())


def train(
    images: Images,
    *,
    model: ModelConfig | Mapping[str, Any] | None = None,
    training: TrainingConfig | Mapping[str, Any] | None = None,
    seed: int = 0,
    out: str | Path = "runs",
    conditional: bool = False,
    device: str | None = None,
    report: Callable[[str], None] = lambda line: None,
) -> Trained:
    """Train a denoiser on all images of a set; what is trained already is opened, and not trained again.

    The run gets a folder in `out` that is named by the hash of its configuration. After an interruption, the same call goes
    on where it stopped.

    Args:
        images: The training set.
        model: The model M, as a config or as its keys and values; the basic setup of Gu et al. if left out: DDPM++, VP, 35 M parameters.
        training: The procedure T, likewise; by default theirs: 40,000 epochs, batches of 512.
        seed: Of weights, data order and noise.
        out: Folder in which the run's folder is made.
        conditional: Train on the labels.
        device: 'cpu', 'cuda' or 'cuda:N'; by default a GPU where there is one.
        report: Called with a line that says what is trained, before it begins.

    Raises:
        UserError: The images cannot be read, have no labels, or do not fit the model; a setting or the seed is wrong.
        DiffmemError: Training diverged, or a file cannot be written.
        KeyboardInterrupt: A stop was requested; the state is saved.
    """
    device = choose_device(device)
    training_set = as_images(images)
    if conditional and training_set.labels is None:
        raise UserError("The images have no labels; train without conditional.")
    if not conditional:
        training_set = training_set.with_labels(None, None, "without labels")
    run = Run(
        training_set,
        None,
        _as_config(ModelConfig, model, "model"),
        _as_config(TrainingConfig, training, "training"),
        seed if isinstance(seed, float) else int(seed),  # those of numpy, too
        Path(out),
    )
    for remark in run.training.remarks(run.model.preconditioning):
        warn(f"{remark}.")
    report(f"{run.folder}: {len(training_set)} images, {run.model.describe()}; {run.training.describe()}")
    with show_progress("Training") as progress:
        snapshot = run.fit(device=device, progress=progress, warn=warn)
    if isinstance(images, str | Path):
        remember_data(run.folder, str(images))
    return Trained(run, snapshot, device)


def check_samples_file(out: Path) -> None:
    """Refuse a file that samples are not written to."""
    if out.suffix.lower() not in (".npz", ".zip"):
        raise UserError(
            f"Samples are written as .npz or .zip, not as {out.name!r}; give the file one of these endings."
        )


def shards_of(file: Path) -> Path:
    """Return the folder in which the images of a file wait until all are there."""
    return file.with_name(file.name + ".shards")


def generate(
    model: Model,
    seeds: Sequence[int] = range(64),
    *,
    sampler: SamplerConfig | None = None,
    labels: LabelChoice = "random",
    batch_size: int = 64,
    device: str | None = None,
    out: str | Path | None = None,
    executor: str | Path | None = None,
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
        executor: Where images are generated: a YAML file of the settings under `executor:` of a study's recipe, or 'local'. The images
            are those that this machine makes with one thread. It needs `out`, and a model that is named by its path.

    Returns:
        The images, with the names 'seed000000000' and so on.

    Raises:
        UserError: The model cannot be read, a label does not exist, there are no seeds, or one is no whole number from 0 to 2^32 - 1.
        BrokenModelError: The model produced values that are not finite.
    """
    file = None if out is None else Path(out)
    if file is not None:
        check_samples_file(file)
    config = sampler or SamplerConfig()
    for remark in config.remarks():
        warn(f"{remark}.")
    for seed in seeds:
        if not isinstance(seed, Integral) or not 0 <= seed < 2**32:
            raise UserError(f"The seed {seed!r} is no whole number from 0 to {2**32 - 1}.")
    device = choose_device(device)
    if executor is not None and file is None:
        raise UserError("With an executor, name the file to write: workers need a folder beside it.")
    elsewhere = None if executor is None else model_by_path(model, {})
    denoiser = as_model(model, device)
    wanted = None if denoiser.num_labels == 0 and labels == "random" else labels
    if file is None:
        with show_progress("Generating") as progress:
            made = generate_in_memory(
                denoiser, seeds, config, labels=wanted, batch_size=batch_size, progress=progress
            )
        return _image_set(made, seeds, denoiser, config)
    shards = shards_of(file)
    tag = f"{origin_of(denoiser).digest} {config.model_dump_json()} {labels}"
    with locked_folder(shards, "name another file to write"):
        with spread_over(executor, device, shards, elsewhere), show_progress("Generating") as progress:
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
