"""Inner products of moving points with every image: the new ones from those of the points before.

A step of a sampler moves a point w to a mixture of points before it and of the mean m that the denoiser returned last. So the
products w . q_i need not be computed anew: with w = a_1 w_1 + a_2 w_2 + b m + e for the last two points,

    w . q_i = a_1 (w_1 . q_i) + a_2 (w_2 . q_i) + b (m . q_i) + e . q_i,

any factors make it true, and least squares makes e vanish. Means change little from call to call: m . q_i is what it was for the
mean before, plus (m - m_before) . q_i, the only product with all pixels that is left. A short difference makes small errors, be they of
rounding or of leaving most directions out (see `directions`). What is known of an image is off by at most

    fixed |q_i| + rising rest(q_i).

Samplers take mixtures with factors that sum to 1, so errors are averaged and not multiplied.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

__all__ = ["Known", "Step", "Tracked"]

UNIT64 = 2.0**-53


@dataclass(frozen=True)
class Known:
    """Vectors, one for every query, and what is known of their products.

    Attributes:
        vectors: Centred grey levels, float64 (B, dim).
        products: Twice the inner products with q_i, float64 (N, B).
        fixed: Float64 (B,); see above.
        rising: Float64 (B,).
    """

    vectors: Tensor
    products: Tensor
    fixed: Tensor
    rising: Tensor

    def columns(self, keep: Tensor) -> Known:
        """Return those of some queries."""
        products = self.products[:, keep].contiguous()
        return Known(self.vectors[keep], products, self.fixed[keep], self.rising[keep])


@dataclass(frozen=True)
class Step:
    """New points written by known ones and a mean.

    Attributes:
        w: The new points, float64 (B, dim).
        mean: m, float64 (B, dim).
        change: m minus the mean whose products are known.
        factors: Those of the known points, then of the shift if there is one, then of m, float64 (n, B).
        rest: e, float64 (B, dim).
        fixed: Error of the points' products that is carried on, without what those of `change` and `rest` add.
        rising: The same.
    """

    w: Tensor
    mean: Tensor
    change: Tensor
    factors: Tensor
    rest: Tensor
    fixed: Tensor
    rising: Tensor

    @property
    def share(self) -> Tensor:
        """How much errors of products with `change` count, float64 (B,)."""
        return self.factors[-1].abs()


class Tracked:
    """The last two points of trajectories and the last mean, with their products with N images.

    Attributes:
        shift: A vector (dim,) that w may also contain, and twice its products, float64 (N,); or none. Samplers that scale x
            move the origin, which is not the centre of grey levels.
    """

    def __init__(self, count: int, device: torch.device) -> None:
        self._count, self._device = count, device
        self.shift: tuple[Tensor, Tensor] | None = None
        self._points: list[Known] = []
        self._mean: Known | None = None
        self._spare: Tensor | None = None

    @property
    def is_empty(self) -> bool:
        """Whether no point is known."""
        return not self._points

    def keep(self, columns: Tensor) -> None:
        """Go on with some of the trajectories only."""
        self._spare = None
        some = len(columns) > 0
        self._points = [point.columns(columns) for point in self._points] if some else []
        self._mean = self._mean.columns(columns) if some and self._mean is not None else None

    def buffer(self, size: int) -> Tensor:
        """Return memory for the products of new points, float64 (N, size); its content is arbitrary."""
        if self._spare is None:
            self._spare = torch.empty(self._count, size, dtype=torch.float64, device=self._device)
        return self._spare

    def append(self, point: Known) -> None:
        """Take in points whose products, in the memory of `buffer`, were computed anew."""
        self._spare = self._points[0].products if len(self._points) > 1 else None
        self._points = [*self._points[-1:], point]

    def move(self, mean: Tensor, fixed: Tensor) -> None:
        """Take in that `combine` moved the products of the mean to those of another, which adds `fixed` to their error."""
        assert self._mean is not None
        self._mean = Known(mean, self._mean.products, self._mean.fixed + fixed, self._mean.rising)

    def step(self, w: Tensor, mean: Tensor) -> Step:
        """Write new points w by the known ones and the mean that was returned last, float64 (B, dim)."""
        if self._mean is None:
            zero = torch.zeros_like(w[:, 0])
            products = torch.zeros(self._count, len(w), dtype=torch.float64, device=self._device)
            self._mean = Known(torch.zeros_like(w), products, zero, zero)
        vectors = [point.vectors for point in self._points]
        if self.shift is not None:
            vectors.append(self.shift[0].expand_as(w))
        basis = torch.stack([*vectors, mean], 2)
        gram = basis.mT @ basis
        ridge = gram.diagonal(dim1=1, dim2=2).mean(1).clamp_min_(1e-300).mul_(1e-13)
        gram.diagonal(dim1=1, dim2=2).add_(ridge[:, None])
        factors = torch.linalg.solve(gram, basis.mT @ w[:, :, None])
        rest = w - (basis @ factors)[:, :, 0]
        factors = factors[:, :, 0].T.contiguous()
        lengths = basis.norm(dim=1).T
        sizes = factors.abs()
        fixed = (sizes * lengths).sum(0).mul_(64 * UNIT64)
        rising = torch.zeros_like(fixed)
        for size, known in [*zip(sizes, self._points, strict=False), (sizes[-1], self._mean)]:
            fixed += size * known.fixed
            rising += size * known.rising
        return Step(w, mean, mean - self._mean.vectors, factors, rest, fixed, rising)

    def combine(self, step: Step, part: slice, change: Tensor, out: Tensor, move: bool = True) -> Tensor:
        """Write the products of new points, but for those of e, for some images.

        Args:
            step: The step.
            part: Which images.
            change: Twice the products of `step.change` with them, (n, B).
            out: Float64 (n, B).
            move: Whether products of the mean move on to `step.mean`. If they do not, an inexact `change` spoils these points
                alone.
        """
        assert self._mean is not None
        mean = self._mean.products[part]
        mean = mean.add_(change) if move else mean + change
        torch.mul(mean, step.factors[-1], out=out)
        for factors, point in zip(step.factors, self._points, strict=False):
            out.addcmul_(point.products[part], factors)
        if self.shift is not None:
            out.addr_(self.shift[1][part], step.factors[-2])
        return out
