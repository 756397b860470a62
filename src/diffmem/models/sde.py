"""The processes of Song et al. 2021 ("Score-Based Generative Modeling through Stochastic Differential Equations") in continuous time.

With n standard normal and b(t) linear from beta_min to beta_max, m(t) = exp(-(beta_max - beta_min) t^2 / 4 - beta_min t / 2):

- VP (eq. 33): x_t = m y + sqrt(1 - m^2) n, so that sigma = sqrt(1 - m^2) / m.
- Sub-VP (eq. 34): x_t = m y + (1 - m^2) n, so that sigma = (1 - m^2) / m = 2 sinh(-ln m).
- VE (eq. 31): x_t = y + sigma n.

Networks of the first two predict n, and are told 999 t; those of VE predict the score, (D - x) / sigma^2, and are told sigma.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor

from diffmem.models.continuous import Coefficients, ContinuousProcess

__all__ = ["sub_variance_preserving", "variance_exploding", "variance_preserving"]

_TIMES = 999.0  # what the networks are told at t = 1
_FIRST_TIME = 1e-5  # below it, none is trained


def variance_preserving(beta_min: float, beta_max: float) -> ContinuousProcess:
    """Return VP: D = x - sigma F(m x; 999 t), for t in [1e-5, 1].

    Args:
        beta_min: Noise rate at t = 0, positive.
        beta_max: At t = 1, positive.
    """
    return _preserving(
        "VP",
        (beta_min, beta_max),
        lambda sigma: sigma.square().log1p() / 2,
        lambda loss: math.sqrt(math.expm1(2 * loss)),
    )


def sub_variance_preserving(beta_min: float, beta_max: float) -> ContinuousProcess:
    """Return sub-VP: D = x - sigma F(m x; 999 t), for t in [1e-5, 1].

    Args: as of `variance_preserving`.
    """
    return _preserving(
        "sub-VP",
        (beta_min, beta_max),
        lambda sigma: (sigma / 2).asinh(),
        lambda loss: 2 * math.sinh(loss),
    )


def _preserving(
    name: str,
    betas: tuple[float, float],
    loss_of: Callable[[Tensor], Tensor],
    level_of: Callable[[float], float],
) -> ContinuousProcess:
    """Return a process that is told 999 t; -ln m as a function of sigma, and its inverse, are what the two differ in."""
    first, growth = betas[0], betas[1] - betas[0]

    def coefficients(sigma: Tensor) -> Coefficients:
        loss = loss_of(sigma)
        # The root of growth t^2 / 4 + first t / 2 = loss, in a form that loses no digits.
        t = 4 * loss / (first + (first**2 + 4 * growth * loss).sqrt())
        return Coefficients(1.0, -sigma, (-loss).exp(), _TIMES * t)

    def level(t: float) -> float:
        return level_of(growth * t**2 / 4 + first * t / 2)

    return ContinuousProcess(
        f"{name}, beta {betas[0]:g} to {betas[1]:g}", coefficients, level(_FIRST_TIME), level(1.0)
    )


def variance_exploding(
    sigma_min: float, sigma_max: float, scaled: bool = True, labels: int | None = None
) -> ContinuousProcess:
    """Return VE: D = x + sigma^2 score.

    Args:
        sigma_min: Smallest level, in the units of the network's images.
        sigma_max: Largest.
        scaled: Whether the score is the network's output divided by sigma, or the output itself.
        labels: Number of levels of a network of discrete time, geometric, which is told their number, 0 for the **highest**; between
            them, the number is a fraction. None for a network that is told sigma.
    """
    width = math.log(sigma_max / sigma_min)

    def coefficients(sigma: Tensor) -> Coefficients:
        time = sigma if labels is None else (labels - 1) * (sigma_max / sigma).log().clamp(min=0) / width
        return Coefficients(1.0, sigma if scaled else sigma.square(), 1.0, torch.as_tensor(time))

    text = f"VE, sigma {sigma_min:g} to {sigma_max:g}" + ("" if labels is None else f", {labels:,} levels")
    return ContinuousProcess(text, coefficients, sigma_min, sigma_max)
