"""Sums over images with posterior weights, which are relative to the largest weight, and so add up over parts of the images."""

from __future__ import annotations

from dataclasses import dataclass, fields

import torch
from torch import Tensor

__all__ = ["Sums"]

LEAST = -1000.0  # logit of a weight of 0: times 0 it is 0, unlike infinity


@dataclass
class Sums:
    """Sums over images with the weights of B queries, relative to the image with the largest; float64.

    Attributes:
        top: Its score, (B,).
        mass: Sum of the weights, (B,).
        rows: Sum of weights times rows, (B, dim); (B, 0) if only moments were asked for.
        norms: Sum of weights times |v|^2, (B,).
        rounding: Sum of the largest errors of weights, (B,).
        moment: Sum of weights times logits, (B,); 0 unless it was asked for.
    """

    top: Tensor
    mass: Tensor
    rows: Tensor
    norms: Tensor
    rounding: Tensor
    moment: Tensor

    @classmethod
    def none(cls, top: Tensor, dim: int) -> Sums:
        """Return sums over no images yet, relative to a score."""
        zeros = [torch.zeros_like(top) for _ in range(4)]
        return cls(top, zeros[0], top.new_zeros(len(top), dim), *zeros[1:])

    def to(self, device: torch.device) -> Sums:
        """Return the sums on another device."""
        return Sums(*(getattr(self, field.name).to(device) for field in fields(self)))

    def add(self, other: Sums, beta: Tensor) -> None:
        """Take in the sums over other images."""
        top = torch.maximum(self.top, other.top)
        for sums in (self, other):
            fall = torch.where(sums.top == top, 0.0, (sums.top - top) * beta).clamp_(min=LEAST)
            shrink = fall.exp()
            sums.moment = shrink * (sums.moment + fall * sums.mass)
            for part in (sums.mass, sums.norms, sums.rounding):
                part.mul_(shrink)
            sums.rows = sums.rows * shrink[:, None]
        self.top = top
        for name in ("mass", "rows", "norms", "rounding", "moment"):
            getattr(self, name).add_(getattr(other, name))
