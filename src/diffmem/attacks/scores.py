"""Scores of single images that separate training images from others by how well a denoiser treats them.

Three published attacks, for any `Denoiser`. All were stated for networks that predict the noise at the timesteps of a
variance-preserving process; a state x_t there is y + sigma n here divided by sqrt(1 + sigma^2), and the noise that a denoiser
predicts in x is e(x; sigma) = (x - D(x; sigma)) / sigma. Their timesteps are noise levels here, those of the 1,000 linear steps with
which all three were published (Ho et al. 2020), counted from 0.

Images are pixels. For a `Latent` denoiser they are encoded first, y being the latents without noise of the encoder; noise and levels
are then in units of latents.

A score is higher for an image that is more like a member of the training set; this direction is fixed, whatever the data say.
Noise comes from the pixels of an image and the seed. So a score depends neither on the batch nor on the other images, up to
rounding of the network, and copies of an image have the same score.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Literal, get_args

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from diffmem.attacks.asking import check_finite, denoised, encoded, generator_of, labels_of
from diffmem.errors import UserError, nearest
from diffmem.models import Denoiser, Latent
from diffmem.models.denoiser import check_independent_noise
from diffmem.models.discrete import betas_of, levels_of
from diffmem.progress import NO_PROGRESS, Progress
from diffmem.sampling import SeededNoise

__all__ = ["Attack", "attack_levels", "attack_name", "attack_scores"]

Attack = Literal["loss", "secmi", "pia", "pian"]
"""The attacks, see `attack_scores`; 'pian' is PIA with normalized noise."""

_PIA_POWER = 4
_BATCH = 64

_Predict = Callable[[Tensor, float], Tensor]  # x, sigma -> e(x; sigma), float64
_Score = Callable[[_Predict, Tensor, Sequence[float], SeededNoise], Tensor]


def attack_levels(attack: Attack, denoiser: Denoiser, sigmas: Sequence[float] | None = None) -> list[float]:
    """Return the noise levels of an attack, ascending: the published ones as far as the denoiser is defined there, or given ones.

    They are the timesteps 10, 20, ... 300 of 'loss', 0, 10, ... 100 of 'secmi', 0 and 200 of 'pia' and 'pian'. For the latter three
    the first level is that of the image itself: the denoiser's smallest level stands for those below it.

    Args:
        sigmas: Levels instead of the published ones.

    Raises:
        UserError: There is no such attack; too few levels are left; given ones do not ascend, or are outside of the denoiser's range.
    """
    if attack not in get_args(Attack):
        choices = list(get_args(Attack))
        raise UserError(
            f"Unknown attack {attack!r}; choose one of {', '.join(choices)}.{nearest(str(attack), choices)}"
        )
    method = _METHODS[attack]
    if sigmas is None:
        return _published(denoiser, method.timesteps, method.least)
    levels = [float(sigma) for sigma in sigmas]
    if len(levels) < method.least or any(low >= high for low, high in pairwise(levels)):
        raise UserError(f"The attack needs {method.least} or more ascending noise levels, not {levels}.")
    for level in levels:
        if not denoiser.sigma_min <= level <= denoiser.sigma_max or not 0 < level < math.inf:
            raise UserError(
                f"The noise level {level:g} is outside the range of the model, {denoiser.sigma_min:g} to {denoiser.sigma_max:g}."
            )
    return levels


def attack_name(attack: Attack, denoiser: Denoiser, levels: Sequence[float]) -> str:
    """Return the id of an attack with its constants."""
    latent = " of latents" if isinstance(denoiser, Latent) else ""
    return f"{_METHODS[attack].name}{latent}, sigma {' '.join(f'{level:.4g}' for level in levels)}"


@torch.no_grad()
def attack_scores(
    attack: Attack,
    denoiser: Denoiser,
    images: NDArray[np.uint8],
    labels: NDArray[np.int64] | None = None,
    sigmas: Sequence[float] | None = None,
    seed: int = 0,
    *,
    draws: int = 1,
    progress: Progress = NO_PROGRESS,
) -> NDArray[np.float64]:
    """Score images by an attack.

    'loss': minus the training loss |n - e(y + sigma n; sigma)|^2 per value, averaged over levels and draws, in squared units of the
    noise. As n - e is (D - y) / sigma, it weighs the error of the denoised image by 1 / sigma^2. Source: Matsumoto et al. 2023 and
    Carlini et al. 2023 (the threshold attack); the levels are those of the comparison in Kong et al. 2024.

    'secmi': how well a deterministic step up and back returns, SecMI-stat (Duan et al. 2023), negated: the mean square per value. The
    image is carried up the levels by steps x + (sigma' - sigma) e(x; sigma) (those of DDIM). The last of them is then undone with e of
    where it ended; the error is the squared distance to where it began, at the last level but one, in units of x_t. With the published
    constants, that is timestep 90. Nothing is added to the image at the first level; the original multiplies it, in these units, by
    sqrt(1 + sigma^2), which is 1.00005. Where D does not change along the steps, e does not either and the error is 0 for any image: so
    it is for the optimum of a training set at levels where one image has all weight. There the attack is blind.

    'pia': whether the noise predicted in the clean image is predicted again behind it, PIA (Kong et al. 2024), negated. With
    n = e(y; sigmas[0]), the error is the mean over values of |n - e(y + sigma n; sigma)|^4, averaged over the other levels. (As in
    SecMI, the original multiplies y by 1.00005 for n.) The original tries timesteps 10 to 300 and prints the best one; chosen on the
    images that are judged, it overstates the attack. Here one is fixed, 200.

    'pian': the same with n scaled so that its mean absolute value is that of noise, sqrt(2 / pi). An image in which no noise is
    predicted at all keeps n = 0.

    Args:
        images: uint8 (N, C, H, W), pixels.
        labels: Class of each image, int64 (N,), or -1 for no label: needed if the model has classes, none otherwise.
        sigmas: Noise levels, in the units of what the model denoises; see `attack_levels`.
        seed: Of the noise of 'loss', with the pixels of each image; the others draw none.
        draws: Independent draws of noise at each level, of 'loss'.

    Returns:
        float64 (N,), at most 0.

    Raises:
        UserError: Images, labels or levels do not fit the model, it returns values that are not finite, or it was trained on noise that
            was paired with images (`check_independent_noise`).
    """
    check_independent_noise(denoiser)
    levels = attack_levels(attack, denoiser, sigmas)
    if draws < 1:
        raise UserError(f"There must be at least 1 draw of noise at each level, not {draws}.")
    if denoiser.num_labels and labels is None:
        raise UserError(
            f"The model has {denoiser.num_labels} classes: give the class of each image, as membership shows less under a wrong one"
            " or none; -1 stands for no label."
        )
    given = labels_of(denoiser, images, labels)
    if attack == "loss":
        levels = [level for level in levels for _ in range(draws)]
    found = np.empty(len(images))
    for start in range(0, len(images), _BATCH):
        part = slice(start, min(start + _BATCH, len(images)))
        classes = None if given is None else given[part]
        noise = SeededNoise([generator_of(image, str(seed)) for image in images[part]])

        def predict(x: Tensor, sigma: float, classes: Tensor | None = classes) -> Tensor:
            return (x - denoised(denoiser, x, sigma, classes).double()) / sigma

        scores = _METHODS[attack].score(predict, encoded(denoiser, images[part]), levels, noise)
        found[part] = scores.cpu().numpy()
        check_finite(found[part], start)
        progress(part.stop, len(images))
    return found


def _published(denoiser: Denoiser, timesteps: Sequence[int], least: int) -> list[float]:
    grid = levels_of(betas_of("linear", 1000)).tolist()
    lowest = [denoiser.sigma_min] if timesteps[0] == 0 and denoiser.sigma_min > grid[0] else []
    levels = [grid[t] for t in timesteps if denoiser.sigma_min <= grid[t] <= denoiser.sigma_max]
    if len(levels) < least - len(lowest):
        raise UserError(
            f"The attack uses noise levels {grid[timesteps[len(lowest)]]:.3g} to {grid[timesteps[-1]]:.3g}, but the model is defined from"
            f" {denoiser.sigma_min:g} to {denoiser.sigma_max:g} only. Give at least {least} noise level(s) in this range."
        )
    return levels if levels[0] in lowest else lowest + levels


def _loss(predict: _Predict, y: Tensor, levels: Sequence[float], noise: SeededNoise) -> Tensor:
    total = torch.zeros(len(y), dtype=torch.float64, device=y.device)
    for level in levels:
        n = noise(y)
        total += (n - predict(y + level * n, level)).square().flatten(1).mean(1)
    return -total / len(levels)


def _secmi(predict: _Predict, y: Tensor, levels: Sequence[float], noise: SeededNoise) -> Tensor:
    x, ahead = y, predict(y, levels[0])
    for low, high in pairwise(levels[:-1]):
        x = x + (high - low) * ahead
        ahead = predict(x, high)
    step = levels[-1] - levels[-2]
    back = predict(x + step * ahead, levels[-1])
    error = (step * (ahead - back)).square().flatten(1).mean(1)
    return -error / (1 + levels[-2] ** 2)


def _pia(predict: _Predict, y: Tensor, levels: Sequence[float], noise: SeededNoise) -> Tensor:
    return _returned(predict, y, predict(y, levels[0]), levels)


def _pian(predict: _Predict, y: Tensor, levels: Sequence[float], noise: SeededNoise) -> Tensor:
    n = predict(y, levels[0])
    size = n.abs().flatten(1).mean(1).reshape(-1, 1, 1, 1)
    return _returned(predict, y, n * torch.where(size > 0, math.sqrt(2 / math.pi) / size, 1.0), levels)


def _returned(predict: _Predict, y: Tensor, n: Tensor, levels: Sequence[float]) -> Tensor:
    total = torch.zeros(len(y), dtype=torch.float64, device=y.device)
    for level in levels[1:]:
        total += (n - predict(y + level * n, level)).abs().pow(_PIA_POWER).flatten(1).mean(1)
    return -total / len(levels[1:])


@dataclass(frozen=True)
class _Method:
    """An attack: its id, its published timesteps, the fewest levels that it needs, and its score."""

    name: str
    timesteps: Sequence[int]
    least: int
    score: _Score


_METHODS: dict[Attack, _Method] = {
    "loss": _Method("loss of the noise, 1 draw", range(10, 301, 10), 1, _loss),
    "secmi": _Method("secmi-stat", range(0, 101, 10), 3, _secmi),
    "pia": _Method("pia, power 4", (0, 200), 2, _pia),
    "pian": _Method("pian, power 4", (0, 200), 2, _pian),
}
