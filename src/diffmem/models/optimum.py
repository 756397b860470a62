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
import warnings
from collections.abc import Iterator
from typing import NamedTuple

import torch
from torch import Tensor

from diffmem.data.images import ImageSet
from diffmem.errors import UserError

__all__ = ["Optimum", "Posterior"]

SCALE = 127.5  # grey levels per unit of y
OMITTED = 1e-7
LOGIT_ERROR = 1e-6
CPU_ROWS = 512  # larger blocks leave the cache


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

    Attributes:
        sigma_min: 0: any positive noise level is allowed.
        sigma_max: Infinite.

    Raises:
        UserError: `conditional` is set but the images have no labels, or `workspace_bytes` is below 1.
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
    ) -> None:
        if workspace_bytes < 1:
            raise UserError(f"The workspace must have at least 1 byte, not {workspace_bytes}.")
        if conditional and images.labels is None:
            raise UserError("A conditional optimum needs images with labels; these have none.")
        self.device, self._workspace = torch.device(device), workspace_bytes
        self.image_shape, self._dim = images.shape, math.prod(images.shape)
        self.num_labels = images.num_classes if conditional else 0
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", UserWarning)  # a read-only array: it is never written here
            self._pixels = torch.from_numpy(images.images).reshape(len(images), self._dim)
        if self.device.type == "cuda" and 2 * self._pixels.numel() <= torch.cuda.mem_get_info(self.device)[0]:
            self._pixels = self._pixels.to(self.device)
        self._members: dict[int, Tensor] = {}
        if conditional:
            labels = torch.tensor(images.labels)
            parts = torch.split(labels.argsort(stable=True), labels.bincount().tolist())
            where = self._pixels.device
            self._members = {label: part.to(where) for label, part in enumerate(parts) if len(part)}
        self._measure()

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
            sums = self._summed(batch, self._dim)
            mean = sums.mean.div_(sums.total[:, None]).div_(SCALE).sub_(1)
            out[batch.which] = mean.reshape(-1, *self.image_shape).to(out.dtype)
        return out

    @torch.no_grad()
    def posterior(self, x: Tensor, sigma: Tensor | float, labels: Tensor | None = None) -> Posterior:
        """Return how the weights spread, to 1e-5 nats of entropy; arguments and errors are those of a call."""
        out = torch.empty(3, len(x), dtype=torch.float64, device=x.device)
        for batch in self._batches(x, sigma, labels):
            sums = self._summed(batch, 0)
            entropy = (sums.total.log() - sums.moment / sums.total).clamp_min(0)
            out[:, batch.which] = torch.stack([entropy, entropy.exp(), 1 / sums.total])
        return Posterior(*out)

    def _measure(self) -> None:
        """Find the centre c, the norms |q_i|^2 and the largest norms, which the error bounds need."""
        count = len(self._pixels)
        self._centre = self._pixels[:: max(1, count // 256)].to(self.device).double().mean(0).round_()
        self._norms = self._centre.new_empty(count)
        height, largest = max(1, min(CPU_ROWS, self._workspace // (16 * self._dim))), 0.0
        for at in range(0, count, height):
            rows = self._pixels[at : at + height].to(self.device).float()
            largest = max(largest, float(rows.square().sum(1, dtype=torch.float64).max()))
            rows = rows.sub_(self._centre.float()).square_()
            self._norms[at : at + height] = rows.sum(1, dtype=torch.float64)
        self._largest, self._largest_square = math.sqrt(largest), float(self._norms.max())

    def _batches(self, x: Tensor, sigma: Tensor | float, labels: Tensor | None) -> Iterator[_Batch]:
        """Check the arguments; yield the queries in parts that share their images."""
        if x.ndim != 4 or tuple(x.shape[1:]) != self.image_shape:
            raise UserError(f"Images to denoise have shape {tuple(x.shape)}, not (B, *{self.image_shape}).")
        levels = torch.as_tensor(sigma, dtype=torch.float64, device=x.device).reshape(-1)
        if len(levels) not in (1, len(x)):
            raise UserError(f"There are {len(levels)} noise levels for {len(x)} images; give one per image.")
        if not bool((levels > 0).all()):
            raise UserError(f"Noise levels must be positive, not {levels[~(levels > 0)][0]:g}.")
        # Bytes of a query, its parts and its mean, while those of the batch before are still in use.
        most = max(1, self._workspace // 2 // (96 * self._dim))
        for label, group in self._grouped(labels, len(x)):
            for which in torch.split(group.to(x.device), most):
                yield _Batch(self, which, x[which].flatten(1), levels.expand(len(x))[which], label)

    def _grouped(self, labels: Tensor | None, count: int) -> list[tuple[int, Tensor]]:
        """Return each label, -1 for none, with the positions of its queries."""
        if labels is not None and not self.num_labels:
            raise UserError("This denoiser is unconditional: it takes no labels. Leave them out.")
        given = torch.full((1,), -1) if labels is None else labels.reshape(-1).cpu()
        if len(given) not in (1, count):
            raise UserError(f"There are {len(given)} labels for {count} images; give one for each.")
        given = given.expand(count)
        wanted: list[int] = torch.unique(given).tolist()
        for label in wanted:
            if not -1 <= label < max(1, self.num_labels):
                raise UserError(f"Label {label} is outside 0..{self.num_labels - 1}, the existing classes.")
            if label >= 0 and label not in self._members:
                raise UserError(f"No training image has label {label}, so there is no optimum for it.")
        return [(label, (given == label).nonzero()[:, 0]) for label in wanted]

    def _summed(self, batch: _Batch, columns: int) -> _Sums:
        """Return the sums over all images, those of the pixels for the first `columns` only."""
        sums = _Sums(batch, columns)
        for high, low, rows in self._relevant(batch):
            sums.add(high, low, rows[:, :columns])
        return sums

    def _relevant(self, batch: _Batch) -> Iterator[tuple[Tensor, Tensor | float, Tensor]]:
        """Yield the images that matter to any query, by blocks: their `_scores` and their pixels, float64 (n, dim)."""
        members, count = batch.members, batch.count
        # Pixels as bytes (twice), float32 and float64; scores, logits and weights in float64, with temporaries.
        height = max(1, self._workspace // 2 // (14 * self._dim + 64 * len(batch.beta)))
        height = min(height, count, CPU_ROWS if self.device.type == "cpu" else count)
        single = torch.empty(height, self._dim, device=self.device)
        double = torch.empty(height, self._dim, dtype=torch.float64, device=self.device)
        screen = True
        for at in range(0, count, height):
            part = slice(at, min(at + height, count))
            # Copies whole rows; indexing by a tensor goes value by value.
            block = self._pixels[part] if members is None else self._pixels.index_select(0, members[part])
            pixels = block.to(self.device)
            norms = self._norms[part if members is None else members[part].to(self.device)]
            if screen:
                rows = single[: len(pixels)].copy_(pixels)
                keep = batch.possible(torch.addmm(norms.float().neg_(), batch.left, rows.T))
                screen = 2 * len(keep) < len(pixels)  # otherwise the next block can do without
                pixels, norms = pixels.index_select(0, keep), norms[keep]
            if len(pixels):
                rows = double[: len(pixels)].copy_(pixels)
                yield *self._scores(batch, rows, norms), rows

    @staticmethod
    def _scores(batch: _Batch, rows: Tensor, norms: Tensor) -> tuple[Tensor, Tensor | float]:
        """Return 2 w . image - |q|^2 as a sum of two parts, float64 (B, n); the second is 0 if no w is split."""
        high = torch.addmm(norms.neg(), batch.high, rows.T)
        if batch.low is None:
            return high, 0.0
        low = torch.zeros_like(high)
        low[batch.split] = batch.low @ rows.T
        return high, low


class _Batch:
    """Queries, at positions `which`, that average over the same images; `high` and `low` are the parts of 2 w."""

    def __init__(self, optimum: Optimum, which: Tensor, x: Tensor, sigma: Tensor, label: int) -> None:
        self.which, self.members = which, optimum._members.get(label)
        self.count = len(optimum._pixels if self.members is None else self.members)
        # The limits keep 0 times infinity out of the logits.
        self.beta = (0.5 / (SCALE * sigma).square()).clamp(1e-300, 1e300)
        x, offset = x.double(), 2 * (SCALE - optimum._centre)
        self.high = (2 * SCALE * x).add_(offset)
        self.left = self.high.float()
        norm, terms = optimum._largest, optimum._dim + 8
        size = self.high.norm(dim=1).mul_(norm).add_(optimum._largest_square + 1024).mul_(1.01)
        # Tensor cores may truncate where a CPU rounds: 2^-23 instead of 2^-24.
        self.error = size * (_input_rounding() + terms * 2.0**-23)
        self.reach = math.log(self.count / OMITTED) / self.beta + self.error
        self.floor = torch.full_like(self.beta, -torch.inf)  # lower bound on the score of the nearest image
        # Rounding in the products, and of w, whose terms can be larger than w.
        rounding = (size * terms + 3 * 1024 * math.sqrt(optimum._dim) * norm) * 2.0**-53
        self.split = (rounding * self.beta > LOGIT_ERROR).nonzero()[:, 0]
        self.low: Tensor | None = None
        if len(self.split):
            # Multiples of this grid below 2^53 times its width are float64 numbers, and so are all sums here.
            grid = torch.exp2(torch.frexp(size[self.split]).exponent.double() - 52)[:, None]
            whole = (x[self.split] / grid).round_().mul_(grid)
            self.high[self.split] = (2 * SCALE * whole).add_(offset)
            self.low = (x[self.split] - whole).mul_(2 * SCALE)

    def possible(self, scores: Tensor) -> Tensor:
        """Take in scores of a block that are off by at most `error`; return which images matter to any query."""
        self.floor = torch.maximum(self.floor, scores.amax(1) - self.error)
        cut = self.floor - self.reach
        cut = (cut - cut.abs() * 2.0**-22).float()  # rounded down
        # What is not a number stays in, so that it shows in the result.
        keep: Tensor = (scores < cut[:, None]).logical_not_().any(0).nonzero()[:, 0]
        return keep


class _Sums:
    """Sums of weights over the images seen so far, relative to the weight of the nearest of them."""

    def __init__(self, batch: _Batch, dim: int) -> None:
        self.beta = batch.beta[:, None]
        self.high, self.low = torch.full_like(self.beta, -torch.inf), torch.zeros_like(self.beta)
        self.total, self.moment = torch.zeros_like(batch.beta), torch.zeros_like(batch.beta)
        self.mean = self.beta.new_zeros(len(self.beta), dim)

    def add(self, high: Tensor, low: Tensor | float, rows: Tensor) -> None:
        """Add images with the given scores, (B, n) in two parts, and pixels (n, dim)."""
        best = (high + low).argmax(1, keepdim=True)
        new_high = high.gather(1, best)
        new_low = low.gather(1, best) if isinstance(low, Tensor) else torch.zeros_like(new_high)
        fall = (self.high - new_high).add_(self.low - new_low)
        better = fall < 0
        self.high = torch.where(better, new_high, self.high)
        self.low = torch.where(better, new_low, self.low)
        # exp(-1000) is 0, and 0 times -1000 too, unlike 0 times infinity.
        step = torch.where(better, fall.mul_(self.beta).clamp_(min=-1000), 0)[:, 0]
        logits = (high - self.high).add_(low - self.low).mul_(self.beta).clamp_(min=-1000)
        weights, shrink = logits.exp(), step.exp()
        self.moment = shrink * (self.moment + step * self.total) + logits.mul_(weights).sum(1)
        self.total = shrink * self.total + weights.sum(1)
        self.mean.mul_(shrink[:, None]).addmm_(weights, rows)


def _input_rounding() -> float:
    """Bound how a float32 product rounds x as it reads it; pixels are exact even in bfloat16."""
    try:
        return 2.0**-24 if torch.get_float32_matmul_precision() == "highest" else 2.0**-8
    except RuntimeError:  # per-backend settings are in use
        return 2.0**-8
