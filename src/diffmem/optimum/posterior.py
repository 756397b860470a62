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
from typing import NamedTuple

import torch
from torch import Tensor

from diffmem.integers import largest_whole
from diffmem.optimum.points import MOST_DIGITS, SCALE, Points, Reference, Rounded, in_grey_levels
from diffmem.optimum.references import References
from diffmem.optimum.scores import ROWS, Scored, Source, scored
from diffmem.optimum.sums import Sums
from diffmem.optimum.weights import LEVELS, Precision, weighted

__all__ = ["Answer", "Queries"]

OMITTED = 1e-13
# Share of the images that may matter, up to which points get their last digits once these are picked out.
FEW = 1 / 8
SIFTING = 3  # digits at most that points then have before
MANY = 0.9  # share from which picking is not tried
MOST = 4096  # picked images up to which the gap to the second nearest is looked for
HALF = 1 / 2  # share of the images up to which those that matter are picked out
POINTS = 0.5  # share of the tolerated error for the points


class Answer(NamedTuple):
    """The means of B queries.

    Attributes:
        mean: Mean row of each, float64 (B, dim).
        bound: What it is off by at most, at any pixel, in [-1, 1] units, (B,).
        nearest: The position of the nearest image among the rows, (B,), where that is known; else 0.
        gap: By how much the squares of the distances to all other images exceed that to the nearest one at least, in grey levels, float64
            (B,); minus infinity where it is not known.
    """

    mean: Tensor
    bound: Tensor
    nearest: Tensor
    gap: Tensor


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
        self._points = Points(self._pixels, in_grey_levels(x))
        self._weights = LEVELS[self._pixels.products.bits]
        self._reach = math.log(count / OMITTED)
        self._sources = [Source(self._pixels, stretch) for stretch in stretches]
        self._reference, mass, self._shares = self._look()
        self._precision = int(self._images.largest(self._weights_for(mass)))

    def _look(self) -> tuple[Reference, Tensor, list[float]]:
        """Look at a sample of the images.

        Returns:
            An image near the best of each query; an estimate of the sum of the weights of each, if that image had the largest, (B,); and
            the largest share of the images that may matter to any query, with points of 1, 2, ... digits, and of any number.
        """
        points = self._points.rounded(self._points.enough(0.25 / (4 * self.beta * self._images.longest)))
        errors = [
            *(self._points.rounding(count) for count in range(1, SIFTING + 1)),
            torch.zeros_like(self.beta),
        ]
        best, shares = Reference.none(self._pixels, len(self.beta)), [0.0] * len(errors)
        mass = torch.zeros_like(self.beta)
        for source in self._sources:
            rows, norms = source.sample()
            scores = points.scores(points.products(rows), norms, points.buffers(0, len(rows))[1])
            own, at = scores.max(0)
            limits = [points.reach(own, self._reach / self.beta, error) for error in errors]
            scores.sub_(own)
            near = [float(((scores + limit).amax(1) > 0).double().mean()) for limit in limits]
            shares = list(map(max, shares, near))
            mass += scores.mul_(self.beta).exp_().mean(0) * len(source)
            best = best.better(Reference(rows[at], norms[at], own))
        return self._images.nearest(best), mass, [self._images.largest(share) for share in shares]

    def _weights_for(self, mass: Tensor) -> int:
        """Return the precision that weights need if they have about this sum, (B,)."""
        if self._tolerance < 2 * self._float_error(self._weights[0]):
            return len(self._weights) - 1
        # The largest weight is mostly larger than that of the sample, and the sum that much smaller.
        scale = largest_whole(self._weights[0].digits, self._pixels.products.bits)
        # Processes without images of a label leave it to the others.
        return int(
            bool(self._sources)
            and 4 * self._count > (1 - POINTS) * self._tolerance * scale * float(mass.min())
        )

    def _float_error(self, precision: Precision) -> float:
        """Bound what rounding of floats does to a mean."""
        unit = 2.0**-24 if precision.floats == torch.float32 else 2.0**-53
        return unit * (4 + 2.8 * math.hypot(math.log2(self._count), 1))

    def averaged(self) -> Answer:
        """Return the means, within the tolerance unless digits do not reach it, which the bounds say."""
        enough = self._points.enough(POINTS * self._tolerance / (2 * self.beta * self._images.extent))
        sifting = [count for count, share in enumerate(self._shares[:-1], 1) if share <= FEW]
        picks = self._shares[-1] < MANY
        # Few digits show which images matter; only these need more.
        count = min([*sifting, enough])
        while True:
            points = self._points.rounded(count, self._reference)
            found = [scored(each, points, self._weights[self._precision].floats) for each in self._sources]
            if picks:
                picks = False
                if self._pick(points, found):
                    count = enough
                    continue
            precision = self._weights[self._precision]
            pairs = zip(self._sources, found, strict=True)
            parts = [weighted(source, each, self._gain, precision) for source, each in pairs]
            sums = self._images.combined(parts, self.beta)
            mean = sums.rows / sums.mass[:, None]
            off_points, off_weights = self._errors(sums, mean, points.error)
            bound = off_points + off_weights + self._float_error(precision) + 2 * OMITTED
            worst = bound.argmax()
            if not bool(bound[worst] > self._tolerance):
                return Answer(mean, bound, *self._nearest(points, found))
            if bool(off_weights[worst] > off_points[worst]) and self._precision < len(self._weights) - 1:
                self._precision += 1
            elif count < MOST_DIGITS:
                count += 1
            else:
                return Answer(mean, bound, *self._nearest(points, found))

    def moments(self) -> tuple[Tensor, Tensor]:
        """Return the sum of the weights and of weights times logits, relative to the largest weight, (B,) each."""
        count = self._points.enough(1e-6 / (4 * self.beta * self._images.longest))
        points = self._points.rounded(count, self._reference)
        parts = []
        for source in self._sources:
            found = scored(source, points, torch.float64)
            sums = Sums.none(found.top, 0)
            line, memory = found.line(self._gain), torch.empty_like(found.below[:ROWS])
            for at in range(len(found.tops)):
                logits = found.logits(line, [at], memory)
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
        # That of the true weights is at most this: their sum is at least 1 - loss of that of the weights.
        spread = (square + (loss + OMITTED + 1e-12) * reach.square()).sqrt() * (1 + loss)
        step = 2 * self.beta * rounding
        points = (step * reach).clamp(max=700).exp() * step * spread
        return points, 2 * loss

    def _nearest(self, points: Rounded, found: list[Scored]) -> tuple[Tensor, Tensor]:
        """Return the nearest image of each query and the gap to all others, where few images were picked out: see `Answer`."""
        size = len(self.beta)
        none = (
            torch.zeros(size, dtype=torch.int64, device=self.beta.device),
            torch.full_like(self.beta, -torch.inf),
        )
        picked = [(source.stretch.start, source.picked) for source in self._sources]
        if (
            self._images.is_shared
            or not found
            or any(some is None or len(some[0]) > MOST for _, some in picked)
        ):
            return none
        scores = torch.cat([each.scores() for each in found])
        positions = torch.cat([start + some[0] for start, some in picked if some is not None])
        best = scores.topk(min(2, len(scores)), dim=0)
        distances = points.distances(best.values)
        error, nearest = points.error, distances[0]
        # An image that was left out is farther than that by `reach` / beta, or would be if the best were what it was then.
        gap = self._reach / self.beta - 8 * error * (nearest + error)
        if len(distances) > 1:
            second = (distances[1] - error).clamp_min(0).square() - (nearest + error).square()
            gap = torch.minimum(gap, second)
        return positions[best.indices[0]], gap * (1 - 1e-6)

    def _pick(self, points: Rounded, scored: list[Scored]) -> bool:
        """Pick out the images that matter to any query, where they are few; return whether any others were left out."""
        tops = [torch.full_like(self.beta, -torch.inf), *(each.top for each in scored)]
        top = self._images.best(torch.stack(tops).amax(0))
        limit = points.reach(top, self._reach / self.beta) * self._gain
        sources = []
        for source, each in zip(self._sources, scored, strict=True):
            # What rounding of logits might leave out holds no more than what is left out anyway.
            fall = torch.where(each.top == top, 0.0, (each.top - top) * self._gain) + limit
            # What is not a number, of queries so far away that numbers end, leaves no image out.
            far = ((each.tops - each.top) * self._gain + fall).amax(1) <= 0
            near = (~far).nonzero()[:, 0].tolist()
            line, memory = each.line(self._gain), torch.empty_like(each.below[:ROWS])
            chosen = [
                at * ROWS
                + (~(each.logits(line, [at], memory).add_(fall.to(memory.dtype)).amax(1) < 0)).nonzero()[:, 0]
                for at in near
            ]
            which = torch.cat(chosen) if chosen else torch.zeros(0, dtype=torch.int64, device=top.device)
            if len(which) > HALF * len(source):
                sources.append(source)
            elif len(which):
                sources.append(source.pick(which))
        before, self._sources = sum(map(len, self._sources)), sources
        # Where one process goes on with other points, all must.
        return self._images.largest(before - sum(map(len, sources))) > 0
