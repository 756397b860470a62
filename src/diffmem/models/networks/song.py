"""DDPM++ and NCSN++ (Song et al. 2021, "Score-Based Generative Modeling through SDEs"), with EDM's settings."""

from __future__ import annotations

import math
from collections.abc import Sequence

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
from diffmem.models.networks.unet import UNet, check_mask, encoder_outputs

__all__ = ["SongUNet"]

_INIT = Init("xavier_uniform")
_INIT_ZERO = Init("xavier_uniform", weight=1e-5)


class SongUNet(UNet):
    """The U-Net of DDPM++ (standard encoder, positional embedding) and NCSN++ (residual, Fourier).

    Args:
        resolution: Height and width of the images, divisible by 2 ** (levels - 1).
        inputs: Image channels in.
        outputs: Image channels out.
        num_labels: Number of classes, 0 for none.
        channels: Base width.
        multipliers: Width of each level in units of `channels`, finest level first.
        embedding_multiplier: Size of the embedding in units of `channels`.
        blocks: Residual blocks at each resolution of the encoder.
        attention: Resolutions with self-attention (the coarsest level always has one block with it).
        dropout: Dropout probability.
        embedding: 'positional' or 'fourier'.
        noise_multiplier: Size of the noise embedding in units of `channels`: 1 in DDPM++, 2 in NCSN++.
        encoder: 'standard', 'skip' or 'residual': how the downsampled input joins each level.
        decoder: 'standard' or 'skip': whether each level adds to an upsampled output image.
        taps: Taps of the resampling filter: (1, 1) in DDPM++, (1, 3, 3, 1) in NCSN++.
        skip_mask: Which encoder outputs reach the decoder, one entry each; none for all.
    """

    def __init__(
        self,
        resolution: int,
        inputs: int,
        outputs: int,
        *,
        num_labels: int = 0,
        channels: int = 128,
        multipliers: Sequence[int] = (2, 2, 2),
        embedding_multiplier: int = 4,
        blocks: int = 2,
        attention: Sequence[int] = (16,),
        dropout: float = 0.13,
        embedding: str = "positional",
        noise_multiplier: int = 1,
        encoder: str = "standard",
        decoder: str = "standard",
        taps: Sequence[float] = (1, 1),
        skip_mask: Sequence[bool] | None = None,
    ) -> None:
        style = BlockStyle(
            embedding_channels=channels * embedding_multiplier,
            channels_per_head=None,
            dropout=dropout,
            skip_scale=math.sqrt(0.5),
            eps=1e-6,
            taps=tuple(taps),
            project_resampled_skip=True,
            adaptive_scale=False,
            init=_INIT,
            init_zero=_INIT_ZERO,
            init_attention=Init("xavier_uniform", weight=math.sqrt(0.2)),
        )
        super().__init__(resolution, num_labels, style)
        self.mask = check_mask(skip_mask, encoder_outputs(resolution, len(multipliers), blocks))
        self.encoder_kind, self.decoder_kind = encoder, decoder
        self.inputs, self.outputs = inputs, outputs
        self.aux_width = inputs  # channels of the residual path where the next level takes it up
        noise = channels * noise_multiplier
        self.map_noise = (
            PositionalEmbedding(noise, endpoint=True)
            if embedding == "positional"
            else FourierEmbedding(noise)
        )
        self.map_label = Linear(num_labels, noise, _INIT) if num_labels else None
        self.map_layer0 = Linear(noise, style.embedding_channels, _INIT)
        self.map_layer1 = Linear(style.embedding_channels, style.embedding_channels, _INIT)

        widths = [channels * multiplier for multiplier in multipliers]
        skips = self.add_encoder(inputs, channels, widths, blocks, attention)
        self.add_decoder(widths, blocks, skips, attention, every_block=False)

    def after_down(self, level: int, size: int, width: int) -> None:
        """Add the path on which the downsampled input joins this level."""
        taps = self.style.taps
        if self.encoder_kind == "skip":
            self.enc[f"{size}x{size}_aux_down"] = Conv(
                self.inputs, self.inputs, 0, _INIT, resample="down", taps=taps
            )
            self.enc[f"{size}x{size}_aux_skip"] = Conv(self.inputs, width, 1, _INIT)
        if self.encoder_kind == "residual":
            self.enc[f"{size}x{size}_aux_residual"] = Conv(
                self.aux_width, width, 3, _INIT, resample="down", taps=taps, filter_after=True
            )
            self.aux_width = width

    def after_level(self, level: int, size: int, width: int, levels: int) -> None:
        """Add the output image of this level: of the finest level only, or of each in the 'skip' decoder."""
        if self.decoder_kind == "skip" and level < levels - 1:
            self.dec[f"{size}x{size}_aux_up"] = Conv(
                self.outputs, self.outputs, 0, _INIT, resample="up", taps=self.style.taps
            )
        if self.decoder_kind == "skip" or level == 0:
            self.dec[f"{size}x{size}_aux_norm"] = GroupNorm(width, 1e-6)
            self.dec[f"{size}x{size}_aux_conv"] = Conv(width, self.outputs, 3, _INIT_ZERO)

    def forward(self, x: Tensor, noise: Tensor, labels: Tensor | None) -> Tensor:
        """Map a scaled noisy image to the network's raw output.

        Args:
            x: Float (B, inputs, H, W).
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
