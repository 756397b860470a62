"""Lower bounds of all distances from a few numbers per image, so that most pairs need no full product.

Most of the energy of images lies in few directions. Let the columns of B be such directions, with spectral
norm at most 1, and p = B^T x, rho(x)^2 = |x|^2 - |p|^2. As I - B B^T is positive semi-definite, the
Cauchy-Schwarz inequality in its form gives q.r <= p_q.p_r + rho(q) rho(r), whatever B is: the directions
decide how much is pruned, never what is found. So v = |r|^2 - 2 q.r is at least |r|^2 - 2 p_q.p_r - 2 rho(q)
rho(r), one product of short rows:
[-2 p_q, 1, -2 rho(q)] times [p_r, |r|^2, rho(r)].
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from diffmem.memorization.rows import UNIT

__all__ = ["SKETCH_DIM", "SKETCH_WIDTH", "fit_basis", "sketch_error", "sketch_rows"]

SKETCH_DIM = 256
COLUMNS = (
    256  # the projection adds up this many columns at a time: the error of a sum grows with its longest part
)
SKETCH_WIDTH = SKETCH_DIM + 16  # the directions, |r|^2 and rho, and zeros


def fit_basis(sample: Tensor) -> Tensor:
    """Return the main directions of a sample of centred images.

    Args:
        sample: Float32 (n, dim), n and dim at least `SKETCH_DIM`.

    Returns:
        Float32 (dim, SKETCH_DIM) of spectral norm at most 1, also after rounding.
    """
    gram = (sample @ sample.T).double()
    threads = torch.get_num_threads()
    try:
        # Small factorizations gain nothing from threads, and on a busy machine they wait for each other a
        # hundredfold.
        torch.set_num_threads(1)
        main = torch.linalg.eigh(gram).eigenvectors[:, -SKETCH_DIM:]
        basis = torch.linalg.qr(sample.T.double() @ main).Q.float()
    finally:
        torch.set_num_threads(threads)
    # The largest row sum bounds the largest eigenvalue of B^T B. The margin outweighs the rounding of the
    # scaled B.
    largest = (basis.double().T @ basis.double()).abs().sum(0).max().sqrt()
    scaled: Tensor = basis * ((1 - 1e-5) / largest).float()
    return scaled


def projection_error(dim: int) -> float:
    """Bound |computed p - p| / |x|.

    Entry j is a sum of sums of `COLUMNS` terms, and off by at most gamma |b_j| |x|.
    """
    terms = min(dim, COLUMNS) + dim / COLUMNS + 8
    return 1.01 * terms * UNIT / (1 - terms * UNIT) * math.sqrt(SKETCH_DIM)


def sketch_rows(rows: Tensor, norms: Tensor, basis: Tensor, out: Tensor) -> None:
    """Write the sketches [p, |x|^2, rho] of centred images.

    Args:
        rows: Float32 (n, dim).
        norms: Their squared norms, float32 (n,).
        basis: From `fit_basis`.
        out: Float32 (n, SKETCH_WIDTH); columns after the sketch are left alone.
    """
    part = out[:, :SKETCH_DIM]
    part.zero_()
    for at in range(0, rows.shape[1], COLUMNS):
        part.addmm_(rows[:, at : at + COLUMNS], basis[at : at + COLUMNS])
    out[:, SKETCH_DIM] = norms
    rest = (norms - part.square().sum(1)).clamp_min(0)
    # Rounding of p, |x|^2 and |p|^2 must not make rho too small.
    slack = 3 * projection_error(rows.shape[1]) + 1.1 * (rows.shape[1] + SKETCH_DIM + 32) * UNIT
    out[:, SKETCH_DIM + 1] = (rest + slack * norms).sqrt()


def sketch_error(query_norms: Tensor, reference_norm: float, dim: int, exact: bool) -> Tensor:
    """Bound how far a computed lower bound may lie above the true v, float64 (Q,).

    Args:
        query_norms: Norms of the centred queries, float64 (Q,).
        reference_norm: Largest norm of a centred reference.
        dim: Number of values in an image.
        exact: Whether the centred values are integers.
    """
    cross = query_norms * reference_norm
    square = reference_norm**2
    projection = projection_error(dim)
    product = (SKETCH_WIDTH + 8) * UNIT
    bound = (
        2 * cross * projection * (2 + projection) + product * (square + 4 * cross) + (dim + 8) * UNIT * square
    )
    if not exact:
        bound = bound + 2 * UNIT * (query_norms + reference_norm) ** 2
    return bound * 1.02 + (dim + 8) * 2.0**-100
