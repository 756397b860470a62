"""The optimum along the trajectories of a sampler: each image is compared only while it can matter.

Between calls of a sampler, the weights of the training images are known to change in ways that can be bounded. A `Following` is
called like the `Optimum` that it comes from, with the points of one batch, call after call, and answers each query in the cheapest
way that is certain (`bundle`):

1. From a certificate: the images that had weight before are all that can have any (`certificate`).
2. From the images that bounds leave over: the products with all images are bounded in few directions (`directions`).
3. From a pass over all images; their products follow from those of the points before (`tracked`).

Any sequence of points is answered rightly: only the cost depends on how far they are apart.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from diffmem.errors import UserError
from diffmem.models.denoiser import checked_levels
from diffmem.optimum.bundle import Bundle, Evaluations
from diffmem.optimum.references import References

__all__ = ["Following"]

STATE = 32  # bytes of the products of a query with an image: of three points and a mean


class Following:
    """The `Denoiser` D*(x; sigma) for the calls of one sampler with one batch.

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
