"""Folders of the diffusers library as denoisers: a network, unconditional or of classes, with its scheduler and maybe an autoencoder.

The folder is read as data (`diffusers_files`): names and numbers choose the library's own networks, which are filled with tensors that
fit them exactly (`diffusers_build`); the noise levels are computed here (`discrete`, `continuous`). Nothing is downloaded, for no part of
the library that could is called, and no code in the folder is run. Of a scheduler, what counts is what the network was trained with; how it
steps is not used.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, ClassVar, Literal, Self

import torch
from pydantic import Field, model_validator
from torch import Tensor, nn

from diffmem.data.formats.guards import MAX_PIXELS, in_one_line, is_folder, reading
from diffmem.errors import UserError
from diffmem.models.continuous import ContinuousDenoiser, ContinuousProcess
from diffmem.models.denoiser import Denoiser, network_text
from diffmem.models.discrete import DiscreteDenoiser, Timesteps
from diffmem.models.latent import LatentDenoiser
from diffmem.models.pretrained.diffusers_build import built, text_of
from diffmem.models.pretrained.diffusers_files import Parts, find_parts, variant_of
from diffmem.models.pretrained.diffusers_schedulers import (
    OtherBetasSettings,
    PartSettings,
    process_of,
    read_part,
    read_scheduler,
)
from diffmem.models.pretrained.diffusers_settings import (
    TransformerSettings,
    check_fit,
    read_network,
)

__all__ = [
    "TRIAL_SIGMA",
    "Codec",
    "codec_of",
    "doubts_of",
    "open_autoencoder",
    "open_diffusers",
    "read_autoencoder",
    "try_network",
    "with_autoencoder",
]


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


def read_autoencoder(parts: Parts, channels: int, sides: tuple[int, int]) -> AutoencoderSettings | None:
    """Return the settings of the autoencoder; none if the network denoises pixels. See `read_part`.

    Args:
        parts: Of the folder.
        channels: Of what the network denoises.
        sides: (H, W) of that.

    Raises:
        UserError: Also if it does not fit the network.
    """
    path = parts.autoencoder
    if path is None:
        return None
    kinds = {kind.kind: kind for kind in (AutoencoderSettings, QuantizedSettings)}
    found = read_part("autoencoder", kinds, path, parts.autoencoder_root)
    if found.shift_factor and parts.pipeline:
        raise UserError(
            f"{path}: shift_factor {found.shift_factor:g} is not used by {parts.pipeline}, so what its network was trained with is not"
            " known. Set it to null to decode as that pipeline does."
        )
    if found.channels != channels:
        raise UserError(
            f"{parts.network}: in_channels {channels} does not fit the codes of {path.parent}, which have {found.channels}"
            " channels."
        )
    height, width = sides
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
    codec = codec_of(settings, config, root, allow_pickle, denoiser.device)
    height, width = denoiser.image_shape[1:]
    shape = (settings.out_channels, height * settings.factor, width * settings.factor)
    return LatentDenoiser(denoiser, codec.decode, codec.encode, shape)


def codec_of(
    settings: AutoencoderSettings, config: Path, root: Path, allow_pickle: bool, device: torch.device
) -> Codec:
    """Return the autoencoder of a folder with its scale; see `with_autoencoder`."""
    network = built(settings.kind, config, root, settings.layers, allow_pickle)
    has_mean = not isinstance(settings, QuantizedSettings)
    return Codec(network.to(device), settings.scaling_factor, settings.shift_factor or 0.0, has_mean)


class Codec:
    """An autoencoder of the library between latents and images.

    Args:
        network: Of the library.
        scale: What codes are multiplied with to be latents.
        shift: What is taken off before.
        has_mean: Whether it makes a distribution of codes, of which the mean is taken.
    """

    def __init__(
        self, network: nn.Module, scale: float = 1.0, shift: float = 0.0, has_mean: bool = True
    ) -> None:
        self.network: Any = network
        self._scale, self._shift, self._has_mean = scale, shift, has_mean

    def decode(self, z: Tensor) -> Tensor:
        """Return what it makes of latents, (B, channels, H, W)."""
        images: Tensor = self.network.decode(z / self._scale + self._shift, return_dict=False)[0]
        return images

    def encode(self, x: Tensor) -> Tensor:
        """Return the latents of images."""
        encoded = self.network.encode(x, return_dict=False)[0]
        code: Tensor = encoded.mean if self._has_mean else encoded
        return (code - self._shift) * self._scale


@in_one_line()
def open_autoencoder(
    folder: Path, device: torch.device | str = "cpu", allow_pickle: bool = False
) -> tuple[Codec, AutoencoderSettings]:
    """Open the `AutoencoderKL` in a folder that `save_pretrained` of diffusers wrote, or in its subfolder `vae`.

    Args:
        folder: See above.
        device: Where to compute.
        allow_pickle: As of `open_diffusers`.

    Returns:
        The autoencoder, float32, weights frozen, with its codes as they are, neither scaled nor shifted; and what its settings say.

    Raises:
        UserError: diffusers is not installed, or the folder is damaged, incomplete, or of another autoencoder.
    """
    home = folder / "vae" if (folder / "vae" / "config.json").is_file() else folder
    config = home / "config.json"
    with reading(str(folder)):
        if not config.is_file():
            raise UserError(
                f"{folder} lacks config.json, the settings of an autoencoder. Give the folder of an AutoencoderKL."
            )
        settings = read_part("autoencoder", {AutoencoderSettings.kind: AutoencoderSettings}, config, home)
        network = built(settings.kind, config, home, settings.layers, allow_pickle).to(device)
    opened = Codec(network)
    image = torch.zeros(1, settings.in_channels, settings.factor * 2, settings.factor * 2, device=device)
    try_network(f"The autoencoder in {home}", image, lambda x: opened.decode(opened.encode(x)))
    return opened, settings


TRIAL_SIGMA = 1.0


@in_one_line()
def open_diffusers(
    folder: Path | str,
    *,
    device: torch.device | str = "cpu",
    allow_pickle: bool = False,
    clip: bool = False,
    timesteps: Timesteps | None = None,
) -> DiscreteDenoiser | ContinuousDenoiser | LatentDenoiser:
    """Open a folder that `save_pretrained` of diffusers wrote, as a `Denoiser`.

    At the noise level of each timestep (`levels` of the result, or of its `inner` for latents), it is the network's own prediction of
    what is clean. Its noise range is that of the timesteps (linear betas: 0.0100 to 157), which samplers keep to; a level outside is
    refused. With `rescale_betas_zero_snr`, the last timestep has an infinite level, so the range ends one timestep before. A network of
    continuous time (schedulers of EDM, `ScoreSdeVeScheduler`, `KarrasVeScheduler`) is exact at every level of its scheduler's range.

    Args:
        folder: Of a pipeline (with `model_index.json`; the parts in subfolders, or, without an autoencoder, all in one as in the first
            published models): `DDPMPipeline`, `DDIMPipeline`, `PNDMPipeline`, `ScoreSdeVePipeline`,
            `KarrasVePipeline`, `LDMPipeline` or `DiTPipeline`. Or of a bare `UNet2DModel` (with
            `config.json`) with its `scheduler_config.json` in it, in its subfolder `scheduler`, or in the folder `scheduler` beside it.
            A network denoises latents if there is an autoencoder (`AutoencoderKL` or `VQModel`): in the subfolder `vae` or `vqvae`, or
            beside a bare network whose folder has a name that begins with `unet`.
        device: Where to compute.
        allow_pickle: Whether weights may be read from a pickle (`.bin`) where there are no safetensors.
        clip: Whether D is clipped or thresholded as the scheduler does it to each prediction (`clip_sample`, `thresholding`). Then a
            sampler here steps as the scheduler does with `use_clipped_model_output`, and D has no gradient where it is clipped.
        timesteps: How noise levels between timesteps are served, see `DiscreteProcess`; none for 'interpolated', or 'nearest' if the
            network looks its timesteps up in a table. A network of continuous time has none.

    Returns:
        The denoiser: float32, in evaluation mode, weights frozen; a `LatentDenoiser` if there is an autoencoder. A `UNet2DModel` with
        classes has `num_class_embeds` of them; if it was trained with a class for "no label" among these, that is one of them. The
        transformer of `DiTPipeline` takes the label -1 for none. Guidance is not applied: D is that of the class alone.

    Raises:
        UserError: diffusers is not installed, or the folder is damaged, incomplete, or of a kind that is not supported, such as a
            text-to-image model; the message names the first offender.
    """
    home = Path(folder)
    if not is_folder(home):
        raise UserError(
            f"There is no folder {home}. Give the path of a folder that save_pretrained of diffusers wrote; nothing is downloaded."
        )
    with reading(str(home)):
        parts = find_parts(home)
        scheduler, network = read_scheduler(parts), read_network(parts)
        autoencoder = read_autoencoder(parts, network.in_channels, network.sides)
    check_fit(parts, scheduler, network, timesteps)
    if not isinstance(network, TransformerSettings) and network.time_embedding_type == "learned":
        timesteps = "nearest"
    process = process_of(parts, scheduler, timesteps, clip)
    raw = built(network.kind, parts.network, parts.home, network.layers, allow_pickle).to(device)
    answer, shape = _Raw(raw, network.in_channels), (network.in_channels, *network.sides)
    where, null = next(raw.parameters()).device, network.null_label
    denoiser: DiscreteDenoiser | ContinuousDenoiser
    if isinstance(process, ContinuousProcess):
        denoiser = ContinuousDenoiser(
            answer, process, shape, network.num_labels, null_label=null, device=where
        )
    else:
        denoiser = DiscreteDenoiser(answer, process, shape, network.num_labels, null_label=null, device=where)
    sigma = min(max(TRIAL_SIGMA, denoiser.sigma_min), denoiser.sigma_max)
    labels = torch.zeros(1, dtype=torch.int64) if denoiser.num_labels else None
    noise = torch.zeros(1, *denoiser.image_shape, device=denoiser.device)
    try_network(f"The network in {parts.network.parent}", noise, lambda x: denoiser(x, sigma, labels))
    if autoencoder is None or parts.autoencoder is None:
        return denoiser
    latent = with_autoencoder(denoiser, autoencoder, parts.autoencoder, parts.autoencoder_root, allow_pickle)
    image = torch.zeros(1, *latent.pixel_shape, device=latent.device)
    try_network(
        f"The autoencoder in {parts.autoencoder.parent}", image, lambda x: latent.decode(latent.encode(x))
    )
    return latent


def doubts_of(folder: Path) -> list[str]:
    """Return what a reader of results must know of how a folder was read that `open_diffusers` opened."""
    parts = find_parts(folder)
    scheduler = read_scheduler(parts)
    variant = variant_of(parts.network.parent)
    doubts = [] if variant is None else [f"The weights are those of the variant {variant}."]
    if isinstance(scheduler, OtherBetasSettings) and scheduler.doubts:
        doubts.append(
            f"{parts.scheduler.name} names betas of {scheduler.beta_start:g} to {scheduler.beta_end:g}, which are defaults of its class and"
            " not what the network was trained with, if the scheduler was made from another one: then every prediction is wrong. DDPM's"
            " defaults are 0.0001 to 0.02; copy the scheduler_config.json of the training."
        )
    return doubts


class _Raw:
    """F(x_t, t, labels) of a library network, without the channels of a learned variance."""

    def __init__(self, network: nn.Module, channels: int) -> None:
        self._network, self._channels = network, channels

    def __repr__(self) -> str:
        return network_text(self._network)

    def __call__(self, x: Tensor, t: Tensor, labels: Tensor | None) -> Tensor:
        out: Tensor = self._network(x, t, class_labels=labels, return_dict=False)[0]
        return out[:, : self._channels]


def try_network(what: str, x: Tensor, run: Callable[[Tensor], Tensor]) -> None:
    """Run a network on one image, so that one that cannot is found now."""
    try:
        with torch.no_grad():
            made = run(x)
    except Exception as error:  # whatever a network's parts raise on settings that do not fit
        raise UserError(f"{what} does not run: {text_of(error)}.") from error
    if made.shape != x.shape or not bool(torch.isfinite(made).all()):
        raise UserError(
            f"{what} makes {tuple(made.shape)} of {tuple(x.shape)}, or values that are not finite."
        )
