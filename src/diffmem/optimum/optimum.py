"""The closed-form optimum of denoising score matching on a finite training set.

The denoiser that minimises the training loss on images y_1..y_N, at every noise level, is their posterior mean
D*(x; sigma) = sum_i p_i y_i with p = softmax_i(-|x - y_i|^2 / (2 sigma^2)) and y = image / 127.5 - 1 (Gu et al., TMLR
2025, appendix B; Karras et al. 2022, appendix B.3). A sampler that follows it ends on training images.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from diffmem.data.images import ImageSet
from diffmem.errors import UserError
from diffmem.models.denoiser import Denoiser, DescribedDenoiser, checked_levels
from diffmem.optimum.certificates import Certificates
from diffmem.optimum.pixels import MIDDLE
from diffmem.optimum.points import SCALE, in_grey_levels
from diffmem.optimum.posterior import OMITTED, Answer, Queries
from diffmem.optimum.references import References
from diffmem.threads import dealing

__all__ = ["Following", "Optimum", "Posterior", "Work"]

REFINED = 1e-10
QUERY_BYTES = (
    160  # of a call, for each value of each query: sums of 4 digits in two threads, and parts of the query
)
BLOCK_BYTES = 1 << 17  # for each query: its scores and weights in the blocks that are worked on


class Posterior(NamedTuple):
    """How the weights p of each query spread over the training images; all float64 (B,).

    Attributes:
        entropy: In nats, 0 to log N.
        effective_number: exp(entropy), 1 to N: how many images the mean is over; copies count one by one.
        nearest_weight: The largest weight, 1/N to 1.
    """

    entropy: Tensor
    effective_number: Tensor
    nearest_weight: Tensor


@dataclass
class Work:
    """What an optimum was asked, and how precise its answers are.

    Attributes:
        calls: Calls of the denoiser.
        queries: Noisy images that were denoised.
        certified: How many of them were answered by a certificate: see `Following`.
        bound: The largest proven error of a result, at any pixel, in [-1, 1] units.
    """

    calls: int = 0
    queries: int = 0
    certified: int = 0
    bound: float = 0.0


class Optimum(DescribedDenoiser):
    """The `Denoiser` that training would end on with unlimited capacity: D*(x; sigma).

    Results are those of the formula in exact arithmetic but for an error whose bound is proven for the call at hand (see
    `posterior`): at most `tolerance`, where float64 holds the query to that precision (for the default it does at sigma from 0.002 for
    images of 3,072 values and queries of values up to 10). `work.bound` is the largest so far; what is seen is about a hundredth of it.
    A float32 result is rounded once more, by at most 6e-8. Only such errors can depend on the rest of the batch.

    Args:
        images: The training set. A copy of its pixels is made, of one byte each, unless that took more than a quarter of the memory;
            then they are read again at each call.
        conditional: Whether a query's label restricts the mean to the images of that class.
        device: Where to compute.
        workspace_bytes: Memory for a call beside its arguments and its result, whatever N. If it is too small for one
            query and one image, these are processed one by one all the same.
        shared: Whether `images` are this process's share of the training set, of processes that run together. They
            call together, with equal arguments; sums are combined by log-sum-exp, so all get the mean over all shares.
            Labels are those of the whole set.
        tolerance: How far a result may be off at any pixel, 1e-12 to 0.01, in [-1, 1] units.

    Attributes:
        sigma_min: 0: any positive noise level is allowed.
        sigma_max: Infinite.
        work: What was asked so far.

    Raises:
        UserError: `conditional` is set but the images have no labels, `workspace_bytes` is below 1, or the tolerance is out of range.
    """

    sigma_min: float = 0.0
    sigma_max: float = math.inf

    def __init__(
        self,
        images: ImageSet,
        conditional: bool = False,
        *,
        device: torch.device | str = "cpu",
        workspace_bytes: int = 256 * 2**20,
        shared: bool = False,
        tolerance: float = 2e-5,
    ) -> None:
        if workspace_bytes < 1:
            raise UserError(f"The workspace must have at least 1 byte, not {workspace_bytes}.")
        if not 1e-12 <= tolerance <= 0.01:
            raise UserError(f"The tolerance must be between 1e-12 and 0.01, not {tolerance:g}.")
        self.device = torch.device(device)
        self._images = References(images, conditional, self.device, shared)
        self._workspace, self.tolerance = workspace_bytes, tolerance
        self.image_shape, self.num_labels = images.shape, self._images.num_labels
        self.work = Work()

    def _text(self) -> str:
        return f"closed-form optimum of {self._images.count(-1):,} images"

    @torch.no_grad()
    @dealing()
    def __call__(self, x: Tensor, sigma: Tensor | float, labels: Tensor | None = None) -> Tensor:
        """Denoise a batch.

        Args:
            x: Float (B, C, H, W): images in [-1, 1] plus sigma times standard normal noise.
            sigma: Noise level, float (B,) or a scalar, positive.
            labels: Class of each image, int64 (B,). A conditional optimum takes -1, or no labels, for "no label": the
                mean is over all images.

        Returns:
            (B, C, H, W) in [-1, 1]; float64 if x is float64, float32 otherwise. Queries that are not finite get no numbers.

        Raises:
            UserError: A shape does not fit, sigma is not positive, labels were given to an unconditional optimum, or a
                class does not exist or has no images.
        """
        out = torch.empty_like(x, dtype=torch.float64 if x.dtype == torch.float64 else torch.float32)
        levels = checked_levels(x, sigma, self.image_shape)
        self.work.calls += 1
        self.work.queries += len(x)
        for which, answer in self._answers(x, levels, labels):
            out[which] = self._in_units(answer.mean).to(out.dtype)
        return out

    def follow(self) -> Denoiser:
        """Return this denoiser for the successive calls of one batch along its trajectories: see `Following`."""
        return self if self._images.is_shared else Following(self)

    @torch.no_grad()
    @dealing()
    def posterior(self, x: Tensor, sigma: Tensor | float, labels: Tensor | None = None) -> Posterior:
        """Return how the weights spread, to 1e-5 nats of entropy; arguments and errors are those of a call."""
        out = torch.empty(3, len(x), dtype=torch.float64, device=x.device)
        levels = checked_levels(x, sigma, self.image_shape)
        for which, queries in self._queries(x, levels, labels):
            mass, moment = queries.moments()
            entropy = (mass.log() - moment / mass).clamp_min(0)
            out[:, which] = torch.stack([entropy, entropy.exp(), 1 / mass])
        out[:, ~_finite(x)] = math.nan
        return Posterior(*out)

    def refined(self) -> Optimum:
        """Return the same denoiser with errors of at most 1e-10, for differences of its results; it takes a few times as long."""
        other = copy.copy(self)
        other.tolerance = min(self.tolerance, REFINED)
        return other

    def _answers(self, x: Tensor, levels: Tensor, labels: Tensor | None) -> Iterator[tuple[Tensor, Answer]]:
        """Yield positions of queries and their answers; those that are not finite get no numbers."""
        for which, queries in self._queries(x, levels, labels):
            answer = queries.averaged()
            self.work.bound = max(self.work.bound, float(answer.bound.max()))
            lost = ~_finite(x[which])
            answer.mean[lost], answer.gap[lost] = math.nan, -math.inf
            yield which, answer

    def _in_units(self, rows: Tensor) -> Tensor:
        """Return rows in grey levels less 128 as images in [-1, 1]; overwrites them."""
        return rows.add_(MIDDLE).div_(SCALE).sub_(1).reshape(-1, *self.image_shape)

    def _queries(self, x: Tensor, levels: Tensor, labels: Tensor | None) -> Iterator[tuple[Tensor, Queries]]:
        """Yield positions of queries that share their images, and these queries."""
        images = self._images
        half = self._workspace // 2
        size = max(1, half // (QUERY_BYTES * images.pixels.dim + BLOCK_BYTES))
        for label, group in images.grouped(labels, len(x)):
            for which in torch.tensor_split(
                group.to(x.device), -(-len(group) // size)
            ):  # even: a small part takes long, too
                most = max(1, half // ((4 if self.tolerance > 1e-5 else 8) * len(which)))
                rows = torch.nan_to_num(x[which].flatten(1), nan=0.0, posinf=0.0, neginf=0.0)
                parts = images.stretches(label, most)
                yield (
                    which,
                    Queries(images, parts, images.count(label), rows, levels[which], self.tolerance),
                )


def _finite(x: Tensor) -> Tensor:
    """Return which queries are finite, bool (B,)."""
    return torch.isfinite(x).flatten(1).all(1)


class Following:
    """The `Denoiser` of an `Optimum` for the calls of one sampler with one batch.

    It is called with the points of one batch, call after call. Queries of which one image is proven to hold all the weight, but for
    `OMITTED`, are answered by that image alone (see `certificates`), the others by the optimum. Any sequence of points is answered
    rightly; only the cost depends on how far they are apart.

    Args:
        optimum: The optimum.
    """

    sigma_min: float = 0.0
    sigma_max: float = math.inf

    def __init__(self, optimum: Optimum) -> None:
        self._optimum = optimum
        self.image_shape, self.num_labels, self.device = (
            optimum.image_shape,
            optimum.num_labels,
            optimum.device,
        )
        self._given: tuple[torch.Size, list[int]] | None = None
        self._certificates: Certificates | None = None

    @torch.no_grad()
    @dealing()
    def __call__(self, x: Tensor, sigma: Tensor | float, labels: Tensor | None = None) -> Tensor:
        """Denoise the batch at its next points; arguments, result and errors are those of `Optimum`.

        A batch of another size or with other labels starts anew.
        """
        optimum, images = self._optimum, self._optimum._images
        levels = checked_levels(x, sigma, self.image_shape)
        given = (x.shape, [] if labels is None else labels.reshape(-1).tolist())
        if given != self._given or self._certificates is None:
            self._certificates = Certificates(images.pixels.grey, 2 * images.longest, x.flatten(1))
            self._given = given
        optimum.work.calls += 1
        optimum.work.queries += len(x)
        out = torch.empty_like(x, dtype=torch.float64 if x.dtype == torch.float64 else torch.float32)
        points = in_grey_levels(x.flatten(1))
        # Of all images, so of those of any label, too.
        needed = math.log(images.count(-1) / OMITTED) * 2 * (SCALE * levels).square()
        held = self._certificates.hold(points, needed)
        certain = held.nonzero()[:, 0]
        optimum.work.certified += len(certain)
        optimum.work.bound = max(optimum.work.bound, 2 * OMITTED if len(certain) else 0.0)
        out[certain] = optimum._in_units(self._certificates.images(certain)).to(out.dtype)
        rest = (~held).nonzero()[:, 0]
        if labels is not None and len(labels) == len(x):
            labels = labels[rest]
        if len(rest) or not len(x):
            for which, answer in optimum._answers(x[rest], levels[rest], labels):
                at = rest[which]
                self._certificates.put(at, points[at], answer.nearest, answer.gap)
                out[at] = optimum._in_units(answer.mean).to(out.dtype)
        return out
