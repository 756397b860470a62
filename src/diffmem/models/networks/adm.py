"""ADM (Dhariwal and Nichol 2021, "Diffusion Models Beat GANs on Image Synthesis"), with EDM's settings."""

from __future__ import annotations

import math

import torch.nn.functional as F
from torch import Tensor

from diffmem.models.networks.block import BlockStyle, UNetBlock
from diffmem.models.networks.layers import Conv, GroupNorm, Init, Linear, PositionalEmbedding
from diffmem.models.networks.unet import UNet, UNetSettings

__all__ = ["DhariwalUNet"]

_INIT = Init("kaiming_uniform", weight=math.sqrt(1 / 3), bias=math.sqrt(1 / 3))
_INIT_ZERO = Init("kaiming_uniform", weight=0.0, bias=0.0)


class DhariwalUNet(UNet):
    """The ADM U-Net: adaptive group normalisation, attention heads of 64 channels, in every block of its resolutions."""

    def __init__(self, settings: UNetSettings) -> None:
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
            init=_INIT,
            init_zero=_INIT_ZERO,
            init_attention=_INIT,
        )
        super().__init__(settings, style)
        size_emb = style.embedding_channels
        self.map_noise = PositionalEmbedding(base, endpoint=False)
        self.map_layer0 = Linear(base, size_emb, _INIT)
        self.map_layer1 = Linear(size_emb, size_emb, _INIT)
        self.map_label = None
        if num_labels:
            self.map_label = Linear(
                num_labels, size_emb, Init("kaiming_normal", weight=math.sqrt(num_labels)), bias=False
            )

        width = self.add_decoder(self.add_encoder(settings.widths[0]), every_block=True)
        self.out_norm = GroupNorm(width, 1e-5)
        self.out_conv = Conv(width, settings.image_channels, 3, _INIT_ZERO)

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
