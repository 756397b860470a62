"""Denoising score matching, with the study's weighting (a sum over pixels, a mean over the batch).

L = E_{y, sigma, n} lambda(sigma) ||D(y + sigma n; sigma) - y||^2 (Karras et al. 2022, eq. 2 and 108).
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from diffmem.models.preconditioning import Preconditioning

__all__ = ["denoising_loss"]


def denoising_loss(
    denoiser: Callable[..., Tensor],
    preconditioning: Preconditioning,
    images: Tensor,
    sigma: Tensor,
    noise: Tensor,
    labels: Tensor | None,
    batch_size: int | None = None,
) -> Tensor:
    """Return the weighted squared error, summed over pixels and averaged over the batch.

    Args:
        denoiser: A `Preconditioned` network (or its compiled form).
        preconditioning: Its preconditioning, which weights the levels.
        images: Clean images y in [-1, 1], float (B, C, H, W).
        sigma: Noise levels, float (B,).
        noise: Standard normal noise n, like the images.
        labels: Classes, int64 (B,), or none.
        batch_size: What the sum over images is divided by: the size of the global batch, of which these images are a
            part. B if none.
    """
    level = sigma.reshape(-1, 1, 1, 1)
    error = denoiser(torch.addcmul(images, noise, level), sigma, labels) - images
    return (preconditioning.loss_weight(sigma) * error.square().flatten(1).sum(1)).sum() / (
        batch_size or len(images)
    )
