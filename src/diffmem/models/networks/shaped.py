"""Layers made from the shapes of a state dict: for networks of other trainers, whose files tell shapes but no settings.

Every layer starts on the meta device, without numbers: `filled` puts the tensors of the file in once all of them have found a place.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import TypeVar

import torch
from torch import Tensor, nn

from diffmem.errors import UserError

__all__ = ["ShapedNetwork", "Shapes", "filled", "sinusoids"]

_GROUPS = 32


class Shapes:
    """The shapes of the tensors of a network, and layers made from them.

    Args:
        tensors: The state dict.
    """

    def __init__(self, tensors: Mapping[str, Tensor]) -> None:
        self._tensors = tensors

    def __contains__(self, layer: str) -> bool:
        return f"{layer}.weight" in self._tensors

    def of(self, layer: str, dimensions: int) -> tuple[int, ...]:
        """Return the shape of a layer's weight.

        Raises:
            UserError: There is none, it has another number of dimensions, or is empty.
        """
        name = f"{layer}.weight"
        if name not in self._tensors:
            raise UserError(f"It lacks the tensor {name!r} of this network.")
        shape = tuple(self._tensors[name].shape)
        if len(shape) != dimensions or not all(shape):
            raise UserError(
                f"Tensor {name!r} has shape {shape}, but this network needs {dimensions} dimensions."
            )
        return shape

    def linear(self, layer: str) -> nn.Linear:
        """Return a linear map, weight (out, in)."""
        outputs, inputs = self.of(layer, 2)
        return nn.Linear(inputs, outputs, device="meta")

    def conv(self, layer: str, kernel: int = 3, stride: int = 1) -> nn.Conv2d:
        """Return a convolution that keeps the sides, or divides them by the stride; weight (out, in, kernel, kernel)."""
        outputs, inputs = self.of(layer, 4)[:2]
        return nn.Conv2d(inputs, outputs, kernel, stride, kernel // 2, device="meta")

    def pointwise(self, layer: str) -> nn.Conv1d:
        """Return a map of the channels of a sequence, weight (out, in, 1)."""
        outputs, inputs = self.of(layer, 3)[:2]
        return nn.Conv1d(inputs, outputs, 1, device="meta")

    def norm(self, layer: str) -> nn.GroupNorm:
        """Return a normalisation of 32 groups.

        Raises:
            UserError: Also if the channels have no 32 equal groups.
        """
        (channels,) = self.of(layer, 1)
        if channels % _GROUPS:
            raise UserError(
                f"{layer!r} normalises {channels} channels, which have no {_GROUPS} equal groups."
            )
        return nn.GroupNorm(_GROUPS, channels, eps=1e-5, device="meta")

    def indices(self, layer: str) -> list[int]:
        """Return the numbers that follow a name ('blocks' of 'blocks.0.weight', 'blocks.3.conv.weight': 0, 3), in order."""
        rests = [name[len(layer) + 1 :] for name in self._tensors if name.startswith(f"{layer}.")]
        found = {rest.partition(".")[0] for rest in rests}
        return sorted(int(part) for part in found if part.isascii() and part.isdigit() and len(part) < 5)


class ShapedNetwork(nn.Module):
    """A network made from the shapes of its tensors.

    Attributes:
        channels: Of the images.
        scale: How many pixels the sides of images must be a multiple of.
    """

    channels: int
    scale: int

    def __repr__(self) -> str:
        count = sum(parameter.numel() for parameter in self.parameters())
        return f"{type(self).__name__}, {count:,} parameters"


_Network = TypeVar("_Network", bound=ShapedNetwork)


def sinusoids(steps: Tensor, channels: int) -> tuple[Tensor, Tensor]:
    """Return the sines and the cosines of timesteps, each (B, channels / 2), at frequencies 10,000^(-2i / channels).

    Args:
        steps: Float (B,).
        channels: Even.
    """
    half = channels // 2
    exponents = torch.arange(half, dtype=torch.float32, device=steps.device) / half * math.log(10_000)
    angles = steps.float()[:, None] * (-exponents).exp()
    return angles.sin(), angles.cos()


def filled(
    network: _Network,
    tensors: Mapping[str, Tensor],
    trial: Callable[[_Network], Tensor],
    shape: tuple[int, ...],
) -> _Network:
    """Return a network of the meta device with numbers, in evaluation mode, frozen.

    Args:
        network: Its tensors are by names and shapes exactly those given.
        tensors: Of the file; taken as float32.
        trial: Runs the network on inputs of the meta device, which finds layers that do not fit each other.
        shape: What the trial must return.

    Raises:
        UserError: The layers do not fit each other.
    """
    try:
        with torch.no_grad():
            made = tuple(trial(network).shape)
    except (RuntimeError, ValueError, IndexError) as error:
        reason = " ".join(str(error).split())[:200].rstrip(".")
        raise UserError(f"The layers of this network do not fit each other: {reason}.") from error
    if made != shape:
        raise UserError(f"This network makes {made} where {shape} is needed.")
    network.load_state_dict({name: tensor.detach().float() for name, tensor in tensors.items()}, assign=True)
    return network.eval().requires_grad_(False)
