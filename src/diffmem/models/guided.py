"""Classifier-free guidance as a denoiser: away from what a network with classes makes of no label, towards what it makes of a label."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from diffmem.errors import UserError
from diffmem.models.denoiser import Denoiser, DescribedDenoiser, checked_labels

__all__ = ["GuidedDenoiser"]


class GuidedDenoiser(DescribedDenoiser):
    """D_0 + scale (D_c - D_0): Ho & Salimans 2022, "Classifier-Free Diffusion Guidance", eq. 6, whose w is scale - 1.

    At one noise level the noise estimates differ from D by a factor, so guiding either is the same.

    Args:
        inner: A denoiser with classes that also takes no label (-1).
        scale: 1 is the denoiser itself, 0 that of no label; images without a label are not guided.

    Attributes:
        inner: The wrapped denoiser.
        scale: As given.
        evaluations: Evaluations of the network for each image in a call: 2, or 1 at scale 1.
        image_shape: (C, H, W).
        sigma_min: Smallest noise level.
        sigma_max: Largest one.

    Raises:
        UserError: The scale is negative or not finite, or the denoiser has no classes.
    """

    def __init__(self, inner: Denoiser, scale: float) -> None:
        if not (math.isfinite(scale) and scale >= 0):
            raise UserError(f"The scale of guidance must be finite and at least 0, not {scale}; 1 is none.")
        if not inner.num_labels:
            raise UserError("Guidance needs a model with classes; this one has none.")
        self.inner, self.scale = inner, scale
        self.evaluations = 1 if scale == 1 else 2
        self.sigma_min, self.sigma_max = inner.sigma_min, inner.sigma_max
        self.image_shape, self.num_labels, self.device = inner.image_shape, inner.num_labels, inner.device

    def _text(self) -> str:
        return f"{self.inner}, guided by {self.scale:g}"

    def __call__(self, x: Tensor, sigma: Tensor | float, labels: Tensor | None = None) -> Tensor:
        """Denoise a batch; see `Denoiser`. Both estimates are made in one call, of a batch twice as large."""
        if self.scale == 1 or labels is None:
            return self.inner(x, sigma, labels)
        given = checked_labels(labels, len(x), self.num_labels).to(x.device)
        levels = torch.cat([sigma, sigma]) if isinstance(sigma, Tensor) and sigma.ndim else sigma
        both = self.inner(torch.cat([x, x]), levels, torch.cat([given, torch.full_like(given, -1)]))
        of_label, of_none = both.chunk(2)
        return torch.lerp(of_none, of_label, self.scale)
