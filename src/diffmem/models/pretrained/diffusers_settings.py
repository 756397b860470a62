"""What the settings of the network in a diffusers folder mean, and whether it fits its scheduler.

Settings that change what a network predicts, and are not known here, are refused by name.
"""

from __future__ import annotations

from typing import ClassVar, Literal

from pydantic import Field, field_validator

from diffmem.data.formats.guards import MAX_PIXELS
from diffmem.errors import UserError
from diffmem.models.discrete import Timesteps
from diffmem.models.pretrained.diffusers_files import Parts
from diffmem.models.pretrained.diffusers_schedulers import (
    PartSettings,
    SchedulerSettings,
    ScheduleSettings,
    VarianceExplodingSettings,
    read_part,
)
from diffmem.models.pretrained.recognition import SAMPLES_ONLY

__all__ = [
    "LevelSettings",
    "NetworkSettings",
    "TransformerSettings",
    "UnetSettings",
    "check_fit",
    "read_network",
]

_MAX_TOKENS = 2**16


class LevelSettings(PartSettings):
    """What the settings of the library's U-Nets share: each block after the first halves the sides."""

    sample_size: int | tuple[int, int]
    block_out_channels: tuple[int, ...]

    @field_validator("sample_size", mode="before")
    @classmethod
    def _told(cls, value: object) -> object:
        if value is None:
            raise ValueError(
                "it does not tell the size that was trained on; write it, one number or two (height, width)"
            )
        return value

    @property
    def sides(self) -> tuple[int, int]:
        """(H, W) of what is denoised."""
        size = self.sample_size
        return size if isinstance(size, tuple) else (size, size)

    @property
    def unit(self) -> int:
        """What the sides are multiples of."""
        return int(2 ** (len(self.block_out_channels) - 1))


class UnetSettings(LevelSettings):
    """The settings of a `UNet2DModel`; a class that stands for "no label" is not known."""

    kind: ClassVar[str] = "UNet2DModel"
    null_label: ClassVar[None] = None
    in_channels: int = Field(3, ge=1)
    out_channels: int = 3
    time_embedding_type: Literal["positional", "fourier", "learned"] = "positional"
    num_train_timesteps: int | None = None
    block_out_channels: tuple[int, ...] = Field((224, 448, 672, 896), min_length=1, max_length=16)
    layers_per_block: int = Field(2, ge=1)
    class_embed_type: None = None
    num_class_embeds: int | None = Field(None, ge=1)

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


def check_fit(
    parts: Parts, scheduler: ScheduleSettings, network: NetworkSettings, timesteps: Timesteps | None
) -> None:
    """Refuse a network that does not fit its scheduler, or how it shall be asked."""
    explodes = isinstance(scheduler, VarianceExplodingSettings)
    if explodes and parts.autoencoder is not None:
        raise UserError(
            f"{parts.scheduler}: {parts.scheduler_kind or 'its scheduler'} is for images in [0, 1], and the network denoises latents, which"
            " have no such range. How it was trained is not known."
        )
    if parts.autoencoder is None and network.in_channels not in (1, 3):
        alpha = {2: "grey images with an opacity", 4: "images with an opacity (RGBA)"}.get(
            network.in_channels
        )
        kind = f"a model of {alpha}" if alpha else f"a model of {network.in_channels} channels"
        seen = (
            " Image sets are read as people see them on white: training images and samples in PNG alike."
            if alpha
            else ""
        )
        raise UserError(
            f"{parts.network}, of diffusers: in_channels {network.in_channels} without an autoencoder make it {kind}, which is not"
            f" supported: image sets, and so functions, have 1 or 3 channels.{seen} {SAMPLES_ONLY} If these are latents, put the folder of"
            f" their autoencoder into {parts.home} as vae."
        )
    if isinstance(network, TransformerSettings):
        if network.out_channels not in (None, network.in_channels, 2 * network.in_channels):
            raise UserError(
                f"{parts.network}: out_channels {network.out_channels} does not fit in_channels {network.in_channels}: it must be as many"
                " or, with a learned variance, twice as many."
            )
        return
    embedding = network.time_embedding_type
    if embedding == "fourier" and not explodes:
        raise UserError(
            f"{parts.network}: time_embedding_type 'fourier' takes the logarithm of a noise level; {parts.scheduler} gives it something"
            " else."
        )
    if embedding == "learned":
        if not isinstance(scheduler, SchedulerSettings):
            raise UserError(
                f"{parts.network}: time_embedding_type 'learned' looks whole timesteps up in a table; {parts.scheduler} has none."
            )
        if timesteps == "interpolated":
            raise UserError(f"{parts.network}: it looks timesteps up in a table; use timesteps='nearest'.")
        if (network.num_train_timesteps or 0) < scheduler.num_train_timesteps:
            raise UserError(
                f"{parts.network}: num_train_timesteps {network.num_train_timesteps} is below the {scheduler.num_train_timesteps} timesteps"
                f" of {parts.scheduler}."
            )
    is_learned = scheduler.variance_type in ("learned", "learned_range")
    wanted = network.in_channels * (2 if is_learned else 1)
    if network.out_channels != wanted:
        raise UserError(
            f"{parts.network}: out_channels {network.out_channels} does not fit: in_channels {network.in_channels} and variance_type"
            f" {scheduler.variance_type!r} need {wanted}."
        )
