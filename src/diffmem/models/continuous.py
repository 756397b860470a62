"""Denoisers from networks that know a continuous time: D(x; sigma) = c_skip x + c_out F(c_in x; c_noise), in float64 around F.

The coefficients say what the network was trained for. With n standard normal and x = y + sigma n:

- EDM (Karras et al. 2022, Table 1), with sigma_data: `edm`.
- Flow matching on straight paths (Lipman et al. 2023, "Flow Matching for Generative Modeling", section 4.1): the network is shown
  x_t = t y + (1 - t) n, which is t x for t = 1 / (1 + sigma), and predicts the velocity y - n: `straight_flow`.
- Flow matching on trigonometric paths x_t = sin(pi t / 2) y + cos(pi t / 2) n (Albergo and Vanden-Eijnden 2023, "Building Normalizing Flows
  with Stochastic Interpolants"), velocity pi / 2 (cos y - sin n): `trigonometric_flow`.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from diffmem.models.denoiser import (
    DescribedDenoiser,
    check_trained,
    checked_classes,
    checked_levels,
    network_text,
)
from diffmem.models.preconditioning import EDM

__all__ = [
    "Coefficients",
    "ContinuousDenoiser",
    "ContinuousProcess",
    "edm",
    "straight_flow",
    "trigonometric_flow",
]


class Coefficients(NamedTuple):
    """Those of D(x; sigma) = skip x + out F(scale x; time), float64 tensors of the shape of sigma, or numbers."""

    skip: Tensor | float
    out: Tensor | float
    scale: Tensor | float
    time: Tensor


@dataclass(frozen=True, eq=False)
class ContinuousProcess:
    """What a network of continuous time was trained for.

    Attributes:
        text: For people: 'EDM preconditioning'.
        coefficients: Of noise levels, float64 of any shape, in the units of the network's images.
        sigma_min: Smallest level that it was trained for, in the units of the network's images; may be 0.
        sigma_max: Largest; may be infinite.
        unit_range: Whether the network's images are in [0, 1]: it is then asked at ((x + 1) / 2, sigma / 2), and D is
            2 D_network - 1.
    """

    text: str
    coefficients: Callable[[Tensor], Coefficients]
    sigma_min: float = 0.0
    sigma_max: float = math.inf
    unit_range: bool = False


def edm(sigma_data: float, sigma_min: float = 0.0, sigma_max: float = math.inf) -> ContinuousProcess:
    """Return EDM's preconditioning; the network is shown ln(sigma) / 4."""
    formulas = EDM(sigma_data=sigma_data)
    return ContinuousProcess(
        f"EDM preconditioning, sigma_data {sigma_data:g}",
        lambda sigma: Coefficients(*formulas.coefficients(sigma)),
        sigma_min,
        sigma_max,
    )


def straight_flow(sigma_min: float = 1e-4, sigma_max: float = 1e4) -> ContinuousProcess:
    """Return straight paths from noise (t = 0) to data (t = 1): D = x_t + (1 - t) v.

    Args:
        sigma_min: Smallest level, a choice: at t = 1 there is no noise.
        sigma_max: Largest, a choice: at t = 0 there is no image.
    """

    def coefficients(sigma: Tensor) -> Coefficients:
        t = 1 / (1 + sigma)
        return Coefficients(t, sigma * t, t, t)

    return ContinuousProcess("velocity of straight paths", coefficients, sigma_min, sigma_max)


def trigonometric_flow(sigma_min: float = 1e-4, sigma_max: float = 1e4) -> ContinuousProcess:
    """Return trigonometric paths from noise (t = 0) to data (t = 1): D = sin(a) x_t + (2 / pi) cos(a) v, a = atan(1 / sigma) = pi t / 2.

    Args: as of `straight_flow`.
    """

    def coefficients(sigma: Tensor) -> Coefficients:
        scale = (1 + sigma.square()).rsqrt()  # sin(a); x_t = sin(a) x
        return Coefficients(
            scale.square(), 2 / math.pi * sigma * scale, scale, 2 / math.pi * (1 / sigma).atan()
        )

    return ContinuousProcess("velocity of trigonometric paths", coefficients, sigma_min, sigma_max)


class ContinuousDenoiser(DescribedDenoiser):
    """D(x; sigma) of a network that knows a continuous time.

    Args:
        network: F(x_t, time, labels): x_t float32 (B, C, H, W), time float32 (B,), labels int64 (B,) or none.
        process: What it was trained for.
        image_shape: (C, H, W).
        num_labels: Number of classes; 0 for an unconditional network. One with classes always needs labels, unless there is a `null_label`.
        null_label: What the network is given for "no label" (-1, or no labels at all), if it was trained with that.
        device: Where the network computes.

    Attributes:
        process: See above.
        sigma_min: Smallest noise level, in [-1, 1] units.
        sigma_max: Largest one.
        image_shape: (C, H, W) of the images.
        num_labels: Number of classes, 0 for none.
        device: Where it computes.
    """

    def __init__(
        self,
        network: Callable[[Tensor, Tensor, Tensor | None], Tensor],
        process: ContinuousProcess,
        image_shape: tuple[int, int, int],
        num_labels: int = 0,
        *,
        null_label: int | None = None,
        device: torch.device | str = "cpu",
    ) -> None:
        self._network, self.process, self._null_label = network, process, null_label
        units = 2.0 if process.unit_range else 1.0
        self.sigma_min, self.sigma_max = units * process.sigma_min, units * process.sigma_max
        self.image_shape, self.num_labels, self.device = image_shape, num_labels, torch.device(device)

    def _text(self) -> str:
        return f"{network_text(self._network)}, {self.process.text}"

    def __call__(self, x: Tensor, sigma: Tensor | float, labels: Tensor | None = None) -> Tensor:
        """Denoise a batch; see `Denoiser`. D is differentiable in x; it is float32, combined in float64.

        Raises:
            UserError: A shape does not fit, a noise level is outside of the trained ones, a label does not exist, or labels are
                missing for a network with classes.
        """
        level = checked_levels(x, sigma, self.image_shape)
        check_trained(level, self.sigma_min, self.sigma_max)
        given = checked_classes(labels, len(x), self.num_labels, self._null_label)
        state, level = x.double(), level[:, None, None, None]
        if self.process.unit_range:
            state, level = (state + 1) / 2, level / 2
        skip, out, scale, time = self.process.coefficients(level)
        raw = self._network(
            (scale * state).float(),
            time.flatten().float(),
            None if given is None else given.to(x.device),
        )
        clean: Tensor = skip * state + out * raw.double()
        return (2 * clean - 1 if self.process.unit_range else clean).float()
