"""What the U-Nets share: an encoder whose outputs reach the decoder by skips, and a mask over those skips.

Names of modules (`enc.32x32_block0`, `dec.16x16_up`, ...) are those of the EDM checkpoints.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from diffmem.errors import UserError
from diffmem.models.networks.block import BlockStyle, UNetBlock
from diffmem.models.networks.layers import Conv, Linear

__all__ = ["UNet", "UNetSettings", "check_mask", "encoder_outputs"]


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
