"""What the U-Nets share: residual blocks, an encoder whose outputs reach the decoder by skips, and a mask over those skips.

Names of modules (`enc.32x32_block0`, `dec.16x16_up`, ...) are those of the EDM checkpoints.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from diffmem.errors import UserError
from diffmem.models.networks.dropout import Dropout
from diffmem.models.networks.layers import Conv, GroupNorm, Init, Linear

__all__ = ["BlockStyle", "Resample", "UNet", "UNetBlock", "UNetSettings", "check_mask", "encoder_outputs"]

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


def encoder_outputs(resolution: int, levels: int, blocks: int) -> list[str]:
    """Return the names of the encoder's outputs in order: the entries of a skip mask.

    `levels` resolutions with `blocks` blocks each give `levels * (blocks + 1)` outputs: the input convolution
    or the down block, then the blocks.
    """
    names = []
    for level in range(levels):
        size = resolution >> level
        names += [
            f"{size}x{size}_{'down' if level else 'conv'}",
            *(f"{size}x{size}_block{i}" for i in range(blocks)),
        ]
    return names


def check_mask(mask: Sequence[bool] | None, names: list[str]) -> tuple[bool, ...]:
    """Return a mask of one entry for each of `names`; none means that all skips are kept.

    Raises:
        UserError: The mask has another length.
    """
    if mask is None:
        return (True,) * len(names)
    if len(mask) != len(names):
        raise UserError(
            f"The skip mask (skip_connections) has {len(mask)} entries, but this network has {len(names)} encoder outputs:"
            f" {', '.join(names)}."
            " Give one entry (0 or 1) for each."
        )
    return tuple(bool(keep) for keep in mask)


@dataclass(frozen=True, kw_only=True)
class UNetSettings:
    """What a U-Net of either family is built from.

    Attributes:
        resolution: Height and width of the images, divisible by 2 ** (levels - 1).
        image_channels: Channels of the images.
        num_labels: Number of classes, 0 for none.
        base_width: Channels that all widths are multiples of.
        multipliers: Width of each level in units of the base width, finest level first.
        embedding_multiplier: Size of the embedding in units of the base width.
        blocks: Residual blocks at each resolution of the encoder.
        attention: Resolutions with self-attention.
        dropout: Dropout probability.
        skip_mask: Which encoder outputs reach the decoder, one entry each; none for all.
    """

    resolution: int
    image_channels: int
    num_labels: int = 0
    base_width: int
    multipliers: tuple[int, ...]
    embedding_multiplier: int = 4
    blocks: int
    attention: tuple[int, ...]
    dropout: float
    skip_mask: tuple[bool, ...] | None = None

    @property
    def widths(self) -> list[int]:
        """Channels of each level, finest first."""
        return [self.base_width * multiplier for multiplier in self.multipliers]


class UNet(nn.Module):
    """Encoder, decoder and embedding, without the parts in which the families differ.

    A masked skip is replaced by zeros before the concatenation, so that parameters, shapes and normalisation
    groups stay (Gu et al. 2023, section 5.3 on skip connections).

    Attributes:
        enc: Encoder modules by name, in order.
        dec: Decoder modules by name, in order.
        mask: Whether each encoder output reaches the decoder.
    """

    map_label: Linear | None

    def __init__(self, settings: UNetSettings, style: BlockStyle) -> None:
        super().__init__()
        self.settings, self.style = settings, style
        self.resolution, self.num_labels = settings.resolution, settings.num_labels
        self.enc, self.dec = nn.ModuleDict(), nn.ModuleDict()
        names = encoder_outputs(settings.resolution, len(settings.multipliers), settings.blocks)
        self.mask = check_mask(settings.skip_mask, names)

    def add_encoder(self, width: int) -> list[int]:
        """Add the encoder's modules and return the channels of its outputs.

        Args:
            width: Channels of the input convolution.
        """
        skips = []
        for level, level_width in enumerate(self.settings.widths):
            size = self.resolution >> level
            if level == 0:
                self.enc[f"{size}x{size}_conv"] = Conv(
                    self.settings.image_channels, width, 3, self.style.init
                )
            else:
                self.enc[f"{size}x{size}_down"] = UNetBlock(width, width, self.style, resample="down")
                self.after_down(size, width)
            skips.append(width)
            for i in range(self.settings.blocks):
                attends = size in self.settings.attention
                self.enc[f"{size}x{size}_block{i}"] = UNetBlock(
                    width, level_width, self.style, attention=attends
                )
                width = level_width
                skips.append(width)
        return skips

    def after_down(self, size: int, width: int) -> None:
        """Add what the family puts behind a down block (nothing by default)."""

    def add_decoder(self, skips: list[int], every_block: bool) -> int:
        """Add the decoder's blocks, one more at each resolution than the encoder has; return the width of its output.

        Args:
            skips: Channels of the encoder outputs, consumed from the end.
            every_block: Whether every block of a resolution with attention attends (ADM) or the last one only (DDPM++).
        """
        widths, blocks = self.settings.widths, self.settings.blocks
        width = widths[-1]
        for level in reversed(range(len(widths))):
            size = self.resolution >> level
            if level == len(widths) - 1:
                self.dec[f"{size}x{size}_in0"] = UNetBlock(width, width, self.style, attention=True)
                self.dec[f"{size}x{size}_in1"] = UNetBlock(width, width, self.style)
            else:
                self.dec[f"{size}x{size}_up"] = UNetBlock(width, width, self.style, resample="up")
            for i in range(blocks + 1):
                attends = size in self.settings.attention and (every_block or i == blocks)
                self.dec[f"{size}x{size}_block{i}"] = UNetBlock(
                    width + skips.pop(), widths[level], self.style, attention=attends
                )
                width = widths[level]
            self.after_level(level, size, width)
        return width

    def after_level(self, level: int, size: int, width: int) -> None:
        """Add what the family puts behind a decoder level (nothing by default)."""

    def label_embedding(self, labels: Tensor, scale: float = 1.0) -> Tensor:
        """Look up the label's row of the linear map: its product with a one-hot vector times `scale`.

        Args:
            labels: int64 (B,) in [0, num_labels); -1 stands for no label (a zero vector).
            scale: Factor on the one-hot vector.
        """
        assert self.map_label is not None
        # Indexing columns would gather strided memory; rows of the transpose are the same numbers.
        rows = F.embedding(labels.clamp(min=0), self.map_label.weight.t()) * scale
        rows = torch.where((labels >= 0)[:, None], rows, torch.zeros_like(rows))
        return rows if self.map_label.bias is None else rows + self.map_label.bias

    def hide_masked(self, skips: list[Tensor]) -> list[Tensor]:
        """Replace the masked encoder outputs by zeros."""
        return [skip if keep else torch.zeros_like(skip) for skip, keep in zip(skips, self.mask, strict=True)]

    def decode_block(self, block: UNetBlock, x: Tensor, skips: list[Tensor], embedding: Tensor) -> Tensor:
        """Apply a decoder block, concatenating the next skip where the block expects one."""
        if x.shape[1] != block.inputs:
            x = torch.cat([x, skips.pop()], dim=1)
        return block(x, embedding)  # type: ignore[no-any-return]
