"""What denoisers with a closed form ask of their arguments."""

from __future__ import annotations

import torch
from torch import Tensor

from diffmem.errors import UserError

__all__ = ["checked_labels", "checked_levels"]


def checked_levels(x: Tensor, sigma: Tensor | float, image_shape: tuple[int, int, int]) -> Tensor:
    """Return the noise level of each image of a batch x, (B, *image_shape): float64 (B,).

    Raises:
        UserError: A shape does not fit, or a level is not positive.
    """
    if x.ndim != 4 or tuple(x.shape[1:]) != image_shape:
        raise UserError(f"Images to denoise have shape {tuple(x.shape)}, not (B, *{image_shape}).")
    levels = torch.as_tensor(sigma, dtype=torch.float64, device=x.device).reshape(-1)
    if len(levels) not in (1, len(x)):
        raise UserError(f"There are {len(levels)} noise levels for {len(x)} images; give one per image.")
    if not bool((levels > 0).all()):
        raise UserError(f"Noise levels must be positive, not {levels[~(levels > 0)][0]:g}.")
    return levels.expand(len(x))


def checked_labels(labels: Tensor | None, count: int, num_labels: int) -> Tensor:
    """Return the label of each of `count` images, -1 for none: int64 (count,), on the CPU.

    Raises:
        UserError: There are no classes, their number does not fit, or a class does not exist.
    """
    if labels is not None and not num_labels:
        raise UserError("This denoiser is unconditional: it takes no labels. Leave them out.")
    given = torch.full((1,), -1) if labels is None else labels.reshape(-1).cpu()
    if len(given) not in (1, count):
        raise UserError(f"There are {len(given)} labels for {count} images; give one for each.")
    given = given.expand(count)
    for label in torch.unique(given).tolist():
        if not -1 <= label < max(1, num_labels):
            raise UserError(f"Label {label} is outside 0..{num_labels - 1}, the existing classes.")
    return given
