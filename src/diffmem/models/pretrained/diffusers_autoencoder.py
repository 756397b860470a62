"""The autoencoder of a diffusers folder: how its codes become the latents that the network denoises, and latents images.

Latents are (code - shift_factor) * scaling_factor. The code of an image is the mean of an `AutoencoderKL`; of a `VQModel`, it is what its
encoder says before quantization, and decoding quantizes it, as the library's pipeline does (Rombach et al. 2022, section 3.1). Where the
settings of an `AutoencoderKL` are older than scaling_factor, it is the library's default, that of Stable Diffusion.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, ClassVar, Literal, Self

from pydantic import Field, model_validator
from torch import Tensor, nn

from diffmem.data.formats.guards import MAX_PIXELS
from diffmem.errors import UserError
from diffmem.models.denoiser import Denoiser
from diffmem.models.latent import LatentDenoiser
from diffmem.models.pretrained.diffusers_build import built
from diffmem.models.pretrained.diffusers_parts import Parts
from diffmem.models.pretrained.diffusers_settings import NetworkSettings, PartSettings, read_part

__all__ = ["AutoencoderSettings", "QuantizedSettings", "read_autoencoder", "with_autoencoder"]


class AutoencoderSettings(PartSettings):
    """The settings of an autoencoder; a `VQModel` has no shift."""

    kind: ClassVar[str] = "AutoencoderKL"
    in_channels: Literal[1, 3] = 3
    out_channels: Literal[1, 3] = 3
    block_out_channels: tuple[int, ...] = Field((64,), min_length=1, max_length=16)
    layers_per_block: int = Field(1, ge=1)
    latent_channels: int = Field(4, ge=1)
    scaling_factor: float = Field(0.18215, gt=0, allow_inf_nan=False)
    shift_factor: float | None = Field(None, allow_inf_nan=False)
    latents_mean: None = None
    latents_std: None = None

    @model_validator(mode="after")
    def _check(self) -> Self:
        if self.in_channels != self.out_channels:
            raise ValueError(f"in_channels {self.in_channels} and out_channels {self.out_channels} differ")
        return self

    @property
    def channels(self) -> int:
        """How many channels its codes have."""
        return self.latent_channels

    @property
    def factor(self) -> int:
        """Pixels along a side of a code."""
        return int(2 ** (len(self.block_out_channels) - 1))

    @property
    def layers(self) -> int:
        """How many layers it has at least."""
        return self.layers_per_block * len(self.block_out_channels)


class QuantizedSettings(AutoencoderSettings):
    """The settings of a `VQModel`."""

    kind: ClassVar[str] = "VQModel"
    latent_channels: int = Field(3, ge=1)
    vq_embed_dim: int | None = Field(None, ge=1)
    shift_factor: None = None

    @model_validator(mode="after")
    def _scaled(self) -> Self:
        # The folder is older than the setting, whose default changed what the library's pipeline decodes.
        if "scaling_factor" not in self.model_fields_set:
            raise ValueError(
                "it does not say scaling_factor, by which codes were multiplied in training, and the library's default of 0.18215 is"
                " wrong for networks older than it. Write it: 1.0 for those that were trained without"
            )
        return self

    @property
    def channels(self) -> int:
        """How many channels its codes have."""
        return self.latent_channels if self.vq_embed_dim is None else self.vq_embed_dim


def read_autoencoder(parts: Parts, network: NetworkSettings) -> AutoencoderSettings | None:
    """Return the settings of the autoencoder; none if the network denoises pixels. See `read_part`.

    Raises:
        UserError: Also if it does not fit the network.
    """
    path = parts.autoencoder
    if path is None:
        return None
    kinds = {kind.kind: kind for kind in (AutoencoderSettings, QuantizedSettings)}
    found = read_part("autoencoder", kinds, path, parts.autoencoder_root)
    if found.shift_factor and parts.pipeline in ("LDMPipeline", "DiTPipeline"):
        raise UserError(
            f"{path}: shift_factor {found.shift_factor:g} is not used by {parts.pipeline}, so what its network was trained with is not"
            " known. Set it to null to decode as that pipeline does."
        )
    if found.channels != network.in_channels:
        raise UserError(
            f"{parts.network}: in_channels {network.in_channels} does not fit the codes of {path.parent}, which have {found.channels}"
            " channels."
        )
    height, width = network.sides
    if height * width * found.factor**2 > MAX_PIXELS:
        raise UserError(
            f"{path}: images of {height * found.factor} x {width * found.factor} pixels are refused; the limit is {MAX_PIXELS:,} pixels."
        )
    return found


def with_autoencoder(
    denoiser: Denoiser, settings: AutoencoderSettings, config: Path, root: Path, allow_pickle: bool
) -> LatentDenoiser:
    """Return a denoiser of latents together with the autoencoder of its folder, on the same device.

    Args:
        denoiser: Denoises the latents.
        settings: What `config` says.
        config: Settings of the autoencoder; its weights are beside it.
        root: The folder that both must belong to.
        allow_pickle: As of `read_weights`.

    Raises:
        UserError: The weights are not exactly those of the autoencoder.
    """
    network = built(settings.kind, config, root, settings.layers, allow_pickle)
    codec = _Codec(network.to(denoiser.device), settings)
    height, width = denoiser.image_shape[1:]
    shape = (settings.out_channels, height * settings.factor, width * settings.factor)
    return LatentDenoiser(denoiser, codec.decode, codec.encode, shape)


class _Codec:
    """An autoencoder of the library between latents and images."""

    def __init__(self, network: nn.Module, settings: AutoencoderSettings) -> None:
        self._network: Any = network
        self._scale, self._shift = settings.scaling_factor, settings.shift_factor or 0.0
        self._has_mean = not isinstance(settings, QuantizedSettings)

    def decode(self, z: Tensor) -> Tensor:
        images: Tensor = self._network.decode(z / self._scale + self._shift, return_dict=False)[0]
        return images

    def encode(self, x: Tensor) -> Tensor:
        encoded = self._network.encode(x, return_dict=False)[0]
        code: Tensor = encoded.mean if self._has_mean else encoded
        return (code - self._shift) * self._scale
