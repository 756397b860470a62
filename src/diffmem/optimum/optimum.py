"""The closed-form optimum of denoising score matching on a finite training set.

The denoiser that minimises the training loss on images y_1..y_N, at every noise level, is their posterior mean
D*(x; sigma) = sum_i p_i y_i with p = softmax_i(-|x - y_i|^2 / (2 sigma^2)) and y = image / 127.5 - 1 (Gu et al., TMLR
2025, appendix B; Karras et al. 2022, appendix B.3). A sampler that follows it ends on training images.

In grey levels, with w = 127.5 (x + 1) - c and q_i = image_i - c for any vector c of whole numbers, the logits are
(2 w . image_i - |q_i|^2) / (2 (127.5 sigma)^2) up to a constant of the query. Images are whole numbers below 256: no
copy of them is ever rounded, and |q_i|^2 is exact. Blocks of images pass through two stages:

1. Float32 products bound the score 2 w . image_i - |q_i|^2 from both sides (Higham 2002, "Accuracy and Stability of
   Numerical Algorithms", section 3.1, for any order of summation). Images that cannot reach the share `OMITTED` / N of
   the largest weight are left out: together they hold less than `OMITTED` of the mass.
2. Float64 products give the scores of the others. Where their bound exceeds `LOGIT_ERROR`, for natural images below
   sigma ~ 0.01, w is split into multiples of a power of two, whose products add up without any error, and a remainder
   so small that the errors of its products do not matter.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterator
from typing import NamedTuple

import torch
from torch import Tensor

from diffmem.data.images import ImageSet
from diffmem.distributed import world
from diffmem.errors import UserError
from diffmem.models.arguments import checked_labels, checked_levels
from diffmem.models.denoiser import Denoiser
from diffmem.optimum.bundle import Evaluations
from diffmem.optimum.directions import MOST, Directions
from diffmem.optimum.following import STATE, Following
from diffmem.optimum.pixels import CPU_ROWS, Pixels
from diffmem.optimum.posterior import SCALE, Batch, Sums

__all__ = ["Optimum", "Posterior"]


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


class Optimum:
    """The `Denoiser` that training would end on with unlimited capacity: D*(x; sigma).

    For sigma from 0.002 and values of x up to 1000, a result is within 2e-6 of the formula in exact arithmetic for
    every N: images left out move it by at most 2 `OMITTED`; errors of the logits by at most `LOGIT_ERROR`, as their
    covariance with values in [-1, 1] is no larger; float64 sums over the images by less than N 1e-16. A float32 result
    is rounded once more, by at most 6e-8. Only such errors can depend on the rest of the batch.

    Args:
        images: The training set. Its pixels stay uint8.
        conditional: Whether a query's label restricts the mean to the images of that class.
        device: Where to compute. The pixels are moved there once if they fill at most half of the free memory;
            otherwise each block is moved when it is needed.
        workspace_bytes: Memory for a call beside its arguments and its result, whatever N. If it is too small for one
            query and one image, these are processed one by one all the same.
        shared: Whether `images` are this process's share of the training set, of processes that run together. They
            call together, with equal arguments; sums are combined by log-sum-exp, so all get the mean over all shares.
            Labels are those of the whole set.

    Attributes:
        sigma_min: 0: any positive noise level is allowed.
        sigma_max: Infinite.
        tolerance: Largest posterior weight that `follow` leaves out, if it is not told.
        evaluations: What following trajectories has taken so far, of all `follow`.

    Raises:
        UserError: `conditional` is set but the images have no labels, or `workspace_bytes` is below 1.
    """

    sigma_min: float = 0.0
    sigma_max: float = math.inf
    tolerance: float = 1e-6

    def __init__(
        self,
        images: ImageSet,
        conditional: bool = False,
        *,
        device: torch.device | str = "cpu",
        workspace_bytes: int = 256 * 2**20,
        shared: bool = False,
    ) -> None:
        if workspace_bytes < 1:
            raise UserError(f"The workspace must have at least 1 byte, not {workspace_bytes}.")
        if conditional and images.labels is None:
            raise UserError("A conditional optimum needs images with labels; these have none.")
        self.device, self.workspace = torch.device(device), workspace_bytes
        self.image_shape = images.shape
        self.num_labels = images.num_classes if conditional else 0
        self.evaluations = Evaluations()
        self.pixels = Pixels(images, self.device, workspace_bytes, shared)
        self.members: dict[int, Tensor] = {}
        if conditional:
            labels = torch.tensor(images.labels)
            parts = torch.split(labels.argsort(stable=True), labels.bincount().tolist())
            where = self.pixels.stored_on
            self.members = {label: part.to(where) for label, part in enumerate(parts) if len(part)}
        self._directions: Directions | None = None
        self._counts = {-1: len(images), **{label: len(part) for label, part in self.members.items()}}
        self.shared = shared and world().size > 1
        if self.shared:
            counts: Counter[int] = Counter()
            for share in world().gather((self._counts, self.num_labels)):
                counts.update(share[0])
                self.num_labels = max(self.num_labels, share[1])
            self._counts = dict(counts)
            none = torch.zeros(0, dtype=torch.int64, device=self.pixels.stored_on)
            self.members |= {label: none for label in counts if label >= 0 and label not in self.members}

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
        for batch in self._batches(x, sigma, labels):
            sums = self.summed(batch, self.pixels.dim)
            mean = sums.mean.div_(sums.total[:, None]).div_(SCALE).sub_(1)
            out[batch.which] = mean.reshape(-1, *self.image_shape).to(out.dtype)
        return out

    @torch.no_grad()
    def posterior(self, x: Tensor, sigma: Tensor | float, labels: Tensor | None = None) -> Posterior:
        """Return how the weights spread, to 1e-5 nats of entropy; arguments and errors are those of a call."""
        out = torch.empty(3, len(x), dtype=torch.float64, device=x.device)
        for batch in self._batches(x, sigma, labels):
            sums = self.summed(batch, 0)
            entropy = (sums.total.log() - sums.moment / sums.total).clamp_min(0)
            out[:, batch.which] = torch.stack([entropy, entropy.exp(), 1 / sums.total])
        return Posterior(*out)

    def follow(self, tolerance: float | None = None) -> Denoiser:
        """Return this denoiser for the successive calls of one batch along its trajectories: see `Following`.

        Args:
            tolerance: Posterior weight that may be left out; the attribute if none.

        Shares of several processes, and a workspace too small for the state of one trajectory, leave it as it is.
        """
        if self.shared or STATE * len(self.pixels) > self.workspace // 2:
            return self
        return Following(self, self.tolerance if tolerance is None else tolerance)

    def directions(self) -> Directions:
        """Return the bounds that `Following` leaves images out by, computed at the first call."""
        if self._directions is None:
            # A quarter of the workspace at most.
            most = max(1, min(MOST, self.workspace // 4 // (4 * len(self.pixels))))
            self._directions = Directions(self.pixels, most)
        return self._directions

    def count(self, label: int) -> int:
        """Return the number of images that queries with a label average over, -1 for no label; of all processes."""
        return self._counts[label]

    def checked(self, x: Tensor, sigma: Tensor | float) -> Tensor:
        """Check the queries; return their noise levels, float64 (B,)."""
        return checked_levels(x, sigma, self.image_shape)

    def grouped(self, labels: Tensor | None, count: int) -> list[tuple[int, Tensor]]:
        """Check the labels; return each of them, -1 for none, with the positions of its queries."""
        given = checked_labels(labels, count, self.num_labels)
        wanted: list[int] = torch.unique(given).tolist()
        for label in wanted:
            if label >= 0 and label not in self.members:
                raise UserError(f"No training image has label {label}, so there is no optimum for it.")
        return [(label, (given == label).nonzero()[:, 0]) for label in wanted]

    def _batches(self, x: Tensor, sigma: Tensor | float, labels: Tensor | None) -> Iterator[Batch]:
        """Check the arguments; yield the queries in parts that share their images."""
        levels = self.checked(x, sigma)
        # Bytes of a query, its parts and its mean, while those of the batch before are still in use.
        most = max(1, self.workspace // 2 // (96 * self.pixels.dim))
        for label, group in self.grouped(labels, len(x)):
            for which in torch.split(group.to(x.device), most):
                yield Batch(self, which, x[which].flatten(1), levels[which], label)

    def summed(self, batch: Batch, columns: int) -> Sums:
        """Return the sums over all images, those of the pixels for the first `columns` only."""
        sums = Sums(batch.beta, columns)
        for high, low, rows in self._relevant(batch):
            sums.add(high, low, rows[:, :columns])
        if self.shared:
            sums.combine()
        return sums

    def _relevant(self, batch: Batch) -> Iterator[tuple[Tensor, Tensor | float, Tensor]]:
        """Yield the images that matter to any query, by blocks: their `_scores` and their pixels, float64 (n, dim)."""
        members = batch.members
        count = len(self.pixels if members is None else members)
        dim, device = self.pixels.dim, self.device
        # Pixels as bytes (twice), float32 and float64; scores, logits and weights in float64, with temporaries.
        height = max(1, self.workspace // 2 // (14 * dim + 64 * len(batch.beta)))
        height = min(height, max(1, count), CPU_ROWS if device.type == "cpu" else 1 << 14)
        single = torch.empty(height, dim, device=device)
        double = torch.empty(height, dim, dtype=torch.float64, device=device)
        screen = True
        for at in range(0, count, height):
            part = slice(at, min(at + height, count))
            which = part if members is None else members[part]
            pixels, norms = self.pixels.block(which), self.pixels.norms_of(which)
            if screen:
                rows = single[: len(pixels)].copy_(pixels)
                keep = batch.possible(torch.addmm(norms.float().neg_(), batch.left, rows.T))
                screen = 2 * len(keep) < len(pixels)  # otherwise the next block can do without
                pixels, norms = pixels.index_select(0, keep), norms[keep]
            if len(pixels):
                rows = double[: len(pixels)].copy_(pixels)
                yield *self._scores(batch, rows, norms), rows

    @staticmethod
    def _scores(batch: Batch, rows: Tensor, norms: Tensor) -> tuple[Tensor, Tensor | float]:
        """Return 2 w . image - |q|^2 as a sum of two parts, float64 (B, n); the second is 0 if no w is split."""
        high = torch.addmm(norms.neg(), batch.high, rows.T)
        if batch.low is None:
            return high, 0.0
        low = torch.zeros_like(high)
        low[batch.split] = batch.low @ rows.T
        return high, low
