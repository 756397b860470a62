"""What the U-Nets share: an encoder whose outputs reach the decoder by skips, and a mask over those skips.

Names of modules (`enc.32x32_block0`, `dec.16x16_up`, ...) are those of the EDM checkpoints.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from diffmem.errors import UserError
from diffmem.models.networks.block import BlockStyle, UNetBlock
from diffmem.models.networks.layers import Conv, Linear

__all__ = ["UNet", "check_mask", "encoder_outputs"]


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
            f"The skip mask has {len(mask)} entries, but this network has {len(names)} encoder outputs:"
            f" {', '.join(names)}."
            " Give one entry (0 or 1) for each."
        )
    return tuple(bool(keep) for keep in mask)


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

    def __init__(self, resolution: int, num_labels: int, style: BlockStyle) -> None:
        super().__init__()
        self.resolution, self.num_labels, self.style = resolution, num_labels, style
        self.enc, self.dec = nn.ModuleDict(), nn.ModuleDict()
        self.mask: tuple[bool, ...] = ()

    def block(self, inputs: int, outputs: int, **options: object) -> UNetBlock:
        """Make a block of this network's style."""
        return UNetBlock(inputs, outputs, self.style, **options)  # type: ignore[arg-type]

    def add_encoder(
        self, inputs: int, first: int, widths: Sequence[int], blocks: int, attention_at: Sequence[int]
    ) -> list[int]:
        """Add the encoder's modules and return the channels of its outputs.

        Args:
            inputs: Image channels.
            first: Channels of the input convolution.
            widths: Channels of each level, finest first.
            blocks: Blocks at each resolution.
            attention_at: Resolutions with attention in every block.
        """
        width, skips = first, []
        for level in range(len(widths)):
            size = self.resolution >> level
            if level == 0:
                self.enc[f"{size}x{size}_conv"] = Conv(inputs, width, 3, self.style.init)
            else:
                self.enc[f"{size}x{size}_down"] = self.block(width, width, resample="down")
                self.after_down(level, size, width)
            skips.append(width)
            for i in range(blocks):
                attends = size in attention_at
                self.enc[f"{size}x{size}_block{i}"] = self.block(width, widths[level], attention=attends)
                width = widths[level]
                skips.append(width)
        return skips

    def after_down(self, level: int, size: int, width: int) -> None:
        """Add what the family puts behind a down block (nothing by default)."""

    def add_decoder(
        self,
        widths: Sequence[int],
        blocks: int,
        skips: list[int],
        attention_at: Sequence[int],
        every_block: bool,
    ) -> int:
        """Add the decoder's blocks and return the width of its output.

        Args:
            widths: Channels of each level, finest first.
            blocks: Blocks at each resolution of the encoder; the decoder has one more.
            skips: Channels of the encoder outputs, consumed from the end.
            attention_at: Resolutions with attention.
            every_block: Whether every block of such a resolution attends (ADM) or the last one only (DDPM++).
        """
        width = widths[-1]
        for level in reversed(range(len(widths))):
            size = self.resolution >> level
            if level == len(widths) - 1:
                self.dec[f"{size}x{size}_in0"] = self.block(width, width, attention=True)
                self.dec[f"{size}x{size}_in1"] = self.block(width, width)
            else:
                self.dec[f"{size}x{size}_up"] = self.block(width, width, resample="up")
            for i in range(blocks + 1):
                attends = size in attention_at and (every_block or i == blocks)
                self.dec[f"{size}x{size}_block{i}"] = self.block(
                    width + skips.pop(), widths[level], attention=attends
                )
                width = widths[level]
            self.after_level(level, size, width, len(widths))
        return width

    def after_level(self, level: int, size: int, width: int, levels: int) -> None:
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

    def encode(self, x: Tensor, embedding: Tensor) -> tuple[Tensor, list[Tensor]]:
        """Apply an encoder without auxiliary paths; return its last output and all its outputs."""
        outputs = []
        for module in self.enc.values():
            x = module(x) if isinstance(module, Conv) else module(x, embedding)
            outputs.append(x)
        return x, outputs
