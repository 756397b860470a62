"""DDPM++ and NCSN++ (Song et al. 2021, "Score-Based Generative Modeling through SDEs"), with EDM's settings."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from diffmem.models.networks.block import BlockStyle, UNetBlock
from diffmem.models.networks.layers import (
    Conv,
    FourierEmbedding,
    GroupNorm,
    Init,
    Linear,
    PositionalEmbedding,
)
from diffmem.models.networks.unet import UNet, UNetSettings

__all__ = ["SongSettings", "SongUNet"]

_INIT = Init("xavier_uniform")
_INIT_ZERO = Init("xavier_uniform", weight=1e-5)


@dataclass(frozen=True, kw_only=True)
class SongSettings(UNetSettings):
    """What DDPM++ and NCSN++ are built from; the coarsest level always has one block with attention.

    Attributes:
        embedding: 'positional' or 'fourier'.
        noise_multiplier: Size of the noise embedding in units of the base width: 1 in DDPM++, 2 in NCSN++.
        encoder: 'standard', 'skip' or 'residual': how the downsampled input joins each level.
        decoder: 'standard' or 'skip': whether each level adds to an upsampled output image.
        taps: Taps of the resampling filter: (1, 1) in DDPM++, (1, 3, 3, 1) in NCSN++.
    """

    embedding: str = "positional"
    noise_multiplier: int = 1
    encoder: str = "standard"
    decoder: str = "standard"
    taps: tuple[float, ...] = (1, 1)


class SongUNet(UNet):
    """The U-Net of DDPM++ (standard encoder, positional embedding) and NCSN++ (residual, Fourier)."""

    settings: SongSettings

    def __init__(self, settings: SongSettings) -> None:
        style = BlockStyle(
            embedding_channels=settings.base_width * settings.embedding_multiplier,
            channels_per_head=None,
            dropout=settings.dropout,
            skip_scale=math.sqrt(0.5),
            eps=1e-6,
            taps=settings.taps,
            project_resampled_skip=True,
            adaptive_scale=False,
            init=_INIT,
            init_zero=_INIT_ZERO,
            init_attention=Init("xavier_uniform", weight=math.sqrt(0.2)),
        )
        super().__init__(settings, style)
        self.aux_width = (
            settings.image_channels
        )  # channels of the residual path where the next level takes it up
        noise = settings.base_width * settings.noise_multiplier
        self.map_noise = (
            PositionalEmbedding(noise, endpoint=True)
            if settings.embedding == "positional"
            else FourierEmbedding(noise)
        )
        self.map_label = Linear(settings.num_labels, noise, _INIT) if settings.num_labels else None
        self.map_layer0 = Linear(noise, style.embedding_channels, _INIT)
        self.map_layer1 = Linear(style.embedding_channels, style.embedding_channels, _INIT)
        self.add_decoder(self.add_encoder(settings.base_width), every_block=False)

    def after_down(self, size: int, width: int) -> None:
        """Add the path on which the downsampled input joins this level."""
        taps, channels = self.style.taps, self.settings.image_channels
        if self.settings.encoder == "skip":
            self.enc[f"{size}x{size}_aux_down"] = Conv(
                channels, channels, 0, _INIT, resample="down", taps=taps
            )
            self.enc[f"{size}x{size}_aux_skip"] = Conv(channels, width, 1, _INIT)
        if self.settings.encoder == "residual":
            self.enc[f"{size}x{size}_aux_residual"] = Conv(
                self.aux_width, width, 3, _INIT, resample="down", taps=taps, filter_after=True
            )
            self.aux_width = width

    def after_level(self, level: int, size: int, width: int) -> None:
        """Add the output image of this level: of the finest level only, or of each in the 'skip' decoder."""
        channels = self.settings.image_channels
        if self.settings.decoder == "skip" and level < len(self.settings.multipliers) - 1:
            self.dec[f"{size}x{size}_aux_up"] = Conv(
                channels, channels, 0, _INIT, resample="up", taps=self.style.taps
            )
        if self.settings.decoder == "skip" or level == 0:
            self.dec[f"{size}x{size}_aux_norm"] = GroupNorm(width, 1e-6)
            self.dec[f"{size}x{size}_aux_conv"] = Conv(width, channels, 3, _INIT_ZERO)

    def forward(self, x: Tensor, noise: Tensor, labels: Tensor | None) -> Tensor:
        """Map a scaled noisy image to the network's raw output.

        Args:
            x: Float (B, image channels, H, W).
            noise: Noise conditioning c_noise, float (B,) or (1,).
            labels: int64 (B,), -1 for no label; none only for an unconditional network.
        """
        emb = self.map_noise(noise)
        emb = torch.cat(emb.chunk(2, dim=1)[::-1], dim=1)  # these networks were trained with the sines first
        if self.map_label is not None:
            assert labels is not None
            emb = emb + self.label_embedding(labels, math.sqrt(self.num_labels))
        emb = F.silu(self.map_layer1(F.silu(self.map_layer0(emb))))

        aux = x
        skips: list[Tensor] = []
        for name, module in self.enc.items():
            if name.endswith("aux_down"):
                aux = module(aux)
            elif name.endswith("aux_skip"):
                x = skips[-1] = x + module(aux)
            elif name.endswith("aux_residual"):
                x = skips[-1] = aux = (x + module(aux)) / math.sqrt(2)
            else:
                x = module(x, emb) if isinstance(module, UNetBlock) else module(x)
                skips.append(x)

        skips = self.hide_masked(skips)
        image: Tensor | None = None
        normed = x
        for name, module in self.dec.items():
            if name.endswith("aux_up"):
                image = module(image)
            elif name.endswith("aux_norm"):
                normed = module(x)
            elif name.endswith("aux_conv"):
                output = module(F.silu(normed))
                image = output if image is None else image + output
            else:
                assert isinstance(module, UNetBlock)
                x = self.decode_block(module, x, skips, emb)
        assert image is not None
        return image
