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
from diffmem.models.denoiser import DescribedDenoiser, checked_levels
from diffmem.optimum.pixels import MIDDLE
from diffmem.optimum.points import SCALE
from diffmem.optimum.posterior import Queries
from diffmem.optimum.references import References
from diffmem.threads import dealing

__all__ = ["Optimum", "Posterior", "Work"]

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
        bound: The largest proven error of a result, at any pixel, in [-1, 1] units.
    """

    calls: int = 0
    queries: int = 0
    bound: float = 0.0


class Optimum(DescribedDenoiser):
    """The `Denoiser` that training would end on with unlimited capacity: D*(x; sigma).

    Results are those of the formula in exact arithmetic but for an error whose bound is proven for the call at hand (see
    `posterior`): at most `tolerance`, where float64 holds the query to that precision (for sigma from 0.002 and values up to 1000 it
    does). `work.bound` is the largest so far; what is seen is about a hundredth of it. A float32 result is rounded once more, by at
    most 6e-8. Only such errors can depend on the rest of the batch.

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
    def __call__(self, x: Tensor, sigma: Tensor | float, labels: Tensor | None = None) -> Tensor:
        """Denoise a batch.

        Args:
            x: Float (B, C, H, W): images in [-1, 1] plus sigma times standard normal noise.
            sigma: Noise level, float (B,) or a scalar, positive.
            labels: Class of each image, int64 (B,). A conditional optimum takes -1, or no labels, for "no label": the
                mean is over all images.

        Returns:
            (B, C, H, W) in [-1, 1]; float64 if x is float64, float32 otherwise.

        Raises:
            UserError: A shape does not fit, sigma is not positive, labels were given to an unconditional optimum, or a
                class does not exist or has no images.
        """
        out = torch.empty_like(x, dtype=torch.float64 if x.dtype == torch.float64 else torch.float32)
        self.work.calls += 1
        self.work.queries += len(x)
        with dealing():
            for which, queries in self._queries(x, sigma, labels):
                answer = queries.averaged()
                self.work.bound = max(self.work.bound, float(answer.bound.max()))
                mean = answer.mean.add_(MIDDLE).div_(SCALE).sub_(1)
                out[which] = mean.reshape(-1, *self.image_shape).to(out.dtype)
        out[~torch.isfinite(x).flatten(1).all(1)] = math.nan
        return out

    @torch.no_grad()
    def posterior(self, x: Tensor, sigma: Tensor | float, labels: Tensor | None = None) -> Posterior:
        """Return how the weights spread, to 1e-5 nats of entropy; arguments and errors are those of a call."""
        out = torch.empty(3, len(x), dtype=torch.float64, device=x.device)
        with dealing():
            for which, queries in self._queries(x, sigma, labels):
                mass, moment = queries.moments()
                entropy = (mass.log() - moment / mass).clamp_min(0)
                out[:, which] = torch.stack([entropy, entropy.exp(), 1 / mass])
        return Posterior(*out)

    def refined(self) -> Optimum:
        """Return the same denoiser with errors of at most 1e-10, for differences of its results; it takes a few times as long."""
        other = copy.copy(self)
        other.tolerance = min(self.tolerance, REFINED)
        return other

    def _queries(
        self, x: Tensor, sigma: Tensor | float, labels: Tensor | None
    ) -> Iterator[tuple[Tensor, Queries]]:
        """Check the arguments; yield positions of queries that share their images, and these queries."""
        levels = checked_levels(x, sigma, self.image_shape)
        images = self._images
        half = self._workspace // 2
        size = max(1, half // (QUERY_BYTES * images.pixels.dim + BLOCK_BYTES))
        for label, group in images.grouped(labels, len(x)):
            for which in torch.split(group.to(x.device), size):
                most = max(1, half // ((4 if self.tolerance > 1e-5 else 8) * len(which)))
                rows = torch.nan_to_num(x[which].flatten(1), nan=0.0, posinf=0.0, neginf=0.0)
                parts = images.stretches(label, most)
                yield (
                    which,
                    Queries(images, parts, images.count(label), rows, levels[which], self.tolerance),
                )
