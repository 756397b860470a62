"""Weights of training images, for queries that share them: bounds, scores, and their sums."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from diffmem.distributed import world
from diffmem.optimum.pixels import Pixels

__all__ = ["LOGIT_ERROR", "OMITTED", "SCALE", "Average", "Batch", "Sums"]

SCALE = 127.5  # grey levels per unit of y
OMITTED = 1e-7
LOGIT_ERROR = 1e-6
AT_ONCE = 512  # images in one float32 sum
COLUMNS = 256  # pixel values in one product
FLUSH = 4096  # images whose float32 sums are added up before they move to float64


class Batch:
    """Queries that average over the same images, `members` or all; `high` and `low` are the parts of 2 w."""

    def __init__(self, pixels: Pixels, members: Tensor | None, count: int, x: Tensor, sigma: Tensor) -> None:
        self.members = members
        # The limits keep 0 times infinity out of the logits.
        self.beta = (0.5 / (SCALE * sigma).square()).clamp(1e-300, 1e300)
        x, offset = x.double(), 2 * (SCALE - pixels.centre)
        self.high = (2 * SCALE * x).add_(offset)
        self.left = self.high.float()
        norm, terms = pixels.largest, pixels.dim + 8
        size = self.high.norm(dim=1).mul_(norm).add_(pixels.largest_square + 1024).mul_(1.01)
        # Tensor cores may truncate where a CPU rounds: 2^-23 instead of 2^-24.
        self.error = size * (_input_rounding() + terms * 2.0**-23)
        self.reach = math.log(count / OMITTED) / self.beta + self.error
        self.floor = torch.full_like(self.beta, -torch.inf)  # lower bound on the score of the nearest image
        # Rounding in the products, and of w, whose terms can be larger than w.
        rounding = (size * terms + 3 * 1024 * math.sqrt(pixels.dim) * norm) * 2.0**-53
        self.split = (rounding * self.beta > LOGIT_ERROR).nonzero()[:, 0]
        self.low: Tensor | None = None
        if len(self.split):
            # Multiples of this grid below 2^53 times its width are float64 numbers, and so are all sums here.
            grid = torch.exp2(torch.frexp(size[self.split]).exponent.double() - 52)[:, None]
            whole = (x[self.split] / grid).round_().mul_(grid)
            self.high[self.split] = (2 * SCALE * whole).add_(offset)
            self.low = (x[self.split] - whole).mul_(2 * SCALE)

    def low_of(self, query: int) -> Tensor | None:
        """Return the second part of one query's 2 w, (dim,), if it is split."""
        at = (self.split == query).nonzero()[:, 0]
        return None if self.low is None or len(at) == 0 else self.low[at[0]]

    def possible(self, scores: Tensor) -> Tensor:
        """Take in scores of a block that are off by at most `error`; return which images matter to any query."""
        self.floor = torch.maximum(self.floor, scores.amax(1) - self.error)
        cut = self.floor - self.reach
        cut = (cut - cut.abs() * 2.0**-22).float()  # rounded down
        # What is not a number stays in, so that it shows in the result.
        keep: Tensor = (scores < cut[:, None]).logical_not_().any(0).nonzero()[:, 0]
        return keep


class Sums:
    """Sums of weights over the images seen so far, relative to the weight of the nearest of them."""

    def __init__(self, beta: Tensor, dim: int) -> None:
        self.beta = beta[:, None]
        self.high, self.low = torch.full_like(self.beta, -torch.inf), torch.zeros_like(self.beta)
        self.total, self.moment = torch.zeros_like(beta), torch.zeros_like(beta)
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

    def combine(self) -> None:
        """Add up the sums of all processes, each over its share of the images."""
        here = world()
        own = torch.stack([self.high, self.low]).cpu()
        high, low = self.high, self.low
        for other in here.gather(own):
            other_high, other_low = other.to(high.device)
            above = (other_high - high).add_(other_low - low) > 0
            above |= torch.isinf(high) & torch.isfinite(other_high)
            high, low = torch.where(above, other_high, high), torch.where(above, other_low, low)
        step = (self.high - high).add_(self.low - low).mul_(self.beta).clamp_(min=-1000)[:, 0]
        shrink = step.exp()
        parts = [shrink * (self.moment + step * self.total), shrink * self.total]
        sums = torch.cat([torch.stack(parts, 1), self.mean * shrink[:, None]], 1)
        here.all_reduce(sums)
        self.moment, self.total, self.mean = sums[:, 0], sums[:, 1], sums[:, 2:]
        self.high, self.low = high, low


class Average:
    """A mean with weights exp(logit) over blocks of images, for many queries: float32 products, float64 sums.

    Attributes:
        nearest: The image with the largest logit, int64 (B,).
    """

    def __init__(self, size: int, dim: int, device: torch.device, measures: int) -> None:
        self.nearest = torch.zeros(size, dtype=torch.int64, device=device)
        self._top = torch.full((size,), -math.inf, dtype=torch.float64, device=device)
        self._total, self._squares = torch.zeros_like(self._top), self._top.new_zeros(measures, size)
        self._mean = self._top.new_zeros(size, dim)
        # One product for each block of columns: threads share a single wide and flat one badly, at half the speed.
        blocks = dim // COLUMNS
        self._blocks = torch.zeros(blocks, size, COLUMNS, device=device)
        self._tail = torch.zeros(size, dim - blocks * COLUMNS, device=device)
        self._pending = 0

    def add(self, logits: Tensor, rows: Tensor, squares: Tensor, which: slice | Tensor, drop: float) -> int:
        """Add images; return how many pairs are within `drop` of the best so far.

        Args:
            logits: Float64 (n, B); overwritten.
            rows: Centred grey levels, float32 (n, dim).
            squares: Squared measures of them, of which to keep the mean, float64 (measures, n).
            which: Which images they are.
            drop: In logits.
        """
        best, row = logits.max(0)
        higher = best > self._top
        if bool(higher.any()):
            top = torch.maximum(self._top, best)
            shrink = (self._top - top).exp_()
            for sums in (self._total, self._squares):
                sums.mul_(shrink)
            self._mean.mul_(shrink[:, None])
            for short in (self._blocks, self._tail):
                short.mul_(shrink.float()[:, None])
            image = row + which.start if isinstance(which, slice) else which[row]
            self.nearest, self._top = torch.where(higher, image, self.nearest), top
        weights = logits.sub_(self._top)
        near = int((weights > -drop).sum())
        weights.exp_()
        self._total += weights.sum(0)
        self._squares += squares @ weights
        left = weights.T.float()
        for at in range(0, len(rows), AT_ONCE):
            self._add_products(left[:, at : at + AT_ONCE], rows[at : at + AT_ONCE])
        self._pending += len(rows)
        if self._pending >= FLUSH:
            self._flush()
        return near

    def _add_products(self, weights: Tensor, rows: Tensor) -> None:
        blocks, done = len(self._blocks), len(self._blocks) * COLUMNS
        if blocks:
            parts = rows[:, :done].reshape(len(rows), blocks, COLUMNS).transpose(0, 1)
            self._blocks.baddbmm_(weights.expand(blocks, *weights.shape), parts)
        if done < rows.shape[1]:
            self._tail.addmm_(weights, rows[:, done:])

    def mean(self) -> Tensor:
        """Return the mean of centred grey levels, float64 (B, dim)."""
        self._flush()
        return self._mean / self._total[:, None]

    def typical(self) -> Tensor:
        """Return the root mean squares of the measures under the weights, float64 (measures, B)."""
        return (self._squares / self._total).sqrt()

    def _flush(self) -> None:
        done = len(self._blocks) * COLUMNS
        self._mean[:, :done] += self._blocks.transpose(0, 1).reshape(len(self._mean), done)
        self._mean[:, done:] += self._tail
        self._blocks.zero_()
        self._tail.zero_()
        self._pending = 0


def _input_rounding() -> float:
    """Bound how a float32 product rounds x as it reads it; pixels are exact even in bfloat16."""
    try:
        return 2.0**-24 if torch.get_float32_matmul_precision() == "highest" else 2.0**-8
    except RuntimeError:  # per-backend settings are in use
        return 2.0**-8
