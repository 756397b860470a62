"""How far a trained model is from the optimum of its training set: EMM's definition taken literally, without sampling.

On training images y plus noise, E |D - y|^2 = E |D - D*|^2 + E |D* - y|^2 for every function D, as D* is the posterior mean
there. So |D - D*|^2 is what the training loss lacks to its minimum, measured with far less scatter than the difference of the
two losses. Beside D* stands G, the Gaussian with the mean and covariance of the training set: what a model knows that learned
no image. All denoisers see the same images and noise.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import get_args

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from diffmem.data import ImageSet
from diffmem.errors import DiffmemError, UserError, check_seed
from diffmem.memorization.rates import Z95, mean_record
from diffmem.models import Denoiser
from diffmem.models.denoiser import check_independent_noise
from diffmem.optimum.curves import balanced_indices
from diffmem.optimum.gap_records import Correlation, GapCurve, GapInputs, GapPoint, RunGap, positions_and_rmem
from diffmem.progress import NO_PROGRESS, Progress
from diffmem.sampling import SamplerConfig, SeededNoise, latents_for_seeds, noise_levels, sample_latents

__all__ = ["Errors", "GapSettings", "correlations", "curve_of", "gap_errors", "spearman"]

BAND = 0.1
_BATCH = 64


@dataclass(frozen=True)
class Errors:
    """Squared distances of each sample at each noise level, per value of an image: float64 (levels, samples).

    Attributes:
        sigmas: Noise levels, ascending.
        to_optimum: |D - D*|^2.
        to_gaussian: |D - G|^2.
        between: |D* - G|^2.
        loss: |D - y|^2, none without a clean image.
        optimum_loss: |D* - y|^2, likewise.
    """

    sigmas: list[float]
    to_optimum: NDArray[np.float64]
    to_gaussian: NDArray[np.float64]
    between: NDArray[np.float64]
    loss: NDArray[np.float64] | None
    optimum_loss: NDArray[np.float64] | None


@dataclass(frozen=True)
class GapSettings:
    """At which inputs denoisers are compared.

    Attributes:
        sigmas: Noise levels for noisy images; none for those of the sampler, which are those of the sampler's own states.
        samples: Inputs at each level.
        sampling: The sampler of the trajectories.
        seed: Seed of images and noise, 0 or more.

    Raises:
        UserError: The seed is below 0.
    """

    sigmas: tuple[float, ...] | None = None
    samples: int = 256
    sampling: SamplerConfig = field(default_factory=SamplerConfig)
    seed: int = 0

    def __post_init__(self) -> None:
        check_seed(self.seed)


def gap_errors(
    denoiser: Denoiser,
    optimum: Denoiser,
    gaussian: Denoiser,
    images: ImageSet | None,
    settings: GapSettings,
    labels: NDArray[np.int64] | None = None,
    progress: Progress = NO_PROGRESS,
) -> Errors:
    """Compare three denoisers on noisy images, or on the states that the first one passes when it samples.

    Args:
        denoiser: The model D.
        optimum: D*, on the same device; conditional if D is.
        gaussian: G, unconditional, on the same device.
        images: Clean images, to which noise is added; each is used once before any is used again. None for the states of the
            model's own sampling with seeds 0, 1, 2, ...
        settings: Noise levels and the number of inputs.
        labels: Class of each sample, int64 (samples,), for a conditional model.
        progress: Called with the samples that are done.

    Raises:
        UserError: A noise level is outside the model's range, shapes do not fit, there are no samples, or the model was trained on
            noise that was paired with images (`check_independent_noise`).
    """
    check_independent_noise(denoiser)
    samples = settings.samples
    if samples < 1:
        raise UserError(f"There must be at least 1 sample, not {samples}.")
    if images is not None and images.shape != denoiser.image_shape:
        raise UserError(
            f"The images have shape {images.shape}, the model makes {denoiser.image_shape} (C, H, W)."
        )
    own = noise_levels(settings.sampling, denoiser.sigma_min, denoiser.sigma_max)[:-1].flip(0).tolist()
    levels = own if settings.sigmas is None or images is None else sorted(set(settings.sigmas))
    for level in levels:
        if not max(denoiser.sigma_min, 1e-9) <= level <= denoiser.sigma_max or math.isinf(level):
            raise UserError(
                f"The noise level {level:g} is outside the range of the model, {denoiser.sigma_min:g} to {denoiser.sigma_max:g}."
            )
    found = np.empty((5, len(levels), samples))
    given = None if labels is None else torch.from_numpy(labels).to(denoiser.device)
    noisy = None if images is None else _noisy(images, settings, levels, denoiser.device)
    for start in range(0, samples, _BATCH):
        part = slice(start, min(start + _BATCH, samples))
        batch = None if given is None else given[part]
        clean, states = (
            next(noisy)
            if noisy
            else (None, _trajectory(denoiser, range(samples)[part], batch, settings.sampling))
        )
        for index, (level, x) in enumerate(zip(levels, states, strict=True)):
            found[:, index, part] = _compared(denoiser, optimum, gaussian, x, level, batch, clean)
        progress(part.stop, samples)
    if not np.isfinite(found[:3]).all():
        raise DiffmemError(
            "The model produced values that are not finite; its weights are broken or its training diverged."
        )
    losses = (None, None) if images is None else (found[3], found[4])
    return Errors(levels, found[0], found[1], found[2], *losses)


def _noisy(
    images: ImageSet, settings: GapSettings, levels: Sequence[float], device: torch.device
) -> Iterator[tuple[Tensor, list[Tensor]]]:
    """Yield batches of clean images with their noisy images at each level, float64."""
    chosen = balanced_indices(len(images), settings.samples, settings.seed)
    generator = torch.Generator().manual_seed(settings.seed)
    for start in range(0, settings.samples, _BATCH):
        y = images.images[chosen[start : start + _BATCH]]
        noise = torch.randn(y.shape, generator=generator, dtype=torch.float64).to(device)
        clean = torch.tensor(y, dtype=torch.float64).to(device).div_(127.5).sub_(1)
        yield clean, [clean + level * noise for level in levels]


def _trajectory(
    denoiser: Denoiser, seeds: range, labels: Tensor | None, config: SamplerConfig
) -> list[Tensor]:
    """Return the states at the noise levels of the sampler, ascending."""
    latents, generators = latents_for_seeds(seeds, denoiser.image_shape, denoiser.device)
    top = float(noise_levels(config, denoiser.sigma_min, denoiser.sigma_max)[0])
    states = [latents * top]

    def keep(done: int, steps: int, x: Tensor, sigma: float) -> None:
        if done < steps:
            states.append(x.clone())

    sample_latents(denoiser, latents, labels, config, SeededNoise(generators), keep)
    return states[::-1]


@torch.no_grad()
def _compared(
    denoiser: Denoiser,
    optimum: Denoiser,
    gaussian: Denoiser,
    x: Tensor,
    sigma: float,
    labels: Tensor | None,
    clean: Tensor | None,
) -> NDArray[np.float64]:
    """Return the five squared distances of `Errors` for each image, (5, B); zeros where there is no clean image."""
    level = torch.full((len(x),), sigma, dtype=torch.float64, device=x.device)
    made = denoiser(x, level, labels).double()
    best, plain = optimum(x, level, labels).double(), gaussian(x, level).double()
    pairs = [(made, best), (made, plain), (best, plain)]
    pairs += [(x, x), (x, x)] if clean is None else [(made, clean), (best, clean)]
    return torch.stack([(one - other).square().flatten(1).mean(1) for one, other in pairs]).cpu().numpy()


def curve_of(kind: GapInputs, errors: Errors, weight: Callable[[Tensor], Tensor] | None = None) -> GapCurve:
    """Summarize the errors of one kind of input.

    Args:
        kind: Which inputs they are of.
        errors: What `gap_errors` returned.
        weight: lambda(sigma) of the training loss, if the model was trained.
    """
    values = errors.between.mean(1)
    in_band: list[int] = np.flatnonzero((values >= BAND * values.max()) & (values > 0)).tolist()
    return GapCurve(
        kind=kind,
        samples=errors.between.shape[1],
        points=[_point(errors, index, weight) for index in range(len(errors.sigmas))],
        position=mean_record(np.mean([_positions(errors, index) for index in in_band], axis=0))
        if in_band
        else None,
        band=(errors.sigmas[in_band[0]], errors.sigmas[in_band[-1]]) if in_band else None,
    )


def _positions(errors: Errors, index: int) -> NDArray[np.float64]:
    """Return numbers whose mean is the position at a noise level and whose scatter is its own, to first order."""
    # 2 <D - D*, G - D*> = |D - D*|^2 + |D* - G|^2 - |D - G|^2
    inner = (errors.to_optimum[index] + errors.between[index] - errors.to_gaussian[index]) / 2
    whole = errors.between[index]
    ratio = float(inner.mean() / whole.mean())
    shifted: NDArray[np.float64] = ratio + (inner - ratio * whole) / whole.mean()
    return shifted


def _point(errors: Errors, index: int, weight: Callable[[Tensor], Tensor] | None) -> GapPoint:
    sigma = errors.sigmas[index]
    losses = {}
    if errors.loss is not None and errors.optimum_loss is not None:
        loss, least = errors.loss[index], errors.optimum_loss[index]
        losses = {
            "loss": mean_record(loss, 0),
            "optimum_loss": mean_record(least, 0),
            "excess": mean_record(loss - least),
        }
    return GapPoint(
        sigma=sigma,
        to_optimum=mean_record(errors.to_optimum[index], 0),
        to_gaussian=mean_record(errors.to_gaussian[index], 0),
        between=mean_record(errors.between[index], 0),
        position=mean_record(_positions(errors, index)) if errors.between[index].any() else None,
        weight=None if weight is None else float(weight(torch.tensor(sigma, dtype=torch.float64))),
        **losses,
    )


def spearman(one: Sequence[float], other: Sequence[float]) -> tuple[float, float, float]:
    """Return Spearman's rank correlation and its 95% interval.

    The interval is that of Bonett and Wright (2000, Psychometrika 65): normal in atanh(r), with variance (1 + r^2 / 2) / (n - 3). A
    perfect order counts there as half an exchange of two neighbours short of perfect.

    Args:
        one: n numbers, n at least 5, not all equal.
        other: n numbers, not all equal.

    Raises:
        UserError: There are fewer than 5 pairs, or nothing varies.
    """
    from scipy.stats import rankdata

    count = len(one)
    if count != len(other) or count < 5 or len(set(one)) < 2 or len(set(other)) < 2:
        raise UserError(f"A rank correlation needs 5 pairs or more, of numbers that vary; these are {count}.")
    value = float(np.corrcoef(rankdata(one), rankdata(other))[0, 1])
    most = 1 - 6 / (count * (count**2 - 1))
    centre = math.atanh(max(-most, min(most, value)))
    width = Z95 * math.sqrt((1 + value**2 / 2) / (count - 3))
    low, high = math.tanh(centre - width), math.tanh(centre + width)
    return value, min(low, value), max(high, value)


def correlations(runs: Sequence[RunGap]) -> list[Correlation]:
    """Return, for each kind of input, how the positions of runs go with their R_mem, where five runs or more have both."""
    found = []
    for kind in get_args(GapInputs):
        pairs = [(position.value, rmem.value) for position, rmem in positions_and_rmem(runs, kind)]
        if len(pairs) >= 5 and all(len(set(values)) > 1 for values in zip(*pairs, strict=True)):
            value, low, high = spearman(*zip(*pairs, strict=True))
            found.append(Correlation(kind=kind, value=value, low=low, high=high, runs=len(pairs)))
    return found
