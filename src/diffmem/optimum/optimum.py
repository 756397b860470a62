"""The closed-form optimum of denoising score matching on a finite training set.

The denoiser that minimises the training loss on images y_1..y_N, at every noise level, is their posterior mean
D*(x; sigma) = sum_i p_i y_i with p = softmax_i(-|x - y_i|^2 / (2 sigma^2)) and y = image / 127.5 - 1 (Gu et al., TMLR
2025, appendix B; Karras et al. 2022, appendix B.3). A sampler that follows it ends on training images.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import NamedTuple

import torch
from torch import Tensor

from diffmem.data.images import ImageSet
from diffmem.errors import UserError
from diffmem.models.denoiser import Denoiser, DescribedDenoiser, checked_levels
from diffmem.optimum.bundle import Bundle, Evaluations
from diffmem.optimum.posterior import SCALE, Batch
from diffmem.optimum.references import References

__all__ = ["Following", "Optimum", "Posterior"]

STATE = 32  # bytes of the products of a query with an image: of three points and a mean


class Posterior(NamedTuple):
    """How the weights p of each query spread over the training images; all float64 (B,).

    Attributes:
        entropy: In nats, 0 to log N.
        effective_number: exp(entropy), 1 to N: how many images the mean is over; copies count one by one.
        nearest_weight: The largest weight, 1/N to 1.
    """

    entropy: Tensor
    effective_number: Tensor
    nearest_weight: Tensor


class Optimum(DescribedDenoiser):
    """The `Denoiser` that training would end on with unlimited capacity: D*(x; sigma).

    For sigma from 0.002 and values of x up to 1000, a result is within 2e-6 of the formula in exact arithmetic for
    every N: images left out move it by at most 2 `OMITTED`; errors of the logits by at most `LOGIT_ERROR`, as their
    covariance with values in [-1, 1] is no larger; float64 sums over the images by less than N 1e-16. A float32 result
    is rounded once more, by at most 6e-8. Only such errors can depend on the rest of the batch.

    Args:
        images: The training set. Its pixels stay uint8.
        conditional: Whether a query's label restricts the mean to the images of that class.
        device: Where to compute. The pixels are moved there once if they fill at most half of the free memory;
            otherwise each block is moved when it is needed.
        workspace_bytes: Memory for a call beside its arguments and its result, whatever N. If it is too small for one
            query and one image, these are processed one by one all the same.
        shared: Whether `images` are this process's share of the training set, of processes that run together. They
            call together, with equal arguments; sums are combined by log-sum-exp, so all get the mean over all shares.
            Labels are those of the whole set.

    Attributes:
        sigma_min: 0: any positive noise level is allowed.
        sigma_max: Infinite.
        tolerance: Largest posterior weight that `follow` leaves out by default.
        references: The images.
        evaluations: What following trajectories has taken so far, of all `follow`.

    Raises:
        UserError: `conditional` is set but the images have no labels, or `workspace_bytes` is below 1.
    """

    sigma_min: float = 0.0
    sigma_max: float = math.inf
    tolerance: float = 1e-6

    def __init__(
        self,
        images: ImageSet,
        conditional: bool = False,
        *,
        device: torch.device | str = "cpu",
        workspace_bytes: int = 256 * 2**20,
        shared: bool = False,
    ) -> None:
        self.device = torch.device(device)
        self.references = References(images, conditional, self.device, workspace_bytes, shared)
        self.image_shape, self.num_labels = images.shape, self.references.num_labels
        self.evaluations = Evaluations()

    def _text(self) -> str:
        return f"closed-form optimum of {self.references.count(-1):,} images"

    @torch.no_grad()
    def __call__(self, x: Tensor, sigma: Tensor | float, labels: Tensor | None = None) -> Tensor:
        """Denoise a batch.

        Args:
            x: Float (B, C, H, W): images in [-1, 1] plus sigma times standard normal noise.
            sigma: Noise level, float (B,) or a scalar, positive.
            labels: Class of each image, int64 (B,). A conditional optimum takes -1, or no labels, for "no label": the
                mean is over all images.

        Returns:
            (B, C, H, W) in [-1, 1]; float64 if x is float64, float32 otherwise.

        Raises:
            UserError: A shape does not fit, sigma is not positive, labels were given to an unconditional optimum, or a
                class does not exist or has no images.
        """
        out = torch.empty_like(x, dtype=torch.float64 if x.dtype == torch.float64 else torch.float32)
        for which, batch in self._batches(x, sigma, labels):
            sums = self.references.summed(batch, self.references.pixels.dim)
            mean = sums.mean.div_(sums.total[:, None]).div_(SCALE).sub_(1)
            out[which] = mean.reshape(-1, *self.image_shape).to(out.dtype)
        return out

    @torch.no_grad()
    def posterior(self, x: Tensor, sigma: Tensor | float, labels: Tensor | None = None) -> Posterior:
        """Return how the weights spread, to 1e-5 nats of entropy; arguments and errors are those of a call."""
        out = torch.empty(3, len(x), dtype=torch.float64, device=x.device)
        for which, batch in self._batches(x, sigma, labels):
            sums = self.references.summed(batch, 0)
            entropy = (sums.total.log() - sums.moment / sums.total).clamp_min(0)
            out[:, which] = torch.stack([entropy, entropy.exp(), 1 / sums.total])
        return Posterior(*out)

    def follow(self, tolerance: float | None = None) -> Denoiser:
        """Return this denoiser for the successive calls of one batch along its trajectories: see `Following`.

        Args:
            tolerance: Posterior weight that may be left out; the attribute if none.

        Shares of several processes, and a workspace too small for the state of one trajectory, leave it as it is.
        """
        mine = self.references
        if mine.shared or STATE * len(mine.pixels) > mine.workspace // 2:
            return self
        return Following(mine, self.tolerance if tolerance is None else tolerance, self.evaluations)

    def _batches(
        self, x: Tensor, sigma: Tensor | float, labels: Tensor | None
    ) -> Iterator[tuple[Tensor, Batch]]:
        """Check the arguments; yield positions of queries that share their images, and these queries."""
        levels = checked_levels(x, sigma, self.image_shape)
        # Bytes of a query, its parts and its mean, while those of the batch before are still in use.
        most = max(1, self.references.workspace // 2 // (96 * self.references.pixels.dim))
        for label, group in self.references.grouped(labels, len(x)):
            for which in torch.split(group.to(x.device), most):
                yield which, self.references.batch(x[which].flatten(1), levels[which], label)


class Following:
    """The `Denoiser` D*(x; sigma) for the calls of one sampler with one batch: each image is compared only while it can matter.

    Between calls of a sampler, the weights of the training images are known to change in ways that can be bounded. It is called
    like the `Optimum` that it comes from, with the points of one batch, call after call, and answers each query in the cheapest
    way that is certain (`bundle`):

    1. From a certificate: the images that had weight before are all that can have any (`certificate`).
    2. From the images that bounds leave over: the products with all images are bounded in few directions (`directions`).
    3. From a pass over all images; their products follow from those of the points before (`tracked`).

    Any sequence of points is answered rightly: only the cost depends on how far they are apart.

    Results are those of the `Optimum` to 1e-5 in [-1, 1] units in every test. What is proven of the difference is the sum of two
    parts. Images that are left out hold at most `tolerance` of the weight, which moves a result by at most twice that. And logits
    are off by at most `evaluations.rounding` (about 2e-3 at most; what was seen is a thousandth of it), root mean square under the
    weights, which moves a result by at most as much, to first order: the covariance with pixels, whose deviation is at most 1.

    Args:
        references: The images of the optimum.
        tolerance: Largest posterior weight of all images together that may be left out, in (0, 0.01].
        evaluations: Where to count what following takes.

    Raises:
        UserError: The tolerance is out of range.
    """

    sigma_min: float = 0.0
    sigma_max: float = math.inf

    def __init__(self, references: References, tolerance: float, evaluations: Evaluations) -> None:
        if not 0 < tolerance <= 0.01:
            raise UserError(f"The tolerance must be above 0 and at most 0.01, not {tolerance:g}.")
        self._references, self.tolerance, self.evaluations = references, tolerance, evaluations
        self.image_shape, self.num_labels = references.image_shape, references.num_labels
        self.device = references.pixels.device
        self._labels: tuple[int, list[int]] | None = None
        self._bundles: list[Bundle] = []

    @torch.no_grad()
    def __call__(self, x: Tensor, sigma: Tensor | float, labels: Tensor | None = None) -> Tensor:
        """Denoise the batch at its next points; arguments, result and errors are those of `Optimum`.

        A batch of another size or with other labels starts anew.
        """
        levels = checked_levels(x, sigma, self.image_shape)
        given = (len(x), [] if labels is None else labels.reshape(-1).tolist())
        if given != self._labels:
            self._bundles = []
            for label, group in self._references.grouped(labels, len(x)):
                most = max(1, self._references.workspace // 2 // (STATE * self._references.count(label)))
                self._bundles += [
                    Bundle(self._references, which, label, self.tolerance, self.evaluations)
                    for which in torch.split(group.to(self.device), most)
                ]
            self._labels = given
        out = torch.empty_like(x, dtype=torch.float64 if x.dtype == torch.float64 else torch.float32)
        self.evaluations.calls += 1
        for bundle in self._bundles:
            mean = bundle(x[bundle.which].flatten(1).double(), levels[bundle.which])
            out[bundle.which] = mean.reshape(-1, *self.image_shape).to(out.dtype)
        return out
