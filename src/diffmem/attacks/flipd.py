"""FLIPD: how many dimensions a denoiser sees around an image; few where it memorized the image.

d(x; sigma) = tr J_D(x; sigma) + |D(x; sigma) - x|^2 / sigma^2, J_D being the Jacobian of D in x (Kamkari et al. 2024, "A Geometric View
of Data Complexity", arXiv 2406.03537, in the form of a denoiser). For a Gaussian it counts the directions whose variance exceeds
sigma^2; around an image that is all that the denoiser knows there, D is constant and d is 0. For the optimum of a training set y_i
with weights p_i it is sum_i p_i |x - y_i|^2 / sigma^2.

It is evaluated at the image itself, without noise, as the original does.
"""

from __future__ import annotations

import contextlib
import hashlib
import math
from dataclasses import dataclass
from typing import Literal, get_args

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Generator, Tensor

from diffmem.errors import UserError
from diffmem.models import Denoiser, Latent, pixel_shape_of
from diffmem.models.arguments import checked_labels
from diffmem.progress import NO_PROGRESS, Progress

__all__ = ["EXACT_UP_TO", "SIGMA", "Derivative", "Flipd", "Probe", "Trace", "flipd"]

Trace = Literal["exact", "hutchinson"]
"""How the trace of the Jacobian is computed: direction by direction, or estimated from random directions."""

Derivative = Literal["autograd", "differences"]
"""How a direction's product with the Jacobian is computed: by differentiating the denoiser, or by central differences."""

Probe = Literal["rademacher", "gaussian"]
"""Random directions of Hutchinson's estimate: values -1 and 1, which have the smallest variance, or standard normal ones."""

SIGMA = 0.35
"""The noise level of FLIPD if none is given.

For the optimum of a training set of digits, every level up to 0.8 tells training from held-out images without error. Of a small U-Net on
126 digits of 8x8 and 12 canaries four times over, 350 epochs, before it copies, the area under the curve of training against held-out
images is 0.52 at 0.02, 0.57 at 0.05, 0.63 at 0.1, 0.77 at 0.2, 0.81 at 0.35, 0.78 at 0.5 and 0.73 at 0.8: at lower levels a network still
takes every direction for noise. Planted from control canaries are told without error from 0.1 on.
"""

EXACT_UP_TO = 3500
"""Values of an image (C H W) up to which the trace is exact if not told otherwise."""

# Length of central differences over sigma: rounding of the denoiser's results over it, and its square, are both small.
_STEP = {torch.float64: 1e-4, torch.float32: 0.1}


@dataclass(frozen=True, eq=False)
class Flipd:
    """FLIPD of N images.

    Attributes:
        values: d, float64 (N,). About the number of local dimensions; an estimate of the trace can make it negative.
        standard_errors: Of the values, from the spread over the probes, float64 (N,); none if the trace is exact.
        sigma: The noise level.
        dimension: Number of values of what the model denoises, C H W.
        trace: How the trace was computed.
        probes: Random directions for each image; 0 if the trace is exact.
        derivative: How the Jacobian was applied.
    """

    values: NDArray[np.float64]
    standard_errors: NDArray[np.float64] | None
    sigma: float
    dimension: int
    trace: Trace
    probes: int
    derivative: Derivative


def flipd(
    denoiser: Denoiser,
    images: NDArray[np.uint8],
    labels: NDArray[np.int64] | None = None,
    sigma: float | None = None,
    *,
    trace: Trace | None = None,
    probes: int = 16,
    probe: Probe = "rademacher",
    seed: int = 0,
    batch_size: int = 64,
    progress: Progress = NO_PROGRESS,
) -> Flipd:
    """Compute FLIPD of images.

    A direction costs a forward and a backward pass. Denoisers that cannot be differentiated, as closed forms and functions of the
    caller's, are asked on both sides of the image instead. Random directions come from the seed and an image's own pixels, so results
    depend neither on the batch nor on the order, up to rounding of the denoiser.

    Args:
        denoiser: The model, which treats each image of a batch on its own. If it is `Latent`, images are encoded first.
        images: uint8 (N, C, H, W), pixels.
        labels: Class of each image, int64 (N,), or -1 for no label; or none.
        sigma: Noise level, in units of what the model denoises; none for `SIGMA`, or the nearest level that the model knows.
        trace: 'exact', or 'hutchinson' (Hutchinson 1989); none for exact up to `EXACT_UP_TO` values.
        probes: Random directions for each image, 2 or more, if the trace is estimated.
        probe: Their kind.
        seed: Of the random directions.
        batch_size: Directions at a time.
        progress: Told the directions that are done.

    Raises:
        UserError: Images, labels or sigma do not fit the model, or it returns values that are not finite.
    """
    shape = pixel_shape_of(denoiser)
    if images.dtype != np.uint8 or images.ndim != 4 or tuple(images.shape[1:]) != shape or len(images) == 0:
        raise UserError(
            f"The model takes one or more uint8 images (N, C, H, W) with (C, H, W) = {shape}, not {images.dtype} {images.shape}."
        )
    if labels is not None and len(labels) != len(images):
        raise UserError(f"There are {len(labels)} labels for {len(images)} images; give one for each.")
    if probes < 2 or batch_size < 1:
        raise UserError(
            f"FLIPD needs 2 or more probes and a batch of 1 or more, not {probes} and {batch_size}."
        )
    if trace not in (None, *get_args(Trace)) or probe not in get_args(Probe):
        raise UserError(
            f"The trace is {' or '.join(get_args(Trace))} and probes are {' or '.join(get_args(Probe))}, not {trace!r} and {probe!r}."
        )
    dim = math.prod(denoiser.image_shape)
    chosen: Trace = trace or ("exact" if dim <= EXACT_UP_TO else "hutchinson")
    asked = _Asked(denoiser, _level(denoiser, sigma))
    given = None
    if labels is not None:
        numbers = torch.tensor(labels, dtype=torch.int64)
        given = checked_labels(numbers, len(images), denoiser.num_labels).to(denoiser.device)
    count = dim if chosen == "exact" else probes
    values, errors = np.empty(len(images)), np.empty(len(images))
    for at, image in enumerate(images):
        label = None if given is None else given[at : at + 1]
        y = torch.tensor(image[None], dtype=torch.float64).div_(127.5).sub_(1).to(denoiser.device)
        with torch.no_grad():
            x = denoiser.encode(y).double() if isinstance(denoiser, Latent) else y
        if at == 0:
            asked.try_out(x, label)
        directions = None if chosen == "exact" else _directions(image, seed, probes, dim, probe)
        products = torch.empty(count, dtype=torch.float64)
        for start in range(0, count, batch_size):
            stop = min(start + batch_size, count)
            if directions is None:
                v = torch.zeros(stop - start, dim, dtype=torch.float64)
                v[torch.arange(stop - start), torch.arange(start, stop)] = 1
            else:
                v = directions[start:stop]
            products[start:stop] = asked.products(x, v.reshape(-1, *x.shape[1:]).to(x.device), label).cpu()
            progress(at * count + stop, len(images) * count)
        found = products.sum() if directions is None else products.mean()
        values[at] = float(found) + asked.miss(x, label)
        errors[at] = 0.0 if directions is None else float(products.std()) / math.sqrt(probes)
        if not math.isfinite(values[at]):
            raise UserError(
                f"The model returned values that are not finite for image {at}: its weights are broken or its training diverged."
            )
    exact = chosen == "exact"
    return Flipd(
        values, None if exact else errors, asked.sigma, dim, chosen, 0 if exact else probes, asked.derivative
    )


class _Asked:
    """A denoiser at one noise level."""

    def __init__(self, denoiser: Denoiser, sigma: float) -> None:
        self.denoiser, self.sigma = denoiser, sigma
        self.derivative: Derivative = "autograd"
        self._step = 0.0

    def clean(self, x: Tensor, label: Tensor | None) -> Tensor:
        """Return D(x), of the denoiser's type; x (B, C, H, W), the label (1,) of all."""
        level = torch.full((len(x),), self.sigma, dtype=torch.float64, device=x.device)
        found = self.denoiser(x, level, None if label is None else label.expand(len(x)))
        if found.shape != x.shape:
            raise UserError(f"The model returned shape {tuple(found.shape)} for images {tuple(x.shape)}.")
        return found

    def miss(self, x: Tensor, label: Tensor | None) -> float:
        """Return |D(x) - x|^2 / sigma^2 of one image."""
        with torch.no_grad():
            return float((self.clean(x, label).double() - x).square().sum()) / self.sigma**2

    def try_out(self, x: Tensor, label: Tensor | None) -> None:
        """Find out, at one image, whether the denoiser can be differentiated in x.

        Closed forms keep no track of x, and functions of NumPy raise an error if they are asked to.
        """
        with contextlib.suppress(RuntimeError), torch.enable_grad():
            copy = x.clone().requires_grad_()
            found = self.clean(copy, label)
            if (
                found.requires_grad
                and torch.autograd.grad(found.sum(), copy, allow_unused=True)[0] is not None
            ):
                return
        with torch.no_grad():  # what failed for another reason fails again
            kind = self.clean(x, label).dtype
        self.derivative, self._step = "differences", _STEP.get(kind, max(_STEP.values())) * self.sigma

    def products(self, x: Tensor, v: Tensor, label: Tensor | None) -> Tensor:
        """Return v_j' J v_j of each direction v (m, C, H, W) at one image x: float64 (m,)."""
        if self.derivative == "autograd":
            with torch.enable_grad():
                copies = x.expand(len(v), *x.shape[1:]).clone().requires_grad_()
                found = self.clean(copies, label)
                (slopes,) = torch.autograd.grad(found, copies, v.to(found.dtype))
            return (slopes.double() * v).flatten(1).sum(1)
        with torch.no_grad():
            step = self._step / v.flatten(1).norm(dim=1).reshape(-1, 1, 1, 1)
            # Both sides in one call: what the optimum leaves out is then the same for both.
            ahead, behind = self.clean(torch.cat([x + step * v, x - step * v]), label).double().chunk(2)
            rises: Tensor = (ahead - behind) * v / (2 * step)
            return rises.flatten(1).sum(1)


def _level(denoiser: Denoiser, sigma: float | None) -> float:
    low, high = denoiser.sigma_min, denoiser.sigma_max
    if sigma is None:
        return min(max(SIGMA, low), high)
    if not low <= sigma <= high or not 0 < sigma < math.inf:
        raise UserError(f"The noise level {sigma:g} is outside the range of the model, {low:g} to {high:g}.")
    return sigma


def _directions(image: NDArray[np.uint8], seed: int, probes: int, dim: int, kind: Probe) -> Tensor:
    """Return random directions from the seed and the pixels, float64 (probes, dim)."""
    digest = hashlib.blake2b(f"flipd {seed} ".encode(), digest_size=4)
    digest.update(image.tobytes())
    generator = Generator("cpu").manual_seed(int.from_bytes(digest.digest(), "little"))
    if kind == "gaussian":
        return torch.randn(probes, dim, generator=generator, dtype=torch.float64)
    return torch.randint(2, (probes, dim), generator=generator).double().mul_(2).sub_(1)
