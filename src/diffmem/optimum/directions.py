"""Lower and upper bounds of inner products from a few numbers per image.

Natural images have most of their energy in few directions. For a matrix V (dim, K) whose largest singular value is at most 1,
split both factors of v . q into what V sees and the rest:

    v . q = (V'v) . (V'q) + v'(I - VV')q,    |v'(I - VV')q| <= rest(v) rest(q),    rest(x)^2 = |x|^2 - |V'x|^2,

the Cauchy-Schwarz inequality for the positive semi-definite form I - VV'. So V need not be orthogonal to the last digit, and
any V gives a true bound: V is fitted to a sample.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from diffmem.optimum.pixels import Pixels

__all__ = ["Directions"]

MOST = 64  # directions: twice as many halve the rest by a fifth only
SAMPLE = 1024  # images the directions are fitted to
COLUMNS = 768  # values in a sum of float32 products, at a time
SAFETY = 1.05  # on bounds of rounding errors, which are small beside the rest


class Directions:
    """The projections of every training image on leading directions.

    Attributes:
        rest: rest(q_i), rounded up, float64 (N,).
        rounding: A computed product with V is off by at most this times |v| |q|.
    """

    def __init__(self, pixels: Pixels, most: int = MOST) -> None:
        count, dim = len(pixels), pixels.dim
        step = max(1, count // SAMPLE)
        sample = pixels.centred(slice(None, SAMPLE * step, step)).double()
        width = min(most, dim, len(sample))
        # The right singular vectors, by the smaller of the two Gram matrices.
        if len(sample) < dim:
            values, vectors = torch.linalg.eigh(sample @ sample.T)
            values, vectors = values[-width:], vectors[:, -width:]
            used = values > 1e-12 * values[-1].clamp_min(1)
            basis = (sample.T @ vectors[:, used]) / values[used].sqrt()
        else:
            basis = torch.linalg.eigh(sample.T @ sample)[1][:, -width:]
        basis = basis.float().double()
        # A row sum of |V'V| bounds its largest eigenvalue.
        largest = (basis.T @ basis).abs().sum(0).max() if basis.shape[1] else basis.new_ones(())
        self._basis = (basis * ((1 - 1e-6) / largest.sqrt())).float()
        width = self._basis.shape[1]
        terms = min(dim, COLUMNS) + dim / COLUMNS + 8
        gamma = SAFETY * terms * 2.0**-24
        projection = gamma * math.sqrt(width)
        self.rounding = SAFETY * (2 * projection + (width + 8) * 2.0**-24)
        self._seen = torch.empty(count, width, device=pixels.device)
        self.rest = torch.empty(count, dtype=torch.float64, device=pixels.device)
        for part in pixels.parts():
            rows, seen = pixels.centred(part), self._seen[part]
            seen.zero_()
            for at in range(0, dim, COLUMNS):
                seen.addmm_(rows[:, at : at + COLUMNS], self._basis[at : at + COLUMNS])
            norms = pixels.norms[part]
            rest = (norms - seen.square().sum(1, dtype=torch.float64)).clamp_min_(0)
            self.rest[part] = rest.add_(norms, alpha=3 * projection).sqrt_()

    def project(self, v: Tensor) -> tuple[Tensor, Tensor]:
        """Return V'v, float32 (K, B), and rest(v), rounded up, float64 (B,), for vectors v, float64 (B, dim)."""
        seen = v @ self._basis.double()
        squares = v.square().sum(1)
        rest = (squares - seen.square().sum(1)).clamp_min_(0).add_(squares, alpha=1e-6).sqrt_()
        return seen.float().T.contiguous(), rest

    def products(self, rows: slice | Tensor, seen: Tensor) -> Tensor:
        """Return (V'q_i) . (V'v_b), float32 (n, B)."""
        return self._seen[rows] @ seen
