"""Proofs that, from here on, all but a few images have no weight.

Let w be a query, 1 the nearest image to it and i any other; f_i(w) = |w - q_i|^2 - |w - q_1|^2 is the gap between them. If at a
reference point r all but a few images have f_i(r) >= gap, then at w = q_1 + kappa (r - q_1) + e, with L = |q_i - q_1|,

    f_i(w) = kappa f_i(r) + (1 - kappa) L^2 + 2 e . (q_1 - q_i)  >=  kappa gap + min over L of ((1 - kappa) L^2 - 2 |e| L).

Once an image has all the weight, a sampler moves straight towards it: kappa falls as sigma does, e stays near 0, and the gap in
logits, f_i / (2 (127.5 sigma)^2), only grows. So one evaluation of one image answers the query.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from diffmem.optimum.pixels import Pixels

__all__ = ["Certificates"]

FEW = 8  # images that a certificate may leave


class Certificates:
    """For each query of a bundle: the few images that still have weight, and the gap to all others.

    Attributes:
        near: Which images, positions among those of the bundle; None where nothing is certified.
        pivot: The nearest of them, int64 (B,).
    """

    def __init__(self, size: int, pixels: Pixels, longest: float) -> None:
        self._pixels, self._longest = pixels, longest
        self.near: list[Tensor | None] = [None] * size
        self.pivot = torch.zeros(size, dtype=torch.int64, device=pixels.device)
        self._reference = torch.zeros(size, pixels.dim, dtype=torch.float64, device=pixels.device)
        self._gap = torch.full((size,), -math.inf, dtype=torch.float64, device=pixels.device)

    def put(self, query: int, w: Tensor, rows: Tensor, scores: Tensor, other: Tensor, reach: float) -> None:
        """Certify a query, or withdraw its certificate.

        Args:
            query: Its position in the bundle.
            w: Where it is, float64 (dim,).
            rows: Images that were compared exactly, (n,).
            scores: Their 2 w . q - |q|^2, float64 (n,).
            other: Upper bound on the score of all other images.
            reach: Images whose score is lower than the best by this much have no weight.
        """
        best = int(scores.argmax())
        matter = scores > scores[best] - reach
        if int(matter.sum()) > FEW:
            self.near[query], self._gap[query] = None, -math.inf
            return
        self.near[query], self.pivot[query], self._reference[query] = rows[matter], rows[best], w
        if not bool(matter.all()):
            other = torch.maximum(other, scores[~matter].max())
        self._gap[query] = scores[best] - other

    def hold(self, w: Tensor, pivots: Tensor, needed: Tensor) -> Tensor:
        """Return for which queries the gap is still above `needed`, bool (B,).

        Args:
            w: Where the queries are now, float64 (B, dim).
            pivots: Centred grey levels of the images at `pivot`, float64 (B, dim).
            needed: Gap of scores, float64 (B,).
        """
        a, b = self._reference - pivots, w - pivots
        square = a.square().sum(1)
        # Any kappa proves something; at a reference that is the image itself, this one does.
        kappa = torch.where(square > 0, (a * b).sum(1) / square, 1.0)
        e = (b - kappa[:, None] * a).norm(dim=1)
        e += 1e-12 * (w.norm(dim=1) + self._reference.norm(dim=1) + self._longest)
        slope = 1 - kappa
        at_end = (slope * self._longest - 2 * e) * self._longest
        least = torch.where(e < slope * self._longest, -e.square() / slope, at_end).clamp_max_(0)
        held: Tensor = (kappa > 0) & torch.isfinite(self._gap) & (kappa * self._gap + least > needed)
        return held
