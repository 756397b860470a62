"""The residual block that all U-Nets here are made of."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from diffmem.errors import UserError
from diffmem.models.networks.dropout import Dropout
from diffmem.models.networks.layers import Conv, GroupNorm, Init, Linear

__all__ = ["BlockStyle", "Resample", "UNetBlock"]

Resample = Literal["none", "up", "down"]


@dataclass(frozen=True)
class BlockStyle:
    """What differs between the blocks of DDPM++/NCSN++ and those of ADM (Karras et al. 2022, Table 7).

    Attributes:
        embedding_channels: Size of the noise (and label) embedding.
        channels_per_head: Channels of each attention head; none for one head.
        dropout: Dropout probability before the second convolution.
        skip_scale: Factor on the sum of residual and skip: sqrt(1/2) in DDPM++ and NCSN++.
        eps: Epsilon of the group normalisations.
        taps: Taps of the resampling filter.
        project_resampled_skip: Whether a skip that changes resolution but not width has a 1x1 convolution.
        adaptive_scale: Whether the embedding scales and shifts the second normalisation, or is added first.
        init: Start of most layers.
        init_zero: Start of layers that end a residual branch.
        init_attention: Start of the map to queries, keys and values.
    """

    embedding_channels: int
    channels_per_head: int | None
    dropout: float
    skip_scale: float
    eps: float
    taps: tuple[float, ...]
    project_resampled_skip: bool
    adaptive_scale: bool
    init: Init
    init_zero: Init
    init_attention: Init


class UNetBlock(nn.Module):
    """Two normalised convolutions with the embedding between them and a skip around them; then attention.

    Args:
        inputs: Input channels (after concatenating a U-Net skip, where there is one).
        outputs: Output channels.
        style: What the network's family prescribes.
        resample: Resolution change of the block.
        attention: Whether self-attention over the pixels follows.

    Raises:
        UserError: The channels cannot be split into equal heads or normalisation groups.
    """

    skip: Conv | None

    def __init__(
        self,
        inputs: int,
        outputs: int,
        style: BlockStyle,
        *,
        resample: Resample = "none",
        attention: bool = False,
    ) -> None:
        super().__init__()
        self.inputs, self.outputs, self.style = inputs, outputs, style
        self.norm0 = GroupNorm(inputs, style.eps)
        self.conv0 = Conv(inputs, outputs, 3, style.init, resample=resample, taps=style.taps)
        self.affine = Linear(
            style.embedding_channels, outputs * (2 if style.adaptive_scale else 1), style.init
        )
        self.norm1 = GroupNorm(outputs, style.eps)
        self.dropout = Dropout(style.dropout)
        self.conv1 = Conv(outputs, outputs, 3, style.init_zero)
        self.skip = None
        if outputs != inputs or resample != "none":
            kernel = 1 if style.project_resampled_skip or outputs != inputs else 0
            self.skip = Conv(inputs, outputs, kernel, style.init, resample=resample, taps=style.taps)
        self.heads = 0
        if attention:
            # A block narrower than one head has no attention: so the EDM checkpoints were built.
            self.heads = 1 if style.channels_per_head is None else outputs // style.channels_per_head
        if self.heads:
            if outputs % self.heads:
                raise UserError(
                    f"Attention over {outputs} channels cannot be split into {self.heads} equal heads."
                    " Choose a base width that is a multiple of 64, or no attention at this resolution."
                )
            self.norm2 = GroupNorm(outputs, style.eps)
            self.qkv = Conv(outputs, 3 * outputs, 1, style.init_attention)
            self.proj = Conv(outputs, outputs, 1, style.init_zero)

    def forward(self, x: Tensor, embedding: Tensor) -> Tensor:
        """Map (B, inputs, H, W) and the embedding (B or 1, embedding channels) to (B, outputs, H', W')."""
        y = self.conv0(F.silu(self.norm0(x)))
        modulation = self.affine(embedding)[:, :, None, None]
        if self.style.adaptive_scale:
            scale, shift = modulation.chunk(2, dim=1)
            y = F.silu(torch.addcmul(shift, self.norm1(y), scale + 1))
        else:
            y = F.silu(self.norm1(y + modulation))
        y = self._join(x if self.skip is None else self.skip(x), self.conv1(self.dropout(y)))
        return self._join(y, self._attend(self.norm2(y))) if self.heads else y

    def _join(self, x: Tensor, y: Tensor) -> Tensor:
        return x + y if self.style.skip_scale == 1 else (x + y) * self.style.skip_scale

    def _attend(self, x: Tensor) -> Tensor:
        batch, channels, height, width = x.shape
        # Channels of the map run as (head, channel of the head, query/key/value), as in the EDM checkpoints.
        qkv = self.qkv(x).reshape(batch, self.heads, channels // self.heads, 3, height * width)
        q, k, v = qkv.permute(3, 0, 1, 4, 2)
        y = F.scaled_dot_product_attention(q, k, v)
        y = y.transpose(2, 3).reshape(batch, channels, height, width)
        return self.proj(y)  # type: ignore[no-any-return]
