"""The denoising error of a model on training images, beside what needs no network: does it denoise these images, as it was read?

A model that is read wrongly still returns images, and everything that is measured on them is of another model. On training images y with
noise, mean |D(y + sigma n) - y|^2 per value shows it (Karras et al. 2022, eq. 2): it is held against doing nothing, D = x, whose error is
sigma^2; the mean image, whose error is the variance; and the Gaussian with the mean and covariance of the images. The same file read in
other ways sees the same images and noise. All comparisons are paired and of z = 4 standard errors, so that chance refuses no model.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Generator, Tensor

from diffmem.data.images import ImageSet
from diffmem.errors import UserError
from diffmem.memorization.rates import mean_record
from diffmem.models import Denoiser
from diffmem.models.denoiser import Latent, Reading
from diffmem.models.function import FunctionDenoiser
from diffmem.models.readings import other_readings
from diffmem.optimum.denoising_records import DenoisingCheck, ErrorPoint, LabelUse, ModelReadingRecord
from diffmem.optimum.gaussian import GaussianDenoiser
from diffmem.progress import NO_PROGRESS, Progress, Stages, parts_of

__all__ = ["IMAGES", "LEVELS", "MIDDLE", "denoising_check"]

LEVELS = tuple(2.0**power for power in range(-5, 5))
"""Noise levels in standard deviations of the images."""

MIDDLE = (0.5, 1.0, 2.0)
"""Those at which a model is refused that is worse than doing nothing and than the mean image: neither is near there to what can be done."""

BETTER = 0.1
"""The share by which the error of another reading must be lower, mean over the levels at which it is sound."""

ENOUGH = 2
"""The least number of levels at which it must be sound: surely better than the best that uses no other pixel."""

IMAGES = 256
"""Images that are denoised."""

_BLOCK = 16  # after so many, one that is worse is given up
_MOMENTS = 4096  # images of which mean and covariance are taken
_MOST_VALUES = 3072  # of an image, for its covariance: 32 x 32 x 3
_SURE = 4.0
_SAME = 1e-6  # of rounding, in the deviation of images that are all alike
_TINY = 1e-12  # of rounding, in the errors of a perfect model


def denoising_check(
    denoiser: Denoiser,
    images: ImageSet,
    *,
    readings: Sequence[Reading] | None = None,
    seed: int = 0,
    batch_size: int = 64,
    progress: Progress = NO_PROGRESS,
) -> DenoisingCheck:
    """Measure the denoising error of a model on training images, and of its other readings.

    Args:
        denoiser: The model; what it denoises are latents where it is `Latent`.
        images: Training images, of the shape of its images; 256 of them are drawn.
        readings: What else is tried; none for `other_readings`.
        seed: Which images are drawn, and the noise.
        batch_size: Images at a time; the result does not depend on it but for rounding.

    Raises:
        UserError: The model returns values that are not finite, or another shape.
    """
    order = np.random.default_rng([seed, 0x64656E6F]).permutation(len(images))[:_MOMENTS]
    known = images.take(order, "drawn for the denoising error")
    clean = _encoded(denoiser, known.take(np.arange(min(len(known), IMAGES)), "checked"), batch_size)
    use, labels = _labels(denoiser, known, clean)
    centre = clean.double().mean(0) if isinstance(denoiser, Latent) else _mean_image(known)
    squares = (clean.double() - centre).square().flatten(1).mean(1)
    deviation = math.sqrt(float(squares.mean()))
    missing = None
    if use is None:
        missing = (
            f"The model needs the class of each image, and the images have {known.num_classes or 'no'} classes; it has"
            f" {denoiser.num_labels}."
        )
    elif len(clean) < 2 or deviation < _SAME:
        missing = "The denoising error needs images that differ."
    sigmas = [deviation * level for level in LEVELS if _within(denoiser, deviation * level)]
    if missing is None and not sigmas:
        missing = f"The model's noise levels, {denoiser.sigma_min:g} to {denoiser.sigma_max:g}, are far from the images."
    if missing is not None or use is None:
        return DenoisingCheck(missing=missing, images=len(clean))
    gaussian = None
    if not isinstance(denoiser, Latent) and math.prod(known.shape) <= _MOST_VALUES:
        gaussian = GaussianDenoiser.from_images(known)
    asked = _Asked(clean, labels, sigmas, centre, seed, batch_size)
    stages = Stages(progress, own=0.4, others=0.6)
    own = asked.errors(denoiser, progress=stages.own)
    if not np.isfinite(own).all():
        raise UserError(
            "The model returned values that are not finite for noisy training images: its weights are broken or its training diverged."
        )
    plain = asked.plain(gaussian)
    middle = [bool(np.isclose(sigma / deviation, MIDDLE).any()) for sigma in sigmas]
    points = [
        ErrorPoint(
            sigma=sigma,
            middle=middle[index],
            model=mean_record(own[index], 0),
            nothing=mean_record(plain["nothing"][index], 0),
            mean_image=mean_record(plain["mean image"][index], 0),
            gaussian=None if gaussian is None else mean_record(plain["gaussian"][index], 0),
            worse=_above(own[index] - plain["nothing"][index])
            and _above(own[index] - plain["mean image"][index]),
        )
        for index, sigma in enumerate(sigmas)
    ]
    others = []
    for reading, part in parts_of(stages.others, other_readings(denoiser) if readings is None else readings):
        found = asked.tried(reading, own, plain["shrunk"], part)
        if found is not None:
            others.append(found)
    return DenoisingCheck(
        images=len(clean),
        labels=use,
        latent=isinstance(denoiser, Latent),
        deviation=deviation,
        points=points,
        readings=others,
    )


def _within(denoiser: Denoiser, sigma: float) -> bool:
    return denoiser.sigma_min <= sigma <= denoiser.sigma_max


def _above(differences: NDArray[np.float64]) -> bool:
    """Return whether a mean of independent differences is surely above 0."""
    return float(differences.mean()) > _SURE * float(differences.std(ddof=1)) / math.sqrt(len(differences))


def _encoded(denoiser: Denoiser, images: ImageSet, batch_size: int) -> Tensor:
    """Return images as what the model denoises, float32 (N, C, H, W) on the CPU."""
    pixels = torch.tensor(images.images, dtype=torch.float32).div_(127.5).sub_(1)
    if not isinstance(denoiser, Latent):
        return pixels
    with torch.no_grad():
        parts = [denoiser.encode(part.to(denoiser.device)).cpu() for part in torch.split(pixels, batch_size)]
    return torch.cat(parts).float()


def _mean_image(images: ImageSet) -> Tensor:
    mean: NDArray[np.float64] = images.images.mean(0, dtype=np.float64)
    return torch.from_numpy(mean / 127.5 - 1)


def _labels(denoiser: Denoiser, images: ImageSet, clean: Tensor) -> tuple[LabelUse | None, Tensor | None]:
    """Return which labels the images are denoised with, and these; none if the model needs some and there are none that fit."""
    if not denoiser.num_labels:
        return "none", None
    if images.labels is not None and int(images.labels.max()) < denoiser.num_labels:
        return "of the images", torch.tensor(images.labels[: len(clean)], dtype=torch.int64)
    if isinstance(denoiser, FunctionDenoiser):
        return None, None  # what the caller's function does without a class is not known
    try:
        with torch.no_grad():
            level = min(max(1.0, denoiser.sigma_min), denoiser.sigma_max)
            denoiser(clean[:1].to(denoiser.device), level, None)
    except UserError:
        return None, None
    return "no label", None


class _Asked:
    """Noisy images at noise levels: the noise of an image depends on the seed and its number alone."""

    def __init__(
        self,
        clean: Tensor,
        labels: Tensor | None,
        sigmas: Sequence[float],
        centre: Tensor,
        seed: int,
        batch_size: int,
    ) -> None:
        self._clean, self._labels, self._sigmas, self._centre = clean, labels, sigmas, centre
        self._seed, self._batch = seed, batch_size

    def _noisy(self, start: int, stop: int) -> list[Tensor]:
        """Return noisy images of each level, float32 (B, C, H, W)."""
        generators = [Generator().manual_seed(self._seed * 2**20 + index) for index in range(start, stop)]
        shape = self._clean.shape[1:]
        return [
            self._clean[start:stop]
            + sigma * torch.stack([torch.randn(shape, generator=one) for one in generators])
            for sigma in self._sigmas
        ]

    @torch.no_grad()
    def _of_batch(self, denoiser: Denoiser, start: int, stop: int) -> NDArray[np.float64]:
        """Return the errors of a batch, see `errors`."""
        rows, clean = [], self._clean[start:stop]
        labels = None if self._labels is None else self._labels[start:stop].to(denoiser.device)
        for sigma, x in zip(self._sigmas, self._noisy(start, stop), strict=True):
            if not _within(denoiser, sigma):
                rows.append(np.full(len(x), np.nan))
                continue
            level = torch.full((len(x),), sigma, dtype=torch.float64, device=denoiser.device)
            made = denoiser(x.to(denoiser.device), level, labels).double().cpu()
            if made.shape != clean.shape:
                raise UserError(f"The model returned shape {tuple(made.shape)} for images {tuple(x.shape)}.")
            errors = (made - clean).square().flatten(1).mean(1).numpy()
            rows.append(errors)
        return np.stack(rows)

    def errors(
        self, denoiser: Denoiser, start: int = 0, stop: int | None = None, progress: Progress = NO_PROGRESS
    ) -> NDArray[np.float64]:
        """Return the errors of images, (levels, images); NaN at levels outside of the denoiser's range."""
        end, parts = len(self._clean) if stop is None else stop, []
        for first in range(start, end, self._batch):
            parts.append(self._of_batch(denoiser, first, min(first + self._batch, end)))
            progress(min(first + self._batch, end), end)
        return np.concatenate(parts, 1)

    def plain(self, gaussian: GaussianDenoiser | None) -> dict[str, NDArray[np.float64]]:
        """Return the errors of what needs no network, each (levels, images).

        'shrunk' is the best that takes no pixel for another's: m + v / (v + sigma^2) (x - m), v the mean variance of a pixel.
        """
        found: dict[str, list[NDArray[np.float64]]] = {
            "nothing": [],
            "mean image": [],
            "shrunk": [],
            "gaussian": [],
        }
        variance = float((self._clean.double() - self._centre).square().mean())
        for start in range(0, len(self._clean), self._batch):
            clean = self._clean[start : start + self._batch].double()
            batch: dict[str, list[Tensor]] = {name: [] for name in found}
            for sigma, x in zip(self._sigmas, self._noisy(start, start + len(clean)), strict=True):
                state = x.double()
                batch["nothing"].append(state)
                batch["mean image"].append(self._centre.expand_as(state))
                batch["shrunk"].append(
                    self._centre + variance / (variance + sigma**2) * (state - self._centre)
                )
                if gaussian is not None:
                    batch["gaussian"].append(gaussian(state, sigma))
            for name, made in batch.items():
                if made:
                    rows = [(one - clean).square().flatten(1).mean(1).numpy() for one in made]
                    found[name].append(np.stack(rows))
        return {name: np.concatenate(parts, 1) for name, parts in found.items() if parts}

    def tried(
        self, reading: Reading, own: NDArray[np.float64], shrunk: NDArray[np.float64], progress: Progress
    ) -> ModelReadingRecord | None:
        """Return how another reading does on the first images, up to where it is worse; none if it cannot be."""
        try:
            other = reading.open()
        except UserError:
            return None
        at = np.array([_within(other, sigma) for sigma in self._sigmas])
        if not at.any():
            return None
        count, errors = len(self._clean), np.empty((len(at), 0))
        for start in range(0, count, _BLOCK):
            errors = np.hstack([errors, self.errors(other, start, min(start + _BLOCK, count))])
            seen, mean = errors.shape[1], errors[at].mean(1)
            if not np.isfinite(mean).all():
                return None
            usual = own[at, :seen].mean(1)
            overall = float(np.exp(np.log((mean + _TINY) / (usual + _TINY)).mean()))
            if overall >= 1:
                break
        progress(1, 1)
        sound = [
            index for index in np.flatnonzero(at).tolist() if _above(shrunk[index, :seen] - errors[index])
        ]
        # Where the other reading is no denoiser, it may be better only because both are bad: a network that starts at 0 is.
        used = sound or np.flatnonzero(at).tolist()
        gains = ((own[used, :seen] - errors[used]) / (own[used, :seen].mean(1, keepdims=True) + _TINY)).mean(
            0
        )
        lower = overall < 1 and len(sound) >= ENOUGH
        return ModelReadingRecord(
            text=reading.text,
            remedy=reading.remedy,
            images=seen,
            errors=[
                float(row.mean()) if known else None for row, known in zip(errors, at.tolist(), strict=True)
            ],
            ratio=1 - float(gains.mean()),
            sound=[self._sigmas[index] for index in sound],
            overall=overall,
            lower=lower and _above(gains),
            better=lower and _above(gains - BETTER),
        )
