"""Inner products of moving points with every image: the new ones from those of the points before.

A step of a sampler moves a point w inside the span of w, the point before it, and one average of images. So the products
w . q_i need not be computed anew: with w = a_1 w_1 + a_2 w_2 + v for the two points before, w . q_i = a_1 (w_1 . q_i) + a_2 (w_2 .
q_i) + v . q_i. Any factors a give the same sum; least squares makes v short, for example 20 grey levels where w has 400,000, and
what a float32 product rounds off v . q_i is as much smaller. What is known of an image is off by at most

    fixed |q_i| + rising blur_i,

where `fixed` collects what rounding may have done, and `rising blur_i` what was never computed (see `directions`): blur_i is 0
for images that were computed at every point, and rest(q_i) for all others.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

__all__ = ["Point", "Tracked", "Way"]

UNIT64 = 2.0**-53


@dataclass(frozen=True)
class Point:
    """A point of every trajectory.

    Attributes:
        w: Centred grey levels, float64 (B, dim).
        products: 2 w . q_i, float64 (N, B).
        fixed: Float64 (B,).
        rising: Float64 (B,).
    """

    w: Tensor
    products: Tensor
    fixed: Tensor
    rising: Tensor


@dataclass(frozen=True)
class Way:
    """How to write new points by known ones: w = sum_j factors[j] w_j + v, with the errors that are carried on."""

    factors: Tensor  # float64 (points, B)
    v: Tensor
    fixed: Tensor
    rising: Tensor

    def better_of(self, other: Way, better: Tensor) -> Way:
        """Return the way that takes `other` for the queries where `better` is set."""
        return Way(
            torch.where(better, other.factors, self.factors),
            torch.where(better[:, None], other.v, self.v),
            torch.where(better, other.fixed, self.fixed),
            torch.where(better, other.rising, self.rising),
        )


class Tracked:
    """The last two points of trajectories, and their products with N images.

    Attributes:
        points: None, one or two; the latest is last.
        blur: Float64 (N,).
    """

    def __init__(self, count: int, device: torch.device) -> None:
        self.points: list[Point] = []
        self.blur = torch.zeros(count, dtype=torch.float64, device=device)
        self._spare: Tensor | None = None

    def keep(self, columns: Tensor) -> None:
        """Go on with some of the trajectories only."""
        self._spare = None
        if len(columns) == 0:
            self.points = []
        self.points = [
            Point(p.w[columns], p.products[:, columns].contiguous(), p.fixed[columns], p.rising[columns])
            for p in self.points
        ]

    def room(self, size: int) -> Tensor:
        """Return memory for the products of new points, float64 (N, size); its content is arbitrary."""
        if self._spare is None or self._spare.shape[1] != size:
            self._spare = torch.empty(len(self.blur), size, dtype=torch.float64, device=self.blur.device)
        return self._spare

    def advance(self, point: Point, rest: Tensor | None) -> None:
        """Take in new points whose products are in the memory that `room` returned.

        Args:
            point: The points.
            rest: Of every image, float64 (N,), if the products are bounds; none if they were computed.
        """
        if rest is None:
            self.blur.zero_()
        else:
            self.blur.copy_(rest)
        old = self.points[:-1]
        self.points = [*self.points[-1:], point]
        self._spare = old[0].products if old else None

    def ways(self, w: Tensor) -> list[Way]:
        """Return ways to write new points, by the latest known ones and by all."""
        ways = []
        for used in range(1, len(self.points) + 1):
            points = self.points[-used:]
            stack = torch.stack([point.w for point in points], 2)
            gram = stack.mT @ stack
            ridge = gram.diagonal(dim1=1, dim2=2).mean(1).clamp_min_(1e-300).mul_(1e-13)
            gram.diagonal(dim1=1, dim2=2).add_(ridge[:, None])
            solved = torch.linalg.solve(gram, stack.mT @ w[:, :, None])
            v = w - (stack @ solved)[:, :, 0]
            factors = w.new_zeros(len(self.points), len(w))
            factors[-used:] = solved[:, :, 0].T
            ways.append(self._carried(factors, v))
        return ways

    def _carried(self, factors: Tensor, v: Tensor) -> Way:
        size = factors.abs()
        lengths = torch.stack([point.w.norm(dim=1) for point in self.points])
        fixed = (size * torch.stack([point.fixed for point in self.points])).sum(0)
        rising = (size * torch.stack([point.rising for point in self.points])).sum(0)
        # The sums and v itself are rounded in float64.
        return Way(factors, v, fixed.add_((size * lengths).sum(0), alpha=64 * UNIT64), rising)

    def combined(self, way: Way, which: slice | Tensor, out: Tensor) -> Tensor:
        """Write sum_j factors[j] (2 w_j . q_i) for some images into `out`, float64 (n, B)."""
        first, *others = self.points
        torch.mul(first.products[which], way.factors[0], out=out)
        for point, factors in zip(others, way.factors[1:], strict=True):
            out.addcmul_(point.products[which], factors)
        return out


def shortest(ways: Sequence[Way], costs: Sequence[Tensor]) -> Way:
    """Return for every query the way with the least cost, (B,) each."""
    best, cost = ways[0], costs[0]
    for way, other in zip(ways[1:], costs[1:], strict=True):
        best, cost = best.better_of(way, other < cost), torch.minimum(cost, other)
    return best
