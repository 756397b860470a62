"""Denoisers of latents that stand for images: a denoiser of an autoencoder's codes, together with the autoencoder.

What the network was trained to denoise are codes (Rombach et al. 2022, "High-Resolution Image Synthesis with Latent Diffusion Models"),
but what leaks, and what people see, are images. So everything that compares images decodes first, and whatever asks the denoiser about
an image encodes it first.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from diffmem.errors import UserError
from diffmem.models.denoiser import Denoiser, DescribedDenoiser

__all__ = ["LatentDenoiser"]

# An autoencoder takes far more memory for an image than a network for its latents: so many pixels at a time, 4 images of 256x256.
_PIXELS = 2**18


class LatentDenoiser(DescribedDenoiser):
    """A `Denoiser` of latents that is also `Latent`; D is that of the denoiser it wraps.

    Args:
        inner: Denoises latents.
        decode: Makes images in [-1, 1] units of the latents that `inner` denoises, float32 both, (B, *inner.image_shape) to
            (B, *pixel_shape). It must treat each image on its own.
        encode: Makes latents of images; likewise.
        pixel_shape: (C, H, W) of the images.

    Attributes:
        inner: The wrapped denoiser.
        pixel_shape: (C, H, W) of the images.
        image_shape: (C, H, W) of the latents.
        sigma_min: Smallest noise level, in units of the latents.
        sigma_max: Largest one.
    """

    def __init__(
        self,
        inner: Denoiser,
        decode: Callable[[Tensor], Tensor],
        encode: Callable[[Tensor], Tensor],
        pixel_shape: tuple[int, int, int],
    ) -> None:
        self.inner, self._decode, self._encode, self.pixel_shape = inner, decode, encode, pixel_shape
        self.sigma_min, self.sigma_max = inner.sigma_min, inner.sigma_max
        self.image_shape, self.num_labels, self.device = inner.image_shape, inner.num_labels, inner.device

    def _text(self) -> str:
        return f"latents of images of {' x '.join(map(str, self.pixel_shape))} (C, H, W), denoised by {self.inner}"

    def __call__(self, x: Tensor, sigma: Tensor | float, labels: Tensor | None = None) -> Tensor:
        """Denoise a batch of latents; see `Denoiser`."""
        return self.inner(x, sigma, labels)

    def decode(self, z: Tensor) -> Tensor:
        """Return the images of latents, a few at a time; see `Latent`.

        Raises:
            UserError: A shape does not fit.
        """
        return self._in_parts(self._decode, z, self.image_shape, self.pixel_shape, "Latents to decode")

    def encode(self, x: Tensor) -> Tensor:
        """Return the latents of images, a few at a time; see `Latent`.

        Raises:
            UserError: A shape does not fit.
        """
        return self._in_parts(self._encode, x, self.pixel_shape, self.image_shape, "Images to encode")

    def _in_parts(
        self,
        convert: Callable[[Tensor], Tensor],
        given: Tensor,
        shape: tuple[int, int, int],
        wanted: tuple[int, int, int],
        what: str,
    ) -> Tensor:
        if given.ndim != 4 or tuple(given.shape[1:]) != shape:
            raise UserError(f"{what} have shape {tuple(given.shape)}, not (B, *{shape}).")
        size = max(1, _PIXELS // (self.pixel_shape[1] * self.pixel_shape[2]))
        starts = range(0, max(1, len(given)), size)
        made = torch.cat([convert(given[start : start + size].float()).float() for start in starts])
        if tuple(made.shape) != (len(given), *wanted):
            raise UserError(
                f"The autoencoder makes shape {tuple(made.shape)} of {tuple(given.shape)}, not {(len(given), *wanted)}."
            )
        return made
