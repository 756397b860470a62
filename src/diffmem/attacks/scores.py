"""Scores of single images that tell training images from others by how well a denoiser treats them.

Three published attacks, for any `Denoiser`. All were stated for networks that predict the noise at the timesteps of a
variance-preserving process; a state x_t there is y + sigma n here divided by sqrt(1 + sigma^2), and the noise that a denoiser
sees in x is e(x; sigma) = (x - D(x; sigma)) / sigma. Their timesteps are noise levels here, those of the 1,000 linear steps with
which all three were published (Ho et al. 2020), counted from 0.

Images are pixels. For a `Latent` denoiser they are encoded first, y being the latents without noise of the encoder; noise and levels
are then in units of latents.

A score is higher for an image that is more like a member of the training set; this direction is fixed, whatever the data say.
Noise comes from the pixels of an image and the seed. So a score depends neither on the batch nor on the other images, up to
rounding of the network, and copies of an image have the same score.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable, Sequence
from itertools import pairwise

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Generator, Tensor

from diffmem.errors import UserError
from diffmem.models import Denoiser, Latent, pixel_shape_of
from diffmem.models.arguments import checked_labels
from diffmem.models.discrete import betas_of, levels_of
from diffmem.progress import NO_PROGRESS, Progress
from diffmem.sampling import SeededNoise

__all__ = [
    "NotFiniteError",
    "loss_levels",
    "loss_scores",
    "pia_levels",
    "pia_scores",
    "secmi_levels",
    "secmi_scores",
]

_SWEEP = range(10, 301, 10)
_LADDER = range(0, 101, 10)
_PIA = (0, 200)
_PIA_POWER = 4
_BATCH = 64

_Score = Callable[[Tensor, "Tensor | None", SeededNoise], Tensor]


class NotFiniteError(UserError):
    """A model returned values that are not finite."""


def loss_levels(denoiser: Denoiser) -> list[float]:
    """Return the noise levels of `loss_scores`: timesteps 10, 20, ... 300 as far as the denoiser is defined there.

    Raises:
        UserError: It is defined at none of them.
    """
    return _defined(denoiser, _SWEEP, 1)


def secmi_levels(denoiser: Denoiser) -> list[float]:
    """Return the noise levels of `secmi_scores`: timesteps 0, 10, ... 100.

    The denoiser's smallest level stands for those below it.

    Raises:
        UserError: Fewer than three levels are left.
    """
    return _with_lowest(denoiser, _LADDER, 3)


def pia_levels(denoiser: Denoiser) -> list[float]:
    """Return the noise levels of `pia_scores`: timesteps 0 and 200.

    The denoiser's smallest level stands for the first one if that is below it.

    Raises:
        UserError: The second one is outside of the denoiser's range.
    """
    return _with_lowest(denoiser, _PIA, 2)


def _defined(denoiser: Denoiser, timesteps: Sequence[int], least: int) -> list[float]:
    grid = levels_of(betas_of("linear", 1000)).tolist()
    kept = [grid[t] for t in timesteps if denoiser.sigma_min <= grid[t] <= denoiser.sigma_max]
    if len(kept) < least:
        raise UserError(
            f"The attack uses noise levels {grid[timesteps[0]]:.3g} to {grid[timesteps[-1]]:.3g}, but the model is defined from"
            f" {denoiser.sigma_min:g} to {denoiser.sigma_max:g} only. Give at least {least} noise level(s) in this range."
        )
    return kept


def _with_lowest(denoiser: Denoiser, timesteps: Sequence[int], least: int) -> list[float]:
    lowest = float(levels_of(betas_of("linear", 1000))[timesteps[0]])
    if denoiser.sigma_min <= lowest:
        return _defined(denoiser, timesteps, least)
    above = _defined(denoiser, timesteps[1:], least - 1)
    return [*([] if above[0] == denoiser.sigma_min else [denoiser.sigma_min]), *above]


def loss_scores(
    denoiser: Denoiser,
    images: NDArray[np.uint8],
    labels: NDArray[np.int64] | None = None,
    sigmas: Sequence[float] | None = None,
    seed: int = 0,
    *,
    draws: int = 1,
    progress: Progress = NO_PROGRESS,
) -> NDArray[np.float64]:
    """Score images by the training loss: minus |n - e(y + sigma n; sigma)|^2, per value, averaged over levels and draws.

    As n - e is (D - y) / sigma, it weighs the error of the denoised image by 1 / sigma^2. Source: Matsumoto et al. 2023 and Carlini
    et al. 2023 (the threshold attack); the levels are those of the comparison in Kong et al. 2024.

    Args:
        denoiser: The model.
        images: uint8 (N, C, H, W), pixels.
        labels: Class of each image, int64 (N,), or -1 for no label: needed if the model has classes, none otherwise.
        sigmas: Noise levels, in the units of what the model denoises; none for `loss_levels`.
        seed: Seed of the noise, with the pixels of each image.
        draws: Independent draws of noise at each level.
        progress: Told the images that are done.

    Returns:
        float64 (N,), at most 0, in squared units of the noise.

    Raises:
        UserError: Images, labels or levels do not fit the model, or it returns values that are not finite.
    """
    levels = _checked_levels(denoiser, loss_levels(denoiser) if sigmas is None else sigmas, 1)
    if draws < 1:
        raise UserError(f"There must be at least 1 draw of noise at each level, not {draws}.")

    def score(y: Tensor, given: Tensor | None, noise: SeededNoise) -> Tensor:
        total = torch.zeros(len(y), dtype=torch.float64, device=y.device)
        for level in levels:
            for _ in range(draws):
                n = noise(y)
                total += (n - _noise_seen(denoiser, y + level * n, level, given)).square().flatten(1).mean(1)
        return -total / (len(levels) * draws)

    return _scored(denoiser, images, labels, seed, score, progress)


def secmi_scores(
    denoiser: Denoiser,
    images: NDArray[np.uint8],
    labels: NDArray[np.int64] | None = None,
    sigmas: Sequence[float] | None = None,
    seed: int = 0,
    *,
    progress: Progress = NO_PROGRESS,
) -> NDArray[np.float64]:
    """Score images by how well a deterministic step up and back returns: SecMI-stat (Duan et al. 2023), negated.

    The image is carried up the levels by steps x + (sigma' - sigma) e(x; sigma) (those of DDIM). The last of them is then undone with
    e of where it ended; the error is the squared distance to where it began, at the last level but one, in units of x_t. With
    the published constants, timesteps 0 to 100 in steps of 10, that is timestep 90. The first level is that of the image itself,
    to which nothing is added; the original multiplies it, in these units, by sqrt(1 + sigma^2), which is 1.00005.

    Where D does not change along the steps, e does not either and the error is 0 for any image: so it is for the optimum of a
    training set at levels where one image has all weight. There the attack sees nothing.

    Args:
        denoiser: The model.
        images: uint8 (N, C, H, W).
        labels: As of `loss_scores`.
        sigmas: Noise levels, three or more; none for `secmi_levels`.
        seed: Not used, as the attack has no randomness; all scores take one.
        progress: Told the images that are done.

    Returns:
        float64 (N,), at most 0: minus the mean square per value.

    Raises:
        UserError: As of `loss_scores`.
    """
    levels = _checked_levels(denoiser, secmi_levels(denoiser) if sigmas is None else sigmas, 3)

    def score(y: Tensor, given: Tensor | None, noise: SeededNoise) -> Tensor:
        x, ahead = y, _noise_seen(denoiser, y, levels[0], given)
        for low, high in pairwise(levels[:-1]):
            x = x + (high - low) * ahead
            ahead = _noise_seen(denoiser, x, high, given)
        step = levels[-1] - levels[-2]
        back = _noise_seen(denoiser, x + step * ahead, levels[-1], given)
        error = (step * (ahead - back)).square().flatten(1).mean(1)
        return -error / (1 + levels[-2] ** 2)

    return _scored(denoiser, images, labels, seed, score, progress)


def pia_scores(
    denoiser: Denoiser,
    images: NDArray[np.uint8],
    labels: NDArray[np.int64] | None = None,
    sigmas: Sequence[float] | None = None,
    seed: int = 0,
    *,
    normalized: bool = False,
    progress: Progress = NO_PROGRESS,
) -> NDArray[np.float64]:
    """Score images by whether the noise seen in the clean image is seen again behind it: PIA (Kong et al. 2024), negated.

    With n = e(y; sigmas[0]), the error is the mean over values of |n - e(y + sigma n; sigma)|^4, averaged over the other levels. (As
    in SecMI, the original multiplies y by 1.00005 for n.) The original tries timesteps 10 to 300 and prints the best one; chosen on
    the images that are judged, it overstates the attack. Here one is fixed, 200.

    Args:
        denoiser: The model.
        images: uint8 (N, C, H, W).
        labels: As of `loss_scores`.
        sigmas: Noise levels: the one taken for the clean image, then one or more above it; none for `pia_levels`.
        seed: Not used, as the attack has no randomness; all scores take one.
        normalized: Scale n so that its mean absolute value is that of noise, sqrt(2 / pi), as PIAN does. An image in which no
            noise is seen at all keeps n = 0.
        progress: Told the images that are done.

    Returns:
        float64 (N,), at most 0, in fourth powers of units of the noise.

    Raises:
        UserError: As of `loss_scores`.
    """
    levels = _checked_levels(denoiser, pia_levels(denoiser) if sigmas is None else sigmas, 2)

    def score(y: Tensor, given: Tensor | None, noise: SeededNoise) -> Tensor:
        n = _noise_seen(denoiser, y, levels[0], given)
        if normalized:
            size = n.abs().flatten(1).mean(1).reshape(-1, 1, 1, 1)
            n = n * torch.where(size > 0, math.sqrt(2 / math.pi) / size, 1.0)
        total = torch.zeros(len(y), dtype=torch.float64, device=y.device)
        for level in levels[1:]:
            miss = n - _noise_seen(denoiser, y + level * n, level, given)
            total += miss.abs().pow(_PIA_POWER).flatten(1).mean(1)
        return -total / len(levels[1:])

    return _scored(denoiser, images, labels, seed, score, progress)


def _noise_seen(denoiser: Denoiser, x: Tensor, sigma: float, labels: Tensor | None) -> Tensor:
    """Return e(x; sigma), float64."""
    level = torch.full((len(x),), sigma, dtype=torch.float64, device=x.device)
    clean = denoiser(x, level, labels)
    if clean.shape != x.shape:
        raise UserError(f"The model returned shape {tuple(clean.shape)} for images {tuple(x.shape)}.")
    return (x - clean.double()) / sigma


def _checked_levels(denoiser: Denoiser, sigmas: Sequence[float], least: int) -> list[float]:
    levels = [float(sigma) for sigma in sigmas]
    if len(levels) < least or any(low >= high for low, high in pairwise(levels)):
        raise UserError(f"The attack needs {least} or more ascending noise levels, not {levels}.")
    for level in levels:
        if not denoiser.sigma_min <= level <= denoiser.sigma_max or not 0 < level < math.inf:
            raise UserError(
                f"The noise level {level:g} is outside the range of the model, {denoiser.sigma_min:g} to {denoiser.sigma_max:g}."
            )
    return levels


@torch.no_grad()
def _scored(
    denoiser: Denoiser,
    images: NDArray[np.uint8],
    labels: NDArray[np.int64] | None,
    seed: int,
    score: _Score,
    progress: Progress,
) -> NDArray[np.float64]:
    """Return the score of each image, batch by batch."""
    shape = pixel_shape_of(denoiser)
    if images.dtype != np.uint8 or images.ndim != 4 or tuple(images.shape[1:]) != shape:
        raise UserError(
            f"The model scores uint8 images (N, C, H, W) with (C, H, W) = {shape}, not {images.dtype} of shape {images.shape}."
        )
    if denoiser.num_labels and labels is None:
        raise UserError(
            f"The model has {denoiser.num_labels} classes: give the class of each image, as membership shows less under a wrong one"
            " or none; -1 stands for no label."
        )
    if labels is not None and len(labels) != len(images):
        raise UserError(f"There are {len(labels)} labels for {len(images)} images; give one for each.")
    given = (
        None
        if labels is None
        else checked_labels(torch.tensor(labels, dtype=torch.int64), len(images), denoiser.num_labels)
    )
    found = np.empty(len(images))
    for start in range(0, len(images), _BATCH):
        part = slice(start, min(start + _BATCH, len(images)))
        batch = np.ascontiguousarray(images[part])
        y = torch.tensor(batch, dtype=torch.float64).div_(127.5).sub_(1).to(denoiser.device)
        if isinstance(denoiser, Latent):
            y = denoiser.encode(y).double()
        noise = SeededNoise([_generator(image, seed) for image in batch])
        found[part] = (
            score(y, None if given is None else given[part].to(denoiser.device), noise).cpu().numpy()
        )
        wrong = np.flatnonzero(~np.isfinite(found[part]))
        if len(wrong):
            raise NotFiniteError(
                f"The model returned values that are not finite for image {start + wrong[0]}: its weights are broken or its training"
                " diverged."
            )
        progress(part.stop, len(images))
    return found


def _generator(image: NDArray[np.uint8], seed: int) -> Generator:
    digest = hashlib.blake2b(f"{seed} ".encode(), digest_size=4)
    digest.update(image.tobytes())
    return Generator("cpu").manual_seed(int.from_bytes(digest.digest(), "little"))
