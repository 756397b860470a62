"""What the shapes of the tensors of a U-Net of denoising-diffusion-pytorch tell about it, and what they do not."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import NamedTuple

from torch import Tensor

from diffmem.errors import UserError

__all__ = ["AttentionShape", "LucidrainsSettings", "Untold", "settings_of"]

_GUIDED_HEADS = 4  # of all linear attention of `classifier_free_guidance`, whatever its arguments


@dataclass(frozen=True)
class AttentionShape:
    """One attention layer.

    Attributes:
        linear: Whether it mixes channels (linear attention) instead of positions.
        heads: Number of heads.
        head_width: Channels of a head.
        memory: Number of learned keys and values; 0 for none.
    """

    linear: bool
    heads: int
    head_width: int
    memory: int


class Untold(NamedTuple):
    """What the tensors of a network do not tell, with the package's defaults.

    Attributes:
        heads: Of the attention at the bottom, for networks without learned keys and values; none where the tensors tell.
        groups: Of GroupNorm, where blocks have it.
        base: Of the sinusoids: their frequencies are 1 down to 1 / base.
    """

    heads: int | None = None
    groups: int = 8
    base: float = 10_000.0


@dataclass(frozen=True)
class LucidrainsSettings:
    """What the tensors of a state dict tell about its network.

    Attributes:
        inputs: Channels that the first convolution reads: those of the image, or twice as many with self-conditioning.
        outputs: Channels that the last one writes: those of the image, or twice as many with a learned variance.
        widths: Channels after the first convolution, then after each level on the way down.
        out_width: Channels of the last residual block.
        embedding: Channels of the embedding of time.
        condition: Channels of that embedding after its two layers.
        frequencies: Number of stored Fourier frequencies; 0 for sinusoids.
        group_norm: Whether blocks have GroupNorm instead of the RMS norm.
        strided: Whether halving is a strided convolution of 4x4 instead of one of 2x2 cells.
        attention: Of each level on the way down.
        middle: Of the bottom.
        num_labels: Number of classes; 0 for none.
        class_width: Channels of a class's embedding.
        class_condition: Channels of that after its two layers; 0 without classes.
        groups: See `Untold`.
        base: Likewise.
    """

    inputs: int
    outputs: int
    widths: tuple[int, ...]
    out_width: int
    embedding: int
    condition: int
    frequencies: int
    group_norm: bool
    strided: bool
    attention: tuple[AttentionShape, ...]
    middle: AttentionShape
    num_labels: int = 0
    class_width: int = 0
    class_condition: int = 0
    groups: int = Untold().groups
    base: float = Untold().base


class _Shapes:
    """Sizes of tensors by name."""

    def __init__(self, state: Mapping[str, Tensor]) -> None:
        self._state = state

    def of(self, name: str, rank: int) -> tuple[int, ...]:
        tensor = self._state.get(name)
        if tensor is None:
            raise UserError(f"It lacks the tensor {name!r} of a U-Net of denoising-diffusion-pytorch.")
        if tensor.ndim != rank or 0 in tensor.shape:
            raise UserError(f"Tensor {name!r} has shape {tuple(tensor.shape)}, not {rank} positive sizes.")
        return tuple(tensor.shape)

    def attention(self, prefix: str, heads: int | None) -> AttentionShape:
        linear = f"{prefix}.to_out.0.weight" in self._state
        if heads is None:
            _, heads, *sizes = self.of(f"{prefix}.mem_kv", 4)
            head_width, memory = sizes if linear else sizes[::-1]
            return AttentionShape(linear, heads, head_width, memory)
        channels = self.of(f"{prefix}.to_qkv.weight", 4)[0]
        if channels % (3 * heads):
            raise UserError(f"Attention {prefix!r} of {channels // 3} channels cannot have {heads} heads.")
        return AttentionShape(linear, heads, channels // (3 * heads), 0)


def settings_of(state: Mapping[str, Tensor], untold: Untold | None = None) -> LucidrainsSettings:
    """Return what the shapes of tensors tell about their network.

    Args:
        state: Tensors by the names of the package's `Unet`.
        untold: What they do not tell; none for the defaults.

    Raises:
        UserError: A tensor that tells is missing, or its shape is of no such network.
    """
    shapes, untold = _Shapes(state), untold or Untold()
    levels = 1
    while f"downs.{levels}.0.block1.proj.weight" in state:
        levels += 1
    first, inputs = shapes.of("init_conv.weight", 4)[:2]
    strided = levels > 1 and "downs.0.3.weight" in state
    ends = [
        f"downs.{level}.3.weight" if strided or level + 1 == levels else f"downs.{level}.3.1.weight"
        for level in range(levels)
    ]
    outputs, out_width = shapes.of("final_conv.weight", 4)[:2]
    embedding = shapes.of("time_mlp.1.weight", 2)[1]
    frequencies = shapes.of("time_mlp.0.weights", 1)[0] if "time_mlp.0.weights" in state else 0
    if embedding != 2 * frequencies + 1 and (frequencies or embedding % 2 or embedding < 4):
        raise UserError(
            f"Tensor 'time_mlp.1.weight' reads {embedding} channels, which no embedding of time has."
        )
    widths = (first, *(shapes.of(end, 4)[0] for end in ends))
    group_norm = "mid_block1.block1.norm.weight" in state
    if group_norm and any(width % untold.groups for width in (*widths, out_width)):
        raise UserError(f"GroupNorm of {untold.groups} groups does not fit layers of {widths} channels.")
    labels = "classes_emb.weight" in state
    num_labels, class_width = shapes.of("classes_emb.weight", 2) if labels else (0, 0)
    return LucidrainsSettings(
        inputs=inputs,
        outputs=outputs,
        widths=widths,
        out_width=out_width,
        embedding=embedding,
        condition=shapes.of("time_mlp.1.weight", 2)[0],
        frequencies=frequencies,
        group_norm=group_norm,
        strided=strided,
        attention=tuple(
            shapes.attention(f"downs.{level}.2", None if untold.heads is None else _GUIDED_HEADS)
            for level in range(levels)
        ),
        middle=shapes.attention("mid_attn", untold.heads),
        num_labels=num_labels,
        class_width=class_width,
        class_condition=shapes.of("classes_mlp.0.weight", 2)[0] if labels else 0,
        groups=untold.groups,
        base=untold.base,
    )
