"""Any function D(x, sigma) or D(x, sigma, labels) as a `Denoiser`, or a network by what it predicts."""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable, Sequence
from typing import Any, Literal, TypedDict, Unpack, get_args

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from diffmem.errors import UserError, nearest
from diffmem.models.continuous import Coefficients, ContinuousDenoiser, ContinuousProcess, straight_flow
from diffmem.models.denoiser import DescribedDenoiser, checked_labels, checked_levels, network_text
from diffmem.models.discrete import DiscreteDenoiser, DiscreteProcess, Prediction, Timesteps, levels_of

__all__ = ["PREDICTIONS", "FunctionDenoiser", "PredictionOptions", "function_denoiser"]


class FunctionDenoiser(DescribedDenoiser):
    """A denoiser that asks a function of the caller's.

    Args:
        function: D(x, sigma, labels), or D(x, sigma) without classes -> the clean image: x float32 (B, C, H, W), images in [-1, 1] units
            plus sigma times standard normal noise; sigma float32 (B,); labels int64 (B,), or none without classes; the result of the
            shape of x. A score s is turned into one by x + sigma^2 s.
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
        _check_range(sigma_min, sigma_max)
        _check_shape(image_shape)
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


def _check_range(sigma_min: float, sigma_max: float) -> None:
    if not 0 < sigma_min < sigma_max:
        raise UserError(
            f"The noise levels must satisfy 0 < sigma_min < sigma_max, not {sigma_min:g} and {sigma_max:g}."
        )


def _check_shape(image_shape: tuple[int, int, int]) -> None:
    if len(image_shape) != 3 or image_shape[0] not in (1, 3) or min(image_shape) < 1:
        raise UserError(f"The shape of the images must be (C, H, W) with C = 1 or 3, not {image_shape}.")


def _takes_labels(function: Callable[..., Tensor]) -> bool:
    """Return whether a function can be called with three arguments; true where Python does not know."""
    try:
        inspect.signature(function.forward if isinstance(function, nn.Module) else function).bind(0, 0, 0)
    except TypeError:
        return False
    except ValueError:  # some functions that are not written in Python have no signature
        pass
    return True


class PredictionOptions(TypedDict, total=False):
    """What a network that predicts something else than D was trained for; see `function_denoiser`."""

    levels: Tensor | Sequence[float] | NDArray[np.floating[Any]]
    betas: Tensor | Sequence[float] | NDArray[np.floating[Any]]
    timesteps: Timesteps
    noise_at: Literal[0, 1]
    time_scale: float


PREDICTIONS: dict[str, Prediction | Literal["velocity"]] = {
    "noise": "epsilon",
    "epsilon": "epsilon",
    "clean": "sample",
    "sample": "sample",
    "x0": "sample",
    "v": "v_prediction",
    "v_prediction": "v_prediction",
    "velocity": "velocity",
}
"""What a network may predict, by the names that it goes by."""


def function_denoiser(
    function: Callable[..., Tensor],
    image_shape: tuple[int, int, int],
    sigma_min: float | None = None,
    sigma_max: float | None = None,
    num_labels: int = 0,
    device: torch.device | str = "cpu",
    prediction: str | None = None,
    **options: Unpack[PredictionOptions],
) -> FunctionDenoiser | DiscreteDenoiser | ContinuousDenoiser:
    """Make a `Denoiser` of any function: of D itself, or of a network by what it predicts.

    Without `prediction`, the function is D(x, sigma) or D(x, sigma, labels), see `FunctionDenoiser`, and both noise levels are needed.

    Args:
        function: With `prediction`, F(x_t, t) or F(x_t, t, labels), as the network was trained: x_t float32 (B, C, H, W), the noisy
            image of the network's own process, made of images in [-1, 1]; t (B,), the timestep or the time; labels int64 (B,), -1 for
            none, or none without classes. It returns the shape of x_t.
        image_shape: (C, H, W).
        sigma_min: Smallest noise level. Timesteps have theirs; of a velocity, 0.0001 unless given.
        sigma_max: Largest; of a velocity, 10,000 unless given.
        num_labels: Number of classes, 0 for none.
        device: Where it computes; it gets its arguments there.
        prediction: For x_t = sqrt(a_t) y + sqrt(1 - a_t) n (variance preserving: DDPM and its like): 'noise' or 'epsilon', that is n;
            'clean', 'sample' or 'x0', that is y; 'v' or 'v_prediction', that is sqrt(a_t) n - sqrt(1 - a_t) y. For straight paths
            between noise and images (flow matching, rectified flow): 'velocity', the derivative of x_t by t.
        options: Of timesteps, one of

            - levels: sigma_t = sqrt((1 - a_t) / a_t) of each timestep 0, 1, ..., ascending (T,);
            - betas: the rates of noise instead, a_t being the product of 1 - beta up to t;

            and timesteps: 'interpolated', fractional ones (float32) between levels, or 'nearest', whole ones (int64), which a network
            that looks them up in a table needs; see `DiscreteProcess`. 'interpolated' unless given. Of a velocity:

            - noise_at: the time at which x_t is noise. 0, x_t = t y + (1 - t) n and F is y - n, unless given (torchcfm, flow_matching);
              or 1, x_t = (1 - t) y + t n and F is n - y (diffusers, rectified flow);
            - time_scale: what the network's time is multiplied by; 1 unless given, often 1,000.

    Raises:
        UserError: An argument is missing, makes no sense or does not belong to what is predicted.
    """
    if prediction is None:
        _refuse(options, (), "belongs to a prediction: 'noise', 'clean', 'v' or 'velocity'")
        if sigma_min is None or sigma_max is None:
            raise UserError(
                "Give sigma_min and sigma_max, the range of D(x, sigma); or prediction, if the function is a network that predicts"
                " something else."
            )
        return FunctionDenoiser(function, image_shape, sigma_min, sigma_max, num_labels, device)
    kind = PREDICTIONS.get(prediction)
    if kind is None:
        raise UserError(
            f"The prediction must be one of {', '.join(PREDICTIONS)}, not {prediction!r}.{nearest(str(prediction), list(PREDICTIONS))}"
        )
    network = _Network(function, num_labels)
    null = -1 if num_labels else None
    _check_shape(image_shape)
    if kind == "velocity":
        _refuse(options, ("noise_at", "time_scale"), "is for timesteps, and a velocity has a time")
        low, high = 1e-4 if sigma_min is None else sigma_min, 1e4 if sigma_max is None else sigma_max
        _check_range(low, high)
        process = _straight(low, high, options.get("noise_at", 0), options.get("time_scale", 1.0))
        return ContinuousDenoiser(network, process, image_shape, num_labels, null_label=null, device=device)
    _refuse(options, ("levels", "betas", "timesteps"), "is for a velocity")
    if sigma_min is not None or sigma_max is not None:
        raise UserError("The noise levels of the timesteps are its range: leave out sigma_min and sigma_max.")
    timesteps = options.get("timesteps", "interpolated")
    if timesteps not in get_args(Timesteps):
        raise UserError(f"timesteps must be 'interpolated' or 'nearest', not {timesteps!r}.")
    discrete = DiscreteProcess(_levels(options), kind, timesteps)
    return DiscreteDenoiser(network, discrete, image_shape, num_labels, null_label=null, device=device)


class _Network:
    """A network of the caller's, asked with labels if it takes them, and checked."""

    def __init__(self, function: Callable[..., Tensor], num_labels: int) -> None:
        self._function, self._takes_labels = function, _takes_labels(function)
        if num_labels and not self._takes_labels:
            raise UserError(
                f"There are {num_labels} classes, but the function takes no labels: F(x, t, labels)."
            )

    def __str__(self) -> str:
        return network_text(self._function)

    def __call__(self, x: Tensor, time: Tensor, labels: Tensor | None) -> Tensor:
        found = self._function(x, time, *((labels,) if self._takes_labels else ()))
        if not isinstance(found, Tensor) or found.shape != x.shape:
            what = tuple(found.shape) if isinstance(found, Tensor) else type(found).__name__
            raise UserError(
                f"The function returned {what} for images {tuple(x.shape)}; it must return a tensor of their shape. Of an object, give the"
                f" tensor in it; of a network that also predicts a variance, the first {x.shape[1]} channels."
            )
        return found


def _refuse(options: PredictionOptions, known: tuple[str, ...], reason: str) -> None:
    every = list(PredictionOptions.__annotations__)
    for name in options:
        if name not in every:
            raise UserError(f"There is no option {name!r}.{nearest(name, every)}")
        if name not in known:
            raise UserError(f"{name} {reason}; leave it out.")


def _levels(options: PredictionOptions) -> Tensor:
    """Return the noise levels of the timesteps, checked."""
    if ("levels" in options) == ("betas" in options):
        raise UserError(
            "Give the noise levels of the timesteps, either as levels, sqrt((1 - a) / a) for a = alphas_cumprod, or as betas."
        )
    name: Literal["levels", "betas"] = "levels" if "levels" in options else "betas"
    try:
        given = torch.as_tensor(options[name]).detach().cpu()
    except (TypeError, ValueError, RuntimeError) as error:
        raise UserError(f"{name} must be numbers, one for each timestep.") from error
    if given.ndim != 1 or bool(given.isnan().any()):
        raise UserError(
            f"{name} must be numbers, one for each timestep (T,), not of shape {tuple(given.shape)}."
        )
    given = given if given.is_floating_point() else given.double()
    if name == "betas":
        return levels_of(given, products=given.dtype)
    levels = given.double()
    if len(levels) and bool(levels[-1].isinf()):
        levels = levels[:-1]  # as of `levels_of`: nothing of the image is left, and no x has this level
    if len(levels) < 2:
        raise UserError(f"There are {len(levels)} finite levels; at least 2 are needed.")
    if not bool((levels.diff(prepend=levels.new_zeros(1)) > 0).all()) or bool(levels.isinf().any()):
        raise UserError(
            "The levels must be positive and ascend with the timestep, as sqrt((1 - a) / a) for a = alphas_cumprod does; these go from"
            f" {levels[0]:g} to {levels[-1]:g}. Of betas, give them as betas."
        )
    return levels


def _straight(sigma_min: float, sigma_max: float, noise_at: int, time_scale: float) -> ContinuousProcess:
    """Return straight paths whose time may run the other way, and in other units."""
    if noise_at not in (0, 1):
        raise UserError(f"noise_at is the time at which a path is noise, 0 or 1, not {noise_at!r}.")
    if not 0 < time_scale < math.inf:
        raise UserError(f"time_scale must be a positive number, not {time_scale!r}.")
    forward = straight_flow(sigma_min, sigma_max)

    def coefficients(sigma: Tensor) -> Coefficients:
        skip, out, scale, time = forward.coefficients(sigma)
        if noise_at:  # sigma t is 1 - t, without cancellation
            out, time = -out, sigma * time
        return Coefficients(skip, out, scale, time_scale * time)

    return ContinuousProcess(
        f"{forward.text}, noise at time {noise_at * time_scale:g}, images at {(1 - noise_at) * time_scale:g}",
        coefficients,
        sigma_min,
        sigma_max,
    )
