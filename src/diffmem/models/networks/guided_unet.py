"""The U-Net of improved-diffusion and guided-diffusion, from the shapes of its tensors (Dhariwal and Nichol 2021, ADM).

It is the network of EDM's `DhariwalUNet` in another layout: one list of blocks each way, whose resolutions are not named; attention whose
heads no shape tells; and variants that EDM has not (strided convolutions, the embedding added before the normalisation, a variance beside
the prediction). Names of modules are those of the trainers' files.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from diffmem.errors import UserError
from diffmem.models.networks.shaped import ShapedNetwork, Shapes, sinusoids

__all__ = ["GuidedUNet", "Heads"]


@dataclass(frozen=True)
class Heads:
    """How attention is split, which no shape tells.

    Attributes:
        number: Of heads; none if `channels` is given.
        channels: Of each head.
        upwards: Number of heads in the way up; none for `number`. `channels` goes before it.
        new_order: Whether the channels of queries, keys and values run as (query/key/value, head), not as (head, query/key/value).
    """

    number: int | None = None
    channels: int | None = None
    upwards: int | None = None
    new_order: bool = False

    def of(self, channels: int, upwards: bool) -> int:
        """Return the number of heads over some channels.

        Raises:
            UserError: The channels have no such equal parts.
        """
        if self.channels is not None:
            number, rest = divmod(channels, self.channels)
        else:
            number = (self.upwards if upwards else None) or self.number or 1
            rest = channels % number
        if rest or not number:
            raise UserError(
                f"Attention over {channels} channels cannot be split into heads of {self.channels} channels."
                if self.channels is not None
                else f"Attention over {channels} channels cannot be split into {number} equal heads."
            )
        return number


class _Attention(nn.Module):
    def __init__(self, shapes: Shapes, at: str, heads: Heads) -> None:
        super().__init__()
        self.norm = shapes.norm(f"{at}.norm")
        self.qkv = shapes.pointwise(f"{at}.qkv")
        self.proj_out = shapes.pointwise(f"{at}.proj_out")
        self.heads = heads.of(self.qkv.in_channels, upwards=at.startswith("output_blocks"))
        self.new_order = heads.new_order

    def forward(self, x: Tensor, embedding: Tensor) -> Tensor:
        flat = x.flatten(2)
        batch, channels, pixels = flat.shape
        each = channels // self.heads
        qkv = self.qkv(self.norm(flat))
        if self.new_order:
            q, k, v = qkv.reshape(batch, 3, self.heads, each, pixels).mT.unbind(1)
        else:
            q, k, v = qkv.reshape(batch, self.heads, 3, each, pixels).mT.unbind(2)
        y = F.scaled_dot_product_attention(q, k, v).mT.reshape(flat.shape)
        return (flat + self.proj_out(y)).reshape(x.shape)  # type: ignore[no-any-return]


class _Down(nn.Module):
    def __init__(self, shapes: Shapes, at: str) -> None:
        super().__init__()
        self.op = shapes.conv(f"{at}.op", stride=2)

    def forward(self, x: Tensor, embedding: Tensor) -> Tensor:
        return self.op(x)  # type: ignore[no-any-return]


class _Up(nn.Module):
    def __init__(self, shapes: Shapes, at: str) -> None:
        super().__init__()
        self.conv = shapes.conv(f"{at}.conv")

    def forward(self, x: Tensor, embedding: Tensor) -> Tensor:
        return self.conv(_doubled(x))  # type: ignore[no-any-return]


class _Resized(nn.Module):
    """A change of the sides without tensors, which is called like a block."""

    def __init__(self, change: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.change = change

    def forward(self, x: Tensor, embedding: Tensor) -> Tensor:
        return self.change(x)


def _doubled(x: Tensor) -> Tensor:
    return F.interpolate(x, scale_factor=2.0)


def _halved(x: Tensor) -> Tensor:
    return F.avg_pool2d(x, 2)


def _same(x: Tensor) -> Tensor:
    return x


class _Block(nn.Module):
    def __init__(self, shapes: Shapes, at: str, halves: bool, doubles: bool) -> None:
        super().__init__()
        silu, idle = nn.SiLU(), nn.Identity()
        self.in_layers = nn.Sequential(
            shapes.norm(f"{at}.in_layers.0"), silu, shapes.conv(f"{at}.in_layers.2")
        )
        modulation = shapes.linear(f"{at}.emb_layers.1")
        self.emb_layers = nn.Sequential(silu, modulation)
        # In the place of the trainers' dropout.
        self.out_layers = nn.Sequential(
            shapes.norm(f"{at}.out_layers.0"), silu, idle, shapes.conv(f"{at}.out_layers.3")
        )
        skip = f"{at}.skip_connection"
        self.skip_connection = shapes.conv(skip, 1) if skip in shapes else idle
        self.scales = modulation.out_features == 2 * shapes.of(f"{at}.in_layers.2", 4)[0]
        self.resize = _halved if halves else _doubled if doubles else _same

    def forward(self, x: Tensor, embedding: Tensor) -> Tensor:
        y = self.in_layers[2](self.resize(self.in_layers[:2](x)))
        modulation = self.emb_layers(embedding)[:, :, None, None]
        if self.scales:
            scale, shift = modulation.chunk(2, dim=1)
            y = self.out_layers[1:](self.out_layers[0](y) * (1 + scale) + shift)
        else:
            y = self.out_layers(y + modulation)
        return self.skip_connection(self.resize(x)) + y  # type: ignore[no-any-return]


class _Input(nn.Module):
    """The first convolution, which is called like a block; its tensors are named as the convolution's own."""

    def __init__(self, shapes: Shapes, at: str) -> None:
        super().__init__()
        conv = shapes.conv(at)
        self.weight, self.bias = conv.weight, conv.bias

    def forward(self, x: Tensor, embedding: Tensor) -> Tensor:
        return F.conv2d(x, self.weight, self.bias, padding=1)


class GuidedUNet(ShapedNetwork):
    """F(x_t, t, labels) of improved-diffusion and guided-diffusion.

    x_t is float32 (B, C, H, W), t (B,), which may be fractional, labels int64 (B,) or none. A variance, which some networks predict
    beside, is left out.

    Where the resolution changes is read from the last layers of the way up. Each block there takes one output of the way down,
    the last one first, so that its mirror image is known, too: in the file, a block that halves the sides looks like any other.
    Where the sides change without tensors (`conv_resample` off: a mean of 2 x 2, and doubling), the halving is a number that the way
    down leaves out, and the doubling ends its mirror image.

    Args:
        tensors: Its state dict, of which only the names and the shapes are used.
        heads: Of the attention.
        rate: What t is multiplied by: some trainings count every number of timesteps as 1,000.

    Attributes:
        num_labels: Number of classes, 0 for none.
        learns_variance: Whether a variance is predicted beside.

    Raises:
        UserError: The tensors lack a layer or have a shape that it cannot have, or the heads do not fit.
    """

    def __init__(self, tensors: Mapping[str, Tensor], heads: Heads, rate: float = 1.0) -> None:
        super().__init__()
        shapes = Shapes(tensors)
        self.rate = rate
        self.time_embed = nn.Sequential(
            shapes.linear("time_embed.0"), nn.SiLU(), shapes.linear("time_embed.2")
        )
        self.width = shapes.of("time_embed.0", 2)[1]
        self.num_labels = 0
        if "label_emb" in shapes:
            self.num_labels, width = shapes.of("label_emb", 2)
            self.label_emb = nn.Embedding(self.num_labels, width, device="meta")
        count = len(shapes.indices("output_blocks"))
        if shapes.indices("output_blocks") != list(range(count)):
            raise UserError(f"Of {count} 'output_blocks', it has only {shapes.indices('output_blocks')}.")
        halvings = {count - 1 - i for i in range(count) if _doubles(shapes, f"output_blocks.{i}")}
        pooled = _pooled(shapes.indices("input_blocks"), count, bool(halvings))
        self.input_blocks = nn.ModuleList(
            _Stage([_Resized(_halved)])
            if i in pooled
            else _stage(shapes, f"input_blocks.{i}", heads, halves=i in halvings)
            for i in range(count)
        )
        self.middle_block = _stage(shapes, "middle_block", heads)
        ups = [_stage(shapes, f"output_blocks.{i}", heads) for i in range(count)]
        for i in pooled:
            ups[count - 1 - i].append(_Resized(_doubled))
        self.output_blocks = nn.ModuleList(ups)
        halvings |= pooled
        self.out = nn.Sequential(shapes.norm("out.0"), nn.SiLU(), shapes.conv("out.2"))
        self.channels, self.scale = shapes.of("input_blocks.0.0", 4)[1], 2 ** len(halvings)
        self.learns_variance = self.out[2].out_channels == 2 * self.channels

    def forward(self, x: Tensor, t: Tensor, labels: Tensor | None = None) -> Tensor:
        """Return the prediction, (B, C, H, W)."""
        sines, cosines = sinusoids(t.float() * self.rate, self.width)
        embedding = self.time_embed(torch.cat([cosines, sines], dim=1))
        if self.num_labels:
            embedding = embedding + self.label_emb(labels)
        skips: list[Tensor] = []
        y = x
        for stage in self.input_blocks:
            y = stage(y, embedding)
            skips.append(y)
        y = self.middle_block(y, embedding)
        for stage in self.output_blocks:
            y = stage(torch.cat([y, skips.pop()], dim=1), embedding)
        out: Tensor = self.out(y)
        return out[:, : self.channels] if self.learns_variance else out


class _Stage(nn.ModuleList):
    def forward(self, x: Tensor, embedding: Tensor) -> Tensor:
        for layer in self:
            x = layer(x, embedding)
        return x


def _doubles(shapes: Shapes, at: str) -> bool:
    """Whether a stage of the way up ends by doubling the sides."""
    return any(
        f"{at}.{j}.conv" in shapes or (j > 0 and f"{at}.{j}.in_layers.2" in shapes)
        for j in shapes.indices(at)
    )


def _pooled(found: list[int], count: int, changed: bool) -> set[int]:
    """Return the stages of the way down without tensors, which halve the sides.

    There is one between two levels, and all levels have the same number of blocks: with the first convolution counted to the first
    level, the numbers left out are every n-th one.

    Args:
        found: Numbers of the stages that have tensors.
        count: Of the stages.
        changed: Whether tensors change the sides already.

    Raises:
        UserError: Other numbers are left out.
    """
    missing = [i for i in range(count) if i not in found]
    level = missing[0] if missing else count
    regular = level > 1 and count % level == 0 and missing == list(range(level, count, level))
    if len(found) + len(missing) != count or (missing and (changed or not regular)):
        raise UserError(f"Of {count} 'input_blocks', it has only {found}.")
    return set(missing)


def _stage(shapes: Shapes, at: str, heads: Heads, halves: bool = False) -> _Stage:
    """Return the layers of one stage; of the way up, a second residual block is one that doubles the sides."""
    layers: list[nn.Module] = []
    for j in shapes.indices(at):
        one = f"{at}.{j}"
        if j != len(layers):
            raise UserError(f"It lacks the layer '{at}.{len(layers)}' of this network.")
        if one in shapes:
            layers.append(_Input(shapes, one))
        elif f"{one}.op" in shapes:
            layers.append(_Down(shapes, one))
        elif f"{one}.conv" in shapes:
            layers.append(_Up(shapes, one))
        elif f"{one}.qkv" in shapes:
            layers.append(_Attention(shapes, one, heads))
        else:
            layers.append(_Block(shapes, one, halves, doubles=j > 0 and at.startswith("output_blocks")))
    return _Stage(layers)
