"""Posterior weights of training images and their means, by exact products of int8 digits, with a proven bound on the error.

In grey levels less 128, an image is a row v of int8 and a query is w = 127.5 (x + 1) - 128. Its logits are
beta (2 w.v_i - |v_i|^2), beta = 1 / (2 (127.5 sigma)^2), up to a constant.

1. *Scores.* w is rounded to w~ = t (b^(J-1) d_1 + ... + d_J) with d_j of int8, b = 256 and t a power of two. Products of digits and
   rows are exact integers, and float64 adds them up without an error that matters (see `points`).
2. *Weights.* p_i = exp(logit_i - largest logit) becomes a whole number W_i near s p_i, in digits again. The mean of the rows with the
   weights W_i is exact.

So what a mean is off by, at any pixel, is at most the sum of

- *points*: with eps_i = 2 beta (w - w~).(v_i - D~), the true weights are those of w~ times exp(eps_i), up to a factor. The mean of eps_i
  under the weights of w~ is 0, so the sum of the new weights is not below that of the old ones (Jensen's inequality), and
  |D - D~| <= sum_i p_i (exp|eps_i| - 1) |v_i - D~| <= exp(E) 2 beta |w - w~| V S, where E bounds |eps_i|,
  V^2 = sum_i p_i |v_i - D~|^2, and S <= 127.5 is the standard deviation of the pixel (Cauchy-Schwarz inequality; Popoviciu's on S);
- *weights*: sum_i |W_i - s p_i| |v_i - D| / sum_i W_i, with |W_i - s p_i| <= min(1/2, s p_i), whose sum is computed, too;
- *floats* in which p_i is computed: with unit roundoff u, its relative error is at most u (4 + 2.8 |l_i|), l_i being the logit
  over ln 2. Under the weights, the root mean square of l_i is at most that of log2 p_i, so at most sqrt(1 + (log2 N)^2), and
  that of a pixel less its mean at most 1 unit (Cauchy-Schwarz inequality);
- *images left out*: together at most `OMITTED` of the weight, which moves the mean by at most twice that.

If a bound exceeds what is tolerated, another digit is spent.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import NamedTuple

import torch
from torch import Tensor

from diffmem.integers import PIECE, digits_of, largest_whole
from diffmem.optimum.pixels import NORM_DIGITS, Pixels
from diffmem.optimum.points import MOST_DIGITS, SCALE, Points, Reference, Rounded
from diffmem.optimum.references import References
from diffmem.optimum.sums import Sums
from diffmem.threads import pulled

__all__ = ["Answer", "Queries"]

OMITTED = 1e-12
ROWS = 1024  # images in a product with points: it stays in the cache
GROUP = 4 * ROWS  # in a product with weights, whose result is large
SAMPLE = 1024  # images that are looked at first
FEW = (
    1 / 8
)  # share of them that matters, up to which points have only as many digits as it takes to pick those that matter
MANY = 0.9  # share from which picking is not tried
POINTS = 0.2  # share of the tolerated error for the points
HALF = 1 / 2  # share of all up to which that pays


class _Source(NamedTuple):
    """Images that are averaged over: a stretch of all, or some that were picked out."""

    pixels: Pixels
    stretch: slice
    picked: tuple[Tensor, Tensor] | None = None

    def __len__(self) -> int:
        return self.stretch.stop - self.stretch.start if self.picked is None else len(self.picked[1])

    def block(self, start: int, stop: int) -> tuple[Tensor, Tensor]:
        """Return rows and |v|^2 of some of them."""
        if self.picked is not None:
            return self.picked[0][start:stop], self.picked[1][start:stop]
        part = slice(self.stretch.start + start, self.stretch.start + stop)
        return self.pixels.rows(part), self.pixels.norms[part]

    def sample(self) -> tuple[Tensor, Tensor]:
        """Return rows and |v|^2 of at most `SAMPLE` of them, evenly spread."""
        step = -(-len(self) // SAMPLE)
        part = slice(self.stretch.start, self.stretch.stop, step)
        return self.pixels.rows(part), self.pixels.norms[part]

    def pick(self, which: Tensor) -> _Source:
        """Return some of them, int64 positions in the stretch."""
        at = which + self.stretch.start
        return _Source(self.pixels, self.stretch, (self.pixels.rows(at), self.pixels.norms[at]))


class _Scored(NamedTuple):
    """Scores of n images, less the best of their block of `ROWS`.

    Attributes:
        below: (n, B), at most 0.
        tops: The best of each block, float64 (blocks, B).
    """

    below: Tensor
    tops: Tensor

    @property
    def top(self) -> Tensor:
        """The best of all, (B,)."""
        return self.tops.amax(0)

    def blocks(self, gain: Tensor, blocks: Iterator[int]) -> Iterator[tuple[int, Tensor]]:
        """Yield the numbers of blocks and their binary logits, at most 0, (n, B): score less the best score, times `gain`."""
        kind = self.below.dtype
        shifts = torch.where(self.tops == self.top, 0.0, (self.tops - self.top) * gain).to(kind)
        gain = gain.clamp(max=1e30).to(kind)  # in float32, infinity times 0 is not a number
        logits = torch.empty_like(self.below[:ROWS])
        for at in blocks:
            below = self.below[at * ROWS : (at + 1) * ROWS]
            yield at, torch.addcmul(shifts[at], below, gain, out=logits[: len(below)])


class Answer(NamedTuple):
    """The means of B queries.

    Attributes:
        mean: Mean row of each, float64 (B, dim).
        bound: What it is off by at most, at any pixel, in [-1, 1] units, (B,).
    """

    mean: Tensor
    bound: Tensor


class Queries:
    """Queries that average over the same images.

    Args:
        images: Those of all processes if they share them.
        stretches: Those of this process that are averaged over, in parts that fit the memory.
        count: Number of images that are averaged over, of all processes.
        x: The queries, float (B, dim), in [-1, 1] units, finite.
        sigma: Their noise levels, float64 (B,).
        tolerance: How far a mean may be off at any pixel, in [-1, 1] units.
    """

    def __init__(
        self,
        images: References,
        stretches: list[slice],
        count: int,
        x: Tensor,
        sigma: Tensor,
        tolerance: float,
    ) -> None:
        self._images, self._count, self._tolerance = images, count, tolerance
        self._pixels = images.pixels
        # The limits keep 0 times infinity out of the logits.
        self.beta = (0.5 / (SCALE * sigma).square()).clamp(1e-300, 1e300)
        self._gain = self.beta / math.log(2)
        self._points = Points(self._pixels, x)
        self._kind = torch.float32 if tolerance >= 2 * self._float_error(torch.float32) else torch.float64
        self._reach = math.log(count / OMITTED)
        self._sources = [_Source(self._pixels, stretch) for stretch in stretches]
        self._reference, self._share = self._look()

    def _look(self) -> tuple[Reference, float]:
        """Return an image near the best of each query, and which share of the images matters to any of them, at most."""
        digits = self._points.enough(0.25 / (4 * self.beta * self._images.longest))
        points = self._points.rounded(digits)
        best, share = Reference.none(self._pixels, len(self.beta)), 0.0
        for source in self._sources:
            rows, norms = source.sample()
            scores = points.scores(rows, norms, points.buffers(len(rows)))
            own, at = scores.max(0)
            near = (scores.sub_(own).mul_(self.beta).amax(1) > -self._reach).double()
            share = max(share, float(near.mean()))
            best = best.better(Reference(rows[at], norms[at], own))
        return self._images.nearest(best), self._images.largest(share)

    def _float_error(self, kind: torch.dtype) -> float:
        unit = 2.0**-24 if kind == torch.float32 else 2.0**-53
        return unit * (4 + 2.8 * math.hypot(math.log2(self._count), 1))

    def averaged(self) -> Answer:
        """Return the means, within the tolerance unless digits do not reach it, which the bounds say."""
        budget = self._tolerance - self._float_error(self._kind) - 2 * OMITTED
        # A digit of the points costs less than one of the weights.
        for_points, for_weights = POINTS * budget, (1 - POINTS) * budget
        if self._share <= FEW:
            # Enough to see which images matter, and then as many as these need.
            count = self._points.enough(self._reach / (64 * self.beta * self._images.longest))
        else:
            count = self._points.enough(for_points / (2 * self.beta * self._images.extent))
        picks = self._share < MANY
        while True:
            points = self._points.rounded(count, self._reference)
            scored = [self._scored(each, points) for each in self._sources]
            if picks:
                picks = False
                if self._pick(points, scored):
                    continue
            parts = [self._weighted(*each) for each in zip(self._sources, scored, strict=True)]
            sums = self._images.combined(parts, self.beta)
            mean = sums.rows / sums.mass[:, None]
            off_points, off_weights = self._errors(sums, mean, points.error)
            more_digits = count < MOST_DIGITS and bool((off_points > for_points).any())
            more_bits = self._kind == torch.float32 and bool((off_weights > for_weights).any())
            if not (more_digits or more_bits):
                return Answer(mean, off_points + off_weights + self._float_error(self._kind) + 2 * OMITTED)
            count += more_digits
            self._kind = torch.float64 if more_bits else self._kind

    def moments(self) -> tuple[Tensor, Tensor]:
        """Return the sum of the weights and of weights times logits, relative to the largest weight, (B,) each."""
        self._kind = torch.float64
        count = self._points.enough(1e-6 / (4 * self.beta * self._images.longest))
        points = self._points.rounded(count, self._reference)
        parts = []
        for source in self._sources:
            scored = self._scored(source, points)
            sums = Sums.none(scored.top, 0)
            for _, logits in scored.blocks(self._gain, iter(range(len(scored.tops)))):
                weights = logits.exp2()
                sums.mass += weights.sum(0)
                sums.moment += weights.mul_(logits).sum(0).mul_(math.log(2))
            parts.append(sums)
        sums = self._images.combined(parts, self.beta)
        return sums.mass, sums.moment

    def _errors(self, sums: Sums, mean: Tensor, rounding: Tensor) -> tuple[Tensor, Tensor]:
        """Bound what rounding of the points, by `rounding` (B,), and of the weights does to the means, each (B,)."""
        size, loss = mean.norm(dim=1), sums.rounding / sums.mass
        reach = self._images.longest + size  # no image is farther from the mean
        square = (sums.norms / sums.mass - size.square()).clamp_min_(0)
        spread = (square + (loss + OMITTED + 1e-12) * reach.square()).sqrt()
        step = 2 * self.beta * rounding
        points = (step * reach).clamp(max=700).exp() * step * spread
        return points, 2 * loss

    # Scores.

    def _scored(self, source: _Source, points: Rounded) -> _Scored:
        """Compute the scores of the images of a source."""
        count, size = len(source), len(self.beta)
        below = torch.empty(count, size, dtype=self._kind, device=self.beta.device)
        tops = self.beta.new_empty(-(-count // ROWS), size)

        def work(blocks: Iterator[int]) -> None:
            buffers = points.buffers(min(ROWS, count))
            for at in blocks:
                start, stop = at * ROWS, min((at + 1) * ROWS, count)
                scores = points.scores(*source.block(start, stop), buffers)
                torch.amax(scores, 0, out=tops[at])
                below[start:stop] = scores.sub_(tops[at])

        pulled(work, range(len(tops)))
        return _Scored(below, tops)

    def _pick(self, points: Rounded, scored: list[_Scored]) -> bool:
        """Pick out the images that matter to any query, where they are few; return whether any others were left out."""
        tops = [torch.full_like(self.beta, -torch.inf), *(each.top for each in scored)]
        top = self._images.best(torch.stack(tops).amax(0))
        # A score is off by at most 2 |w - w~| |v_i - v_k|, relative to that of any image k.
        limit = (self._reach / math.log(2)) + 4 * points.error * self._images.longest * self._gain
        sources = []
        for source, each in zip(self._sources, scored, strict=True):
            fall = torch.where(each.top == top, 0.0, (each.top - top) * self._gain) + limit
            near = (((each.tops - each.top) * self._gain + fall).amax(1) > 0).nonzero()[:, 0].tolist()
            chosen = [
                at * ROWS + (logits.double().add_(fall).amax(1) > 0).nonzero()[:, 0]
                for at, logits in each.blocks(self._gain, iter(near))
            ]
            which = torch.cat(chosen) if chosen else torch.zeros(0, dtype=torch.int64, device=top.device)
            if len(which) > HALF * len(source):
                sources.append(source)
            elif len(which):
                sources.append(source.pick(which))
        before, self._sources = sum(map(len, self._sources)), sources
        return sum(map(len, sources)) < before

    # Weights.

    def _weighted(self, source: _Source, scored: _Scored) -> Sums:
        """Sum up the images with their weights."""
        size, pixels = len(self.beta), self._pixels
        bits = pixels.products.bits
        kind, count = _whole_numbers(self._kind, bits)
        scale = float(largest_whole(count, bits))
        used = -(-(pixels.dim + 1 + NORM_DIGITS) // 8) * 8
        blocks = len(scored.tops)
        needed = (((scored.tops - scored.top) * self._gain).amax(1) > -math.log2(scale) - 2).tolist()
        groups = [
            [at for at in range(first, min(first + GROUP // ROWS, blocks)) if needed[at]]
            for first in range(0, blocks, GROUP // ROWS)
        ]

        def work(groups: Iterator[list[int]]) -> tuple[Tensor, Tensor]:
            rounding = torch.zeros_like(self.beta)
            total = self.beta.new_zeros(used, size)
            held = torch.zeros(used, size * count, dtype=torch.int32, device=total.device)
            product = torch.empty_like(held)
            whole = torch.empty(min(GROUP, len(source)), size, dtype=kind, device=total.device)
            waiting = 0
            for group in groups:
                start, filled = group[0] * ROWS, 0
                for _, logits in scored.blocks(self._gain, iter(group)):
                    weights = logits.clamp_(min=-64).exp2_().mul_(scale)
                    whole[filled : filled + len(weights)] = weights.add_(0.5)
                    # Off by at most 1/2, and by no more than the weight itself.
                    rounding += weights.sub_(0.5).clamp_(max=0.5).sum(0)
                    filled += len(weights)
                rows, _ = source.block(start, start + filled)
                digits = digits_of(whole[:filled], count, bits).reshape(filled, size * count)
                pixels.products(rows[:, :used].T, digits, product)
                held += product
                waiting += filled
                if waiting + GROUP > PIECE:
                    _move(held, total, bits)
                    waiting = 0
            _move(held, total, bits)
            return total, rounding

        runs = [run for group in groups for run in _runs(group)]
        left_out = len(source) - sum(
            min((at + 1) * ROWS, len(source)) - at * ROWS for run in runs for at in run
        )
        totals, rounding = zip(*pulled(work, runs), strict=True)
        total = torch.stack(totals).sum(0).div_(scale)
        sums = Sums.none(scored.top, 0)
        sums.mass, sums.rows = total[pixels.dim], total[: pixels.dim].T
        sums.norms = pixels.norms_of_sums(total)
        # Weights in blocks that were left out are at most 1/4.
        sums.rounding = (torch.stack(rounding).sum(0).double() + left_out / 4).div_(scale)
        return sums


def _whole_numbers(kind: torch.dtype, bits: int) -> tuple[torch.dtype, int]:
    """Return the type of whole numbers for weights of a floating-point type, and their digits."""
    if bits == 8:
        return (torch.int32, 4) if kind == torch.float32 else (torch.int64, 8)
    return (torch.int64, 5) if kind == torch.float32 else (torch.int64, 9)


def _move(held: Tensor, total: Tensor, bits: int) -> None:
    """Add the sums of digits to the totals (n, B), and set them to 0."""
    digits = held.view(*total.shape, -1)
    for at in range(digits.shape[2]):
        total.add_(digits[:, :, at], alpha=float(1 << (bits * at)))
    held.zero_()


def _runs(numbers: list[int]) -> list[list[int]]:
    """Part ascending numbers into runs of successive ones."""
    runs: list[list[int]] = []
    for number in numbers:
        if runs and runs[-1][-1] == number - 1:
            runs[-1].append(number)
        else:
            runs.append([number])
    return runs
