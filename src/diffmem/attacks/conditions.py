"""Scores of a condition, such as a prompt, by how a denoiser with classes treats it: from D(x; sigma, c), whatever the network predicts.

With e = (x - D) / sigma and s = (D - x) / sigma^2, all are differences of D at one noise level, so that networks that predict the noise,
the velocity or the image give the same numbers. Higher means more like a condition that was memorized. `magnitude`, |e_c - e_0|, is that of
Wen et al. 2024, "Detecting, Explaining, and Mitigating Memorization in Diffusion Models"; `sharpness` that of Jeon et al. 2025,
"Understanding and Mitigating Memorization in Generative Models via Sharpness of Probability Landscapes"; the null of a base model in place
of the model's own is this project's (docs/explanation/prompt-detectors.md).

Nothing here depends on a batch or on other conditions: noise comes from seeds, one for each state.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from diffmem.attacks.asking import check_finite, denoised, encoded
from diffmem.models import Denoiser
from diffmem.progress import NO_PROGRESS, Progress
from diffmem.sampling import SeededNoise, latents_for_seeds

__all__ = ["LEVELS", "States", "first_step", "null_magnitudes", "renoised"]

LEVELS = (0.5, 1.0, 2.0, 4.0)
"""Noise levels of `renoised`, in units of what the model denoises, where neither the image nor the noise is alone; those that it has."""

_BATCH = 64


@torch.no_grad()
def first_step(
    denoiser: Denoiser,
    labels: Sequence[int],
    seeds: Sequence[int],
    *,
    sigma: float | None = None,
    step: float = 0.01,
    progress: Progress = NO_PROGRESS,
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return magnitude and sharpness where sampling begins: at x = sigma n, n the noise of the seed, float64 (N,) both.

    Magnitude is |e_c - e_0|; guidance makes no difference to it there. Sharpness is |H_c d - H_0 d| with d = s_c - s_0 and H the
    Jacobian of s, by central differences of D, which need no derivatives of the network: six evaluations for a state.

    Args:
        denoiser: Takes labels, and no label (-1).
        labels: The condition of each state.
        seeds: Of the noise, as samples have them.
        sigma: Its largest noise level if left out.
        step: Of the difference, root mean square per value, in units of sigma.
        progress: Called now and then.

    Raises:
        UserError: The model returns values that are not finite.
    """
    level = float(denoiser.sigma_max if sigma is None else sigma)
    found = np.empty((2, len(labels)))
    for part in _parts(len(labels)):
        given = torch.tensor(labels[part], device=denoiser.device)
        noise, _ = latents_for_seeds(seeds[part], denoiser.image_shape, denoiser.device)
        x = level * noise
        difference = _conditional(denoiser, x, level, given)
        size = _norm(difference)
        # |d| is divided out and multiplied in again, so that the step is as long for every state.
        unit = difference * (difference[0].numel() ** 0.5 / size.clamp_min(1e-300))[:, None, None, None]
        ahead, behind = (
            _conditional(denoiser, x + sign * step * level * unit, level, given) for sign in (1, -1)
        )
        slope = (ahead - behind) / (2 * step * level)
        found[0, part] = (size / level).cpu()
        found[1, part] = (_norm(slope) * size / difference[0].numel() ** 0.5 / level**4).cpu()
        for row in found:
            check_finite(row[part], part.start)
        progress(part.stop, len(labels))
    return found[0], found[1]


@dataclass(frozen=True, eq=False)
class States:
    """Noisy latents of finished samples, and what a model makes of them with their conditions: all that its base is to be compared with.

    Attributes:
        clean: What noise was added to, float32 (N, *image_shape), on the CPU.
        seeds: Of the noise.
        levels: Noise levels.
        given: D with the condition, float32 (K, N, *image_shape), on the CPU.
        own: Mean over the levels of |e_c - e_0| of the model itself, float64 (N,).
    """

    clean: Tensor
    seeds: tuple[int, ...]
    levels: tuple[float, ...]
    given: Tensor
    own: NDArray[np.float64]


@torch.no_grad()
def renoised(
    denoiser: Denoiser,
    images: NDArray[np.uint8],
    labels: Sequence[int],
    seeds: Sequence[int],
    progress: Progress = NO_PROGRESS,
) -> States:
    """Add noise of several levels to samples, and denoise them with their conditions and without.

    Those are the states of sampling in distribution, and whoever has the samples has them: no run of a sampler is kept.

    Args:
        denoiser: If it is `Latent`, samples are encoded.
        images: uint8 (N, C, H, W), samples of the conditions.
        labels: Their conditions.
        seeds: Of their noise.
        progress: Called now and then.

    Raises:
        UserError: The model returns values that are not finite.
    """
    levels = tuple(level for level in LEVELS if denoiser.sigma_min <= level <= denoiser.sigma_max)
    levels = levels or (denoiser.sigma_max,)
    own = np.zeros(len(labels))
    clean: list[Tensor] = []
    rows: list[list[Tensor]] = []
    for part in _parts(len(labels)):
        y = encoded(denoiser, images[part])
        clean.append(y.float().cpu())
        given = torch.tensor(labels[part], device=denoiser.device)
        rows.append([])
        for level, x in _noisy(clean[-1], seeds[part], levels, denoiser):
            of_label = denoised(denoiser, x, level, given)
            of_none = denoised(denoiser, x, level, torch.full_like(given, -1))
            rows[-1].append(of_label.float().cpu())
            own[part] += (_norm(of_label.double() - of_none.double()) / level / len(levels)).cpu().numpy()
        check_finite(own[part], part.start)
        progress(part.stop, len(labels))
    return States(
        torch.cat(clean), tuple(seeds), levels, torch.cat([torch.stack(row) for row in rows], 1), own
    )


@torch.no_grad()
def null_magnitudes(base: Denoiser, states: States, progress: Progress = NO_PROGRESS) -> NDArray[np.float64]:
    """Return the mean over the levels of |e_c - e_0| with e_0 of a base model and e_c of the model that the states are of, float64 (N,).

    Args:
        base: Of the same latents.
        states: Of the audited model.
        progress: Called now and then.

    Raises:
        UserError: The model returns values that are not finite.
    """
    found = np.zeros(len(states.seeds))
    for part in _parts(len(found)):
        none = torch.full((part.stop - part.start,), -1, device=base.device)
        noisy = _noisy(states.clean[part], states.seeds[part], states.levels, base)
        for number, (level, x) in enumerate(noisy):
            of_none = denoised(base, x, level, none).double()
            given = states.given[number, part].to(of_none)
            found[part] += (_norm(given - of_none) / level / len(states.levels)).cpu().numpy()
        check_finite(found[part], part.start)
        progress(part.stop, len(found))
    return found


def _conditional(denoiser: Denoiser, x: Tensor, sigma: float, labels: Tensor) -> Tensor:
    """Return D_c - D_0, float64."""
    of_label = denoised(denoiser, x, sigma, labels).double()
    return of_label - denoised(denoiser, x, sigma, torch.full_like(labels, -1)).double()


def _noisy(
    clean: Tensor, seeds: Sequence[int], levels: Sequence[float], denoiser: Denoiser
) -> list[tuple[float, Tensor]]:
    """Return each level with the states at it, the same on every machine."""
    noise = SeededNoise([torch.Generator("cpu").manual_seed(int(seed) ^ _OTHER) for seed in seeds])
    y = clean.double().to(denoiser.device)
    return [(level, y + level * noise(y)) for level in levels]


_OTHER = 0x6E6F6973  # what samples are noised with is not what they were made of


def _norm(values: Tensor) -> Tensor:
    found: Tensor = torch.linalg.vector_norm(values.flatten(1), dim=1)
    return found


def _parts(count: int) -> list[slice]:
    return [slice(start, min(start + _BATCH, count)) for start in range(0, count, _BATCH)]
