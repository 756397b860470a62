"""A `Denoiser`, whatever computes it, what some denoisers are besides, and the checks of their arguments.

A denoiser estimates the clean image from a noisy one: D(x; sigma) ~ E[y | y + sigma n = x], with y in [-1, 1]
and n standard normal (Karras et al. 2022, "Elucidating the Design Space of Diffusion-Based Generative
Models", eq. 2 and 3). Everything else is derived from it: the score is (D - x) / sigma^2, the noise estimate is
(x - D) / sigma.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol, runtime_checkable

import torch
from torch import Tensor, nn

from diffmem.errors import UserError

__all__ = [
    "Denoiser",
    "DescribedDenoiser",
    "Followable",
    "Latent",
    "Origin",
    "Reading",
    "Refinable",
    "check_independent_noise",
    "check_trained",
    "checked_classes",
    "checked_labels",
    "checked_levels",
    "count_parameters",
    "model_text",
    "network_text",
    "pixel_shape_of",
]


# Levels that went through float32 or through the inverse of a schedule are a little outside of a range whose ends they mean.
_TOLERANCE = 1e-6


@runtime_checkable
class Denoiser(Protocol):
    """D(x; sigma, labels): an estimate of the clean image in [-1, 1] units.

    Attributes:
        sigma_min: Smallest noise level the denoiser is defined for, in [-1, 1] units.
        sigma_max: Largest noise level (may be infinite).
        image_shape: (C, H, W) of the images.
        num_labels: Number of classes; 0 for an unconditional denoiser.
        device: Where it computes; its inputs must be there.
    """

    sigma_min: float
    sigma_max: float

    @property
    def image_shape(self) -> tuple[int, int, int]:
        """(C, H, W) of the images."""

    @property
    def num_labels(self) -> int:
        """Number of classes, 0 for none."""

    @property
    def device(self) -> torch.device:
        """Where it computes."""

    def __call__(self, x: Tensor, sigma: Tensor | float, labels: Tensor | None = None) -> Tensor:
        """Denoise a batch.

        Args:
            x: Float (B, C, H, W): images in [-1, 1] plus sigma times standard normal noise.
            sigma: Noise level, float (B,) or a scalar, positive.
            labels: Class of each image, int64 (B,), or none.

        Returns:
            Float (B, C, H, W). Networks compute and return float32 whatever the type of x; samplers hold
            their state in float64.
        """


@runtime_checkable
class Followable(Protocol):
    """A denoiser that answers the successive calls of one sampler faster than unrelated ones."""

    def follow(self) -> Denoiser:
        """Return a denoiser for the calls of one sampler with one batch; it gives the same results."""


@runtime_checkable
class Refinable(Protocol):
    """A denoiser that can be more precise than it is, at a price: for differences of its results."""

    def refined(self) -> Denoiser:
        """Return the same denoiser with errors of at most 1e-10 in float64."""


@runtime_checkable
class Latent(Protocol):
    """A denoiser of latents, the codes of an autoencoder: what it denoises are no pixels, but stand for images.

    Its `image_shape` is that of the latents, and its noise levels are in their units.
    """

    @property
    def pixel_shape(self) -> tuple[int, int, int]:
        """(C, H, W) of the images."""

    def decode(self, z: Tensor) -> Tensor:
        """Return the images of latents.

        Args:
            z: Float (B, *image_shape).

        Returns:
            float32 (B, *pixel_shape) in [-1, 1] units, not clipped.
        """

    def encode(self, x: Tensor) -> Tensor:
        """Return the latents of images, without randomness: the mean where the autoencoder has a distribution.

        Args:
            x: Float (B, *pixel_shape) in [-1, 1] units.

        Returns:
            float32 (B, *image_shape).
        """


@dataclass(frozen=True)
class Reading:
    """The same model read in another way, for the check against images.

    Attributes:
        text: What is other, for people: 'noise_schedule=cosine'.
        remedy: How to choose it, an imperative without a full stop: 'Give --model-set noise_schedule=cosine'.
        open: Opens it.
    """

    text: str
    remedy: str
    open: Callable[[], Denoiser]


@dataclass(frozen=True)
class Origin:
    """Where a model comes from.

    Attributes:
        format: How it was stored, for example 'EDM pickle'.
        name: Of the file that was read, without its folder; with what is known about it.
        digest: SHA-256 in hexadecimal of what was read.
        notes: What a reader of its results must know, without names of the user's files.
        path: The file or folder that was read; none for a model of the caller's own.
        readings: The same file with one other setting of few values.
    """

    format: str
    name: str
    digest: str
    notes: tuple[str, ...] = ()
    path: Path | None = None
    readings: tuple[Reading, ...] = field(default=(), repr=False, compare=False)


class DescribedDenoiser:
    """What the denoisers of this package share: they say what they are when they are printed, and where they come from.

    Attributes:
        origin: Where `open_model` found it; none for one that was made here.
        independent_noise: Whether it was trained on noise drawn independently of the images, as E[y | y + sigma n = x] takes it; not where
            they were paired, as by optimal transport. See `check_independent_noise`.
    """

    origin: Origin | None = None
    independent_noise: bool = True

    def _text(self) -> str:
        return type(self).__name__

    def __repr__(self) -> str:
        assert isinstance(self, Denoiser)
        parts = [
            self._text(),
            f"{' x '.join(map(str, self.image_shape))} (C, H, W)",
            f"noise levels {self.sigma_min:.3g} to {self.sigma_max:.3g}",
            f"{self.num_labels:,} classes" if self.num_labels else "unconditional",
            f"on {self.device}",
        ]
        if self.origin is not None:
            parts.append(f"from {self.origin.format} {self.origin.name}")
        return f"<{'; '.join(parts)}>"


def count_parameters(model: nn.Module) -> int:
    """Return the number of trainable numbers."""
    return sum(parameter.numel() for parameter in model.parameters())


def pixel_shape_of(denoiser: Denoiser) -> tuple[int, int, int]:
    """Return (C, H, W) of the images that a denoiser, `Latent` or not, stands for."""
    return denoiser.pixel_shape if isinstance(denoiser, Latent) else denoiser.image_shape


def check_independent_noise(denoiser: Denoiser) -> None:
    """Refuse a denoiser for which measures that add independent noise to images are not defined.

    Raises:
        UserError: It was trained on noise that was paired with images.
    """
    if not getattr(denoiser, "independent_noise", True):
        raise UserError(
            "This model was trained on noise that was paired with images by optimal transport. Its answers to images with independent noise"
            " are no posterior means, so that membership inference, FLIPD, exposure by its errors and the gap to the optimum are not"
            " defined for it; its samples are judged as those of any model."
        )


def checked_levels(x: Tensor, sigma: Tensor | float, image_shape: tuple[int, int, int]) -> Tensor:
    """Return the noise level of each image of a batch x, (B, *image_shape): float64 (B,).

    Raises:
        UserError: A shape does not fit, or a level is not positive.
    """
    if x.ndim != 4 or tuple(x.shape[1:]) != image_shape:
        raise UserError(f"Images to denoise have shape {tuple(x.shape)}, not (B, *{image_shape}).")
    levels = torch.as_tensor(sigma, dtype=torch.float64, device=x.device).reshape(-1)
    if len(levels) not in (1, len(x)):
        raise UserError(f"There are {len(levels)} noise levels for {len(x)} images; give one per image.")
    if not bool((levels > 0).all()):
        raise UserError(f"Noise levels must be positive, not {levels[~(levels > 0)][0]:g}.")
    return levels.expand(len(x))


def check_trained(sigma: Tensor, sigma_min: float, sigma_max: float) -> None:
    """Refuse noise levels, (B,), that a network was not trained for.

    Raises:
        UserError: A level is outside of [sigma_min, sigma_max] by more than rounding.
    """
    outside = ~((sigma >= sigma_min * (1 - _TOLERANCE)) & (sigma <= sigma_max * (1 + _TOLERANCE)))
    if bool(outside.any()):
        raise UserError(
            f"Noise level {float(sigma[outside][0]):g} is outside of {sigma_min:g} to {sigma_max:g}, where this network was trained."
        )


def checked_labels(labels: Tensor | None, count: int, num_labels: int) -> Tensor:
    """Return the label of each of `count` images, -1 for none: int64 (count,), on the CPU.

    Raises:
        UserError: There are no classes, their number does not fit, or a class does not exist.
    """
    if labels is not None and not num_labels:
        raise UserError("This denoiser is unconditional: it takes no labels. Leave them out.")
    given = torch.full((1,), -1) if labels is None else labels.reshape(-1).cpu()
    if len(given) not in (1, count):
        raise UserError(f"There are {len(given)} labels for {count} images; give one for each.")
    given = given.expand(count)
    for label in torch.unique(given).tolist():
        if not -1 <= label < max(1, num_labels):
            raise UserError(f"Label {label} is outside 0..{num_labels - 1}, the existing classes.")
    return given


def checked_classes(
    labels: Tensor | None, count: int, num_labels: int, null_label: int | None
) -> Tensor | None:
    """Return the class of each image as a network is given it, `null_label` for no label: int64 (count,); none without classes.

    Raises:
        UserError: As of `checked_labels`; or a label is missing, and there is none for "no label".
    """
    given = checked_labels(labels, count, num_labels)
    if not num_labels:
        return None
    if null_label is not None:
        return given.where(given >= 0, null_label)
    if bool((given < 0).any()):
        raise UserError(
            f"This denoiser needs the class of each image, 0..{num_labels - 1}: it was trained without a class for 'no"
            " label'."
        )
    return given


def network_text(network: object) -> str:
    """Return the class of a network with the number of its parameters, or what it says of itself."""
    if isinstance(network, nn.Module):
        return f"{type(network).__name__}, {count_parameters(network):,} parameters"
    return getattr(network, "__name__", None) or str(network)


def model_text(denoiser: Denoiser, private: bool = False) -> str:
    """Return what is known of a model that was opened, in a paragraph: what was read, what it makes, and what must be known.

    Args:
        private: Leave the name of its file out.
    """
    channels, height, width = pixel_shape_of(denoiser)
    origin: Origin | None = getattr(denoiser, "origin", None)
    parts = [] if origin is None else [f"{origin.format}." if private else f"{origin.format}: {origin.name}."]
    inner = getattr(denoiser, "inner", denoiser)  # of latents, what denoises them
    if isinstance(inner, DescribedDenoiser):
        parts.append(f"{inner._text()}.")
    latent = f", by latents of {denoiser.image_shape}" if isinstance(denoiser, Latent) else ""
    parts.append(f"Images of {height}x{width}x{channels}{latent}; {denoiser.num_labels or 'no'} classes.")
    parts.append(
        f"Noise levels {denoiser.sigma_min:.4g} to {denoiser.sigma_max:.4g}, for {'latents' if latent else 'pixels in [-1, 1]'}."
    )
    return " ".join([*parts, *(origin.notes if origin is not None else ())])
