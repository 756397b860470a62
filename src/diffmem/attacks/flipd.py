"""FLIPD: how many local dimensions a denoiser has around an image; few where it memorized the image.

d(x; sigma) = tr J_D(x; sigma) + |D(x; sigma) - x|^2 / sigma^2, J_D being the Jacobian of D in x (Kamkari et al. 2024, "A Geometric View
of Data Complexity", arXiv 2406.03537, in the form of a denoiser). For a Gaussian it counts the directions whose variance exceeds
sigma^2; around an image that is all that the denoiser knows there, D is constant and d is 0. For the optimum of a training set y_i
with weights p_i it is sum_i p_i |x - y_i|^2 / sigma^2.

It is evaluated at the image itself, without noise, as the original does.
"""

from __future__ import annotations

import contextlib
import math
from dataclasses import dataclass
from typing import Literal, get_args

import numpy as np
import torch
from numpy.typing import NDArray
from pydantic import Field
from torch import Tensor

from diffmem.attacks.asking import check_finite, denoised, encoded, generator_of, labels_of
from diffmem.errors import UserError
from diffmem.memorization.records import Record
from diffmem.models import Denoiser, Refinable
from diffmem.models.denoiser import check_independent_noise
from diffmem.progress import NO_PROGRESS, Progress

__all__ = [
    "EXACT_UP_TO",
    "SIGMA",
    "Derivative",
    "Flipd",
    "FlipdConfig",
    "FlipdMethod",
    "Probe",
    "Trace",
    "flipd",
]

Trace = Literal["exact", "hutchinson"]
"""How the trace of the Jacobian is computed: direction by direction, or estimated from random directions."""

Derivative = Literal["autograd", "differences"]
"""How a direction's product with the Jacobian is computed: by differentiating the denoiser, or by central differences."""

Probe = Literal["rademacher", "gaussian"]
"""Random directions of Hutchinson's estimate: values -1 and 1, which have the smallest variance, or standard normal ones."""

SIGMA = 0.35
"""The noise level of FLIPD if none is given.

For the optimum of a training set of digits, every level up to 0.8 separates training from held-out images without error. Of a small U-Net
on 126 digits of 8x8 and 12 canaries four times over, 350 epochs, before it copies, the area under the curve of training against held-out
images is 0.52 at 0.02, 0.57 at 0.05, 0.63 at 0.1, 0.77 at 0.2, 0.81 at 0.35, 0.78 at 0.5 and 0.73 at 0.8: at lower levels a network still
takes every direction for noise. Planted and control canaries are separated without error from 0.1 on.
"""

EXACT_UP_TO = 3500
"""Values of an image (C H W) up to which the trace is exact by default."""

# Length of central differences over sigma: rounding of the denoiser's results over it, and its square, are both small.
_STEP = {torch.float64: 1e-4, torch.float32: 0.1}


@dataclass(frozen=True)
class FlipdConfig:
    """How FLIPD is measured.

    Attributes:
        sigma: Noise level, in units of what the model denoises; none for `SIGMA`, or the nearest level that the model knows.
        trace: 'exact', or 'hutchinson' (Hutchinson 1989); none for exact up to `EXACT_UP_TO` values.
        probes: Random directions for each image, 2 or more, if the trace is estimated.
        probe: Their kind.
        seed: Of the random directions.
        batch_size: Directions at a time.

    Raises:
        UserError: A value is out of range.
    """

    sigma: float | None = None
    trace: Trace | None = None
    probes: int = 16
    probe: Probe = "rademacher"
    seed: int = 0
    batch_size: int = 64

    def __post_init__(self) -> None:
        if self.probes < 2 or self.batch_size < 1:
            raise UserError(
                f"FLIPD needs 2 or more probes and a batch of 1 or more, not {self.probes} and {self.batch_size}."
            )
        if self.trace not in (None, *get_args(Trace)) or self.probe not in get_args(Probe):
            raise UserError(
                f"The trace is {' or '.join(get_args(Trace))} and probes are {' or '.join(get_args(Probe))}, not {self.trace!r} and"
                f" {self.probe!r}."
            )


class FlipdMethod(Record):
    """How FLIPD was measured."""

    sigma: float = Field(description="The noise level, in units of what the model denoises.")
    dimension: int = Field(
        description="Values of an image, or of its latents: the greatest number of dimensions."
    )
    trace: Trace = Field(description="'exact', or 'hutchinson' if it was estimated from random directions.")
    probes: int = Field(description="Random directions for each image; 0 if the trace is exact.")
    derivative: Derivative = Field(
        description="'autograd', or 'differences' for a model that cannot be differentiated."
    )


@dataclass(frozen=True, eq=False)
class Flipd:
    """FLIPD of N images.

    Attributes:
        values: d, float64 (N,). About the number of local dimensions; an estimate of the trace can make it negative.
        standard_errors: Of the values, from the spread over the probes, float64 (N,); none if the trace is exact.
        method: How it was measured.
    """

    values: NDArray[np.float64]
    standard_errors: NDArray[np.float64] | None
    method: FlipdMethod


def flipd(
    denoiser: Denoiser,
    images: NDArray[np.uint8],
    labels: NDArray[np.int64] | None = None,
    config: FlipdConfig | None = None,
    progress: Progress = NO_PROGRESS,
) -> Flipd:
    """Compute FLIPD of images.

    A direction costs a forward and a backward pass. Denoisers that cannot be differentiated, as closed forms and functions of the
    caller's, are evaluated on both sides of the image instead. Random directions come from the seed and an image's own pixels, so results
    depend neither on the batch nor on the order, up to rounding of the denoiser.

    Args:
        denoiser: The model, which treats each image of a batch on its own. If it is `Latent`, images are encoded first.
        images: uint8 (N, C, H, W), pixels.
        labels: Class of each image, int64 (N,), or -1 for no label; or none.

    Raises:
        UserError: Images, labels or sigma do not fit the model, it returns values that are not finite, or it was trained on noise that
            was paired with images (`check_independent_noise`).
    """
    check_independent_noise(denoiser)
    config = config or FlipdConfig()
    given = labels_of(denoiser, images, labels)
    dim = math.prod(denoiser.image_shape)
    exact = (config.trace or ("exact" if dim <= EXACT_UP_TO else "hutchinson")) == "exact"
    model = _Model(denoiser, _level(denoiser, config.sigma))
    count = dim if exact else config.probes
    values, errors = np.empty(len(images)), np.empty(len(images))
    for at, image in enumerate(images):
        label = None if given is None else given[at : at + 1]
        x = encoded(denoiser, image[None])
        if at == 0:
            model.try_out(x, label)
        directions = None if exact else _directions(image, config, dim)
        products = torch.empty(count, dtype=torch.float64)
        for start in range(0, count, config.batch_size):
            stop = min(start + config.batch_size, count)
            if directions is None:
                v = torch.zeros(stop - start, dim, dtype=torch.float64)
                v[torch.arange(stop - start), torch.arange(start, stop)] = 1
            else:
                v = directions[start:stop]
            products[start:stop] = model.products(x, v.reshape(-1, *x.shape[1:]).to(x.device), label).cpu()
            progress(at * count + stop, len(images) * count)
        values[at] = float(products.sum() if exact else products.mean()) + model.miss(x, label)
        errors[at] = 0.0 if exact else float(products.std()) / math.sqrt(config.probes)
        check_finite(values[at : at + 1], at)
    method = FlipdMethod(
        sigma=model.sigma,
        dimension=dim,
        trace="exact" if exact else "hutchinson",
        probes=0 if exact else config.probes,
        derivative=model.derivative,
    )
    return Flipd(values, None if exact else errors, method)


class _Model:
    """A denoiser at one noise level."""

    def __init__(self, denoiser: Denoiser, sigma: float) -> None:
        self.denoiser, self.sigma = denoiser, sigma
        self.derivative: Derivative = "autograd"
        self._step = 0.0

    def clean(self, x: Tensor, label: Tensor | None) -> Tensor:
        """Return D(x), of the denoiser's type; x (B, C, H, W), the label (1,) of all."""
        return denoised(self.denoiser, x, self.sigma, None if label is None else label.expand(len(x)))

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
        if isinstance(self.denoiser, Refinable):
            self.denoiser = self.denoiser.refined()

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


def _directions(image: NDArray[np.uint8], config: FlipdConfig, dim: int) -> Tensor:
    """Return random directions from the seed and the pixels, float64 (probes, dim)."""
    generator = generator_of(image, f"flipd {config.seed}")
    if config.probe == "gaussian":
        return torch.randn(config.probes, dim, generator=generator, dtype=torch.float64)
    return torch.randint(2, (config.probes, dim), generator=generator).double().mul_(2).sub_(1)
