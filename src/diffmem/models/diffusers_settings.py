"""What a diffusers folder says: where its parts are, with what noise its network was trained, and what the network is made for.

Pipelines, schedulers and networks of other kinds than those of `diffusers_folder` are refused by name.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, TypeVar

import torch
from pydantic import BaseModel, ConfigDict, Field, ValidationError
from torch import Tensor

from diffmem.data.guards import MAX_PIXELS
from diffmem.errors import UserError
from diffmem.models.diffusers_files import read_settings
from diffmem.models.discrete import (
    BetaSchedule,
    Prediction,
    Timesteps,
    betas_of,
    clipped,
    levels_of,
    thresholded,
    zero_terminal,
)

__all__ = [
    "NETWORK",
    "NetworkSettings",
    "Parts",
    "SchedulerSettings",
    "check_fit",
    "find_parts",
    "read_levels",
    "read_network",
    "read_scheduler",
]

NETWORK = "UNet2DModel"
"""The class of network that is supported."""

_PIPELINES = ("DDPMPipeline", "DDIMPipeline")
_SCHEDULERS = ("DDPMScheduler", "DDIMScheduler", "DDPMParallelScheduler", "DDIMParallelScheduler")
_ENCODERS = ("vae", "vqvae", "movq")
_Settings = TypeVar("_Settings", bound=BaseModel)


class SchedulerSettings(BaseModel):
    """What a network was trained with; defaults are those of the library's DDPM and DDIM schedulers."""

    model_config = ConfigDict(frozen=True, extra="ignore")

    num_train_timesteps: int = Field(1000, ge=2, le=1_000_000)
    beta_start: float = Field(1e-4, ge=0, lt=1)
    beta_end: float = Field(0.02, ge=0, lt=1)
    beta_schedule: BetaSchedule = "linear"
    trained_betas: list[float] | None = None
    prediction_type: Prediction = "epsilon"
    predict_epsilon: bool = True
    rescale_betas_zero_snr: bool = False
    clip_sample: bool = True
    clip_sample_range: float = Field(1.0, gt=0)
    thresholding: bool = False
    dynamic_thresholding_ratio: float = Field(0.995, ge=0, le=1)
    sample_max_value: float = Field(1.0, gt=0)
    variance_type: str | None = None

    def levels(self) -> Tensor:
        """Return the noise level of each timestep, as `levels_of`."""
        betas = betas_of(self.beta_schedule, self.num_train_timesteps, self.beta_start, self.beta_end)
        if self.trained_betas is not None:
            betas = torch.tensor(self.trained_betas, dtype=torch.float32)
        return levels_of(zero_terminal(betas) if self.rescale_betas_zero_snr else betas)

    def finish(self) -> Callable[[Tensor], Tensor] | None:
        """Return what the scheduler does to each prediction of a clean image; none if it leaves it alone."""
        if self.thresholding:
            return thresholded(self.dynamic_thresholding_ratio, self.sample_max_value)
        return clipped(self.clip_sample_range) if self.clip_sample else None


class NetworkSettings(BaseModel):
    """The settings of a `UNet2DModel` that are needed here; the library checks the others."""

    model_config = ConfigDict(frozen=True, extra="ignore")

    sample_size: int | tuple[int, int]
    in_channels: Literal[1, 3] = 3
    out_channels: int = 3
    time_embedding_type: Literal["positional", "learned"] = "positional"
    num_train_timesteps: int | None = None
    block_out_channels: tuple[int, ...] = Field((224, 448, 672, 896), min_length=1, max_length=16)
    layers_per_block: int = Field(2, ge=1)
    class_embed_type: None = None
    num_class_embeds: int | None = Field(None, ge=1)

    @property
    def sides(self) -> tuple[int, int]:
        """(H, W) of the images."""
        size = self.sample_size
        return size if isinstance(size, tuple) else (size, size)


@dataclass(frozen=True)
class Parts:
    """Where the parts of a folder are.

    Attributes:
        home: The folder.
        network: Settings of the network; its weights are beside it.
        scheduler: Settings of the scheduler.
        scheduler_root: The folder that these must belong to: home or, for a bare network with a scheduler beside it, the one above.
        kind: Class of the scheduler where the pipeline says it; else empty.
    """

    home: Path
    network: Path
    scheduler: Path
    scheduler_root: Path
    kind: str


def find_parts(home: Path) -> Parts:
    """Return where the parts of a folder are.

    Raises:
        UserError: A part is missing, or the folder is of a pipeline that is not supported.
    """
    index = home / "model_index.json"
    is_pipeline = index.is_file()
    kind = _check_pipeline(index) if is_pipeline else ""
    place = home / "unet" if is_pipeline and (home / "unet").is_dir() else home
    if not (place / "config.json").is_file():
        raise UserError(
            f"{place} lacks config.json, the settings of a network. Give a folder that save_pretrained of diffusers wrote."
        )
    places = [home / "scheduler", home] + ([] if is_pipeline else [home.resolve().parent / "scheduler"])
    found = next(
        (p / "scheduler_config.json" for p in places if (p / "scheduler_config.json").is_file()), None
    )
    if found is None:
        raise UserError(
            f"{home} lacks scheduler_config.json, which says with what noise the network was trained. Copy it there from the training."
        )
    root = home if found.parent in places[:2] else home.resolve().parent
    return Parts(home, place / "config.json", found, root, kind)


def _check_pipeline(index: Path) -> str:
    """Refuse pipelines of other kinds; return the class of the scheduler."""
    settings = read_settings(index, index.parent)
    name = settings.get("_class_name")
    parts = {
        key: value for key, value in settings.items() if not key.startswith("_") and isinstance(value, list)
    }
    held = {key for key, value in parts.items() if any(value)}
    encoder = next((key for key in _ENCODERS if key in held), None)
    if encoder is not None:
        raise UserError(
            f"{index.parent} is a latent pipeline ({name}): its network denoises codes of its {encoder}, not pixels. Latent pipelines are"
            " not supported yet; give generated images instead."
        )
    if name not in _PIPELINES:
        raise UserError(
            f"{index}: the pipeline {name!r} is not supported: it must be {' or '.join(_PIPELINES)}."
        )
    for key in sorted(held | {"unet", "scheduler"}):
        allowed = {"unet": (NETWORK,), "scheduler": _SCHEDULERS}.get(key)
        module, kind = [*parts.get(key, []), None, None][:2]
        if allowed is None:
            raise UserError(
                f"{index}: {name} with a part {key!r} is not supported; it has a unet and a scheduler."
            )
        if module != "diffusers" or kind not in allowed:
            raise UserError(
                f"{index}: {key} {kind!r} of {module!r} is not supported: it must be {' or '.join(allowed)} of 'diffusers'."
            )
    return str(parts["scheduler"][1])


def read_scheduler(parts: Parts) -> SchedulerSettings:
    """Return the settings of the scheduler.

    Raises:
        UserError: It is of another kind, or a setting is not supported.
    """
    path = parts.scheduler
    settings = read_settings(path, parts.scheduler_root)
    name = settings.get("_class_name", parts.kind)
    if name not in _SCHEDULERS:
        raise UserError(
            f"{path}: the scheduler {name!r} is not supported: it must be one of {', '.join(_SCHEDULERS)}."
        )
    scheduler = _validated(SchedulerSettings, settings, path)
    if not scheduler.predict_epsilon and "prediction_type" not in settings:
        raise UserError(
            f'{path}: predict_epsilon is an old setting; write "prediction_type": "sample" instead.'
        )
    betas = scheduler.trained_betas
    if betas is not None and len(betas) != scheduler.num_train_timesteps:
        raise UserError(
            f"{path}: trained_betas has {len(betas)} entries for {scheduler.num_train_timesteps} num_train_timesteps."
        )
    return scheduler


def read_network(parts: Parts) -> NetworkSettings:
    """Return the settings of the network.

    Raises:
        UserError: It is of another kind, or a setting is not supported.
    """
    path = parts.network
    settings = read_settings(path, parts.home)
    name = settings.get("_class_name")
    if name != NETWORK:
        raise UserError(f"{path}: the network {name!r} is not supported: it must be {NETWORK}.")
    if settings.get("sample_size") is None:
        raise UserError(f"{path} does not say the size of the images; write it as sample_size.")
    if settings.get("time_embedding_type") == "fourier":
        raise UserError(
            f"{path}: time_embedding_type 'fourier' belongs to score models, which are not supported."
        )
    network = _validated(NetworkSettings, settings, path)
    height, width = network.sides
    unit = 2 ** (len(network.block_out_channels) - 1)
    if min(height, width) < 1 or height % unit or width % unit or height * width > MAX_PIXELS:
        raise UserError(
            f"{path}: sample_size {settings['sample_size']} does not fit: sides must be multiples of {unit} for this network, of at most"
            f" {MAX_PIXELS:,} pixels."
        )
    return network


def read_levels(parts: Parts, scheduler: SchedulerSettings) -> Tensor:
    """Return the noise level of each timestep, as `levels_of`; its errors name the file."""
    try:
        return scheduler.levels()
    except UserError as error:
        raise UserError(f"{parts.scheduler}: {error}") from error


def check_fit(
    parts: Parts,
    scheduler: SchedulerSettings,
    network: NetworkSettings,
    steps: int,
    timesteps: Timesteps | None,
) -> None:
    """Refuse a network that does not fit its scheduler, or how it shall be asked."""
    if network.time_embedding_type == "learned":
        if timesteps == "interpolated":
            raise UserError(f"{parts.network}: it looks timesteps up in a table; use timesteps='nearest'.")
        if (network.num_train_timesteps or 0) < steps:
            raise UserError(
                f"{parts.network}: num_train_timesteps {network.num_train_timesteps} is below the {steps} timesteps of"
                f" {parts.scheduler}."
            )
    is_learned = scheduler.variance_type in ("learned", "learned_range")
    wanted = network.in_channels * (2 if is_learned else 1)
    if network.out_channels != wanted:
        raise UserError(
            f"{parts.network}: out_channels {network.out_channels} does not fit: in_channels {network.in_channels} and variance_type"
            f" {scheduler.variance_type!r} need {wanted}."
        )


def _validated(kind: type[_Settings], settings: Mapping[str, Any], path: Path) -> _Settings:
    try:
        return kind.model_validate(settings)
    except ValidationError as error:
        first = error.errors()[0]
        key = str(first["loc"][0])
        reason = first["msg"][:1].lower() + first["msg"][1:]
        raise UserError(f"{path}: {key} {settings.get(key)!r:.80} is not supported: {reason}.") from error
