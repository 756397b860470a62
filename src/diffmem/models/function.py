"""Any function D(x, sigma) or D(x, sigma, labels) as a `Denoiser`."""

from __future__ import annotations

import inspect
from collections.abc import Callable

import torch
from torch import Tensor, nn

from diffmem.errors import UserError
from diffmem.models.denoiser import DescribedDenoiser, checked_labels, checked_levels

__all__ = ["FunctionDenoiser", "function_denoiser"]


class FunctionDenoiser(DescribedDenoiser):
    """A denoiser that asks a function of the caller's.

    Args:
        function: D(x, sigma, labels), or D(x, sigma) without classes -> the clean image: x float32 (B, C, H, W), images in [-1, 1] units
            plus sigma times standard normal noise; sigma float32 (B,); labels int64 (B,), or none without classes; the result of the
            shape of x. A score s is turned into one by x + sigma^2 s, a noise prediction e by x - sigma e.
        image_shape: (C, H, W).
        sigma_min: Smallest noise level it knows, above 0.
        sigma_max: Largest.
        num_labels: Number of classes, 0 for none.
        device: Where it computes; it gets its arguments there.

    Raises:
        UserError: The noise levels or the shape make no sense, or there are classes and the function takes no labels.
    """

    def __init__(
        self,
        function: Callable[..., Tensor],
        image_shape: tuple[int, int, int],
        sigma_min: float,
        sigma_max: float,
        num_labels: int = 0,
        device: torch.device | str = "cpu",
    ) -> None:
        if not 0 < sigma_min < sigma_max:
            raise UserError(
                f"The noise levels must satisfy 0 < sigma_min < sigma_max, not {sigma_min:g} and {sigma_max:g}."
            )
        if len(image_shape) != 3 or image_shape[0] not in (1, 3) or min(image_shape) < 1:
            raise UserError(f"The shape of the images must be (C, H, W) with C = 1 or 3, not {image_shape}.")
        self._function, self._takes_labels = function, _takes_labels(function)
        if num_labels and not self._takes_labels:
            raise UserError(
                f"There are {num_labels} classes, but the function takes no labels: D(x, sigma, labels)."
            )
        self.image_shape, self.num_labels, self.device = image_shape, num_labels, torch.device(device)
        self.sigma_min, self.sigma_max = sigma_min, sigma_max

    def _text(self) -> str:
        return f"function {getattr(self._function, '__name__', type(self._function).__name__)}"

    def __call__(self, x: Tensor, sigma: Tensor | float, labels: Tensor | None = None) -> Tensor:
        """Denoise a batch; see `Denoiser`.

        Raises:
            UserError: A shape or label does not fit, or the function returns anything but a tensor of the shape of x.
        """
        level = checked_levels(x, sigma, self.image_shape).float()
        given = checked_labels(labels, len(x), self.num_labels)
        also = (given.to(x.device) if self.num_labels else None,) if self._takes_labels else ()
        found = self._function(x.float(), level, *also)
        if not isinstance(found, Tensor) or found.shape != x.shape:
            what = tuple(found.shape) if isinstance(found, Tensor) else type(found).__name__
            raise UserError(
                f"The function returned {what} for images {tuple(x.shape)}; it must return as many clean images."
            )
        return found.float()


def _takes_labels(function: Callable[..., Tensor]) -> bool:
    """Return whether a function can be called with three arguments; true where Python does not know."""
    try:
        inspect.signature(function.forward if isinstance(function, nn.Module) else function).bind(0, 0, 0)
    except TypeError:
        return False
    except ValueError:  # some functions that are not written in Python have no signature
        pass
    return True


function_denoiser = FunctionDenoiser
"""Make a `Denoiser` of any function; the arguments are those of `FunctionDenoiser`."""
