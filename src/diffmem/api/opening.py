"""`open_model` and `function_denoiser`: denoisers that were made elsewhere."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from torch import Tensor

from diffmem.environment import choose_device
from diffmem.models import Denoiser, FunctionDenoiser
from diffmem.models import open_model as open_on_device

__all__ = ["function_denoiser", "open_model"]


def open_model(
    path: str | Path,
    *,
    image_shape: tuple[int, int, int] | None = None,
    settings: Mapping[str, Any] | None = None,
    weights: str = "ema",
    device: str | None = None,
    allow_pickle: bool = False,
) -> Denoiser:
    """Open a trained model; nothing in it is executed.

    Args:
        path: A run's folder of diffmem (its last snapshot) or a snapshot, an EDM network pickle, or a folder of diffusers.
        image_shape: (C, H, W) of the images that it must make; any if left out.
        settings: Constructor arguments of a network of EDM, for a safetensors file that holds its tensors alone.
        weights: Which network of an EDM pickle: 'ema', the averaged weights, or another that it holds.
        device: Where it computes: 'cpu', 'cuda' or 'cuda:N'; by default a GPU where there is one.
        allow_pickle: Whether the weights of a diffusers folder may be read from a pickle where there are no safetensors.

    Returns:
        The model; its `origin` says what was read, and what a reader of its results must know.

    Raises:
        UserError: Nothing is there, it is no model, it is damaged, or of a kind that is not supported; or an argument does not fit it.
    """
    return open_on_device(path, image_shape, settings, weights, choose_device(device), allow_pickle)


def function_denoiser(
    function: Callable[..., Tensor],
    shape: tuple[int, int, int],
    sigma_min: float,
    sigma_max: float,
    *,
    num_labels: int = 0,
    device: str = "cpu",
) -> Denoiser:
    """Return a denoiser that asks a function of yours; see `FunctionDenoiser` for what it is given and must return.

    Args:
        function: D(x, sigma, labels), or D(x, sigma) without classes -> the clean images in [-1, 1] units, of the shape of x.
        shape: (C, H, W) of the images.
        sigma_min: Smallest noise level that it knows, above 0, in [-1, 1] units.
        sigma_max: Largest.
        num_labels: Number of classes, 0 for none.
        device: Where it computes; it gets its arguments there.

    Raises:
        UserError: The noise levels or the shape make no sense, or there are classes and the function takes no labels.
    """
    return FunctionDenoiser(function, shape, sigma_min, sigma_max, num_labels, device)
