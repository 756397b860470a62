"""Small checkpoints in the layout of score_sde_pytorch, and what their networks answer, layer by layer in float64."""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np
import torch
import torch.nn.functional as F

PATHS = math.sqrt(2)
"""What sums of two paths are divided by, with skip_rescale."""


class Layer(NamedTuple):
    kind: str
    inputs: int = 0
    outputs: int = 0
    resize: str = ""
    keeps: bool = False
    """Whether its output, with the attention that follows, reaches the way up."""
    joins: bool = False


def plan(width=8, multipliers=(1, 2), blocks=1, attention=(1,), fourier=False, pyramid="none", output_skip=False, channels=3):  # fmt: skip
    """The numbered layers of a network, in the trainer's order."""
    made = [Layer("frequencies", outputs=width)] if fourier else []
    made += [Layer("linear", width * (1 + fourier), 4 * width), Layer("linear", 4 * width, 4 * width)]
    made += [Layer("conv", channels, width, keeps=True)]
    kept, now, path, last = [width], width, channels, len(multipliers) - 1
    for level, multiplier in enumerate(multipliers):
        for _ in range(blocks):
            made.append(Layer("block", now, width * multiplier, keeps=True))
            now = width * multiplier
            kept.append(now)
            made += [Layer("attention", now)] if level in attention else []
        if level < last:
            made.append(Layer("block", now, now, "down", keeps=True))
            made += {
                "none": [],
                "input_skip": [Layer("combination", channels, now)],
                "residual": [Layer("pyramid", path, now)],
            }[pyramid]
            path = now
            kept.append(now)
    made += [Layer("block", now, now), Layer("attention", now), Layer("block", now, now)]
    for level in range(last, -1, -1):
        for _ in range(blocks + 1):
            made.append(Layer("block", now + kept.pop(), width * multipliers[level], joins=True))
            now = width * multipliers[level]
        made += [Layer("attention", now)] if level in attention else []
        made += [Layer("norm", now, now), Layer("image", now, channels)] if output_skip or level == 0 else []
        made += [Layer("block", now, now, "up")] if level else []
    return made


def tensors_of(layers, seed=0, scale=0.3):
    """Random tensors of a network, by the trainer's names."""
    generator = torch.Generator().manual_seed(seed)
    made = {}

    def add(name, *shape, ends=("weight", "bias"), outputs=None):
        size = math.prod(shape[1:]) if len(shape) > 1 else 1
        made[f"{name}.{ends[0]}"] = torch.randn(shape, generator=generator) * (
            1 if len(shape) == 1 else 1 / math.sqrt(size)
        )
        made[f"{name}.{ends[1]}"] = scale * torch.randn(outputs or shape[0], generator=generator)

    for number, layer in enumerate(layers):
        at, (i, o) = f"module.all_modules.{number}", layer[1:3]
        if layer.kind == "frequencies":
            made[f"{at}.W"] = torch.randn(o, generator=generator)
        elif layer.kind == "linear":
            add(at, o, i)
        elif layer.kind in ("conv", "image"):
            add(at, o, i, 3, 3)
        elif layer.kind == "norm":
            add(at, i)
        elif layer.kind == "pyramid":
            add(f"{at}.Conv2d_0", o, i, 3, 3)
        elif layer.kind == "combination":
            add(f"{at}.Conv_0", o, i, 1, 1)
        elif layer.kind == "attention":
            add(f"{at}.GroupNorm_0", i)
            for part in range(4):
                add(f"{at}.NIN_{part}", i, i, ends=("W", "b"))
        else:
            embedding = made[f"module.all_modules.{number_of_linear(layers)}.bias"].shape[0]
            add(f"{at}.GroupNorm_0", i)
            add(f"{at}.Conv_0", o, i, 3, 3)
            add(f"{at}.Dense_0", o, embedding)
            add(f"{at}.GroupNorm_1", o)
            add(f"{at}.Conv_1", o, o, 3, 3)
            if i != o or layer.resize:
                add(f"{at}.Conv_2", o, i, 1, 1)
    return made


def number_of_linear(layers):
    return [layer.kind for layer in layers].index("linear")


def checkpoint(seed=0, sigmas=(50.0, 0.01, 100), **options):
    """A checkpoint whose averaged weights differ from the raw ones."""
    layers = plan(**options)
    levels = np.exp(np.linspace(np.log(sigmas[0]), np.log(sigmas[1]), sigmas[2]))
    raw, averaged = (tensors_of(layers, seed + extra) for extra in (0, 1))
    shadows = [tensor for name, tensor in averaged.items() if not name.endswith(".W") or "NIN" in name]
    return {
        "optimizer": {"state": {}, "param_groups": []},
        "model": {"module.sigmas": torch.from_numpy(levels), **raw},
        "ema": {"decay": 0.999, "num_updates": 7, "shadow_params": shadows},
        "step": 1200,
    }


def _filtered(x, taps):
    """Each channel filtered by a separable filter, without padding."""
    row = torch.tensor(taps, dtype=x.dtype) / sum(taps)
    kernel = torch.outer(row, row).expand(x.shape[1], 1, len(taps), len(taps))
    return F.conv2d(x, kernel, groups=x.shape[1])


def resized(x, how, fir):
    if not fir:
        return (
            x.repeat_interleave(2, -1).repeat_interleave(2, -2)
            if how == "up"
            else x.unflatten(3, (-1, 2)).unflatten(2, (-1, 2)).mean((3, 5))
        )
    if how == "down":
        return _filtered(F.pad(x, (1, 1, 1, 1)), (1, 3, 3, 1))[..., ::2, ::2]
    spread = torch.zeros(*x.shape[:2], 2 * x.shape[2], 2 * x.shape[3], dtype=x.dtype)
    spread[..., ::2, ::2] = 4 * x
    return _filtered(F.pad(spread, (2, 1, 2, 1)), (1, 3, 3, 1))


def answer(tensors, layers, x, t, fir):
    """What the network of a plan makes of x, which is in [-1, 1], at the times t; before a division by sigma."""
    held = {name.removeprefix("module.all_modules."): one.double() for name, one in tensors.items()}

    def conv(name, y, **options):
        weight = held[f"{name}.weight"]
        return F.conv2d(y, weight, held[f"{name}.bias"], **{"padding": weight.shape[-1] // 2, **options})

    def norm(name, y):
        return F.group_norm(
            y, min(32, y.shape[1] // 4), held[f"{name}.weight"], held[f"{name}.bias"], eps=1e-6
        )

    def dense(name, y):
        return F.linear(y, held[f"{name}.weight"], held[f"{name}.bias"])

    def mapped(name, y):
        return torch.einsum("io,bip->bop", held[f"{name}.W"], y) + held[f"{name}.b"][:, None]

    def block(at, y, layer):
        z = F.silu(norm(f"{at}.GroupNorm_0", y))
        if layer.resize:
            y, z = resized(y, layer.resize, fir), resized(z, layer.resize, fir)
        z = conv(f"{at}.Conv_0", z) + dense(f"{at}.Dense_0", F.silu(embedding))[:, :, None, None]
        z = conv(f"{at}.Conv_1", F.silu(norm(f"{at}.GroupNorm_1", z)))
        skip = conv(f"{at}.Conv_2", y) if f"{at}.Conv_2.weight" in held else y
        return (skip + z) / PATHS

    def attention(at, y):
        flat = norm(f"{at}.GroupNorm_0", y).flatten(2)
        q, k, v = (mapped(f"{at}.NIN_{part}", flat) for part in range(3))
        share = (torch.einsum("bcp,bcs->bps", q, k) / math.sqrt(y.shape[1])).softmax(-1)
        return (y + mapped(f"{at}.NIN_3", torch.einsum("bps,bcs->bcp", share, v)).reshape(y.shape)) / PATHS  # fmt: skip

    start = number_of_linear(layers)
    if start:
        angles = 2 * math.pi * torch.outer(t.double().log(), held["0.W"])
    else:
        half = held["0.weight"].shape[1] // 2
        angles = torch.outer(t.double(), 10_000.0 ** (-torch.arange(half, dtype=torch.float64) / (half - 1)))
    embedding = dense(str(start), torch.cat([angles.sin(), angles.cos()], 1))
    embedding = dense(str(start + 1), F.silu(embedding))
    path = y = x.double()
    kept, image = [], None
    for number, layer in enumerate(layers[start + 2 :], start + 2):
        at = str(number)
        if layer.kind == "conv":
            y = conv(at, y)
        elif layer.kind == "block":
            y = block(at, torch.cat([y, kept.pop()], 1) if layer.joins else y, layer)
        elif layer.kind == "attention":
            y = attention(at, y)
        elif layer.kind == "combination":
            path = resized(path, "down", fir)
            y = y + conv(f"{at}.Conv_0", path)
        elif layer.kind == "pyramid":
            path = _filtered(F.pad(path, (2, 2, 2, 2)), (1, 3, 3, 1))
            path = y = (conv(f"{at}.Conv2d_0", path, padding=0, stride=2) + y) / PATHS
        elif layer.kind == "norm":
            normed = F.silu(norm(at, y))
        else:
            added = conv(at, normed)
            image = added if image is None else resized(image, "up", fir) + added
        if layer.keeps:
            kept.append(y)
        elif layer.kind in ("combination", "pyramid") or (
            layer.kind == "attention" and layers[number - 1].keeps
        ):
            kept[-1] = y
    return image
