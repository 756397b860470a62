"""What the settings in a diffusers folder mean: with what noise its network was trained, and what the network is made for.

Settings that change what a network predicts, and are not known here, are refused by name.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import ClassVar, Literal, Self, TypeVar

import torch
from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator
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
from diffmem.models.pretrained.diffusers_files import OTHER_BETAS, STEPPERS, TRAINERS, Parts, read_settings
from diffmem.models.weights import naming

__all__ = [
    "NetworkSettings",
    "OtherBetasSettings",
    "PartSettings",
    "SchedulerSettings",
    "TransformerSettings",
    "UnetSettings",
    "check_fit",
    "read_levels",
    "read_network",
    "read_part",
    "read_scheduler",
]

_MAX_TOKENS = 2**16


class PartSettings(BaseModel):
    """The settings of a part that are needed here; the library checks the others."""

    model_config = ConfigDict(frozen=True, extra="ignore")


_Settings = TypeVar("_Settings", bound=PartSettings)


class SchedulerSettings(PartSettings):
    """What a network was trained with; defaults are those of the library's DDPM and DDIM schedulers."""

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

    @model_validator(mode="after")
    def _check(self) -> Self:
        if not self.predict_epsilon and "prediction_type" not in self.model_fields_set:
            raise ValueError('predict_epsilon is an old setting; write "prediction_type": "sample" instead')
        if self.trained_betas is not None and len(self.trained_betas) != self.num_train_timesteps:
            raise ValueError(
                f"trained_betas has {len(self.trained_betas)} entries for {self.num_train_timesteps} num_train_timesteps"
            )
        return self

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


class StepperSettings(SchedulerSettings):
    """What a network was trained with, as a scheduler says it that only steps in another way."""

    clip_sample: bool = False
    use_flow_sigmas: Literal[False] = False
    timestep_type: Literal["discrete"] = "discrete"


class OtherBetasSettings(StepperSettings):
    """The same of a scheduler of the library whose default betas are others."""

    beta_start: float = Field(0.00085, ge=0, lt=1)
    beta_end: float = Field(0.012, ge=0, lt=1)
    defaulted: list[str] = Field(default_factory=list, alias="_use_default_values")

    @property
    def doubts(self) -> bool:
        """Whether the betas may be those of the class, and not those of the training."""
        return bool({"beta_start", "beta_end"} & set(self.defaulted))


class UnetSettings(PartSettings):
    """The settings of a `UNet2DModel`; a class that stands for "no label" is not known."""

    kind: ClassVar[str] = "UNet2DModel"
    null_label: ClassVar[None] = None
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


class TransformerSettings(PartSettings):
    """The settings of a class-conditional `DiTTransformer2DModel`."""

    kind: ClassVar[str] = "DiTTransformer2DModel"
    sample_size: int = 32
    in_channels: int = Field(4, ge=1)
    out_channels: int | None = None
    unit: int = Field(2, ge=1, alias="patch_size", description="What the sides are multiples of.")
    layers: int = Field(28, ge=1, alias="num_layers", description="How many layers it has at least.")
    num_labels: int = Field(1000, ge=1, alias="num_embeds_ada_norm", description="Number of classes.")
    norm_type: Literal["ada_norm_zero"] = "ada_norm_zero"

    @property
    def sides(self) -> tuple[int, int]:
        """(H, W) of what is denoised."""
        return self.sample_size, self.sample_size

    @property
    def null_label(self) -> int:
        """What stands for "no label", with which the network was trained as well: one behind the classes."""
        return self.num_labels


NetworkSettings = UnetSettings | TransformerSettings
"""The settings of a network."""


def read_part(
    what: str, kinds: Mapping[str, type[_Settings]], path: Path, root: Path, default: str | None = None
) -> _Settings:
    """Return the settings of a part of a folder.

    Args:
        what: The part, for messages.
        kinds: The settings of each class of the library that the part may have.
        path: Where its settings are.
        root: The folder that it must belong to.
        default: The class of the part where its settings do not say it.

    Raises:
        UserError: It is of another class, or a setting is not supported; the message names the file and the first of these.
    """
    settings = read_settings(path, root)
    name = settings.get("_class_name", default)
    if not isinstance(name, str) or name not in kinds:
        raise UserError(f"{path}: the {what} {name!r:.80} is not supported: it must be {' or '.join(kinds)}.")
    try:
        return kinds[name].model_validate(settings)
    except ValidationError as error:
        first = error.errors()[0]
        reason = first["msg"].removeprefix("Value error, ")
        if first["loc"]:
            key = str(first["loc"][0])
            reason = f"{key} {settings.get(key)!r:.80} is not supported: {reason[:1].lower()}{reason[1:]}"
        raise UserError(f"{path}: {reason}.") from error


def read_scheduler(parts: Parts) -> SchedulerSettings:
    """Return the settings of the scheduler; see `read_part`."""
    kinds: dict[str, type[SchedulerSettings]] = {
        **dict.fromkeys(TRAINERS, SchedulerSettings),
        **dict.fromkeys(STEPPERS, StepperSettings),
        **dict.fromkeys(OTHER_BETAS, OtherBetasSettings),
    }
    return read_part("scheduler", kinds, parts.scheduler, parts.scheduler_root, parts.scheduler_kind)


def read_network(parts: Parts) -> NetworkSettings:
    """Return the settings of the network; see `read_part`.

    Raises:
        UserError: Also if its images have a size that does not fit.
    """
    kinds: dict[str, type[NetworkSettings]] = {
        name: UnetSettings if name == UnetSettings.kind else TransformerSettings for name in parts.kinds
    }
    network = read_part("network", kinds, parts.network, parts.home)
    (height, width), unit, most = network.sides, network.unit, MAX_PIXELS
    if isinstance(network, TransformerSettings):
        most = min(MAX_PIXELS, _MAX_TOKENS * unit * unit)  # it compares all with all
    if min(height, width) < 1 or height % unit or width % unit or height * width > most:
        raise UserError(
            f"{parts.network}: sample_size {network.sample_size!r:.80} does not fit: sides must be multiples of {unit} for this network,"
            f" of at most {most:,} pixels."
        )
    return network


def read_levels(parts: Parts, scheduler: SchedulerSettings) -> Tensor:
    """Return the noise level of each timestep, as `levels_of`; its errors name the file."""
    with naming(parts.scheduler):
        return scheduler.levels()


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
