"""DDPM++ and its training in plain eager PyTorch: what the speed of this package's training is measured against.

The network is the one that `build_denoiser` makes of a configuration (same parameters by name, same function), written as one
would write it first: layers of `torch.nn`, contiguous images, attention by softmax of a product. So is the training: a shuffling
`DataLoader` over a map-style set, `torch.optim.Adam` with its defaults, an average parameter by parameter, the loss read every
step. It is used by `training.py` on the CPU and by `gpu.py`.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Iterator
from contextlib import nullcontext
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset

from diffmem.models import ModelConfig, build_denoiser
from diffmem.training import TrainingConfig

__all__ = ["PlainDenoiser", "plain_denoiser", "plain_steps"]


def _norm(channels: int) -> nn.GroupNorm:
    return nn.GroupNorm(min(32, channels // 4), channels, eps=1e-6)


class PlainBlock(nn.Module):
    """Two normalised convolutions with the noise embedding between them, a skip around them, then attention."""

    def __init__(
        self,
        inputs: int,
        outputs: int,
        embedding: int,
        dropout: float,
        resample: str = "none",
        attention: bool = False,
    ) -> None:
        super().__init__()
        self.inputs, self.resample, self.attention = inputs, resample, attention
        self.norm0, self.norm1 = _norm(inputs), _norm(outputs)
        self.conv0 = nn.Conv2d(inputs, outputs, 3, padding=1)
        self.affine = nn.Linear(embedding, outputs)
        self.dropout = nn.Dropout(dropout)
        self.conv1 = nn.Conv2d(outputs, outputs, 3, padding=1)
        changes = inputs != outputs or resample != "none"
        self.skip = nn.Conv2d(inputs, outputs, 1) if changes else None
        if attention:
            self.norm2 = _norm(outputs)
            self.qkv = nn.Conv2d(outputs, 3 * outputs, 1)
            self.proj = nn.Conv2d(outputs, outputs, 1)

    def _resized(self, x: Tensor) -> Tensor:
        if self.resample == "down":
            return F.avg_pool2d(x, 2)
        return F.interpolate(x, scale_factor=2, mode="nearest") if self.resample == "up" else x

    def forward(self, x: Tensor, embedding: Tensor) -> Tensor:
        """Map (B, inputs, H, W) to (B, outputs, H', W')."""
        y = self.conv0(self._resized(F.silu(self.norm0(x))))
        y = F.silu(self.norm1(y + self.affine(embedding)[:, :, None, None]))
        y = self.conv1(self.dropout(y))
        x = (y + (x if self.skip is None else self.skip(self._resized(x)))) / math.sqrt(2)
        if self.attention:
            batch, channels, height, width = x.shape
            q, k, v = self.qkv(self.norm2(x)).reshape(batch, channels, 3, height * width).unbind(2)
            weights = torch.softmax(q.transpose(1, 2) @ k / math.sqrt(channels), dim=-1)
            y = (v @ weights.transpose(1, 2)).reshape(batch, channels, height, width)
            x = (x + self.proj(y)) / math.sqrt(2)
        return x


class PlainUNet(nn.Module):
    """DDPM++ without labels; modules are named as in this package."""

    def __init__(self, config: ModelConfig, image_channels: int, resolution: int) -> None:
        super().__init__()
        base, embedding = config.channels, 4 * config.channels
        self.pairs = base // 2
        self.map_layer0, self.map_layer1 = nn.Linear(base, embedding), nn.Linear(embedding, embedding)
        widths = [base * multiplier for multiplier in config.multipliers]
        self.enc, self.dec = nn.ModuleDict(), nn.ModuleDict()
        skips, width = [], base
        for level, outputs in enumerate(widths):
            size = resolution >> level
            if level == 0:
                self.enc[f"{size}x{size}_conv"] = nn.Conv2d(image_channels, base, 3, padding=1)
            else:
                self.enc[f"{size}x{size}_down"] = PlainBlock(width, width, embedding, config.dropout, "down")
            skips.append(width)
            for i in range(config.blocks):
                self.enc[f"{size}x{size}_block{i}"] = PlainBlock(
                    width, outputs, embedding, config.dropout, attention=size in config.attention
                )
                width = outputs
                skips.append(width)
        for level, outputs in reversed(list(enumerate(widths))):
            size = resolution >> level
            if level == len(widths) - 1:
                self.dec[f"{size}x{size}_in0"] = PlainBlock(
                    width, width, embedding, config.dropout, attention=True
                )
                self.dec[f"{size}x{size}_in1"] = PlainBlock(width, width, embedding, config.dropout)
            else:
                self.dec[f"{size}x{size}_up"] = PlainBlock(width, width, embedding, config.dropout, "up")
            for i in range(config.blocks + 1):
                attends = size in config.attention and i == config.blocks
                self.dec[f"{size}x{size}_block{i}"] = PlainBlock(
                    width + skips.pop(), outputs, embedding, config.dropout, attention=attends
                )
                width = outputs
        self.dec[f"{resolution}x{resolution}_aux_norm"] = _norm(width)
        self.dec[f"{resolution}x{resolution}_aux_conv"] = nn.Conv2d(width, image_channels, 3, padding=1)

    def forward(self, x: Tensor, noise: Tensor) -> Tensor:
        """Map a scaled noisy image (B, C, H, W) and its noise conditioning (B,) to the raw output."""
        exponents = torch.arange(self.pairs, dtype=torch.float32, device=x.device) / (self.pairs - 1)
        angles = torch.outer(noise, (1 / 10_000) ** exponents)
        embedding = torch.cat([angles.sin(), angles.cos()], dim=1)
        embedding = F.silu(self.map_layer1(F.silu(self.map_layer0(embedding))))
        skips = []
        for module in self.enc.values():
            x = module(x, embedding) if isinstance(module, PlainBlock) else module(x)
            skips.append(x)
        for module in self.dec.values():
            if isinstance(module, PlainBlock):
                x = torch.cat([x, skips.pop()], dim=1) if x.shape[1] != module.inputs else x
                x = module(x, embedding)
            elif isinstance(module, nn.GroupNorm):
                x = F.silu(module(x))
            else:
                x = module(x)
        return x


class PlainDenoiser(nn.Module):
    """D = c_skip x + c_out F(c_in x; c_noise), with VP or EDM preconditioning (Karras et al. 2022, Table 1).

    Args:
        config: DDPM++ with positional embedding and no skip mask.
        image_shape: (C, H, W).
    """

    def __init__(self, config: ModelConfig, image_shape: tuple[int, int, int]) -> None:
        super().__init__()
        known = ("ddpmpp", "positional", None)
        if (config.architecture, config.embedding, config.skip_mask) != known:
            raise SystemExit("The plain network is DDPM++ with a positional embedding and all skips.")
        self.vp = config.preconditioning == "vp"
        self.model = PlainUNet(config, image_shape[0], image_shape[1])

    def forward(self, x: Tensor, sigma: Tensor) -> Tensor:
        """Denoise images (B, C, H, W) with noise levels (B,)."""
        level = sigma.reshape(-1, 1, 1, 1)
        if self.vp:
            time = ((0.01 + 39.8 * (1 + sigma**2).log()).sqrt() - 0.1) / 19.9
            return x - level * self.model(x / (level**2 + 1).sqrt(), 999 * time).float()
        total = level**2 + 0.25
        raw = self.model(x / total.sqrt(), sigma.log() / 4).float()
        return 0.25 / total * x + 0.5 * level / total.sqrt() * raw


def plain_denoiser(config: ModelConfig, image_shape: tuple[int, int, int]) -> PlainDenoiser:
    """Return the plain network with the starting weights of `build_denoiser`."""
    weights = build_denoiser(config, image_shape).state_dict()
    plain = PlainDenoiser(config, image_shape)
    plain.load_state_dict({name: weights[name] for name in plain.state_dict()})
    return plain


class _Images(Dataset[np.ndarray]):
    def __init__(self, images: np.ndarray) -> None:
        self.images = images

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, index: int) -> np.ndarray:
        return self.images[index].astype("float32") / 127.5 - 1


def _batches(images: np.ndarray, size: int, workers: int) -> Iterator[Tensor]:
    options: dict[str, Any] = {"shuffle": True, "drop_last": True, "num_workers": workers}
    loader = DataLoader(_Images(images), size, persistent_workers=workers > 0, **options)
    while True:
        yield from loader


def plain_steps(
    denoiser: nn.Module,
    images: np.ndarray,
    config: TrainingConfig,
    device: str = "cpu",
    workers: int = 0,
    half: bool = False,
) -> Callable[[], int]:
    """Return a function that trains one batch and returns the number of its images.

    Args:
        denoiser: Called with noisy images and their noise levels; moved to the device.
        images: uint8 (N, C, H, W), N at least the batch size.
        config: Batch size, learning rate and noise levels.
        device: Where to train.
        workers: Processes that load batches.
        half: Compute the network in bfloat16 (autocast).
    """
    denoiser = denoiser.to(device).train()
    average = copy.deepcopy(denoiser).eval().requires_grad_(False)
    optimizer = torch.optim.Adam(denoiser.parameters(), config.learning_rate, config.betas)
    batches = _batches(images, config.batch_size, workers)
    vp = getattr(denoiser, "vp", False)
    losses = []

    def step() -> int:
        x = next(batches).to(device)
        shape = (len(x), 1, 1, 1)
        if vp:
            time = 1 - torch.rand(shape, device=device) * (1 - 1e-5)
            sigma = (torch.exp(9.95 * time**2 + 0.1 * time) - 1).sqrt()
            weight = 1 / sigma**2
        else:
            sigma = (torch.randn(shape, device=device) * config.p_std + config.p_mean).exp()
            weight = (sigma**2 + 0.25) / (sigma * 0.5) ** 2
        optimizer.zero_grad()
        with torch.autocast(torch.device(device).type, torch.bfloat16) if half else nullcontext():
            denoised = denoiser(x + torch.randn_like(x) * sigma, sigma.flatten())
        loss = (weight * (denoised - x) ** 2).sum() / len(x)
        loss.backward()
        optimizer.step()
        with torch.no_grad():
            for ours, theirs in zip(average.parameters(), denoiser.parameters(), strict=True):
                ours.copy_(theirs.lerp(ours, 0.99))
        losses.append(loss.item())
        return len(x)

    return step
