"""The noise levels that a sampler visits, the schedule sigma(t) and the scaling s(t).

Source: Karras et al. 2022, "Elucidating the Design Space of Diffusion-Based Generative Models", Table 1 and
appendix C. Everything here is double precision on the CPU: a schedule has a handful of numbers.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from diffmem.errors import UserError
from diffmem.sampling.config import SamplerConfig, ScalingName, ScheduleName

__all__ = ["Scaling", "Schedule", "noise_levels", "scaling_of", "schedule_of", "sigma_range", "vp_betas"]

VP_EPSILON = 1e-3  # the smallest time of the vp schedule, Song et al. 2021
VP_BETA_D, VP_BETA_MIN = 19.9, 0.1
IDDPM_STEPS, IDDPM_C1, IDDPM_C2 = 1000, 0.001, 0.008


@dataclass(frozen=True)
class Schedule:
    """A noise schedule: sigma(t), its derivative in t, and its inverse t(sigma)."""

    sigma: Callable[[float], float]
    derivative: Callable[[float], float]
    inverse: Callable[[float], float]


@dataclass(frozen=True)
class Scaling:
    """A scaling of the state: s(t) and its derivative in t."""

    scale: Callable[[float], float]
    derivative: Callable[[float], float]


def _vp_schedule(beta_d: float, beta_min: float) -> Schedule:
    def sigma(t: float) -> float:
        return math.sqrt(max(math.expm1(0.5 * beta_d * t * t + beta_min * t), 0.0))

    def derivative(t: float) -> float:
        level = sigma(t)
        return 0.5 * (beta_min + beta_d * t) * (level + 1 / level)

    def inverse(level: float) -> float:
        return (math.sqrt(beta_min**2 + 2 * beta_d * math.log1p(level * level)) - beta_min) / beta_d

    return Schedule(sigma, derivative, inverse)


def vp_betas(sigma_min: float, sigma_max: float) -> tuple[float, float]:
    """Return (beta_d, beta_min) of the vp schedule with sigma(1e-3) = sigma_min and sigma(1) = sigma_max."""
    low, high = math.log1p(sigma_min**2), math.log1p(sigma_max**2)
    beta_d = 2 * (low / VP_EPSILON - high) / (VP_EPSILON - 1)
    return beta_d, high - beta_d / 2


_VP = _vp_schedule(VP_BETA_D, VP_BETA_MIN)
_STANDARD_RANGES = {
    "vp": (_VP.sigma(VP_EPSILON), _VP.sigma(1.0)),
    "ve": (0.02, 100.0),
    "iddpm": (0.002, 81.0),
    "edm": (0.002, 80.0),
}


def sigma_range(
    config: SamplerConfig, denoiser_sigma_min: float, denoiser_sigma_max: float
) -> tuple[float, float]:
    """Return the lowest and highest noise level of a run, clipped to what the denoiser supports.

    Args:
        config: The sampler. Where it names no level, the discretization's own is used: edm [0.002, 80], iddpm
            [0.002, 81], ve [0.02, 100], vp [0.0100, 152.2].
        denoiser_sigma_min: Smallest noise level the denoiser is defined for.
        denoiser_sigma_max: Largest one, may be infinite.

    Raises:
        UserError: No interval is left after clipping.
    """
    standard_min, standard_max = _STANDARD_RANGES[config.discretization]
    wanted_min = standard_min if config.sigma_min is None else config.sigma_min
    wanted_max = standard_max if config.sigma_max is None else config.sigma_max
    low, high = max(wanted_min, denoiser_sigma_min), min(wanted_max, denoiser_sigma_max)
    if not low < high:
        raise UserError(
            f"No noise levels are left between sigma_min {wanted_min:g} and sigma_max {wanted_max:g} within"
            f" the denoiser's range [{denoiser_sigma_min:g}, {denoiser_sigma_max:g}]; set sampler.sigma_min"
            " and sampler.sigma_max inside it."
        )
    return low, high


def _iddpm_levels(low: float, high: float, fraction: Tensor) -> Tensor:
    def alpha_bar(j: int) -> float:
        return math.sin(0.5 * math.pi * j / (IDDPM_STEPS * (IDDPM_C2 + 1))) ** 2

    levels = [0.0]
    for j in range(IDDPM_STEPS, 0, -1):
        ratio = max(alpha_bar(j - 1) / alpha_bar(j), IDDPM_C1)
        levels.append(math.sqrt((levels[-1] ** 2 + 1) / ratio - 1))
    inside = [level for level in reversed(levels) if low <= level <= high]
    if len(inside) < len(fraction):
        raise UserError(
            f"The iddpm discretization has {len(inside)} noise levels between {low:g} and {high:g},"
            f" too few for {len(fraction)} steps; lower sampler.steps or choose another discretization."
        )
    indices = ((len(inside) - 1) * fraction).round().long()
    return torch.tensor(inside, dtype=torch.float64)[indices]


def noise_levels(
    config: SamplerConfig, denoiser_sigma_min: float = 0.0, denoiser_sigma_max: float = math.inf
) -> Tensor:
    """Return the noise levels a sampler visits, from high to low, and a final zero.

    The four discretizations are those of Karras et al. 2022, Table 1, row "Time steps", written as noise levels:
    'edm' (eq. 5), 'vp' (uniform in the time of the vp schedule), 've' (geometric) and 'iddpm' (a subset of
    the 1,000 cosine levels).

    Args:
        config: The sampler.
        denoiser_sigma_min: Smallest noise level the denoiser is defined for.
        denoiser_sigma_max: Largest one, may be infinite.

    Returns:
        float64 (steps + 1,) on the CPU, strictly descending, in [-1, 1] units.

    Raises:
        UserError: The range is empty, or it has fewer iddpm levels than steps.
    """
    low, high = sigma_range(config, denoiser_sigma_min, denoiser_sigma_max)
    fraction = torch.arange(config.steps, dtype=torch.float64) / max(config.steps - 1, 1)
    if config.discretization == "edm":
        top, bottom = high ** (1 / config.rho), low ** (1 / config.rho)
        levels = (top + fraction * (bottom - top)) ** config.rho
    elif config.discretization == "ve":
        levels = high * (low / high) ** fraction
    elif config.discretization == "vp":
        schedule = _vp_schedule(*vp_betas(low, high))
        times = 1 + fraction * (VP_EPSILON - 1)
        levels = torch.tensor([schedule.sigma(t) for t in times.tolist()], dtype=torch.float64)
    else:
        levels = _iddpm_levels(low, high, fraction)
    # Rounding in the powers could step a hair outside the range that the denoiser accepts.
    return torch.cat([levels.clamp(low, high), torch.zeros(1, dtype=torch.float64)])


def schedule_of(name: ScheduleName, sigma_min: float, sigma_max: float) -> Schedule:
    """Return the schedule sigma(t) called `name`: 'linear' (t), 've' (sqrt t) or 'vp'.

    Args:
        name: Which schedule.
        sigma_min: Lowest noise level of the run; used by 'vp' alone, for its two constants.
        sigma_max: Highest noise level of the run; likewise.
    """
    if name == "linear":
        return Schedule(lambda t: t, lambda t: 1.0, lambda level: level)
    if name == "ve":
        return Schedule(math.sqrt, lambda t: 0.5 / math.sqrt(t), lambda level: level * level)
    return _vp_schedule(*vp_betas(sigma_min, sigma_max))


def scaling_of(name: ScalingName, schedule: Schedule) -> Scaling:
    """Return the scaling s(t) called `name`: 'none' (1) or 'vp' (1 / sqrt(1 + sigma(t)^2))."""
    if name == "none":
        return Scaling(lambda t: 1.0, lambda t: 0.0)

    def scale(t: float) -> float:
        return 1 / math.sqrt(1 + schedule.sigma(t) ** 2)

    return Scaling(scale, lambda t: -schedule.sigma(t) * schedule.derivative(t) * scale(t) ** 3)
