"""All parameters of a network in one buffer, so that the optimizer and the EMA are each one operation.

Adam, SGD and the average act on each number by itself, so one long vector gives the same result as many tensors; for small
networks the saved calls are a good part of a step.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

__all__ = ["FlatParameters"]


class FlatParameters:
    """Moves a module's parameters (and their gradients) into one vector each; the module goes on working on views.

    Attributes:
        vector: All parameters, float (P,); what the optimizer updates.
        gradient: The gradients of all parameters, laid out like `vector`: what processes sum.
        names: Name of each parameter, in the vector's order.
    """

    def __init__(self, module: nn.Module) -> None:
        named = [
            (name, parameter) for name, parameter in module.named_parameters() if parameter.requires_grad
        ]
        self.names = [name for name, _ in named]
        self._shapes = [parameter.shape for _, parameter in named]
        # Every segment starts on a 64-byte boundary: vector instructions and matrix kernels slow down on odd addresses.
        self._starts, total = [], 0
        for _, parameter in named:
            self._starts.append(total)
            total += (parameter.numel() + 15) // 16 * 16
        reference = named[0][1]
        with torch.no_grad():
            values = torch.zeros(total, dtype=reference.dtype, device=reference.device)
            self.gradient = torch.zeros_like(values)
            for (_, parameter), view, gradient in zip(
                named, self.views(values), self.views(self.gradient), strict=True
            ):
                view.copy_(parameter)
                parameter.data = view
                parameter.grad = gradient
        self.vector = nn.Parameter(values)
        self.vector.grad = self.gradient

    def zero_gradient(self) -> None:
        """Set all gradients to zero, keeping their memory."""
        self.gradient.zero_()

    def views(self, vector: Tensor) -> list[Tensor]:
        """Return the parts of any vector laid out like `vector`, one for each name, in the parameters' shapes.

        Kernels are stored with their channels innermost, the order in which convolutions on channels-last images read them.
        """
        parts = []
        for start, shape in zip(self._starts, self._shapes, strict=True):
            part = vector[start : start + shape.numel()]
            if len(shape) == 4:
                outputs, inputs, height, width = shape
                part = part.view(outputs, height, width, inputs).permute(0, 3, 1, 2)
            else:
                part = part.view(shape)
            parts.append(part)
        return parts
