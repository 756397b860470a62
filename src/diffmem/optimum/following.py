"""The optimum along the trajectories of a sampler: each image is looked at only while it can matter.

Between calls of a sampler, the weights of the training images are known to change in ways that can be bounded. A `Following` is
called like the `Optimum` that it comes from, with the points of one batch, call after call, and answers each query in the cheapest
way that is certain (`bundle`):

1. From a certificate: the images that had weight before are all that can have any (`certificate`).
2. From the images that bounds leave over: the products with all images are bounded in few directions (`directions`).
3. From a pass over all images; their products follow from those of the points before (`tracked`).

Any sequence of points is answered rightly: only the cost depends on how far they are apart.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor

from diffmem.errors import UserError
from diffmem.optimum.bundle import Bundle

if TYPE_CHECKING:
    from diffmem.optimum.optimum import Optimum

__all__ = ["Following"]

STATE = 32  # bytes of the products of a query with an image: of three points and a mean


class Following:
    """The `Denoiser` D*(x; sigma) for the calls of one sampler with one batch.

    Results are those of the `Optimum` to 1e-5 in [-1, 1] units in every test. What is proven of the difference is the sum of two
    parts. Images that are left out hold at most `tolerance` of the weight, which moves a result by at most twice that. And logits
    are off by at most `evaluations.rounding` (about 2e-3 at most; what was seen is a thousandth of it), root mean square under the
    weights, which moves a result by at most as much, to first order: the covariance with pixels, whose deviation is at most 1.

    Args:
        optimum: The closed form.
        tolerance: Largest posterior weight of all images together that may be left out, in (0, 0.01].

    Attributes:
        evaluations: What following has taken so far: those of the optimum.

    Raises:
        UserError: The tolerance is out of range.
    """

    def __init__(self, optimum: Optimum, tolerance: float = 1e-6) -> None:
        if not 0 < tolerance <= 0.01:
            raise UserError(f"The tolerance must be above 0 and at most 0.01, not {tolerance:g}.")
        self._optimum, self.tolerance = optimum, tolerance
        self.sigma_min, self.sigma_max = optimum.sigma_min, optimum.sigma_max
        self.evaluations = optimum.evaluations
        self._labels: tuple[int, list[int]] | None = None
        self._bundles: list[Bundle] = []

    @property
    def image_shape(self) -> tuple[int, int, int]:
        """(C, H, W) of the images."""
        return self._optimum.image_shape

    @property
    def num_labels(self) -> int:
        """Number of classes, 0 for none."""
        return self._optimum.num_labels

    @property
    def device(self) -> torch.device:
        """Where it computes."""
        return self._optimum.device

    @torch.no_grad()
    def __call__(self, x: Tensor, sigma: Tensor | float, labels: Tensor | None = None) -> Tensor:
        """Denoise the batch at its next points; arguments, result and errors are those of `Optimum`.

        A batch of another size or with other labels starts anew.
        """
        levels = self._optimum.checked(x, sigma)
        given = (len(x), [] if labels is None else labels.reshape(-1).tolist())
        if given != self._labels:
            self._bundles = list(self._bundled(labels, len(x)))
            self._labels = given
        out = torch.empty_like(x, dtype=torch.float64 if x.dtype == torch.float64 else torch.float32)
        self.evaluations.calls += 1
        for bundle in self._bundles:
            mean = bundle(x[bundle.which].flatten(1).double(), levels[bundle.which])
            out[bundle.which] = mean.reshape(-1, *self.image_shape).to(out.dtype)
        return out

    def _bundled(self, labels: Tensor | None, count: int) -> list[Bundle]:
        bundles = []
        for label, group in self._optimum.grouped(labels, count):
            images = self._optimum.count(label)
            most = max(1, self._optimum.workspace // 2 // (STATE * images))
            bundles += [
                Bundle(self._optimum, which, label, self.tolerance, self.evaluations)
                for which in torch.split(group.to(self.device), most)
            ]
        return bundles
