"""Noisy points in int8 digits, and their scores: exact, for points whose distance from the true ones is known."""

from __future__ import annotations

import math
from dataclasses import dataclass
from itertools import pairwise

import torch
from torch import Tensor

from diffmem.integers import PIECE, digits_of, largest_whole
from diffmem.optimum.pixels import MIDDLE, Pixels

__all__ = ["SCALE", "Points", "Reference", "Rounded", "in_grey_levels"]

SCALE = 127.5  # grey levels per unit of y
MOST_DIGITS = 8
EXACT_DIGITS = 4  # whose sums float64 holds
TYPICAL = 0.3  # root mean square of a rounding error, in units of the grid, and a little


@dataclass(frozen=True)
class Reference:
    """An image for each query, near its best, that scores are relative to: differences of scores are rounded less than scores.

    Attributes:
        rows: Int8 (B, dim).
        norms: |v|^2, float64 (B,).
        scores: About 2 w.v - |v|^2, float64 (B,).
    """

    rows: Tensor
    norms: Tensor
    scores: Tensor

    @classmethod
    def none(cls, pixels: Pixels, count: int) -> Reference:
        """Return gray images, worse than all others."""
        rows = torch.zeros(count, pixels.dim, dtype=torch.int8, device=pixels.device)
        norms = torch.zeros(count, dtype=torch.float64, device=pixels.device)
        return cls(rows, norms, torch.full_like(norms, -torch.inf))

    def better(self, other: Reference) -> Reference:
        """Return the better image of two for each query."""
        above = other.scores > self.scores
        return Reference(
            torch.where(above[:, None], other.rows, self.rows),
            torch.where(above, other.norms, self.norms),
            torch.maximum(self.scores, other.scores),
        )

    def to(self, device: torch.device) -> Reference:
        """Return the images on another device."""
        return Reference(self.rows.to(device), self.norms.to(device), self.scores.to(device))


def in_grey_levels(x: Tensor) -> Tensor:
    """Return w = 127.5 (x + 1) - 128, float64, of points in [-1, 1] units."""
    return (x.double() + 1).mul_(SCALE).sub_(MIDDLE)


class Points:
    """Points w in grey levels less 128, which can be written in any number of digits.

    Args:
        pixels: The images that they are compared with.
        w: Float64 (B, dim).
    """

    def __init__(self, pixels: Pixels, w: Tensor) -> None:
        self._pixels, self._bits, self.w = pixels, pixels.products.bits, w
        self._size = self.w.norm(dim=1)
        self._largest = self.w.abs().amax(1).clamp_min_(2.0**-900)

    def _grid(self, count: int) -> Tensor:
        """Return t, the width of the grid that `count` digits reach: a power of two, (B,)."""
        return torch.exp2(torch.frexp(self._largest / largest_whole(count, self._bits)).exponent.double())

    def rounding(self, count: int) -> Tensor:
        """Return about how far `count` digits are from w, (B,)."""
        return self._grid(count) * (TYPICAL * math.sqrt(self._pixels.dim))

    def enough(self, limit: Tensor) -> int:
        """Return how many digits keep the rounding of w at most `limit`, (B,), as a rule."""
        count = 1
        while count < MOST_DIGITS and not bool((self.rounding(count) <= limit).all()):
            count += 1
        return count

    def rounded(self, count: int, reference: Reference | None = None) -> Rounded:
        """Return the points in `count` digits."""
        grid = self._grid(count)[:, None]
        whole = (self.w / grid).round_()
        stands = whole * grid
        error = (self.w - stands).norm(dim=1)
        whole = whole.to(torch.int32 if count <= 4 else torch.int64)
        digits = torch.cat(digits_of(whole, count, self._bits).unbind(-1)[::-1]).T
        # Reading x rounded it, too.
        error = error * (1 + 1e-12) + 2.0**-51 * (self._size + SCALE * math.sqrt(self._pixels.dim))
        return Rounded(self._pixels, stands, digits, 2 * grid[:, 0], error, reference)


class Rounded:
    """Points w~ in digits.

    Args:
        pixels: The images.
        w: The points, float64 (B, dim).
        digits: The digits of all points, the most significant first, int8 (dim, J B).
        step: Twice the width of the grid, (B,).
        error: |w - w~|, rounded up, float64 (B,).
        reference: What scores are relative to.
    """

    def __init__(
        self,
        pixels: Pixels,
        w: Tensor,
        digits: Tensor,
        step: Tensor,
        error: Tensor,
        reference: Reference | None,
    ) -> None:
        self._square = w.square().sum(1)
        self._pixels, self._digits, self._step, self.error = pixels, digits, step, error
        self._size = len(step)
        self.count = digits.shape[1] // self._size
        self._reference: Tensor | None = None
        if reference is not None and self.count > EXACT_DIGITS:
            products = pixels.products(reference.rows, digits)
            own = products.view(self._size, self.count, self._size).diagonal(dim1=0, dim2=2)
            self._reference, self._norms = own.double().flatten(), reference.norms
            self._square -= 2 * (w * reference.rows).sum(1) - reference.norms

    def distances(self, scores: Tensor) -> Tensor:
        """Return the distances of images from w~, rounded to 1e-7 of |w~|, of their scores (n, B)."""
        return (self._square - scores).clamp_min_(0).add_(1e-14 * self._square.abs()).sqrt_()

    def reach(self, top: Tensor, least: Tensor, error: Tensor | None = None) -> Tensor:
        """Return how far below the best score that of an image may be that is hardly farther from the true point, (B,).

        Distances from the true point are those from w~ give or take |w - w~|.

        Args:
            top: The best score, (B,).
            least: By how much the square of the distance must exceed that of the best image to leave an image out, (B,).
            error: |w - w~|, (B,), if it is not that of these points.
        """
        error = self.error if error is None else error
        nearest = self.distances(top)
        return (error + ((nearest + error).square() + least).sqrt()).square() - nearest.square()

    def buffers(self, images: int, block: int) -> tuple[Tensor | None, Tensor]:
        """Return memory for `products` of so many images, and for `scores` of a block of them."""
        columns, device = self._digits.shape[1], self._digits.device
        kept = None
        if self._pixels.dim <= PIECE:
            kept = torch.empty(images, columns, dtype=torch.int32, device=device)
        return kept, torch.empty(block, columns, dtype=torch.float64, device=device)

    def products(self, rows: Tensor, out: Tensor | None = None) -> Tensor:
        """Return the products of digits with images, int8 (n, dim), as whole numbers (n, J B); in the memory given, if any."""
        return self._pixels.products(rows, self._digits, None if out is None else out[: len(rows)])

    def scores(self, products: Tensor, norms: Tensor, values: Tensor) -> Tensor:
        """Return 2 w~.v - |v|^2, less that of the reference, float64 (n, B), in the memory given.

        Args:
            products: Of the images, (n, J B).
            norms: |v|^2, float64 (n,).
            values: Memory, for at least n images.
        """
        values = values[: len(products)].copy_(products)
        if self._reference is not None:
            values.sub_(self._reference)
        digits = torch.split(values, self._size, 1)
        base = float(1 << self._pixels.products.bits)
        for high, low in pairwise(digits):
            low.add_(high, alpha=base)
        scores: Tensor = digits[-1].mul_(self._step).sub_(norms[:, None])
        if self._reference is not None:
            scores.add_(self._norms)
        return scores
