"""Trajectories that average over the same images and are followed together."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from diffmem.optimum.certificate import Certificates
from diffmem.optimum.directions import SAFETY
from diffmem.optimum.pixels import CHUNK
from diffmem.optimum.posterior import SCALE, Average, Sums
from diffmem.optimum.references import References
from diffmem.optimum.tracked import UNIT64, Known, Step, Tracked

__all__ = ["Bundle", "Evaluations"]

ROUNDING = 2e-3  # largest proven error of a logit in a pass; above it, products are computed anew in float64
# Largest error of products in a few directions, in logits at the noise level where one image takes over: early errors are carried
# there, where a logit weighs more, so they must be small. `COLLAPSE` times the typical |q| stands for that level.
SKETCHED, COLLAPSE = 2e-3, 1 / 8
LARGE = 1 << 24  # values of all images, from which on a few directions pay in a pass
REST = 1e-6  # largest logit of what known vectors do not explain of new points
BLOCK = 1024  # images that are bounded at a time
TRY = 0.05  # bounds are tried if at most this share of the pairs is expected to matter
WORTH = 0.5  # a float64 pass over some images pays up to this share of all
PAIR = 24  # cost of a pair alone, in pairs of a product
SMALL = 64  # so many images of a query always are, and may earn it a certificate
CHEAP = 256  # so many images of a query are all computed, even if they may matter little: it widens the gap


@dataclass
class Evaluations:
    """What following trajectories took, in pairs of a query and a training image.

    Attributes:
        calls: Calls of the denoiser.
        asked: Pairs that a dense pass at every call would compute.
        computed: Pairs whose distance was computed over all pixels.
        bounded: Pairs that were bounded from few numbers.
        passes: Passes over all images, for a bundle of queries.
        certified: Queries that were answered by the images of a certificate alone.
        rounding: Largest proven error of a logit from rounding and from few directions, root mean square under the weights.
    """

    calls: int = 0
    asked: int = 0
    computed: int = 0
    bounded: int = 0
    passes: int = 0
    certified: int = 0
    rounding: float = 0.0


class _Left(NamedTuple):
    """Pairs that bounds leave over, sorted by query, and upper bounds (B,) on the score of all other images."""

    rows: Tensor
    columns: Tensor
    others: Tensor


class _Sketch(NamedTuple):
    """A change of the mean and e in a few directions, float32 (K, B), and the errors of points that follow by them."""

    change: Tensor
    rest: Tensor
    fixed: Tensor
    rising: Tensor


class Bundle:
    """Queries with the same images, call after call.

    Args:
        references: The images of the closed form.
        which: Positions of the queries in the batch, int64 (B,).
        label: The class whose images they average over, -1 for all.
        tolerance: See `Following`.
        evaluations: Where to count.
    """

    def __init__(
        self, references: References, which: Tensor, label: int, tolerance: float, evaluations: Evaluations
    ) -> None:
        self.which = which
        self._references, self._label, self._tolerance, self._tally = (
            references,
            label,
            tolerance,
            evaluations,
        )
        self._pixels, self._members = references.pixels, references.members.get(label)
        self._count = references.count(label)
        self._norms = self._pixels.norms_of(self._all())
        self._sizes = self._norms.sqrt()
        # Images below the best by this many logits hold less than half of the tolerance together.
        self._drop = math.log(2 * self._count / tolerance)
        device = self._pixels.device
        self._certificates = Certificates(len(which), self._pixels, 2 * float(self._sizes.max()))
        self._open = torch.arange(len(which), device=device)  # the queries whose products are tracked
        self._tracked = Tracked(self._count, device)
        self._share = 1.0  # of the pairs, that mattered at the call before
        self._sharpness = torch.ones(len(which), dtype=torch.float64, device=device)  # beta then
        self._nearest = torch.zeros(len(which), dtype=torch.int64, device=device)  # of the open queries, then
        self._mean = torch.zeros(
            len(which), self._pixels.dim, dtype=torch.float64, device=device
        )  # returned last
        self._rest: Tensor | None = None
        # |q| and rest(q) of the images that mattered at the pass before, root mean squares under the weights.
        self._typical = torch.zeros_like(self._sharpness)
        self._typical_rest: Tensor | None = None

    def __call__(self, x: Tensor, sigma: Tensor) -> Tensor:
        """Return the posterior means, float64 (B, dim) in [-1, 1], of points x, float64 (B, dim)."""
        self._batch = self._references.batch(x, sigma, self._label)
        self._tally.asked += len(x) * self._count
        w = SCALE * (x + 1) - self._pixels.centre
        mean = torch.empty_like(x)
        held = self._certified(w, mean)
        is_open = torch.zeros_like(held)
        is_open[self._open] = True
        # Certificates that do not hold any more, when the products are gone; and what is not a number.
        finite = torch.isfinite(w).all(1)
        lost = (~held & ~(is_open & finite)).nonzero()[:, 0]
        if len(lost):
            batch = self._references.batch(x[lost], sigma[lost], self._label)
            sums = self._references.summed(batch, self._pixels.dim)
            mean[lost] = sums.mean / sums.total[:, None]
            self._tally.computed += len(lost) * self._count
        still = (~held & finite)[self._open]
        if not bool(still.all()):
            columns = still.nonzero()[:, 0]
            self._tracked.keep(columns)
            self._open, self._nearest = self._open[columns], self._nearest[columns]
            self._typical, self._sharpness = self._typical[columns], self._sharpness[columns]
            if self._typical_rest is not None:
                self._typical_rest = self._typical_rest[columns]
            self._mean = self._mean[columns]
        if len(self._open):
            mean[self._open] = self._followed(w[self._open])
            self._mean = mean[self._open] - self._pixels.centre
        return mean.div_(SCALE).sub_(1)

    def _all(self) -> slice | Tensor:
        return slice(None) if self._members is None else self._members

    def _stored(self, rows: slice | Tensor) -> slice | Tensor:
        """Return where images of this bundle lie among all."""
        if self._members is None:
            return rows
        return self._members[rows if isinstance(rows, slice) else rows.to(self._members.device)]

    def _certified(self, w: Tensor, mean: Tensor) -> Tensor:
        """Fill in the means of the queries whose certificates hold; return which."""
        proofs = self._certificates
        pivots = self._pixels.block(self._stored(proofs.pivot)).double()
        held = proofs.hold(w, pivots - self._pixels.centre, self._drop / self._batch.beta)
        mean[held] = pivots[held]
        for query in held.nonzero()[:, 0].tolist():
            near = proofs.near[query]
            assert near is not None
            self._tally.computed += len(near)
            if len(near) > 1:
                mean[query] = self._averaged(query, near)[0]
        self._tally.certified += int(held.sum())
        return held

    def _averaged(self, query: int, rows: Tensor) -> tuple[Tensor, Tensor]:
        """Return the mean over some images, grey levels, and their scores 2 w . q - |q|^2."""
        batch, sums = self._batch, Sums(self._batch.beta[query : query + 1], self._pixels.dim)
        low_part = batch.low_of(query)
        scores = []
        for part in torch.split(rows, 256):
            block = self._pixels.block(self._stored(part)).double()
            high = torch.addmv(self._norms[part], block, batch.high[query], beta=-1)[None]
            low = 0.0 if low_part is None else (block @ low_part)[None]
            sums.add(high, low, block)
            scores.append((high + low)[0])
        # Scores are of whole images so far.
        shift = batch.high[query] @ self._pixels.centre
        return sums.mean[0] / sums.total[0], torch.cat(scores) - shift

    def _followed(self, w: Tensor) -> Tensor:
        """Return the means of the open queries, grey levels."""
        beta = self._batch.beta[self._open]
        if self._tracked.is_empty:
            return self._pass(w, beta, None, None)
        step = self._tracked.step(w, self._mean)
        if self._tracked.shift is None and not self._is_complete(step, beta):
            vector = SCALE - self._pixels.centre
            self._tracked.shift = vector, 2 * self._pixels.products(vector)[self._all()]
            step = self._tracked.step(w, self._mean)
        # The share that matters falls about as sigma squared does.
        if self._share * float((self._sharpness / beta).mean()) <= TRY:
            left, point = self._bounded(step, beta)
            union = torch.unique(left.rows)
            alone = len(left.rows) <= SMALL * len(w) or PAIR * len(left.rows) <= len(union) * len(w)
            if alone or len(union) <= WORTH * self._count:
                self._tracked.append(point)
                self._share, self._sharpness = len(left.rows) / (self._count * len(w)), beta
                return self._each(w, beta, left) if alone else self._pass(w, beta, None, union)
        return self._pass(w, beta, step if self._is_precise(step, beta) else None, None)

    def _is_complete(self, step: Step, beta: Tensor) -> bool:
        """Return whether the new points are mixtures of known vectors."""
        return float((2 * step.rest.norm(dim=1) * self._typical * beta).max()) <= REST

    def _is_precise(self, step: Step, beta: Tensor) -> bool:
        """Return whether float32 products with the change of the mean are good enough for a pass."""
        if torch.get_float32_matmul_precision() != "highest" or not self._is_complete(step, beta):
            return False
        _, fixed = self._computed(step)
        return self._error(fixed, step.rising, beta) <= ROUNDING

    def _small(self, step: Step, beta: Tensor) -> _Sketch | None:
        """Return the sketch of a change of the mean that is so small that a few directions are good enough for a pass."""
        if self._count * self._pixels.dim < LARGE or not self._is_complete(step, beta):
            return None
        sketch = self._sketched(step)
        at_collapse = 0.5 / (COLLAPSE * self._typical).square()
        added = self._error(sketch.fixed - step.fixed, sketch.rising - step.rising, at_collapse)
        return sketch if added <= SKETCHED else None

    def _computed(self, step: Step) -> tuple[Tensor, Tensor]:
        """Return `fixed` of float32 products with the change (Higham 2002, section 3.1), and of the points without e."""
        terms = CHUNK + -(-self._pixels.dim // CHUNK) + 8
        rounded = 2 * SAFETY * terms * 2.0**-24 * step.change.norm(dim=1)
        return rounded, step.fixed + 2 * step.rest.norm(dim=1) + step.share * rounded

    def _sketched(self, step: Step) -> _Sketch:
        """Project the change of the mean and e onto a few directions."""
        directions = self._references.directions()
        if self._rest is None:
            self._rest = directions.rest[self._stored(slice(None))]
        (change, changed), (rest, rested) = (
            directions.project(2 * step.change),
            directions.project(2 * step.rest),
        )
        length = step.rest.norm(dim=1) + step.share * step.change.norm(dim=1)
        fixed = step.fixed + 2 * directions.rounding * length
        return _Sketch(change, rest, fixed, step.rising + rested + step.share * changed)

    def _error(self, fixed: Tensor, rising: Tensor, beta: Tensor) -> float:
        """Bound the largest error of a logit, root mean square under the weights."""
        error = fixed * self._typical
        if self._rest is not None:
            error = error + rising * (self._rest.mean() if self._typical_rest is None else self._typical_rest)
        return float((error * beta).max())

    def _pass(self, w: Tensor, beta: Tensor, step: Step | None, union: Tensor | None) -> Tensor:
        """Average over all images, or over some.

        Args:
            w: Float64 (B, dim).
            beta: Float64 (B,).
            step: How w follows from the points before; none to compute its products anew in float64.
            union: Which images; their products are not stored.
        """
        size, dim, height = len(w), self._pixels.dim, self._pixels.height
        count = self._count if union is None else len(union)
        sketch = None if step is None else self._small(step, beta)
        average = Average(size, dim, self._pixels.device, 1 if self._rest is None else 2)
        left = (2 * (w if step is None else step.change)).T
        short = left.float().contiguous()
        products = self._tracked.buffer(size) if union is None else left.new_empty(height, size)
        needed = 0
        for at in range(0, count, height):
            part = slice(at, min(at + height, count))
            which: slice | Tensor = part if union is None else union[part]
            stored = self._stored(which)
            rows = self._pixels.centred(stored)
            new = products[part] if union is None else products[: len(rows)]
            if step is None:
                self._pixels.double_product(rows, left, new)
            elif sketch is not None:
                out = self._references.directions().products(stored, sketch.change)
                self._tracked.combine(step, part, out, new, move=False)
            else:
                out = self._pixels.chunked_product(rows, short)
                self._tracked.combine(step, part, out, new)
            norms = self._norms[which]
            squares = norms[None] if self._rest is None else torch.stack([norms, self._rest[which].square()])
            logits = (new - norms[:, None]).mul_(beta)
            needed += average.add(logits, rows, squares, which, self._drop)
        if step is None:
            fixed, rising = 2 * (dim + 16) * UNIT64 * w.norm(dim=1), torch.zeros_like(beta)
        elif sketch is not None:
            fixed, rising = sketch.fixed, sketch.rising
        else:
            (rounded, fixed), rising = self._computed(step), step.rising
            self._tracked.move(step.mean, rounded)
        if union is None:
            self._tracked.append(Known(w, products, fixed, rising))
        self._typical, *rest = average.typical()
        self._typical_rest, self._nearest = rest[0] if rest else None, average.nearest
        self._tally.computed += count * size
        self._tally.rounding = max(self._tally.rounding, self._error(fixed, rising, beta))
        if union is None:
            self._tally.passes += 1
            self._share, self._sharpness = needed / (count * size), beta
        return average.mean().add_(self._pixels.centre)

    def _bounded(self, step: Step, beta: Tensor) -> tuple[_Left, Known]:
        """Bound the products with all images; return the pairs that may matter, and what is known of the points."""
        directions, sketch = self._references.directions(), self._sketched(step)
        complete, rest = self._is_complete(step, beta), self._rest
        assert rest is not None

        # The image that was nearest before gives a first lower bound on the best score.
        w, nearest = step.w, self._pixels.block(self._stored(self._nearest)).double() - self._pixels.centre
        floor = 2 * (w * nearest).sum(1) - self._norms[self._nearest]
        floor -= 4 * (self._pixels.dim + 16) * UNIT64 * w.norm(dim=1) * self._sizes[self._nearest]
        reach = self._drop / beta
        products = self._tracked.buffer(len(w))
        found = []
        for at in range(0, self._count, BLOCK):
            part = slice(at, min(at + BLOCK, self._count))
            stored = self._stored(part)
            change = directions.products(stored, sketch.change)
            new = self._tracked.combine(step, part, change, products[part], move=False)
            if not complete:
                new += directions.products(stored, sketch.rest)
            error = torch.addcmul(self._sizes[part, None] * sketch.fixed, rest[part, None], sketch.rising)
            score = new - self._norms[part, None]
            floor = torch.maximum(floor, (score - error).amax(0))
            score += error
            rows, columns = (score > floor - reach).nonzero(as_tuple=True)
            found.append((rows + at, columns, score[rows, columns]))
        self._tally.bounded += self._count * len(w)
        rows, columns, upper = (torch.cat(column) for column in zip(*found, strict=True))
        known = Known(w, products, sketch.fixed, sketch.rising)
        return self._left(rows, columns, upper, floor, beta), known

    def _left(self, rows: Tensor, columns: Tensor, upper: Tensor, floor: Tensor, beta: Tensor) -> _Left:
        """Leave out of each query's images those that together hold no more than half of the tolerance."""
        size = len(beta)
        logits = (upper - floor[columns]).mul_(beta[columns])
        order = (logits > -self._drop).nonzero()[:, 0]
        order = order[logits[order].argsort()]
        order = order[columns[order].argsort(stable=True)]
        rows, columns, upper, logits = rows[order], columns[order], upper[order], logits[order]
        counts = torch.bincount(columns, minlength=size)
        running = logits.clamp_(max=0).exp_().cumsum(0)
        ends = counts.cumsum(0)
        before = torch.where(ends > counts, running[(ends - counts - 1).clamp_min_(0)], 0.0)
        # Sums over other queries went before: their rounding must not count as weight.
        held = running - before[columns] + 1e-15 * running
        keep = (held > self._tolerance / 2) | (counts <= CHEAP)[columns]
        others = floor - self._drop / beta
        others.scatter_reduce_(0, columns[~keep], upper[~keep], "amax")
        return _Left(rows[keep], columns[keep], others)

    def _each(self, w: Tensor, beta: Tensor, left: _Left) -> Tensor:
        """Average over each query's own images; certify where few have weight."""
        mean, reach = torch.empty_like(w), (self._drop / beta).tolist()
        counts = torch.bincount(left.columns, minlength=len(w)).tolist()
        for column, rows in enumerate(torch.split(left.rows, counts)):
            query = int(self._open[column])
            mean[column], scores = self._averaged(query, rows)
            self._nearest[column] = rows[scores.argmax()]
            self._certificates.put(query, w[column], rows, scores, left.others[column], reach[column])
        self._tally.computed += len(left.rows)
        return mean
