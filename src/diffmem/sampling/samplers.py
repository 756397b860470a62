"""First- and second-order solvers of the sampling equation, deterministic or stochastic.

Source: Karras et al. 2022, Algorithm 1 (deterministic, any sigma(t) and s(t)) and Algorithm 2 (stochastic),
here as one: fresh noise is added first, as in Algorithm 2, in whichever schedule and scaling Algorithm 1
runs.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from itertools import pairwise

import torch
from torch import Tensor

from diffmem.errors import UserError
from diffmem.models.denoiser import Denoiser, Followable
from diffmem.sampling.config import SamplerConfig
from diffmem.sampling.schedules import Scaling, Schedule, noise_levels, scaling_of, schedule_of, sigma_range

__all__ = ["StepCallback", "sample_latents"]

StepCallback = Callable[[int, int, Tensor, float], None]
"""`callback(done, steps, x, sigma)`: `done` of `steps` are finished; x (B, C, H, W) has noise level sigma."""


def sample_latents(
    denoiser: Denoiser,
    latents: Tensor,
    labels: Tensor | None,
    config: SamplerConfig,
    noise: Callable[[Tensor], Tensor] | None = None,
    callback: StepCallback | None = None,
) -> Tensor:
    """Turn latents into images.

    The state is float64 throughout; the denoiser is given the state as it is and decides its own precision.

    Args:
        denoiser: The model. It is called with a noise level per image, float64 (B,).
        latents: Standard normal (B, C, H, W) on the denoiser's device.
        labels: Class of each image, int64 (B,), or none.
        config: The sampler.
        noise: Makes the fresh noise of a stochastic sampler from the current state, for example
            `SeededNoise`.
        callback: Called after every step.

    Returns:
        Images in [-1, 1] units, float64 (B, C, H, W), not clipped.

    Raises:
        UserError: The sampler is stochastic and `noise` is missing, or the noise range is empty.
    """
    if config.S_churn > 0 and noise is None:
        raise UserError(f"S_churn {config.S_churn:g} needs fresh noise: pass noise=SeededNoise(generators).")
    low, high = sigma_range(config, denoiser.sigma_min, denoiser.sigma_max)
    schedule = schedule_of(config.schedule, low, high)
    scaling = scaling_of(config.scaling, schedule)
    # The last time is the inverse of zero rather than zero itself: a vp schedule that is fitted to a very
    # small sigma_min reaches sigma = 0 at a positive time.
    times = [
        schedule.inverse(level)
        for level in noise_levels(config, denoiser.sigma_min, denoiser.sigma_max).tolist()
    ]

    if isinstance(denoiser, Followable):
        denoiser = denoiser.follow()

    def slope(x: Tensor, t: float) -> Tensor:
        """dx/dt of the probability-flow ODE, Karras et al. 2022, eq. 4 with the score (D - x/s) / sigma^2."""
        sigma, s = schedule.sigma(t), scaling.scale(t)
        sigma_rate = schedule.derivative(t) / sigma
        levels = torch.full((len(x),), sigma, dtype=torch.float64, device=x.device)
        clean = denoiser(x / s, levels, labels).to(torch.float64)
        return (sigma_rate + scaling.derivative(t) / s) * x - sigma_rate * s * clean

    with torch.no_grad():
        x = latents.to(torch.float64) * (schedule.sigma(times[0]) * scaling.scale(times[0]))
        for index, (t, t_next) in enumerate(pairwise(times)):
            if noise is not None:
                x, t = _churn(x, t, config, noise, schedule, scaling, denoiser.sigma_max)
            h = t_next - t
            d = slope(x, t)
            if config.solver == "euler" or index == config.steps - 1:
                x = x + h * d
            else:
                d_prime = slope(x + config.alpha * h * d, t + config.alpha * h)
                weight = 0.5 / config.alpha
                x = x + h * ((1 - weight) * d + weight * d_prime)
            if callback is not None:
                last = index == config.steps - 1
                sigma = 0.0 if last else schedule.sigma(t_next)
                callback(index + 1, config.steps, x / scaling.scale(t_next), sigma)
    return x


def _churn(
    x: Tensor,
    t: float,
    config: SamplerConfig,
    noise: Callable[[Tensor], Tensor],
    schedule: Schedule,
    scaling: Scaling,
    sigma_limit: float,
) -> tuple[Tensor, float]:
    """Raise the noise level by the factor 1 + gamma with fresh noise, Algorithm 2 lines 4 to 6."""
    sigma = schedule.sigma(t)
    above = config.S_max is not None and sigma > config.S_max
    if config.S_churn == 0 or sigma < config.S_min or above:
        return x, t
    gamma = min(config.S_churn / config.steps, math.sqrt(2) - 1)
    # A denoiser is not asked beyond its range, even where Algorithm 2 would start above sigma_max.
    raised = min(sigma * (1 + gamma), max(sigma, sigma_limit))
    t_hat = schedule.inverse(raised)
    ratio = scaling.scale(t_hat) / scaling.scale(t)
    spread = math.sqrt(raised**2 - sigma**2) * scaling.scale(t_hat) * config.S_noise
    return x * ratio + spread * noise(x), t_hat
