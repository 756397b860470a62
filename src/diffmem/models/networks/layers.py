"""Layers of the U-Nets: linear maps and convolutions, resampling, group normalisation, embeddings.

Parameter and buffer names (`weight`, `bias`, `resample_filter`, `freqs`) are those of the EDM checkpoints, so
that a foreign state dict loads by name.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from diffmem.errors import UserError

__all__ = ["Conv", "FourierEmbedding", "GroupNorm", "Init", "Linear", "PositionalEmbedding"]


@dataclass(frozen=True)
class Init:
    """How a layer's parameters start.

    Attributes:
        mode: 'xavier_uniform' (Glorot and Bengio 2010), 'kaiming_uniform' or 'kaiming_normal' (He et al.
            2015).
        weight: Factor on the drawn weights.
        bias: Factor on the bias, drawn from the same distribution; 0 starts it at zero.
    """

    mode: Literal["xavier_uniform", "kaiming_uniform", "kaiming_normal"] = "xavier_uniform"
    weight: float = 1.0
    bias: float = 0.0

    def draw(self, shape: tuple[int, ...], fan_in: int, fan_out: int) -> Tensor:
        """Draw a tensor of unit factor from the mode's distribution."""
        scales = {
            "xavier_uniform": 6 / (fan_in + fan_out),
            "kaiming_uniform": 3 / fan_in,
            "kaiming_normal": 1 / fan_in,
        }
        if self.mode not in scales:
            raise ValueError(f"unknown initialisation {self.mode!r}")
        drawn = torch.randn(shape) if self.mode == "kaiming_normal" else 2 * torch.rand(shape) - 1
        return math.sqrt(scales[self.mode]) * drawn


class Linear(nn.Module):
    """An affine map of the last dimension, weight (out, in), started by an `Init`."""

    bias: nn.Parameter | None

    def __init__(self, inputs: int, outputs: int, init: Init, bias: bool = True) -> None:
        super().__init__()
        self.weight = nn.Parameter(init.weight * init.draw((outputs, inputs), inputs, outputs))
        self.bias = nn.Parameter(init.bias * init.draw((outputs,), inputs, outputs)) if bias else None

    def forward(self, x: Tensor) -> Tensor:
        """Map (..., in) to (..., out)."""
        return F.linear(x, self.weight, self.bias)


class Conv(nn.Module):
    """A convolution that may halve or double the resolution, or only do that (kernel 0).

    Resampling follows Zhang (2019, "Making Convolutional Networks Shift-Invariant Again"): a separable
    low-pass filter given by its taps, applied at the finer resolution. With taps [1, 1] halving is the mean
    of 2x2 pixels and doubling repeats each pixel, which is how they are computed.

    Args:
        inputs: Input channels.
        outputs: Output channels (equal to `inputs` for kernel 0).
        kernel: 0 (no convolution), 1 or 3; the resolution is kept by zero padding.
        resample: 'none', 'up' (double) or 'down' (halve).
        taps: Taps of the resampling filter, symmetric, of even length.
        filter_after: Filter after a halving convolution instead of before it (the residual path of NCSN++).
        init: Start of weight and bias.
    """

    weight: nn.Parameter | None
    bias: nn.Parameter | None
    resample_filter: Tensor | None

    def __init__(
        self,
        inputs: int,
        outputs: int,
        kernel: int,
        init: Init,
        *,
        resample: str = "none",
        taps: tuple[float, ...] = (1, 1),
        filter_after: bool = False,
    ) -> None:
        super().__init__()
        self.inputs, self.outputs, self.kernel = inputs, outputs, kernel
        self.resample, self.filter_after = resample, filter_after
        self.box = tuple(taps) == (1, 1)
        fan_in, fan_out = inputs * kernel**2, outputs * kernel**2
        if kernel:
            self.weight = nn.Parameter(
                init.weight * init.draw((outputs, inputs, kernel, kernel), fan_in, fan_out)
            )
            self.bias = nn.Parameter(init.bias * init.draw((outputs,), fan_in, fan_out))
        else:
            self.weight = self.bias = None
        row = torch.tensor(taps, dtype=torch.float32)
        square = (torch.outer(row, row) / row.sum() ** 2)[None, None]
        self.register_buffer("resample_filter", None if resample == "none" else square)

    def _filter(self, channels: int) -> tuple[Tensor, int]:
        assert self.resample_filter is not None
        size = self.resample_filter.shape[-1]
        return self.resample_filter.expand(channels, 1, size, size), (size - 1) // 2

    def _halve(self, x: Tensor) -> Tensor:
        if self.box:
            return F.avg_pool2d(x, 2)
        taps, padding = self._filter(x.shape[1])
        return F.conv2d(x, taps.to(x.dtype), groups=x.shape[1], stride=2, padding=padding)

    def _double(self, x: Tensor) -> Tensor:
        if self.box:
            return F.interpolate(x, scale_factor=2, mode="nearest")
        taps, padding = self._filter(x.shape[1])
        return F.conv_transpose2d(x, 4 * taps.to(x.dtype), groups=x.shape[1], stride=2, padding=padding)

    def _convolve(self, x: Tensor, padding: int) -> Tensor:
        return x if self.weight is None else F.conv2d(x, self.weight, self.bias, padding=padding)

    def forward(self, x: Tensor) -> Tensor:
        """Map (B, inputs, H, W) to (B, outputs, H', W'), H' = H, 2H or H/2."""
        padding = self.kernel // 2
        if self.resample == "up":
            # A 1x1 convolution commutes with repeating pixels and is four times cheaper before it.
            if self.kernel == 1 and self.box:
                return self._double(self._convolve(x, 0))
            return self._convolve(self._double(x), padding)
        if self.resample == "down":
            if not self.filter_after:
                return self._convolve(self._halve(x), padding)
            assert self.weight is not None
            taps, pad = self._filter(self.outputs)
            # Without bias first: the filter's zero padding must not see it.
            y = F.conv2d(x, self.weight, padding=padding + pad)
            y = F.conv2d(y, taps.to(y.dtype), groups=self.outputs, stride=2)
            return y if self.bias is None else y + self.bias.reshape(1, -1, 1, 1)
        return self._convolve(x, padding)


class GroupNorm(nn.GroupNorm):
    """Group normalisation (Wu and He 2018) with at most 32 groups of at least 4 channels.

    Raises:
        UserError: The channels cannot be split into that many equal groups.
    """

    def __init__(self, channels: int, eps: float) -> None:
        groups = min(32, channels // 4)
        if not groups or channels % groups:
            raise UserError(
                f"A layer of this network has {channels} channels, which cannot be split into"
                f" {max(1, groups)} equal groups of at least 4 for normalisation. Choose a base width"
                " that is a multiple of 32 (of 4 if no layer has more than 128 channels)."
            )
        super().__init__(groups, channels, eps)


class PositionalEmbedding(nn.Module):
    """Sinusoids of frequencies from 1 down to 1/10,000 (Vaswani et al. 2017; Ho et al. 2020).

    Args:
        channels: Size of the embedding, even: the cosines, then the sines.
        endpoint: Whether the lowest frequency is exactly 1/10,000 (DDPM++) or one step above it (ADM).
    """

    def __init__(self, channels: int, endpoint: bool) -> None:
        super().__init__()
        self.pairs, self.endpoint = channels // 2, endpoint

    def forward(self, x: Tensor) -> Tensor:
        """Embed the noise conditioning (B,) as (B, channels)."""
        steps = torch.arange(self.pairs, dtype=torch.float32, device=x.device)
        exponents = steps / (self.pairs - int(self.endpoint))
        angles = torch.outer(x, (1 / 10_000) ** exponents)
        return torch.cat([angles.cos(), angles.sin()], dim=1)


class FourierEmbedding(nn.Module):
    """Random Fourier features of scale 16 (Tancik et al. 2020; Song et al. 2021).

    Under VP preconditioning the conditioning runs to 999, so the phases reach some 1e5 radians: the embedding
    is practically a hash of the time (and of its float32 rounding). That is how the study ran it, so it is
    kept.
    """

    freqs: Tensor

    def __init__(self, channels: int, scale: float = 16.0) -> None:
        super().__init__()
        self.register_buffer("freqs", torch.randn(channels // 2) * scale)

    def forward(self, x: Tensor) -> Tensor:
        """Embed the noise conditioning (B,) as (B, channels): the cosines, then the sines."""
        angles = torch.outer(x, 2 * math.pi * self.freqs)
        return torch.cat([angles.cos(), angles.sin()], dim=1)
