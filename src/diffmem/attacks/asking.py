"""What attacks ask of a denoiser: images in its units, labels that fit, noise from an image's pixels, answers that can be used."""

from __future__ import annotations

import hashlib

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Generator, Tensor

from diffmem.errors import UserError
from diffmem.models import Denoiser, Latent, pixel_shape_of
from diffmem.models.denoiser import checked_labels

__all__ = ["NotFiniteError", "check_finite", "denoised", "encoded", "generator_of", "labels_of"]


class NotFiniteError(UserError):
    """A model returned values that are not finite."""


def labels_of(
    denoiser: Denoiser, images: NDArray[np.uint8], labels: NDArray[np.int64] | None
) -> Tensor | None:
    """Return the labels of images, int64 (N,), -1 for none, on the denoiser's device; none if none are given.

    Raises:
        UserError: The images are not uint8 (N, C, H, W) of the denoiser's shape, or the labels do not fit.
    """
    shape = pixel_shape_of(denoiser)
    if images.dtype != np.uint8 or images.ndim != 4 or tuple(images.shape[1:]) != shape or len(images) == 0:
        raise UserError(
            f"The model takes one or more uint8 images (N, C, H, W) with (C, H, W) = {shape}, not {images.dtype} {images.shape}."
        )
    if labels is None:
        return None
    if len(labels) != len(images):
        raise UserError(f"There are {len(labels)} labels for {len(images)} images; give one for each.")
    numbers = torch.tensor(labels, dtype=torch.int64)
    return checked_labels(numbers, len(images), denoiser.num_labels).to(denoiser.device)


@torch.no_grad()
def encoded(denoiser: Denoiser, images: NDArray[np.uint8]) -> Tensor:
    """Return images as what the model denoises, float64: pixels from -1 to 1, or latents without the noise of the encoder."""
    y = torch.tensor(images, dtype=torch.float64).div_(127.5).sub_(1).to(denoiser.device)
    return denoiser.encode(y).double() if isinstance(denoiser, Latent) else y


def generator_of(image: NDArray[np.uint8], text: str) -> Generator:
    """Return a generator that depends on an image's pixels and on a text, with the seed in it."""
    digest = hashlib.blake2b(f"{text} ".encode(), digest_size=4)
    digest.update(image.tobytes())
    return Generator("cpu").manual_seed(int.from_bytes(digest.digest(), "little"))


def denoised(denoiser: Denoiser, x: Tensor, sigma: float, labels: Tensor | None) -> Tensor:
    """Return D(x; sigma), of the denoiser's type.

    Raises:
        UserError: The model returns another shape.
    """
    clean = denoiser(x, torch.full((len(x),), sigma, dtype=torch.float64, device=x.device), labels)
    if clean.shape != x.shape:
        raise UserError(f"The model returned shape {tuple(clean.shape)} for images {tuple(x.shape)}.")
    return clean


def check_finite(values: NDArray[np.float64], first: int) -> None:
    """Refuse values of images, the first of which has a number, that are not finite.

    Raises:
        NotFiniteError: Some are not.
    """
    wrong = np.flatnonzero(~np.isfinite(values))
    if len(wrong):
        raise NotFiniteError(
            f"The model returned values that are not finite for image {first + wrong[0]}: its weights are broken or its training"
            " diverged."
        )
