"""What the settings in a diffusers folder mean: with what noise its network was trained, and what the network is made for.

Settings that change what a network predicts, and are not known here, are refused by name.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Literal, TypeVar

import torch
from pydantic import BaseModel, ConfigDict, Field, ValidationError
from torch import Tensor

from diffmem.data.formats.guards import MAX_PIXELS
from diffmem.errors import UserError
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
from diffmem.models.pretrained.diffusers_files import read_settings
from diffmem.models.pretrained.diffusers_parts import SCHEDULERS, Parts

__all__ = [
    "NetworkSettings",
    "SchedulerSettings",
    "TransformerSettings",
    "UnetSettings",
    "check_fit",
    "checked_settings",
    "read_levels",
    "read_network",
    "read_scheduler",
]

_Settings = TypeVar("_Settings", bound=BaseModel)
_MAX_TOKENS = 2**16


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


class UnetSettings(BaseModel):
    """The settings of a `UNet2DModel` that are needed here; the library checks the others."""

    model_config = ConfigDict(frozen=True, extra="ignore")

    sample_size: int | tuple[int, int]
    in_channels: int = Field(3, ge=1)
    out_channels: int = 3
    time_embedding_type: Literal["positional", "learned"] = "positional"
    num_train_timesteps: int | None = None
    block_out_channels: tuple[int, ...] = Field((224, 448, 672, 896), min_length=1, max_length=16)
    layers_per_block: int = Field(2, ge=1)
    class_embed_type: None = None
    num_class_embeds: int | None = Field(None, ge=1)

    @property
    def kind(self) -> str:
        """Class of the network in the library."""
        return "UNet2DModel"

    @property
    def sides(self) -> tuple[int, int]:
        """(H, W) of what is denoised."""
        size = self.sample_size
        return size if isinstance(size, tuple) else (size, size)

    @property
    def unit(self) -> int:
        """What the sides are multiples of."""
        return int(2 ** (len(self.block_out_channels) - 1))

    @property
    def layers(self) -> int:
        """How many layers it has at least."""
        return self.layers_per_block * len(self.block_out_channels)

    @property
    def num_labels(self) -> int:
        """Number of classes, 0 for none."""
        return self.num_class_embeds or 0

    @property
    def null_label(self) -> int | None:
        """The class that stands for "no label"; not known."""
        return None


class TransformerSettings(BaseModel):
    """The settings of a class-conditional `DiTTransformer2DModel` that are needed here; the library checks the others."""

    model_config = ConfigDict(frozen=True, extra="ignore")

    sample_size: int = 32
    in_channels: int = Field(4, ge=1)
    out_channels: int | None = None
    patch_size: int = Field(2, ge=1)
    num_layers: int = Field(28, ge=1)
    num_embeds_ada_norm: int = Field(1000, ge=1)
    norm_type: Literal["ada_norm_zero"] = "ada_norm_zero"

    @property
    def kind(self) -> str:
        """Class of the network in the library."""
        return "DiTTransformer2DModel"

    @property
    def sides(self) -> tuple[int, int]:
        """(H, W) of what is denoised."""
        return self.sample_size, self.sample_size

    @property
    def unit(self) -> int:
        """What the sides are multiples of."""
        return self.patch_size

    @property
    def layers(self) -> int:
        """How many layers it has at least."""
        return self.num_layers

    @property
    def num_labels(self) -> int:
        """Number of classes."""
        return self.num_embeds_ada_norm

    @property
    def null_label(self) -> int:
        """What stands for "no label", with which the network was trained as well: one behind the classes."""
        return self.num_embeds_ada_norm


NetworkSettings = UnetSettings | TransformerSettings
"""The settings of a network."""


def read_scheduler(parts: Parts) -> SchedulerSettings:
    """Return the settings of the scheduler.

    Raises:
        UserError: It is of another kind, or a setting is not supported.
    """
    path = parts.scheduler
    settings = read_settings(path, parts.scheduler_root)
    name = settings.get("_class_name", parts.scheduler_kind)
    if name not in SCHEDULERS:
        raise UserError(
            f"{path}: the scheduler {name!r} is not supported: it must be one of {', '.join(SCHEDULERS)}."
        )
    scheduler = checked_settings(SchedulerSettings, settings, path)
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
    if name not in parts.kinds:
        raise UserError(
            f"{path}: the network {name!r} is not supported: it must be {' or '.join(parts.kinds)}."
        )
    if settings.get("time_embedding_type") == "fourier":
        raise UserError(
            f"{path}: time_embedding_type 'fourier' belongs to score models, which are not supported."
        )
    network: NetworkSettings
    if name == "UNet2DModel":
        if settings.get("sample_size") is None:
            raise UserError(f"{path} does not say the size of the images; write it as sample_size.")
        network = checked_settings(UnetSettings, settings, path)
    else:
        network = checked_settings(TransformerSettings, settings, path)
    height, width = network.sides
    unit, most = network.unit, MAX_PIXELS
    if isinstance(network, TransformerSettings):
        most = min(MAX_PIXELS, _MAX_TOKENS * unit * unit)  # it compares all with all
    if min(height, width) < 1 or height % unit or width % unit or height * width > most:
        raise UserError(
            f"{path}: sample_size {settings.get('sample_size')!r:.80} does not fit: sides must be multiples of {unit} for this network, of"
            f" at most {most:,} pixels."
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
    if parts.autoencoder is None and network.in_channels not in (1, 3):
        raise UserError(
            f"{parts.network}: in_channels {network.in_channels} is not supported: images have 1 or 3. If these are latents, put the"
            f" folder of their autoencoder into {parts.home} as vae."
        )
    if isinstance(network, TransformerSettings):
        if network.out_channels not in (None, network.in_channels, 2 * network.in_channels):
            raise UserError(
                f"{parts.network}: out_channels {network.out_channels} does not fit in_channels {network.in_channels}: it must be as many"
                " or, with a learned variance, twice as many."
            )
        return
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


def checked_settings(kind: type[_Settings], settings: Mapping[str, Any], path: Path) -> _Settings:
    """Return settings in the form of `kind`.

    Raises:
        UserError: One of them is not supported; the message names the first and the file.
    """
    try:
        return kind.model_validate(settings)
    except ValidationError as error:
        first = error.errors()[0]
        key = str(first["loc"][0])
        reason = first["msg"][:1].lower() + first["msg"][1:]
        raise UserError(f"{path}: {key} {settings.get(key)!r:.80} is not supported: {reason}.") from error
