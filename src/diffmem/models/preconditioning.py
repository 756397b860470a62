"""Preconditioning: a `Denoiser` from a raw network, D = c_skip x + c_out F(c_in x; c_noise).

The choices are those of Karras et al. 2022, Table 1 (rows "Network and preconditioning"): VP and VE after
Song et al. 2021, iDDPM after Nichol and Dhariwal 2021, and EDM. Coefficients are computed in float32 in the
order of the formulas: Fourier features under VP turn the last bit of c_noise into a different embedding, so
any other order would be another network.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor, nn

from diffmem.models.denoiser import DescribedDenoiser, checked_labels, network_text
from diffmem.models.networks.unet import UNet

__all__ = ["EDM", "IDDPM", "VE", "VP", "Preconditioned", "Preconditioning", "iddpm_levels"]


class Preconditioning(ABC):
    """The four coefficients as functions of sigma, the range of sigma they are meant for, and how it is trained on.

    Attributes:
        name: 'vp', 've' or 'edm'.
        sigma_min: Smallest noise level, in [-1, 1] units.
        sigma_max: Largest noise level.
    """

    name: ClassVar[str]
    sigma_min: float
    sigma_max: float

    @abstractmethod
    def coefficients(self, sigma: Tensor) -> tuple[Tensor | float, Tensor, Tensor | float, Tensor]:
        """Return c_skip, c_out, c_in and c_noise for a float32 tensor of noise levels."""

    @abstractmethod
    def noise_levels(
        self, uniform: Tensor, normal: Tensor, p_mean: float = -1.2, p_std: float = 1.2
    ) -> Tensor:
        """Turn random numbers into training noise levels.

        Args:
            uniform: Uniform on [0, 1), float (B,); used by VP and VE.
            normal: Standard normal, float (B,); used by EDM.
            p_mean: Mean of ln(sigma) for EDM.
            p_std: Standard deviation of ln(sigma) for EDM.
        """

    def loss_weight(self, sigma: Tensor) -> Tensor:
        """Return lambda(sigma), the weight of squared errors in the loss (Karras et al. 2022, Table 1): here 1 / sigma^2."""
        return 1 / sigma**2


@dataclass(frozen=True)
class VP(Preconditioning):
    """Variance preserving: sigma(t) = sqrt(exp(beta_d t^2 / 2 + beta_min t) - 1), t in [epsilon_t, 1].

    Attributes:
        beta_d: Slope of the noise rate.
        beta_min: Noise rate at t = 0.
        steps: Number M of the discrete steps that c_noise counts: c_noise = (M - 1) t.
        epsilon_t: Smallest time trained on.
    """

    name: ClassVar[str] = "vp"
    beta_d: float = 19.9
    beta_min: float = 0.1
    steps: int = 1000
    epsilon_t: float = 1e-5

    @property
    def sigma_min(self) -> float:  # type: ignore[override]
        """sigma(epsilon_t)."""
        return self.sigma(self.epsilon_t)

    @property
    def sigma_max(self) -> float:  # type: ignore[override]
        """sigma(1)."""
        return self.sigma(1.0)

    def sigma(self, t: float) -> float:
        """The noise level at time t."""
        return math.sqrt(math.expm1(0.5 * self.beta_d * t**2 + self.beta_min * t))

    def sigma_of(self, t: Tensor) -> Tensor:
        """The noise levels at the times t, elementwise."""
        return torch.expm1(0.5 * self.beta_d * t**2 + self.beta_min * t).sqrt()

    def time(self, sigma: Tensor) -> Tensor:
        """The time at which the noise level is sigma: the inverse of `sigma_of`."""
        return (
            (self.beta_min**2 + 2 * self.beta_d * (1 + sigma**2).log()).sqrt() - self.beta_min
        ) / self.beta_d

    def coefficients(self, sigma: Tensor) -> tuple[Tensor | float, Tensor, Tensor | float, Tensor]:
        """c_skip = 1, c_out = -sigma, c_in = 1 / sqrt(sigma^2 + 1), c_noise = (M - 1) t(sigma)."""
        return 1.0, -sigma, 1 / (sigma**2 + 1).sqrt(), (self.steps - 1) * self.time(sigma)

    def noise_levels(
        self, uniform: Tensor, normal: Tensor, p_mean: float = -1.2, p_std: float = 1.2
    ) -> Tensor:
        """Return sigma(t) at t uniform on [epsilon_t, 1]."""
        return self.sigma_of(1 + uniform * (self.epsilon_t - 1))


@dataclass(frozen=True)
class VE(Preconditioning):
    """Variance exploding: the network sees x as it is and log(sigma / 2)."""

    name: ClassVar[str] = "ve"
    sigma_min: float = 0.02
    sigma_max: float = 100.0

    def coefficients(self, sigma: Tensor) -> tuple[Tensor | float, Tensor, Tensor | float, Tensor]:
        """c_skip = 1, c_out = sigma, c_in = 1, c_noise = log(sigma / 2)."""
        return 1.0, sigma, 1.0, (0.5 * sigma).log()

    def noise_levels(
        self, uniform: Tensor, normal: Tensor, p_mean: float = -1.2, p_std: float = 1.2
    ) -> Tensor:
        """Return levels that are log-uniform on [sigma_min, sigma_max]."""
        span = torch.tensor(self.sigma_max / self.sigma_min, device=uniform.device)
        return self.sigma_min * span.pow(uniform)


@dataclass(frozen=True)
class EDM(Preconditioning):
    """Inputs and targets of unit variance at every noise level, for data of standard deviation sigma_data."""

    name: ClassVar[str] = "edm"
    sigma_min: float = 0.0
    sigma_max: float = math.inf
    sigma_data: float = 0.5

    def coefficients(self, sigma: Tensor) -> tuple[Tensor | float, Tensor, Tensor | float, Tensor]:
        """c_skip = s^2 / S, c_out = sigma s / sqrt(S), c_in = 1 / sqrt(S), log(sigma) / 4.

        Here s = sigma_data and S = sigma^2 + s^2.
        """
        total = sigma**2 + self.sigma_data**2
        return (
            self.sigma_data**2 / total,
            sigma * self.sigma_data / total.sqrt(),
            1 / total.sqrt(),
            sigma.log() / 4,
        )

    def noise_levels(
        self, uniform: Tensor, normal: Tensor, p_mean: float = -1.2, p_std: float = 1.2
    ) -> Tensor:
        """Return log-normal levels."""
        return (normal * p_std + p_mean).exp()

    def loss_weight(self, sigma: Tensor) -> Tensor:
        """Return (sigma^2 + s^2) / (sigma s)^2 with s = sigma_data."""
        return (sigma**2 + self.sigma_data**2) / (sigma * self.sigma_data) ** 2


def iddpm_levels(steps: int, smallest: float = 0.001, offset: float = 0.008) -> Tensor:
    """Return u_0 to u_M, the noise levels of iDDPM's timesteps, descending to 0 (Karras et al. 2022, Table 1).

    u_{j-1} = sqrt((u_j^2 + 1) / max(a(j-1) / a(j), C_1) - 1) with a(j) = sin^2(pi j / (2 M (C_2 + 1))).

    Args:
        steps: M.
        smallest: C_1, which bounds the noise that one step adds.
        offset: C_2 of the cosine schedule.

    Returns:
        float64 (M + 1,), on the CPU.
    """

    def signal(j: int) -> float:
        return math.sin(0.5 * math.pi * j / steps / (offset + 1)) ** 2

    levels = [0.0]
    for j in range(steps, 0, -1):
        levels.append(math.sqrt((levels[-1] ** 2 + 1) / max(signal(j - 1) / signal(j), smallest) - 1))
    return torch.tensor(levels[::-1], dtype=torch.float64, device="cpu")


@dataclass(frozen=True, eq=False)
class IDDPM(Preconditioning):
    """Variance preserving with whole timesteps: the network is told the timestep whose level is nearest, so D jumps between two of them.

    The coefficients other than c_noise are those of the level itself.

    Attributes:
        levels: float32 (M + 1,), as of `iddpm_levels`.
    """

    name: ClassVar[str] = "iddpm"
    levels: Tensor

    @property
    def sigma_min(self) -> float:  # type: ignore[override]
        """u_{M-1}, the smallest level above 0."""
        return float(self.levels[-2])

    @property
    def sigma_max(self) -> float:  # type: ignore[override]
        """u_0."""
        return float(self.levels[0])

    def coefficients(self, sigma: Tensor) -> tuple[Tensor | float, Tensor, Tensor | float, Tensor]:
        """c_skip = 1, c_out = -sigma, c_in = 1 / sqrt(sigma^2 + 1), c_noise = M - 1 - j with u_j nearest to sigma."""
        levels = self.levels.to(sigma.device)
        nearest = (sigma.flatten()[:, None] - levels).abs().argmin(1).reshape(sigma.shape)
        return 1.0, -sigma, 1 / (sigma**2 + 1).sqrt(), (len(levels) - 2 - nearest).to(sigma.dtype)

    def noise_levels(
        self, uniform: Tensor, normal: Tensor, p_mean: float = -1.2, p_std: float = 1.2
    ) -> Tensor:
        """Return the levels of timesteps that are uniform."""
        levels = self.levels.to(uniform.device)
        return levels[(uniform * (len(levels) - 1)).long()]


class Preconditioned(DescribedDenoiser, nn.Module):
    """A network with its preconditioning: a `Denoiser` that can be trained.

    Attributes:
        model: The raw network (so named in the EDM checkpoints).
        preconditioning: Its coefficients.
        sigma_min: Smallest noise level.
        sigma_max: Largest noise level.
    """

    def __init__(self, model: UNet, preconditioning: Preconditioning) -> None:
        super().__init__()
        self.model, self.preconditioning = model, preconditioning
        self.image_shape = (model.settings.image_channels, model.resolution, model.resolution)
        self.num_labels = model.num_labels
        self.sigma_min, self.sigma_max = preconditioning.sigma_min, preconditioning.sigma_max

    def _text(self) -> str:
        return f"{network_text(self.model)}, {self.preconditioning.name.upper()} preconditioning"

    @property
    def device(self) -> torch.device:
        """Where the parameters are."""
        return next(self.parameters()).device

    def forward(self, x: Tensor, sigma: Tensor | float, labels: Tensor | None = None) -> Tensor:
        """Denoise a batch; see `Denoiser`. A conditional network takes -1, or no labels, for "no label".

        Raises:
            UserError: Labels were given to an unconditional network, or lie outside its classes.
        """
        x = x.to(torch.float32)
        level = torch.as_tensor(sigma, dtype=torch.float32, device=x.device).reshape(-1, 1, 1, 1)
        labels = self._checked(labels, x)
        c_skip, c_out, c_in, c_noise = self.preconditioning.coefficients(level)
        # Behind the image, iDDPM's network has channels of a variance.
        raw = self.model(c_in * x, c_noise.flatten(), labels)[:, : x.shape[1]]
        return c_skip * x + c_out * raw.to(torch.float32)  # type: ignore[no-any-return]

    def _checked(self, labels: Tensor | None, x: Tensor) -> Tensor | None:
        if labels is None:
            return torch.full((1,), -1, dtype=torch.int64, device=x.device) if self.num_labels else None
        # A check of values would make the GPU wait; there, a label out of range fails in the lookup itself.
        if labels.device.type == "cpu" or not self.num_labels:
            labels = checked_labels(labels, len(x), self.num_labels)
        return labels.to(torch.int64).reshape(-1)
