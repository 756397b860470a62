"""A few numbers per image that bound all distances from below, so that most pairs need no full product.

Most of the energy of images lies in few directions. Let the columns of B be c such directions, with spectral norm at
most 1, and p = B^T x, rho(x)^2 = |x|^2 - |p|^2. As I - B B^T is positive semi-definite, the Cauchy-Schwarz inequality in
its form gives q.r <= p_q.p_r + rho(q) rho(r), whatever B is: the directions decide how much is pruned, never what is
found. So

    |q - r|^2 >= |q|^2 + |r|^2 - 2 p_q.p_r - 2 rho(q) rho(r),

and all but the first term is a product of short rows, [-2 p_q, -2 rho(q), 1] times [p_r, rho(r), |r|^2]. The first c
columns of B have spectral norm at most 1 for every c, so one projection gives bounds of several widths: the `Cuts`.

Rounding can only raise a computed bound by at most a |q|^2 + b |r|^2, where a and b depend on the number of values and
directions alone (`slack`). They are taken off both norms beforehand, which keeps the bound one product.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from diffmem.memorization.neighbours.rows import SUM, UNIT, Rows, float64_norms
from diffmem.threads import one_thread

__all__ = ["FIT_BYTES", "Cuts", "Sketch", "ceilings", "fit_basis", "projection_error", "slack", "tail_share"]

FIT_BYTES = 64 << 20  # for fitting: of the sample, and of the directions in float64
SPARE = 32  # directions beyond those asked for that take part in the search for them
ITERATIONS = 3


@dataclass(frozen=True)
class Cuts:
    """How many directions the three bounds use: for all pairs, for pairs of near groups, for the pairs then left."""

    first: int
    second: int
    third: int

    @classmethod
    def fitting(cls, dim: int, directions: int = 256) -> Cuts:
        """Return the cuts for images of `dim` values: for very large ones fewer, to save memory."""
        third = min(directions, dim, max(16, FIT_BYTES // (8 * dim)))
        return cls(max(1, third * 3 // 16), max(1, third * 5 // 8), third)


@dataclass(frozen=True)
class Sketch:
    """The sketches of n rows.

    Attributes:
        first: [p, rho, w] of the first cut, float32 (n, cuts.first + 2); w is |x|^2 less its slack.
        second: The same of the second cut.
        third: [p, rho, rho], float32 (n, cuts.third - cuts.second + 2): the further directions, and rho at the third
            and the second cut.
        norms: |x|^2, float64 (n,).
    """

    first: Tensor
    second: Tensor
    third: Tensor
    norms: Tensor

    @classmethod
    def empty(cls, count: int, cuts: Cuts) -> Sketch:
        """Return room for the sketches of `count` rows."""
        return cls(
            torch.zeros(count, cuts.first + 2, dtype=torch.float32),
            torch.zeros(count, cuts.second + 2, dtype=torch.float32),
            torch.zeros(count, cuts.third - cuts.second + 2, dtype=torch.float32),
            torch.zeros(count, dtype=torch.float64),
        )

    def __getitem__(self, which: slice | Tensor) -> Sketch:
        return Sketch(self.first[which], self.second[which], self.third[which], self.norms[which])

    def write(self, rows: Tensor, basis: Tensor, cuts: Cuts, source: Rows) -> None:
        """Sketch centred rows, float32 (n, dim), as references."""
        dim = rows.shape[1]
        self.norms.copy_(float64_norms(rows, source))
        parts = torch.zeros(len(rows), cuts.third, dtype=torch.float32)
        for at in range(0, dim, SUM):
            parts.addmm_(rows[:, at : at + SUM], basis[at : at + SUM])
        squares = parts.double().square_().cumsum(1)
        rho = []
        for cut in (cuts.first, cuts.second, cuts.third):
            error = projection_error(dim, cut)
            largest = self.norms * (1 + 1.1 * _sum_error(dim))
            rest = (largest - squares[:, cut - 1]).clamp_min_(0).add_(largest, alpha=2 * error + 3 * error**2)
            rho.append(rest.sqrt_().mul_(1 + 2 * UNIT).float())
        weight = (self.norms * (1 - slack(dim, cuts.third)[1])).float()
        for target, cut, radius in ((self.first, cuts.first, rho[0]), (self.second, cuts.second, rho[1])):
            target[:, :cut], target[:, cut], target[:, cut + 1] = parts[:, :cut], radius, weight
        self.third[:, :-2] = parts[:, cuts.second :]
        self.third[:, -2], self.third[:, -1] = rho[2], rho[1]

    def to_queries(self) -> None:
        """Make sketches of references sketches of queries, whose products with those of references are bounds."""
        for part in (self.first, self.second):
            part.mul_(-2)
            part[:, -1] = 1
        self.third.mul_(-2)
        self.third[:, -1].neg_()


def fit_basis(sample: Tensor, directions: int) -> Tensor:
    """Return the main directions of a sample of centred images.

    Args:
        sample: Float32 (n, dim).
        directions: How many, at most dim.

    Returns:
        Float32 (dim, directions) of spectral norm at most 1, also after rounding; the first are the most important.
    """
    with one_thread():
        largest = sample.abs().max()
        sample = sample / largest if largest > 0 else sample
        gram = sample @ sample.T
        # Simultaneous iteration, then the eigenvectors inside the space that was found.
        width = min(len(sample), directions + SPARE)
        space = torch.randn(
            len(sample), width, generator=torch.Generator().manual_seed(0), dtype=torch.float32
        )
        for _ in range(ITERATIONS):
            space = torch.linalg.qr(gram @ space).Q
        inside = (space.T @ gram @ space).double()
        vectors = torch.linalg.eigh(inside).eigenvectors.float().flip(1)[:, :directions]
        main = sample.T @ (space @ vectors)
        if main.shape[1] < directions:  # a small sample: further directions are as good as any
            main = torch.cat(
                [main, torch.eye(sample.shape[1], dtype=torch.float32)[:, : directions - main.shape[1]]], 1
            )
        basis = torch.linalg.qr(main).Q
        # The largest row sum bounds the largest eigenvalue of B^T B. The margin outweighs the rounding of the
        # scaled B.
        norm = (basis.double().T @ basis.double()).abs().sum(0).max().sqrt()
    scaled: Tensor = (basis * ((1 - 1e-5) / norm).float()).contiguous()
    return scaled


def tail_share(sample: Tensor, basis: Tensor) -> float:
    """Return the share of the energy of centred images that lies outside the directions."""
    total = float(sample.square().sum(dtype=torch.float64))
    return 1 - float((sample @ basis).square().sum(dtype=torch.float64)) / total if total > 0 else 0.0


def _sum_error(dim: int) -> float:
    """Bound the relative error of a sum of products whose parts of `SUM` terms are added up one by one."""
    terms = min(dim, SUM) + -(-dim // SUM) + 8
    return terms * UNIT / (1 - terms * UNIT)


def projection_error(dim: int, directions: int) -> float:
    """Bound |computed p - p| / |x|: entry j is off by at most gamma |b_j| |x|, and |b_j| <= 1."""
    return 1.01 * _sum_error(dim) * math.sqrt(directions)


def slack(dim: int, directions: int) -> tuple[float, float]:
    """Return a and b: a computed bound exceeds the true |q - r|^2 by at most a |q|^2 + b |r|^2, as computed norms.

    See docs/explanation/neighbours.md for the derivation. Underflow may add a constant, which `ceilings` allows for.
    """
    error = projection_error(dim, directions)
    product = 1.01 * (directions + 12) * UNIT
    common = error * (2 + error) + 4.1 * product * (1 + 3 * error) ** 2 + 1.1 * _sum_error(dim)
    common += 4.1 * UNIT + 2 * UNIT  # centred values are rounded; norms that underflow (see `ceilings`)
    return common, common + product + 2 * UNIT


def ceilings(squares: Tensor, norms: Tensor, dim: int, directions: int) -> Tensor:
    """Return the largest value that the products of sketches have for references within a distance, float32 (n,).

    Args:
        squares: Squared distance of each query, as computed in float64, (n,); may be infinite.
        norms: Squared norms of the centred queries, float64 (n,).
        dim: Number of values in an image.
        directions: Of the third cut.
    """
    value = squares * (1 + (dim + 8) * 2.0**-51) - norms * (1 - slack(dim, directions)[0])
    value = value + value.abs() * (2 * UNIT) + (dim + directions + 8) * 2.0**-96
    return value.float()
