"""The U-Net of denoising-diffusion-pytorch.

A U-Net of residual blocks (Ho et al. 2020) with attention at every level: linear attention over channels (Shen et al. 2021, "Efficient
Attention") or full attention over positions, each with learned keys and values before those of the pixels. Module names are those of the
package's state dicts, so that tensors load by name. The layout is that of versions 1.9 to 2.3.4 of the package, written from its formulas
and checked against the answers of 2.3.4; the variant of its `classifier_free_guidance` module (classes, strided convolutions, no learned
keys and values) is the same network with other parts.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from diffmem.errors import UserError
from diffmem.models.denoiser import count_parameters
from diffmem.models.networks.lucidrains_settings import (
    AttentionShape,
    LucidrainsSettings,
    Untold,
    settings_of,
)
from diffmem.models.weights import check_numbers, check_tensors

__all__ = ["LucidrainsUNet", "load_unet"]


class _RMSNorm(nn.Module):
    """Each pixel's vector over channels, divided by its root mean square, times a learned gain; no mean is taken off."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.g = nn.Parameter(torch.ones(1, channels, 1, 1))

    def forward(self, x: Tensor) -> Tensor:
        return F.normalize(x, dim=1) * (self.g * math.sqrt(x.shape[1]))


class _Sinusoids(nn.Module):
    """Sines, then cosines, of frequencies from 1 down to 1 / base."""

    def __init__(self, channels: int, base: float) -> None:
        super().__init__()
        self.pairs, self.base = channels // 2, base

    def forward(self, t: Tensor) -> Tensor:
        steps = torch.arange(self.pairs, dtype=torch.float32, device=t.device)
        angles = torch.outer(t, (steps * (-math.log(self.base) / (self.pairs - 1))).exp())
        return torch.cat([angles.sin(), angles.cos()], dim=1)


class _Fourier(nn.Module):
    """The time itself, then sines and cosines of stored frequencies."""

    def __init__(self, frequencies: int) -> None:
        super().__init__()
        self.weights = nn.Parameter(torch.zeros(frequencies))

    def forward(self, t: Tensor) -> Tensor:
        angles = torch.outer(t, self.weights) * (2 * math.pi)
        return torch.cat([t[:, None], angles.sin(), angles.cos()], dim=1)


class _Convolution(nn.Module):
    """A 3x3 convolution, a norm, optionally a scale and a shift of each channel, and SiLU."""

    def __init__(self, inputs: int, outputs: int, settings: LucidrainsSettings) -> None:
        super().__init__()
        self.proj = nn.Conv2d(inputs, outputs, 3, padding=1)
        self.norm = nn.GroupNorm(settings.groups, outputs) if settings.group_norm else _RMSNorm(outputs)

    def forward(self, x: Tensor, modulation: tuple[Tensor, Tensor] | None = None) -> Tensor:
        x = self.norm(self.proj(x))
        if modulation is not None:
            scale, shift = modulation
            x = x * (scale + 1) + shift
        return F.silu(x)


class _Residual(nn.Module):
    """Two convolutions beside an identity (or a 1x1 convolution where channels change); the condition acts after the first."""

    def __init__(self, inputs: int, outputs: int, settings: LucidrainsSettings) -> None:
        super().__init__()
        self.mlp = nn.Sequential(
            nn.SiLU(), nn.Linear(settings.condition + settings.class_condition, 2 * outputs)
        )
        self.block1 = _Convolution(inputs, outputs, settings)
        self.block2 = _Convolution(outputs, outputs, settings)
        self.res_conv = nn.Identity() if inputs == outputs else nn.Conv2d(inputs, outputs, 1)

    def forward(self, x: Tensor, condition: Tensor) -> Tensor:
        scale, shift = self.mlp(condition)[:, :, None, None].chunk(2, dim=1)
        out: Tensor = self.block2(self.block1(x, (scale, shift))) + self.res_conv(x)
        return out


class _Attention(nn.Module):
    """What attention of the normed pixels adds to them."""

    mem_kv: nn.Parameter | None

    def __init__(self, channels: int, shape: AttentionShape) -> None:
        super().__init__()
        inner = shape.heads * shape.head_width
        self.shape = shape
        self.norm = _RMSNorm(channels)
        self.to_qkv = nn.Conv2d(channels, 3 * inner, 1, bias=False)
        out = nn.Conv2d(inner, channels, 1)
        self.to_out = nn.Sequential(out, _RMSNorm(channels)) if shape.linear else out
        sizes = (shape.head_width, shape.memory) if shape.linear else (shape.memory, shape.head_width)
        self.mem_kv = nn.Parameter(torch.zeros(2, shape.heads, *sizes)) if shape.memory else None

    def forward(self, x: Tensor) -> Tensor:
        batch, _, height, width = x.shape
        heads, head_width = self.shape.heads, self.shape.head_width
        # (B, heads, head_width, positions)
        q, k, v = (
            part.reshape(batch, heads, head_width, height * width)
            for part in self.to_qkv(self.norm(x)).chunk(3, dim=1)
        )
        if self.mem_kv is not None:
            learned = self.mem_kv if self.shape.linear else self.mem_kv.mT
            k, v = (
                torch.cat([one.expand(batch, -1, -1, -1), given], dim=3)
                for one, given in zip(learned, (k, v), strict=True)
            )
        if self.shape.linear:
            mixed = v @ k.softmax(dim=3).mT @ (q.softmax(dim=2) / math.sqrt(head_width))
        else:
            mixed = F.scaled_dot_product_attention(q.mT, k.mT, v.mT).mT
        out: Tensor = self.to_out(mixed.reshape(batch, heads * head_width, height, width))
        return out


class LucidrainsUNet(nn.Module):
    """F(x, t, labels) of the package, x (B, C, H, W) with sides that are multiples of 2^(levels - 1).

    Args:
        settings: Its sizes.
        image_channels: C; the first convolution reads C or 2 C channels, the last one writes C or 2 C.
    """

    def __init__(self, settings: LucidrainsSettings, image_channels: int) -> None:
        super().__init__()
        self.image_channels = image_channels
        self.self_conditioned = settings.inputs == 2 * image_channels
        self.learned_variance = settings.outputs == 2 * image_channels
        self.levels = len(settings.widths) - 1
        first, bottom, condition = settings.widths[0], settings.widths[-1], settings.condition
        self.init_conv = nn.Conv2d(settings.inputs, first, 7, padding=3)
        self.time_mlp = nn.Sequential(
            _Fourier(settings.frequencies)
            if settings.frequencies
            else _Sinusoids(settings.embedding, settings.base),
            nn.Linear(settings.embedding, condition),
            nn.GELU(),
            nn.Linear(condition, condition),
        )
        if settings.num_labels:
            self.classes_emb = nn.Embedding(settings.num_labels, settings.class_width)
            self.null_classes_emb = nn.Parameter(torch.zeros(settings.class_width))
            self.classes_mlp = nn.Sequential(
                nn.Linear(settings.class_width, settings.class_condition),
                nn.GELU(),
                nn.Linear(settings.class_condition, settings.class_condition),
            )
        self.downs, self.ups = nn.ModuleList(), nn.ModuleList()
        for level, shape in enumerate(settings.attention):
            above, below = settings.widths[level : level + 2]
            last = level + 1 == self.levels
            blocks = [_Residual(above, above, settings) for _ in range(2)]
            self.downs.append(
                nn.ModuleList([*blocks, _Attention(above, shape), _halving(above, below, last, settings)])
            )
            blocks = [_Residual(below + above, below, settings) for _ in range(2)]
            rise = nn.Conv2d(below, above, 3, padding=1)
            doubling = rise if level == 0 else nn.Sequential(nn.Upsample(scale_factor=2), rise)
            self.ups.insert(0, nn.ModuleList([*blocks, _Attention(below, shape), doubling]))
        self.mid_block1 = _Residual(bottom, bottom, settings)
        self.mid_attn = _Attention(bottom, settings.middle)
        self.mid_block2 = _Residual(bottom, bottom, settings)
        self.final_res_block = _Residual(2 * first, settings.out_width, settings)
        self.final_conv = nn.Conv2d(settings.out_width, settings.outputs, 1)
        self.num_labels = settings.num_labels

    def __repr__(self) -> str:
        return f"{type(self).__name__}, {count_parameters(self):,} parameters"

    def forward(self, x: Tensor, t: Tensor, labels: Tensor | None = None) -> Tensor:
        """Predict what the network was trained to predict.

        Args:
            x: float32 (B, C, H, W).
            t: float32 (B,), timesteps (or whatever else the network embeds).
            labels: int64 (B,), `num_labels` for "no label"; none without classes.

        Returns:
            float32 (B, C, H, W). Self-conditioning has zeros for the earlier estimate, and a learned variance is left out.
        """
        condition = self.time_mlp(t)
        if self.num_labels:
            table = torch.cat([self.classes_emb.weight, self.null_classes_emb[None]])
            condition = torch.cat([condition, self.classes_mlp(table[labels])], dim=1)
        if self.self_conditioned:
            x = torch.cat([torch.zeros_like(x), x], dim=1)
        x = first = self.init_conv(x)
        skips: list[Tensor] = []
        for parts in self.downs:
            block0, block1, attention, halving = cast("list[nn.Module]", parts)
            x = block0(x, condition)
            skips.append(x)
            x = block1(x, condition)
            x = x + attention(x)
            skips.append(x)
            x = halving(x)
        x = self.mid_block1(x, condition)
        x = x + self.mid_attn(x)
        x = self.mid_block2(x, condition)
        for parts in self.ups:
            block0, block1, attention, doubling = cast("list[nn.Module]", parts)
            x = block0(torch.cat([x, skips.pop()], dim=1), condition)
            x = block1(torch.cat([x, skips.pop()], dim=1), condition)
            x = doubling(x + attention(x))
        out: Tensor = self.final_conv(self.final_res_block(torch.cat([x, first], dim=1), condition))
        return out[:, : self.image_channels]


def _halving(above: int, below: int, last: bool, settings: LucidrainsSettings) -> nn.Module:
    if last:
        return nn.Conv2d(above, below, 3, padding=1)
    if settings.strided:
        return nn.Conv2d(above, below, 4, stride=2, padding=1)
    return nn.Sequential(nn.PixelUnshuffle(2), nn.Conv2d(4 * above, below, 1))


def load_unet(
    state: Mapping[str, Tensor], image_channels: int, untold: Untold | None = None
) -> LucidrainsUNet:
    """Return the network of tensors, every one of which is used.

    Args:
        state: Tensors by the names of the package's `Unet`, of any float type.
        image_channels: Channels of the images.
        untold: As of `settings_of`.

    Returns:
        The network: float32 on the device of the tensors, in evaluation mode, weights frozen.

    Raises:
        UserError: The tensors are not exactly those of one network, not finite, or not for images of that many channels.
    """
    settings = settings_of(state, untold)
    for what, channels in (("reads", settings.inputs), ("predicts", settings.outputs)):
        if channels not in (image_channels, 2 * image_channels):
            raise UserError(
                f"The network {what} {channels} channels, which does not fit images of {image_channels}; give images (image_shape) of the"
                " channels that it was trained on."
            )
    # Without storage: whatever the shapes claim, no more is allocated than the tensors hold.
    with torch.device("meta"):
        network = LucidrainsUNet(settings, image_channels)
    check_tensors(state, network.state_dict())
    check_numbers(state)
    network.load_state_dict({name: tensor.float() for name, tensor in state.items()}, assign=True)
    return network.eval().requires_grad_(False)
