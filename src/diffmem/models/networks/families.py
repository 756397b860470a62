"""The networks with EDM's settings: DDPM++, NCSN++ and ADM.

DDPM++ and NCSN++ are those of Song et al. 2021, "Score-Based Generative Modeling through SDEs"; ADM is that of Dhariwal and Nichol 2021,
"Diffusion Models Beat GANs on Image Synthesis".
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from diffmem.models.networks.layers import (
    Conv,
    FourierEmbedding,
    GroupNorm,
    Init,
    Linear,
    PositionalEmbedding,
)
from diffmem.models.networks.unet import BlockStyle, UNet, UNetBlock, UNetSettings

__all__ = ["DhariwalUNet", "SongSettings", "SongUNet"]

_SONG = Init("xavier_uniform")
_SONG_ZERO = Init("xavier_uniform", weight=1e-5)
_ADM = Init("kaiming_uniform", weight=math.sqrt(1 / 3), bias=math.sqrt(1 / 3))
_ADM_ZERO = Init("kaiming_uniform", weight=0.0, bias=0.0)


@dataclass(frozen=True, kw_only=True)
class SongSettings(UNetSettings):
    """What DDPM++ and NCSN++ are built from; the coarsest level always has one block with attention.

    Attributes:
        embedding: 'positional' or 'fourier'.
        noise_multiplier: Size of the noise embedding in units of the base width: 1 in DDPM++, 2 in NCSN++.
        encoder: 'standard', 'skip' or 'residual': how the downsampled input joins each level.
        decoder: 'standard' or 'skip': whether each level adds to an upsampled output image.
        taps: Taps of the resampling filter: (1, 1) in DDPM++, (1, 3, 3, 1) in NCSN++.
        rescale: Whether sums of two paths are divided by sqrt(2).
    """

    embedding: str = "positional"
    noise_multiplier: int = 1
    encoder: str = "standard"
    decoder: str = "standard"
    taps: tuple[float, ...] = (1, 1)
    rescale: bool = True


class SongUNet(UNet):
    """The U-Net of DDPM++ (standard encoder, positional embedding) and NCSN++ (residual, Fourier)."""

    settings: SongSettings

    def __init__(self, settings: SongSettings) -> None:
        style = BlockStyle(
            embedding_channels=settings.base_width * settings.embedding_multiplier,
            channels_per_head=None,
            dropout=settings.dropout,
            skip_scale=math.sqrt(0.5) if settings.rescale else 1.0,
            eps=1e-6,
            taps=settings.taps,
            project_resampled_skip=True,
            adaptive_scale=False,
            init=_SONG,
            init_zero=_SONG_ZERO,
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
        self.map_label = Linear(settings.num_labels, noise, _SONG) if settings.num_labels else None
        self.map_layer0 = Linear(noise, style.embedding_channels, _SONG)
        self.map_layer1 = Linear(style.embedding_channels, style.embedding_channels, _SONG)
        self.add_decoder(self.add_encoder(settings.base_width), every_block=False)

    def after_down(self, size: int, width: int) -> None:
        """Add the path on which the downsampled input joins this level."""
        taps, channels = self.style.taps, self.settings.image_channels
        if self.settings.encoder == "skip":
            self.enc[f"{size}x{size}_aux_down"] = Conv(
                channels, channels, 0, _SONG, resample="down", taps=taps
            )
            self.enc[f"{size}x{size}_aux_skip"] = Conv(channels, width, 1, _SONG)
        if self.settings.encoder == "residual":
            self.enc[f"{size}x{size}_aux_residual"] = Conv(
                self.aux_width, width, 3, _SONG, resample="down", taps=taps, filter_after=True
            )
            self.aux_width = width

    def after_level(self, level: int, size: int, width: int) -> None:
        """Add the output image of this level: of the finest level only, or of each in the 'skip' decoder."""
        channels = self.settings.image_channels
        if self.settings.decoder == "skip" and level < len(self.settings.multipliers) - 1:
            self.dec[f"{size}x{size}_aux_up"] = Conv(
                channels, channels, 0, _SONG, resample="up", taps=self.style.taps
            )
        if self.settings.decoder == "skip" or level == 0:
            self.dec[f"{size}x{size}_aux_norm"] = GroupNorm(width, 1e-6)
            self.dec[f"{size}x{size}_aux_conv"] = Conv(width, channels, 3, _SONG_ZERO)

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
                x = x + module(aux)
                x = skips[-1] = aux = x / math.sqrt(2) if self.settings.rescale else x
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


class DhariwalUNet(UNet):
    """The ADM U-Net: adaptive group normalisation, attention heads of 64 channels, in every block of its resolutions.

    Args:
        settings: What it is built from.
        with_variance: Whether it has as many outputs again, behind those of the image, for a learned variance.
    """

    def __init__(self, settings: UNetSettings, with_variance: bool = False) -> None:
        base, num_labels = settings.base_width, settings.num_labels
        style = BlockStyle(
            embedding_channels=base * settings.embedding_multiplier,
            channels_per_head=64,
            dropout=settings.dropout,
            skip_scale=1.0,
            eps=1e-5,
            taps=(1, 1),
            project_resampled_skip=False,
            adaptive_scale=True,
            init=_ADM,
            init_zero=_ADM_ZERO,
            init_attention=_ADM,
        )
        super().__init__(settings, style)
        size_emb = style.embedding_channels
        self.map_noise = PositionalEmbedding(base, endpoint=False)
        self.map_layer0 = Linear(base, size_emb, _ADM)
        self.map_layer1 = Linear(size_emb, size_emb, _ADM)
        self.map_label = None
        if num_labels:
            self.map_label = Linear(
                num_labels, size_emb, Init("kaiming_normal", weight=math.sqrt(num_labels)), bias=False
            )

        width = self.add_decoder(self.add_encoder(settings.widths[0]), every_block=True)
        self.out_norm = GroupNorm(width, 1e-5)
        self.out_conv = Conv(width, settings.image_channels * (1 + with_variance), 3, _ADM_ZERO)

    def forward(self, x: Tensor, noise: Tensor, labels: Tensor | None) -> Tensor:
        """Map a scaled noisy image to the network's raw output; see `SongUNet.forward`."""
        emb = self.map_layer1(F.silu(self.map_layer0(self.map_noise(noise))))
        if self.map_label is not None:
            assert labels is not None
            emb = emb + self.label_embedding(labels)
        emb = F.silu(emb)
        skips = []
        for module in self.enc.values():
            x = module(x) if isinstance(module, Conv) else module(x, emb)
            skips.append(x)
        skips = self.hide_masked(skips)
        for module in self.dec.values():
            assert isinstance(module, UNetBlock)
            x = self.decode_block(module, x, skips, emb)
        return self.out_conv(F.silu(self.out_norm(x)))  # type: ignore[no-any-return]
