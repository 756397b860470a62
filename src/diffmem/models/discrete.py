"""Denoisers from networks of discrete time: timesteps as noise levels, predictions as D(x; sigma).

A variance-preserving process of T steps noises y to x_t = sqrt(a_t) y + sqrt(1 - a_t) n, where a_t is the product of 1 - beta up to
step t (Ho et al. 2020, "Denoising Diffusion Probabilistic Models", eq. 4). Divided by sqrt(a_t), that is y + sigma_t n with
sigma_t = sqrt((1 - a_t) / a_t): a network shown x / sqrt(1 + sigma_t^2) and t is a denoiser at sigma_t. With s = 1 / sqrt(1 + sigma^2),
D is x - sigma F for a network F that predicts the noise, F for the clean image, and s^2 x - s sigma F for the velocity
s n - s sigma y (Salimans and Ho 2022, "Progressive Distillation for Fast Sampling of Diffusion Models", appendix D).
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from diffmem.errors import UserError
from diffmem.models.denoiser import (
    DescribedDenoiser,
    check_trained,
    checked_classes,
    checked_levels,
    network_text,
)

__all__ = [
    "BetaSchedule",
    "DiscreteDenoiser",
    "DiscreteProcess",
    "Prediction",
    "Timesteps",
    "betas_of",
    "clipped",
    "cosine_rates",
    "levels_of",
    "thresholded",
    "zero_terminal",
]

BetaSchedule = Literal["linear", "scaled_linear", "squaredcos_cap_v2", "sigmoid"]
Prediction = Literal["epsilon", "sample", "v_prediction"]
Timesteps = Literal["interpolated", "nearest"]


def betas_of(schedule: BetaSchedule, steps: int, start: float = 1e-4, end: float = 0.02) -> Tensor:
    """Return the noise rates of a named schedule.

    Args:
        schedule: 'linear' from start to end (Ho et al. 2020); 'scaled_linear', whose square roots are linear (Rombach et al. 2022);
            'squaredcos_cap_v2', the cosine of Nichol and Dhariwal 2021, eq. 17, capped at 0.999, which uses no start and end;
            'sigmoid' of the linear -6 to 6.
        steps: T.
        start: First rate, in [0, 1).
        end: Last rate, in [0, 1).

    Returns:
        float32 (T,) on the CPU, as trainers compute them: in float64, 1 - a_t of the first steps would differ by up to 0.1%.
    """
    if schedule == "linear":
        return torch.linspace(start, end, steps, dtype=torch.float32)
    if schedule == "scaled_linear":
        return torch.linspace(math.sqrt(start), math.sqrt(end), steps, dtype=torch.float32).square()
    if schedule == "sigmoid":
        return torch.linspace(-6, 6, steps, dtype=torch.float32).sigmoid() * (end - start) + start
    return torch.tensor(cosine_rates(steps), dtype=torch.float32)


def cosine_rates(steps: int) -> list[float]:
    """Return the noise rates of the cosine schedule, capped at 0.999: Nichol and Dhariwal 2021, eq. 17; in float64."""

    def signal(t: float) -> float:
        return math.cos((t + 0.008) / 1.008 * math.pi / 2) ** 2

    return [min(1 - signal((t + 1) / steps) / signal(t / steps), 0.999) for t in range(steps)]


def zero_terminal(betas: Tensor) -> Tensor:
    """Return rates shifted and scaled so that nothing of the image is left at the last step: Lin et al. 2024, Algorithm 1.

    Args:
        betas: float32 (T,).
    """
    signal = (1 - betas).cumprod(0).sqrt()
    first, last = signal[0], signal[-1]
    squares = ((signal - last) * (first / (first - last))).square()
    return 1 - torch.cat([squares[:1], squares[1:] / squares[:-1]])


def levels_of(betas: Tensor, products: torch.dtype = torch.float32) -> Tensor:
    """Return the noise levels of the timesteps.

    Timesteps that leave nothing of the image (a_t = 0, as the last one of `zero_terminal`) have an infinite level, which no x can
    have; they are left out.

    Args:
        betas: Float (T,), in [0, 1].
        products: The precision in which the trainer multiplied 1 - beta; in float32, the first of 1,000 linear levels are off by up
            to 0.008%.

    Returns:
        float64 (T,), or fewer; level t belongs to timestep t. Positive and ascending.

    Raises:
        UserError: The levels are not numbers, not positive, not ascending, or fewer than two.
    """
    signal = (1 - betas.to(products)).cumprod(0).double()
    signal = signal[: len(signal) - int((signal.abs() < torch.finfo(torch.float32).tiny).sum())]
    levels = ((1 - signal) / signal).sqrt()
    if len(levels) < 2:
        raise UserError(f"The beta schedule has {len(levels)} finite noise level(s); at least 2 are needed.")
    steps = levels.diff(prepend=torch.zeros(1, dtype=torch.float64))
    if not bool((steps > 0).all()):
        at = int((~(steps > 0)).nonzero()[0, 0])
        raise UserError(
            f"The noise of the beta schedule does not grow at timestep {at} (beta {float(betas[at]):g}); every beta must be above 0 and"
            " below 1."
        )
    return levels


def clipped(reach: float) -> Callable[[Tensor], Tensor]:
    """Return what clips images to [-reach, reach]."""
    return lambda images: images.clamp(-reach, reach)


def thresholded(share: float, largest: float) -> Callable[[Tensor], Tensor]:
    """Return the dynamic thresholding of Saharia et al. 2022 (Imagen), section 2.3.

    Each image is clipped to [-s, s] and divided by s, its quantile of absolute values at `share`, which is put into [1, largest].
    """

    def threshold(images: Tensor) -> Tensor:
        rows = images.flatten(1)
        # One by one: torch takes no quantile of more than 16 million numbers at a time.
        sizes = torch.stack([torch.quantile(row.abs(), share) for row in rows]).clamp(1, max(1, largest))
        bound = sizes[:, None]
        return (torch.maximum(torch.minimum(rows, bound), -bound) / bound).reshape(images.shape)

    return threshold


@dataclass(frozen=True, eq=False)
class DiscreteProcess:
    """What a network of discrete time was trained for, and how it is asked between its timesteps.

    At the noise levels of timesteps, D is the network's own prediction. Between them, the timestep is a choice:

    - 'interpolated': fractional, log(1 + sigma^2) = -log a_t being linear between neighbours. What the network is given differs
      from a smooth schedule; for 1,000 linear steps, by at most 1% of sigma below the second level and 0.1% from timestep 10 on.
      Networks are trained on whole timesteps, so it must be one that is smooth in time (sinusoids).
    - 'nearest': whole, for networks that look timesteps up in a table. What the network is given is wrong by as much as half of a
      step; for 1,000 linear steps, by 22% of sigma below the second level, 3.5% from timestep 10 on and 0.5% from 100 on. D jumps.

    Attributes:
        levels: Noise level of each timestep, as of `levels_of`.
        prediction: What the network predicts: 'epsilon' (the noise), 'sample' (the clean image) or 'v_prediction' (the velocity).
        timesteps: See above.
        finish: Applied to D, for example `clipped(1)`; none to leave D as the network predicts it.
    """

    levels: Tensor
    prediction: Prediction = "epsilon"
    timesteps: Timesteps = "interpolated"
    finish: Callable[[Tensor], Tensor] | None = None


class DiscreteDenoiser(DescribedDenoiser):
    """D(x; sigma) of a network that knows timesteps.

    Args:
        network: F(x_t, t, labels): x_t float32 (B, C, H, W); t (B,), float32, or int64 if `timesteps` is 'nearest'; labels int64 (B,)
            or none.
        process: What it was trained for.
        image_shape: (C, H, W).
        num_labels: Number of classes; 0 for an unconditional network. One with classes always needs labels, unless there is a
            `null_label`.
        null_label: What the network is given for "no label" (-1, or no labels at all), if it was trained with that.
        device: Where the network computes.

    Attributes:
        levels: The noise levels of the timesteps, float64 on the CPU, ascending.
        prediction: What the network predicts.
        timesteps: How levels between those are served.
        sigma_min: The first of the levels.
        sigma_max: The last.
        image_shape: (C, H, W) of the images.
        num_labels: Number of classes, 0 for none.
        device: Where it computes.
    """

    def __init__(
        self,
        network: Callable[[Tensor, Tensor, Tensor | None], Tensor],
        process: DiscreteProcess,
        image_shape: tuple[int, int, int],
        num_labels: int = 0,
        *,
        null_label: int | None = None,
        device: torch.device | str = "cpu",
    ) -> None:
        self._network, self._finish, self._null_label = network, process.finish, null_label
        self.levels, self.prediction, self.timesteps = process.levels, process.prediction, process.timesteps
        self.sigma_min, self.sigma_max = float(self.levels[0]), float(self.levels[-1])
        self.image_shape, self.num_labels, self.device = image_shape, num_labels, torch.device(device)
        self._grid = self._on_grid(self.levels).to(self.device)

    def _text(self) -> str:
        return f"{network_text(self._network)}, {self.prediction} at {len(self.levels):,} timesteps"

    def _on_grid(self, sigma: Tensor) -> Tensor:
        return sigma.log() if self.timesteps == "nearest" else sigma.square().log1p()

    def timestep(self, sigma: Tensor) -> Tensor:
        """Return the timesteps of noise levels: float64 (B,), whole at the levels of timesteps.

        Args:
            sigma: float64 (B,).

        Raises:
            UserError: A level is outside of [sigma_min, sigma_max].
        """
        check_trained(sigma, self.sigma_min, self.sigma_max)
        grid = self._grid
        point = self._on_grid(sigma.to(grid)).clamp(grid[0], grid[-1])
        upper = torch.searchsorted(grid, point).clamp(1, len(grid) - 1)
        below = grid[upper - 1]
        step = upper - 1 + (point - below) / (grid[upper] - below)
        return step.round() if self.timesteps == "nearest" else step

    def __call__(self, x: Tensor, sigma: Tensor | float, labels: Tensor | None = None) -> Tensor:
        """Denoise a batch; see `Denoiser`. D is differentiable in x; it is float32, combined in float64.

        Raises:
            UserError: A shape does not fit, a noise level is outside of the trained ones, a label does not exist, or labels are
                missing for a network with classes.
        """
        level = checked_levels(x, sigma, self.image_shape)
        step = self.timestep(level)
        given = checked_classes(labels, len(x), self.num_labels, self._null_label)
        level = level[:, None, None, None]
        scale = (1 + level.square()).rsqrt()
        state = x.double()
        raw = self._network(
            (state * scale).float(),
            step.long() if self.timesteps == "nearest" else step.float(),
            None if given is None else given.to(x.device),
        ).double()
        if self.prediction == "epsilon":
            clean = state - level * raw
        elif self.prediction == "sample":
            clean = raw
        else:
            clean = scale.square() * state - scale * level * raw
        return (clean if self._finish is None else self._finish(clean)).float()
