"""The U-Net of w86763777's pytorch-ddpm, that of Ho et al. 2020 ("Denoising Diffusion Probabilistic Models"), from its tensors' shapes.

Residual blocks with the timestep added, one attention head, strided convolutions downwards. Its timesteps are in a table of sines and
cosines that is never trained, so the sinusoids serve for fractional timesteps, too. Names of modules are those of the trainer's files.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from diffmem.errors import UserError
from diffmem.models.networks.shaped import ShapedNetwork, Shapes, sinusoids

__all__ = ["TIME_TABLE", "TabledUNet", "time_table"]

TIME_TABLE = "time_embedding.timembedding.0.weight"
"""The tensor of the timesteps' sinusoids, (T, channels)."""


def time_table(steps: Tensor, channels: int) -> Tensor:
    """Return the embedding of timesteps, (B, channels): sine and cosine alternate."""
    return torch.stack(sinusoids(steps, channels), dim=2).flatten(1)


class _Attention(nn.Module):
    def __init__(self, shapes: Shapes, at: str) -> None:
        super().__init__()
        self.group_norm = shapes.norm(f"{at}.group_norm")
        self.proj_q, self.proj_k, self.proj_v, self.proj = (
            shapes.conv(f"{at}.{name}", 1) for name in ("proj_q", "proj_k", "proj_v", "proj")
        )

    def forward(self, x: Tensor) -> Tensor:
        y = self.group_norm(x)
        q, k, v = (layer(y).flatten(2).mT for layer in (self.proj_q, self.proj_k, self.proj_v))
        y = F.scaled_dot_product_attention(q, k, v).mT.reshape(x.shape)
        return x + self.proj(y)  # type: ignore[no-any-return]


class _Block(nn.Module):
    def __init__(self, shapes: Shapes, at: str) -> None:
        super().__init__()
        silu = nn.SiLU()
        self.block1 = nn.Sequential(shapes.norm(f"{at}.block1.0"), silu, shapes.conv(f"{at}.block1.2"))
        self.temb_proj = nn.Sequential(silu, shapes.linear(f"{at}.temb_proj.1"))
        # Between the activation and the convolution of the trainer's block is the dropout, which only training has.
        self.block2 = nn.Sequential(
            shapes.norm(f"{at}.block2.0"), silu, nn.Identity(), shapes.conv(f"{at}.block2.3")
        )
        self.shortcut = shapes.conv(f"{at}.shortcut", 1) if f"{at}.shortcut" in shapes else nn.Identity()
        self.attn = _Attention(shapes, f"{at}.attn") if f"{at}.attn.proj_q" in shapes else nn.Identity()

    def forward(self, x: Tensor, time: Tensor) -> Tensor:
        y = self.block1(x) + self.temb_proj(time)[:, :, None, None]
        return self.attn(self.block2(y) + self.shortcut(x))  # type: ignore[no-any-return]


class _Resampling(nn.Module):
    def __init__(self, shapes: Shapes, at: str, doubles: bool) -> None:
        super().__init__()
        self.doubles = doubles
        self.main = shapes.conv(f"{at}.main", stride=1 if doubles else 2)

    def forward(self, x: Tensor, time: Tensor) -> Tensor:
        return self.main(F.interpolate(x, scale_factor=2.0) if self.doubles else x)  # type: ignore[no-any-return]


class _Time(nn.Module):
    def __init__(self, shapes: Shapes) -> None:
        super().__init__()
        at = "time_embedding.timembedding"
        rows, channels = shapes.of(f"{at}.0", 2)
        table = nn.Embedding(rows, channels, device="meta")
        self.timembedding = nn.Sequential(
            table, shapes.linear(f"{at}.1"), nn.SiLU(), shapes.linear(f"{at}.3")
        )
        self.rows, self.channels = rows, channels

    def forward(self, t: Tensor) -> Tensor:
        return self.timembedding[1:](time_table(t, self.channels))  # type: ignore[no-any-return]


class TabledUNet(ShapedNetwork):
    """F(x_t, t, labels) of pytorch-ddpm: the noise in x_t, float32 (B, C, H, W), at timesteps t (B,), which may be fractional.

    Args:
        tensors: Its state dict, of which only the names and the shapes are used.

    Attributes:
        steps: T, the number of timesteps.

    Raises:
        UserError: They lack a layer or have a shape that it cannot have.
    """

    def __init__(self, tensors: Mapping[str, Tensor]) -> None:
        super().__init__()
        shapes = Shapes(tensors)
        self.time_embedding = _Time(shapes)
        self.head = shapes.conv("head")
        self.downblocks = self._blocks(shapes, "downblocks", doubles=False)
        self.middleblocks = self._blocks(shapes, "middleblocks", doubles=False)
        self.upblocks = self._blocks(shapes, "upblocks", doubles=True)
        self.tail = nn.Sequential(shapes.norm("tail.0"), nn.SiLU(), shapes.conv("tail.2"))
        self.channels, self.steps = self.head.in_channels, self.time_embedding.rows
        self.scale = 2 ** sum(isinstance(block, _Resampling) for block in self.downblocks)
        skips = sum(isinstance(block, _Block) for block in self.upblocks)
        if skips != len(self.downblocks) + 1:
            raise UserError(
                f"It has {len(self.downblocks)} 'downblocks' and {skips} 'upblocks' that join them."
            )

    @staticmethod
    def _blocks(shapes: Shapes, at: str, doubles: bool) -> nn.ModuleList:
        indices = shapes.indices(at)
        if indices != list(range(len(indices))):
            raise UserError(f"Of {at!r}, some are missing: there are only {indices}.")
        blocks = (f"{at}.{i}" for i in indices)
        return nn.ModuleList(
            _Resampling(shapes, one, doubles) if f"{one}.main" in shapes else _Block(shapes, one)
            for one in blocks
        )

    def forward(self, x: Tensor, t: Tensor, labels: Tensor | None = None) -> Tensor:
        """Return the noise in x, (B, C, H, W); labels are ignored."""
        time = self.time_embedding(t)
        y = self.head(x)
        skips = [y]
        for block in self.downblocks:
            y = block(y, time)
            skips.append(y)
        for block in self.middleblocks:
            y = block(y, time)
        for block in self.upblocks:
            y = block(torch.cat([y, skips.pop()], dim=1) if isinstance(block, _Block) else y, time)
        return self.tail(y)  # type: ignore[no-any-return]
