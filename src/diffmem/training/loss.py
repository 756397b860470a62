"""Denoising score matching: the three losses, with the study's weighting (a sum over pixels, a mean over the batch).

L = E_{y, sigma, n} lambda(sigma) ||D(y + sigma n; sigma) - y||^2 (Karras et al. 2022, eq. 2 and 108).
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from diffmem.models.preconditioning import EDM, VE, VP, Preconditioning

__all__ = ["denoising_loss", "draw_noise_levels", "loss_weight"]


def draw_noise_levels(
    preconditioning: Preconditioning,
    uniform: Tensor,
    normal: Tensor,
    p_mean: float = -1.2,
    p_std: float = 1.2,
) -> Tensor:
    """Turn random numbers into training noise levels.

    VP: sigma(t) at t uniform on [epsilon_t, 1]. VE: log-uniform on [sigma_min, sigma_max]. EDM: log-normal.

    Args:
        preconditioning: Which of the three.
        uniform: Uniform on [0, 1), float (B,); used by VP and VE.
        normal: Standard normal, float (B,); used by EDM.
        p_mean: Mean of ln(sigma) for EDM.
        p_std: Standard deviation of ln(sigma) for EDM.
    """
    if isinstance(preconditioning, VP):
        return preconditioning.sigma_of(1 + uniform * (preconditioning.epsilon_t - 1))
    if isinstance(preconditioning, VE):
        span = torch.tensor(preconditioning.sigma_max / preconditioning.sigma_min, device=uniform.device)
        return preconditioning.sigma_min * span.pow(uniform)
    return (normal * p_std + p_mean).exp()


def loss_weight(preconditioning: Preconditioning, sigma: Tensor) -> Tensor:
    """Return lambda(sigma): 1 / sigma^2 for VP and VE, (sigma^2 + s^2) / (sigma s)^2 for EDM (Karras et al. 2022, Table 1)."""
    if isinstance(preconditioning, EDM):
        return (sigma**2 + preconditioning.sigma_data**2) / (sigma * preconditioning.sigma_data) ** 2
    return 1 / sigma**2


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
        preconditioning: Its preconditioning, which fixes the weighting.
        images: Clean images y in [-1, 1], float (B, C, H, W).
        sigma: Noise levels, float (B,).
        noise: Standard normal noise n, like the images.
        labels: Classes, int64 (B,), or none.
        batch_size: What the sum over images is divided by: the size of the global batch, of which these images are a
            part. B if none.
    """
    level = sigma.reshape(-1, 1, 1, 1)
    error = denoiser(torch.addcmul(images, noise, level), sigma, labels) - images
    return (loss_weight(preconditioning, sigma) * error.square().flatten(1).sum(1)).sum() / (
        batch_size or len(images)
    )
