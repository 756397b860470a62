"""The optimum along trajectories: once one image has all the weight of a query, its answers need no look at the others.

Let w be a query in grey levels, 1 the nearest image to it and i any other; f_i(w) = |w - v_i|^2 - |w - v_1|^2 is the gap between them. If
at a reference point r all images have f_i(r) >= gap, then at w = v_1 + kappa (r - v_1) + e, with L = |v_i - v_1|,

    f_i(w) = kappa f_i(r) + (1 - kappa) L^2 + 2 e.(v_1 - v_i)  >=  kappa gap + min over L of ((1 - kappa) L^2 - 2 |e| L).

A sampler then moves straight towards the image: kappa falls as sigma does, e stays near 0, and the gap in logits,
f_i / (2 (127.5 sigma)^2), only grows.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

__all__ = ["Certificates"]


class Certificates:
    """For each query of a batch: the image that has all the weight, and the gap to all others at a reference point.

    Args:
        rows: Returns images at some positions, float64 (n, dim).
        longest: No two images are farther apart.
        like: A tensor (B, dim) on the device: as many queries, of as many values.
    """

    def __init__(self, rows: Callable[[Tensor], Tensor], longest: float, like: Tensor) -> None:
        self._rows, self._longest = rows, longest
        self._image = torch.zeros_like(like, dtype=torch.float64)
        self._reference = torch.zeros_like(self._image)
        self._gap = torch.full_like(self._image[:, 0], -torch.inf)

    def put(self, which: Tensor, w: Tensor, nearest: Tensor, gap: Tensor) -> None:
        """Certify queries.

        Args:
            which: Their positions in the batch, (n,).
            w: Where they are, float64 (n, dim).
            nearest: Their nearest images, positions among the rows, (n,).
            gap: Lower bounds on f_i, float64 (n,); minus infinity where nothing is known.
        """
        self._reference[which], self._gap[which], self._image[which] = w, gap, self._rows(nearest)

    def hold(self, w: Tensor, needed: Tensor) -> Tensor:
        """Return for which queries the gap is still above `needed`, bool (B,).

        Args:
            w: Where the queries are now, float64 (B, dim).
            needed: Float64 (B,).
        """
        a, b = self._reference - self._image, w - self._image
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

    def images(self, which: Tensor) -> Tensor:
        """Return the nearest images of queries, float64 (n, dim)."""
        return self._image[which]
