"""The Frechet distance between two sets of images: that of the Gaussians with the moments of their features.

The formula is that of Dowson and Landau (1982, "The Frechet distance between multivariate normal distributions"); with
the features of an Inception network it is the FID of Heusel et al. (2017). The name of the features belongs to the number:
a distance of pixels is no FID.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from diffmem.errors import DiffmemError, UserError

__all__ = [
    "FeatureFunction",
    "Moments",
    "feature_moments",
    "frechet_distance",
    "frechet_of_moments",
    "too_few_images",
]

FeatureFunction = Callable[[NDArray[np.uint8]], NDArray[np.floating]]
"""uint8 images (N, C, H, W) -> floating-point features (N, F); a row depends on its image alone."""

_BATCH = 256


@dataclass(frozen=True, eq=False)
class Moments:
    """What a set of images is reduced to.

    Attributes:
        mean: Mean of the features, float64 (F,).
        covariance: Their sample covariance (divided by N - 1), float64 (F, F).
        count: Number of images N.
    """

    mean: NDArray[np.float64]
    covariance: NDArray[np.float64]
    count: int


def frechet_distance(
    mean1: NDArray[np.float64],
    cov1: NDArray[np.float64],
    mean2: NDArray[np.float64],
    cov2: NDArray[np.float64],
) -> float:
    """Return the squared Frechet (2-Wasserstein) distance of two Gaussians.

    |mean1 - mean2|^2 + tr(cov1) + tr(cov2) - 2 tr((cov1^1/2 cov2 cov1^1/2)^1/2). The last trace is the sum of the
    singular values of cov1^1/2 cov2^1/2: with symmetric square roots from eigenvalues, nothing complex or indefinite
    comes up even where a covariance is singular. The square is what the field reports as FID.

    Args:
        mean1: Float (F,).
        cov1: Float (F, F), symmetric and positive semi-definite up to rounding.
        mean2: Float (F,).
        cov2: Float (F, F).

    Returns:
        The distance, at least 0, in squared units of the features.

    Raises:
        UserError: The shapes do not fit, or a value is not finite.
    """
    means = [np.asarray(mean, dtype=np.float64) for mean in (mean1, mean2)]
    covariances = [np.asarray(cov, dtype=np.float64) for cov in (cov1, cov2)]
    size = means[0].shape[0] if means[0].ndim == 1 else 0
    if any(mean.shape != (size,) for mean in means) or any(cov.shape != (size, size) for cov in covariances):
        shapes = ", ".join(str(array.shape) for array in (means[0], covariances[0], means[1], covariances[1]))
        raise UserError(
            f"Two Gaussians need means (F,) and covariances (F, F) of one F, not the shapes {shapes}."
        )
    if not all(np.isfinite(array).all() for array in (*means, *covariances)):
        raise UserError(
            "A mean or a covariance has values that are not finite; check the features of the images."
        )
    cross = np.linalg.svd(_root(covariances[0]) @ _root(covariances[1]), compute_uv=False).sum()
    apart = float(((means[0] - means[1]) ** 2).sum())
    return max(
        0.0, apart + float(np.trace(covariances[0])) + float(np.trace(covariances[1])) - 2 * float(cross)
    )


def _root(covariance: NDArray[np.float64]) -> NDArray[np.float64]:
    values, vectors = np.linalg.eigh((covariance + covariance.T) / 2)
    # Rounding makes zero eigenvalues negative.
    root: NDArray[np.float64] = (vectors * np.sqrt(values.clip(min=0))) @ vectors.T
    return root


def feature_moments(images: NDArray[np.uint8], features: FeatureFunction) -> Moments:
    """Compute the moments of the features of images, batch by batch.

    Batches are joined by the update of Chan, Golub and LeVeque (1983), which loses no digits where the mean is large.

    Args:
        images: uint8 (N, C, H, W), N at least 2.
        features: What to compute of them.

    Raises:
        UserError: There are fewer than two images.
        DiffmemError: The features are no finite array (N, F).
    """
    if len(images) < 2:
        raise UserError(f"A covariance needs at least 2 images, not {len(images)}.")
    count, mean, scatter = 0, np.zeros(0), np.zeros((0, 0))
    for start in range(0, len(images), _BATCH):
        batch = images[start : start + _BATCH]
        rows = np.asarray(features(batch), dtype=np.float64)
        if rows.ndim != 2 or len(rows) != len(batch) or (count and rows.shape[1] != len(mean)):
            raise DiffmemError(
                f"The features of {len(batch)} images have shape {rows.shape}; one row for each is needed."
            )
        if not np.isfinite(rows).all():
            raise DiffmemError(
                "Features of the images are not finite; their network is broken or does not fit the images."
            )
        if not count:
            mean, scatter = np.zeros(rows.shape[1]), np.zeros((rows.shape[1],) * 2)
        part = rows.mean(0)
        centred, shift, total = rows - part, part - mean, count + len(rows)
        scatter += centred.T @ centred + np.outer(shift, shift) * (count * len(rows) / total)
        mean = mean + shift * (len(rows) / total)
        count = total
    return Moments(mean, scatter / (count - 1), count)


def too_few_images(count: int, features: int) -> str | None:
    """Say why so many images are too few for so many features; none if they are enough.

    The rule: more images than features on both sides, N > F. With fewer, the sample covariance is singular: it gives no
    variance at all to directions in which the images do vary, and the distance says more about N than about the images.
    Enough by this rule is not unbiased: the estimate is too large by an amount of the order F / N.
    """
    if count > features:
        return None
    return (
        f"A Frechet distance of {features} features needs more than {features} images on both sides, but there are"
        f" {count}: the covariance would be singular. Use more images, or features of fewer dimensions ('pixels')."
    )


def frechet_of_moments(one: Moments, other: Moments) -> float:
    """Return the squared Frechet distance of two sets of images by their moments.

    Raises:
        UserError: A set has too few images for its features (see `too_few_images`), or the features differ.
    """
    problem = too_few_images(min(one.count, other.count), len(one.mean))
    if problem:
        raise UserError(problem)
    return frechet_distance(one.mean, one.covariance, other.mean, other.covariance)
