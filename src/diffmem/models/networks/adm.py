"""ADM (Dhariwal and Nichol 2021, "Diffusion Models Beat GANs on Image Synthesis"), with EDM's settings."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch.nn.functional as F
from torch import Tensor

from diffmem.models.networks.block import BlockStyle, UNetBlock
from diffmem.models.networks.layers import Conv, GroupNorm, Init, Linear, PositionalEmbedding
from diffmem.models.networks.unet import UNet, check_mask, encoder_outputs

__all__ = ["DhariwalUNet"]

_INIT = Init("kaiming_uniform", weight=math.sqrt(1 / 3), bias=math.sqrt(1 / 3))
_INIT_ZERO = Init("kaiming_uniform", weight=0.0, bias=0.0)


class DhariwalUNet(UNet):
    """The ADM U-Net: adaptive group normalisation, attention heads of 64 channels.

    Args:
        resolution: Height and width of the images, divisible by 2 ** (levels - 1).
        inputs: Image channels in.
        outputs: Image channels out.
        num_labels: Number of classes, 0 for none.
        channels: Base width.
        multipliers: Width of each level in units of `channels`, finest level first.
        embedding_multiplier: Size of the embedding in units of `channels`.
        blocks: Residual blocks at each resolution of the encoder.
        attention: Resolutions with self-attention in every block.
        dropout: Dropout probability.
        skip_mask: Which encoder outputs reach the decoder, one entry each; none for all.
    """

    def __init__(
        self,
        resolution: int,
        inputs: int,
        outputs: int,
        *,
        num_labels: int = 0,
        channels: int = 192,
        multipliers: Sequence[int] = (1, 2, 3, 4),
        embedding_multiplier: int = 4,
        blocks: int = 3,
        attention: Sequence[int] = (32, 16, 8),
        dropout: float = 0.10,
        skip_mask: Sequence[bool] | None = None,
    ) -> None:
        style = BlockStyle(
            embedding_channels=channels * embedding_multiplier,
            channels_per_head=64,
            dropout=dropout,
            skip_scale=1.0,
            eps=1e-5,
            taps=(1, 1),
            project_resampled_skip=False,
            adaptive_scale=True,
            init=_INIT,
            init_zero=_INIT_ZERO,
            init_attention=_INIT,
        )
        super().__init__(resolution, num_labels, style)
        self.mask = check_mask(skip_mask, encoder_outputs(resolution, len(multipliers), blocks))
        size_emb = style.embedding_channels
        self.map_noise = PositionalEmbedding(channels, endpoint=False)
        self.map_layer0 = Linear(channels, size_emb, _INIT)
        self.map_layer1 = Linear(size_emb, size_emb, _INIT)
        self.map_label = None
        if num_labels:
            self.map_label = Linear(
                num_labels, size_emb, Init("kaiming_normal", weight=math.sqrt(num_labels)), bias=False
            )

        widths = [channels * multiplier for multiplier in multipliers]
        skips = self.add_encoder(inputs, widths[0], widths, blocks, attention)
        width = self.add_decoder(widths, blocks, skips, attention, every_block=True)
        self.out_norm = GroupNorm(width, 1e-5)
        self.out_conv = Conv(width, outputs, 3, _INIT_ZERO)

    def forward(self, x: Tensor, noise: Tensor, labels: Tensor | None) -> Tensor:
        """Map a scaled noisy image to the network's raw output; see `SongUNet.forward`."""
        emb = self.map_layer1(F.silu(self.map_layer0(self.map_noise(noise))))
        if self.map_label is not None:
            assert labels is not None
            emb = emb + self.label_embedding(labels)
        emb = F.silu(emb)
        x, skips = self.encode(x, emb)
        skips = self.hide_masked(skips)
        for module in self.dec.values():
            assert isinstance(module, UNetBlock)
            x = self.decode_block(module, x, skips, emb)
        return self.out_conv(F.silu(self.out_norm(x)))  # type: ignore[no-any-return]
