"""What the optimum of an image set knows at each noise level: how its posterior spreads over the images, and when it collapses.

A query is a training image y_q plus sigma times noise n. Distances need no noisy image: |x - y_i|^2 = sigma^2 |n|^2 + A_i + 2 sigma
B_i with A_i = |y_q - y_i|^2, whole numbers in grey levels, and B_i = n . (y_q - y_i). So two exact matrix products serve all noise
levels, and the weight of the own image is exact where every float32 distance would be noise. As the noise level falls, an
image whose weight is below exp(-45) of the own image's, and falling, stays below: it is left out from there on.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from pydantic import Field
from torch import Tensor

from diffmem.data import ImageSet, duplicate_groups
from diffmem.errors import UserError, check_seed
from diffmem.memorization.rates import MeanRecord, Rate, mean_record
from diffmem.memorization.records import Record
from diffmem.optimum.collapse import (
    bootstrap_crossing,
    collapse_isotropic,
    collapse_of_spectrum,
    crossing,
    isotropic_moments,
)
from diffmem.optimum.gaussian import covariance_spectrum
from diffmem.optimum.pixels import MIDDLE
from diffmem.optimum.points import SCALE, Points
from diffmem.optimum.references import References
from diffmem.optimum.scores import Source, inner_products
from diffmem.progress import NO_PROGRESS, Progress

__all__ = ["Collapse", "OptimumCurves", "OptimumPoint", "default_sigmas", "optimum_curves"]

_NEGLIGIBLE = -45.0
_WHOLE, _FINE = 2, 6  # digits that hold grey levels, and noise to the precision of float64 sums
_WORKSPACE = 192 * 2**20
_OWN, _NEAREST, _ENTROPY, _DIMENSION = range(4)


class OptimumPoint(Record):
    """The optimum at one noise level: means over noisy training images, with intervals over them."""

    sigma: float = Field(description="Noise level, in [-1, 1] units of the images.")
    own_weight: MeanRecord = Field(
        description="Posterior weight of the image that the noise was added to, its exact copies counted with it, 0 to 1."
    )
    own_above_half: Rate = Field(description="Share of noisy images whose own weight exceeds 1/2.")
    nearest_weight: MeanRecord = Field(
        description="Largest posterior weight, 0 to 1; copies count one by one."
    )
    entropy: MeanRecord = Field(
        description="Entropy of the posterior, in nats, 0 to log N; copies count one by one."
    )
    effective_number: MeanRecord = Field(
        description="exp(entropy), 1 to N: how many images the denoised image averages."
    )
    effective_number_10: float = Field(description="Its 10% quantile over noisy images.")
    effective_number_90: float = Field(description="Its 90% quantile.")
    dimension: MeanRecord = Field(
        description="sum_i p_i |y - y_i|^2 / sigma^2 at the training images y themselves, without noise: the local dimension of the"
        " data at the scale sigma that the optimum sees (FLIPD). It is 0 where the optimum knows one image only."
    )


class Collapse(Record):
    """Where the mean own weight falls through 1/2, and what two formulas predict; sigma in [-1, 1] units."""

    measured: float | None = Field(
        description="Interpolated in log sigma; none if it is outside the noise levels."
    )
    low: float | None = Field(
        description="Lower end of its 95% interval (bootstrap over queries), if it is inside."
    )
    high: float | None = Field(description="Upper end.")
    count: int = Field(
        description="Number of distinct images n in the formulas; with classes, on average in each."
    )
    dimension: float | None = Field(
        default=None,
        description="Participation ratio d = (tr C)^2 / tr C^2 of the covariance C; none if nothing varies.",
    )
    scale: float | None = Field(default=None, description="s = sqrt(tr C / d), in [-1, 1] units.")
    isotropic: float | None = Field(default=None, description="s / sqrt(n^(2/d) - 1).")
    spectrum: float | None = Field(
        default=None,
        description="The sigma with log n = (1/2) sum_i log(1 + v_i / sigma^2) over the eigenvalues v_i of C.",
    )


class OptimumCurves(Record):
    """The optimum of an image set over noise levels: the content of `optimum.json`."""

    format: int = Field(default=1, description="Version of this layout.")
    data: str = Field(description="The image set in words.")
    fingerprint: str = Field(description="Its SHA-256.")
    images: int = Field(description="Number of images N.")
    distinct: int = Field(description="Number of distinct images.")
    shape: tuple[int, int, int] = Field(description="(C, H, W).")
    conditional: bool = Field(description="Whether the posterior runs over the images of the query's class.")
    queries: int = Field(
        description="Number of noisy images at each noise level; the same images and noise at all."
    )
    seed: int = Field(description="Seed of their choice and noise.")
    points: list[OptimumPoint] = Field(description="Ascending in sigma.")
    collapse: Collapse


def default_sigmas() -> list[float]:
    """Return 60 noise levels from 0.01, a grey level, to 80: fifteen in each decade."""
    return [float(sigma) for sigma in np.geomspace(0.01, 80, 60)]


def optimum_curves(
    images: ImageSet,
    *,
    sigmas: Sequence[float] | None = None,
    queries: int = 1000,
    conditional: bool = False,
    seed: int = 0,
    data: str | None = None,
    device: torch.device | str = "cpu",
    progress: Progress = NO_PROGRESS,
) -> OptimumCurves:
    """Measure how the optimum of a set spreads over its images at each noise level.

    Args:
        images: The training set.
        sigmas: Noise levels in [-1, 1] units; `default_sigmas` if none.
        queries: Number of noisy images. Every image is used once before any is used again.
        conditional: Restrict the posterior to the images of the query's class.
        seed: Seed of the choice of images and of the noise.
        data: The set in words; the last step of its history if none.
        device: Where to compute. The workspace is about 200 MB whatever N, then a few matrices of min(N, C H W) numbers squared.
        progress: Called with the number of queries that are done.

    Raises:
        UserError: A noise level is not a positive number, there are no queries, the seed is below 0, or `conditional` is set without
            labels.
    """
    levels = sorted({float(sigma) for sigma in (default_sigmas() if sigmas is None else sigmas)})
    if not levels or not all(0 < level < math.inf for level in levels):
        raise UserError(f"Noise levels must be positive numbers, at least one; not {levels}.")
    if queries < 1:
        raise UserError(f"There must be at least 1 query, not {queries}.")
    check_seed(seed)
    if conditional and images.labels is None:
        raise UserError("A conditional optimum needs images with labels; these have none.")
    chosen = balanced_indices(len(images), queries, seed)
    noise = torch.randn(
        queries, math.prod(images.shape), generator=torch.Generator().manual_seed(seed), dtype=torch.float64
    )
    found = torch.empty(4, len(levels), queries, dtype=torch.float64)
    known = References(images, conditional, torch.device(device), shared=False)
    done = 0
    for label, which in _by_class(images.labels if conditional else None, chosen):
        (stretch,) = known.stretches(label, len(images))
        source = Source(known.pixels, stretch)
        for part in torch.split(which, max(1, _WORKSPACE // (64 * len(source)))):
            own = torch.tensor(images.images[chosen[part.numpy()]]).flatten(1)
            found[:, :, part] = _spread(*_pairs(own.to(device), noise[part].to(device), source), levels)
            done += len(part)
            progress(done, queries)
    return OptimumCurves(
        data=data or (images.history[-1] if images.history else f"{len(images)} images"),
        fingerprint=images.fingerprint,
        images=len(images),
        distinct=len(np.unique(duplicate_groups(images))),
        shape=images.shape,
        conditional=conditional,
        queries=queries,
        seed=seed,
        points=[_point(level, found[:, index].numpy()) for index, level in enumerate(levels)],
        collapse=_collapse(images, conditional, chosen, levels, found[_OWN].numpy(), seed, device),
    )


def balanced_indices(count: int, wanted: int, seed: int) -> NDArray[np.int64]:
    """Return `wanted` indices below `count` in random order, all used equally often up to one."""
    order = np.random.default_rng(seed).permutation(count)
    return np.resize(order, wanted).astype(np.int64)


def _by_class(labels: NDArray[np.int64] | None, chosen: NDArray[np.int64]) -> Iterator[tuple[int, Tensor]]:
    """Yield the class of some queries, -1 if their posterior runs over all images, and their positions."""
    if labels is None:
        yield -1, torch.arange(len(chosen))
        return
    for label in np.unique(labels[chosen]).tolist():
        yield label, torch.from_numpy(np.flatnonzero(labels[chosen] == label))


def _spread(squares: Tensor, products: Tensor, levels: Sequence[float]) -> Tensor:
    """Return own weight, nearest weight, entropy and dimension of each query at each level, (4, levels, queries).

    Args:
        squares: |y_q - y_i|^2, float64 (q, n); 0 for the own image and its copies.
        products: n_q . (y_q - y_i), float64 (q, n).
        levels: Noise levels, ascending.
    """
    # Of each pair two numbers stay, and three to five are temporary: 64 bytes at most.
    is_own = squares == 0
    products[is_own] = 0
    out = torch.empty(4, len(levels), len(squares), dtype=torch.float64)
    for index in reversed(range(len(levels))):
        slope = 1 / levels[index]
        still = (0.5 * slope * squares).mul_(-slope)  # logits relative to the own image without noise
        logits = torch.add(still, products, alpha=-slope)
        top = logits.amax(1, keepdim=True)
        own = is_own.sum(1) * top[:, 0].neg().exp()
        # Both logits fall with the noise level from here on if that of the noisy image does.
        small = (torch.maximum(logits, still) < _NEGLIGIBLE) & (squares * slope + products >= 0)
        weights = logits.sub_(top).exp()
        total = weights.sum(1)
        entropy = (total.log() - (weights * logits.clamp_(min=-1000)).sum(1) / total).clamp_min(0)
        weights = still.exp()
        dimension = (weights * squares).sum(1) * slope**2 / weights.sum(1)
        out[:, index] = torch.stack([own / total, 1 / total, entropy, dimension]).cpu()
        keep = (~small).any(0)
        if int(keep.sum()) < 0.8 * len(keep):
            squares, products, is_own = squares[:, keep], products[:, keep], is_own[:, keep]
    return out


def _pairs(own: Tensor, noise: Tensor, source: Source) -> tuple[Tensor, Tensor]:
    """Return |y_q - y_i|^2 and n_q . (y_q - y_i) in [-1, 1] units, float64 (q, n); squares of equal images are 0.

    Args:
        own: The queries' own images, uint8 (q, dim).
        noise: Their noise, float64 (q, dim).
        source: The images that count.
    """
    w, pixels = own.double() - MIDDLE, source.pixels
    norms, inner = w.square().sum(1, keepdim=True), (noise * w).sum(1, keepdim=True)
    # Whole numbers: exact.
    squares = norms + pixels.norms[source.stretch] - 2 * inner_products(source, Points(pixels, w), _WHOLE).T
    products = inner - inner_products(source, Points(pixels, noise), _FINE).T
    return squares.contiguous().div_(SCALE**2), products.contiguous().div_(SCALE)


def _point(sigma: float, found: NDArray[np.float64]) -> OptimumPoint:
    number = np.exp(found[_ENTROPY])
    low, high = np.quantile(number, [0.1, 0.9]).tolist()
    own = found[_OWN]
    return OptimumPoint(
        sigma=sigma,
        own_weight=mean_record(own, 0, 1),
        own_above_half=Rate(int((own > 0.5).sum()), len(own)),
        nearest_weight=mean_record(found[_NEAREST], 0, 1),
        entropy=mean_record(found[_ENTROPY], 0),
        effective_number=mean_record(number, 1),
        effective_number_10=low,
        effective_number_90=high,
        dimension=mean_record(found[_DIMENSION], 0),
    )


def _collapse(
    images: ImageSet,
    conditional: bool,
    chosen: NDArray[np.int64],
    levels: Sequence[float],
    own: NDArray[np.float64],
    seed: int,
    device: torch.device | str,
) -> Collapse:
    measured = crossing(levels, own.mean(1).tolist())
    low, high = bootstrap_crossing(levels, own, seed=seed) if measured is not None else (None, None)
    predicted, shares = [], []
    for label, which in _by_class(images.labels if conditional else None, chosen):
        part = images
        if images.labels is not None and label >= 0:
            part = images.take(np.flatnonzero(images.labels == label), "one class")
        count = len(np.unique(duplicate_groups(part)))
        if count < 2:
            continue
        variances = covariance_spectrum(part, device=device).numpy()
        d, s = isotropic_moments(variances)
        predicted.append(
            (count, d, s, collapse_isotropic(count, d, s), collapse_of_spectrum(count, variances))
        )
        shares.append(len(which))
    # Classes are averaged by their number of queries, in the logarithm.
    count, *rest = (
        np.exp(np.average(np.log(np.array(predicted)), axis=0, weights=shares)).tolist() if predicted else [1]
    )
    return Collapse(
        measured=measured,
        low=low,
        high=high,
        count=round(count),
        **dict(zip(("dimension", "scale", "isotropic", "spectrum"), rest, strict=False)),
    )
