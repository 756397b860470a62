"""Denoisers that know a distribution and no training image: a Gaussian, and a mixture of Gaussians.

For y of mean m and covariance C, the best affine denoiser is m + C (C + sigma^2 I)^-1 (x - m) (Wiener); for Gaussian y it is the
posterior mean itself. So the Gaussian with the moments of a training set is what a model knows that learned its statistics
and no image: the opposite of the `Optimum` of that set. The posterior mean of a mixture is the mean of its components'
posterior means, weighted by how likely each component made x.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from dataclasses import dataclass

import torch
from torch import Tensor

from diffmem.data.images import ImageSet
from diffmem.errors import UserError
from diffmem.models.denoiser import DescribedDenoiser, checked_labels, checked_levels
from diffmem.optimum.pixels import rows_of

__all__ = ["GaussianDenoiser", "GaussianMixtureDenoiser", "covariance_spectrum"]

_BLOCK_BYTES = 32 * 2**20
# Directions with less than this share of the largest variance are rounding errors.
_RANK = 1e-13


@dataclass(frozen=True)
class _Gaussian:
    """A mean (dim,), variances (r,) descending in orthonormal directions (dim, r), and one variance in all others. All float64."""

    mean: Tensor
    variances: Tensor
    directions: Tensor
    elsewhere: Tensor | float = 0.0

    def denoised(self, x: Tensor, sigma: Tensor) -> Tensor:
        """Return the posterior mean of rows x (B, dim) at noise levels sigma (B,)."""
        square, offset = sigma.square()[:, None], x - self.mean
        rest = self.elsewhere / (self.elsewhere + square)
        gain = self.variances / (self.variances + square) - rest
        return torch.addmm(self.mean + rest * offset, (offset @ self.directions) * gain, self.directions.T)

    def log_density(self, x: Tensor, sigma: Tensor) -> Tensor:
        """Return the logarithm of the density of x = y + sigma n for Gaussian y, up to a constant of dim, (B,)."""
        square, offset = sigma.square()[:, None], x - self.mean
        inside = offset @ self.directions
        total, other = self.variances + square, (self.elsewhere + square)[:, 0]
        outside = (offset - inside @ self.directions.T).square().sum(1)
        missing = x.shape[1] - len(self.variances)
        return -0.5 * (
            (inside.square() / total + total.log()).sum(1) + outside / other + missing * other.log()
        )


class _Reference(DescribedDenoiser, ABC):
    """What all denoisers here share: every noise level is allowed, arguments are checked, float64 inside."""

    sigma_min: float = 0.0
    sigma_max: float = math.inf
    image_shape: tuple[int, int, int]
    num_labels: int = 0
    device: torch.device

    @torch.no_grad()
    def __call__(self, x: Tensor, sigma: Tensor | float, labels: Tensor | None = None) -> Tensor:
        """Denoise a batch.

        Args:
            x: Float (B, C, H, W): images in [-1, 1] plus sigma times standard normal noise.
            sigma: Noise level, float (B,) or a scalar, positive.
            labels: Class of each image, int64 (B,), where there are classes; -1, or no labels, for "no label".

        Returns:
            (B, C, H, W); float64 if x is float64, float32 otherwise.

        Raises:
            UserError: A shape does not fit, sigma is not positive, or a label does not exist.
        """
        levels = checked_levels(x, sigma, self.image_shape)
        given = checked_labels(labels, len(x), self.num_labels)
        out = self._denoised(x.flatten(1).double(), levels, given)
        return out.reshape(x.shape).to(torch.float64 if x.dtype == torch.float64 else torch.float32)

    @abstractmethod
    def _denoised(self, x: Tensor, sigma: Tensor, labels: Tensor) -> Tensor:
        """Return the posterior mean of rows x (B, dim); sigma (B,) and labels (B,)."""


class GaussianDenoiser(_Reference):
    """The Wiener denoiser, m + C (C + sigma^2 I)^-1 (x - m), in [-1, 1] units.

    Args:
        mean: m, (C, H, W).
        covariance: Covariance of the flattened images, (dim, dim) with dim = C H W, symmetric, no negative eigenvalue.
        device: Where to compute.

    Attributes:
        variances: Eigenvalues of the covariance, float64, descending; those that are zero may be missing.
        sigma_min: 0: any positive noise level is allowed.
        sigma_max: Infinite.

    Raises:
        UserError: The shapes do not fit, or the matrix is no covariance.
    """

    def __init__(self, mean: Tensor, covariance: Tensor, *, device: torch.device | str = "cpu") -> None:
        shape, dim = tuple(mean.shape), mean.numel()
        if mean.ndim != 3 or covariance.shape != (dim, dim):
            raise UserError(
                f"A Gaussian of images needs a mean (C, H, W) and a covariance (dim, dim), dim = C H W; these have shapes"
                f" {shape} and {tuple(covariance.shape)}."
            )
        matrix = covariance.to(device=device, dtype=torch.float64)
        one = _Gaussian(mean.to(matrix).reshape(-1), *_eigen(matrix))
        self._set((shape[0], shape[1], shape[2]), {-1: one})

    def _set(self, shape: tuple[int, int, int], parts: dict[int, _Gaussian], classes: int = 0) -> None:
        self.image_shape, self.num_labels, self._parts = shape, classes, parts
        self.device, self.variances = parts[-1].mean.device, parts[-1].variances

    @classmethod
    def from_images(
        cls, images: ImageSet, conditional: bool = False, *, device: torch.device | str = "cpu"
    ) -> GaussianDenoiser:
        """Return the Gaussian with the mean and the covariance of an image set: its best affine denoiser.

        Args:
            images: The set; sums are divided by N.
            conditional: Whether each class has a Gaussian of its own; that of all images serves "no label". Keeps
                min(images of the class, dim) directions of dim numbers for each class.
            device: Where to compute.

        Raises:
            UserError: `conditional` is set but the images have no labels.
        """
        if conditional and images.labels is None:
            raise UserError("A conditional Gaussian needs images with labels; these have none.")
        rows = rows_of(images)
        parts = {-1: _fitted(rows, device)}
        if conditional:
            labels = torch.tensor(images.labels)
            for label in torch.unique(labels).tolist():
                parts[label] = _fitted(rows[labels == label], device)
        found = cls.__new__(cls)
        found._set(images.shape, parts, images.num_classes if conditional else 0)
        return found

    def _denoised(self, x: Tensor, sigma: Tensor, labels: Tensor) -> Tensor:
        out = torch.empty_like(x)
        for label in torch.unique(labels).tolist():
            if label not in self._parts:
                raise UserError(f"No image has label {label}, so there is no Gaussian for it.")
            which = (labels == label).to(x.device)
            out[which] = self._parts[label].denoised(x[which], sigma[which])
        return out


class GaussianMixtureDenoiser(_Reference):
    """The posterior mean of a mixture of Gaussians, in [-1, 1] units: exact, by log-sum-exp in float64.

    Args:
        weights: Share of each component, (K,), not negative; they are divided by their sum.
        means: (K, C, H, W).
        covariances: Of the flattened images, (K, dim, dim).
        variances: Instead of them, for components that are alike in all directions: (K,) or a scalar, 0 or more; with 0 for
            all, the mixture is a set of points and this is its `Optimum`.
        device: Where to compute.

    Attributes:
        sigma_min: 0: any positive noise level is allowed.
        sigma_max: Infinite.

    Raises:
        UserError: The shapes do not fit, a weight or variance is negative, or not exactly one of covariances and
            variances is given.
    """

    def __init__(
        self,
        weights: Tensor,
        means: Tensor,
        covariances: Tensor | None = None,
        variances: Tensor | float | None = None,
        *,
        device: torch.device | str = "cpu",
    ) -> None:
        if (covariances is None) == (variances is None):
            raise UserError(
                "A mixture of Gaussians needs either covariances or variances, not both or neither."
            )
        if means.ndim != 4 or weights.shape != means.shape[:1] or not len(means):
            raise UserError(
                f"A mixture of images needs weights (K,) and means (K, C, H, W); these have shapes {tuple(weights.shape)} and"
                f" {tuple(means.shape)}."
            )
        shares = weights.to(device=device, dtype=torch.float64)
        if not bool((shares >= 0).all()) or not 0 < float(shares.sum()) < math.inf:
            raise UserError(
                f"The weights of a mixture must be 0 or more and not all 0, not {weights.tolist()}."
            )
        self.image_shape = (means.shape[1], means.shape[2], means.shape[3])
        self.device = shares.device
        self._log_weights = (shares / shares.sum()).log()
        rows = means.to(shares).flatten(1)
        count, dim = rows.shape
        if variances is not None:
            spread = torch.as_tensor(variances, dtype=torch.float64, device=device)
            if spread.ndim > 1 or spread.numel() not in (1, count) or not bool((spread >= 0).all()):
                raise UserError(
                    f"The variances of a mixture must be one number or one for each of its {count} components, 0 or more, not"
                    f" {spread.tolist()}."
                )
            none = rows.new_zeros(0), rows.new_zeros(dim, 0)
            spreads = spread.reshape(-1).expand(count)
            self._parts = [_Gaussian(m, *none, v) for m, v in zip(rows, spreads, strict=True)]
        elif covariances is not None:
            if covariances.shape != (count, dim, dim):
                raise UserError(
                    f"The covariances of this mixture have shape {tuple(covariances.shape)}, not ({count}, {dim}, {dim})."
                )
            matrices = covariances.to(shares)
            self._parts = [_Gaussian(m, *_eigen(c)) for m, c in zip(rows, matrices, strict=True)]

    def _denoised(self, x: Tensor, sigma: Tensor, labels: Tensor) -> Tensor:
        logits = torch.stack([part.log_density(x, sigma) for part in self._parts], 1) + self._log_weights
        posterior, out = logits.softmax(1), torch.zeros_like(x)
        for index, part in enumerate(self._parts):
            out += posterior[:, index, None] * part.denoised(x, sigma)
        return out


def _eigen(matrix: Tensor) -> tuple[Tensor, Tensor]:
    """Return the positive eigenvalues of a covariance, descending, and their directions."""
    scale = float(matrix.abs().max()) if matrix.numel() else 0.0
    if not math.isfinite(scale) or float((matrix - matrix.T).abs().max()) > 1e-6 * scale:
        raise UserError("A covariance must be a symmetric matrix of finite numbers; this one is not.")
    values, vectors = torch.linalg.eigh((matrix + matrix.T) / 2)
    if float(values[0]) < -1e-6 * max(float(values[-1]), scale):
        raise UserError(f"A covariance has no negative eigenvalues; this one has {float(values[0]):g}.")
    keep = int((values > _RANK * values[-1].clamp_min(0)).sum())
    return values[len(values) - keep :].flip(0), vectors[:, len(values) - keep :].flip(1)


def _fitted(pixels: Tensor, device: torch.device | str) -> _Gaussian:
    """Return the Gaussian with the moments of rows of pixels, uint8 (n, dim)."""
    mean, matrix = _centred(pixels, device)
    if len(pixels) < pixels.shape[1]:
        _, singular, directions = torch.linalg.svd(matrix / math.sqrt(len(pixels)), full_matrices=False)
        keep = int((singular > math.sqrt(_RANK) * singular[0]).sum())
        return _Gaussian(mean, singular[:keep].square(), directions[:keep].T.contiguous())
    return _Gaussian(mean, *_eigen(matrix))


def _centred(pixels: Tensor, device: torch.device | str) -> tuple[Tensor, Tensor]:
    """Return the mean of the rows in [-1, 1] units, and their covariance; for fewer rows than columns the centred rows.

    Sums of products of whole numbers below 2^53 have no rounding errors, so the order of blocks does not matter.
    """
    count, dim = pixels.shape
    centre = pixels[:: max(1, count // 256)].to(device).double().mean(0).round_()
    if count < dim:
        rows = pixels.to(device).double()
        mean = rows.mean(0)
        return mean / 127.5 - 1, (rows - mean) / 127.5
    total, products = torch.zeros_like(centre), centre.new_zeros(dim, dim)
    for block in torch.split(pixels, max(1, _BLOCK_BYTES // (8 * dim))):
        rows = block.to(device).double().sub_(centre)
        total += rows.sum(0)
        products.addmm_(rows.T, rows)
    offset = total / count
    return (centre + offset) / 127.5 - 1, products.div_(count).sub_(torch.outer(offset, offset)).div_(
        127.5**2
    )


def covariance_spectrum(images: ImageSet, *, device: torch.device | str = "cpu") -> Tensor:
    """Return the positive eigenvalues of the covariance (sums over N) of an image set in [-1, 1] units.

    Args:
        images: The set.
        device: Where to compute.

    Returns:
        float64 (r,) on the CPU, descending; r is at most N - 1 and at most C H W.
    """
    pixels = rows_of(images)
    _, matrix = _centred(pixels, device)
    if len(pixels) < pixels.shape[1]:
        matrix = matrix @ matrix.T / len(pixels)
    values: Tensor = torch.linalg.eigvalsh(matrix).flip(0)
    positive = values > _RANK * values[0].clamp_min(0)
    return values[positive].cpu()
