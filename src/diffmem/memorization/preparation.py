"""How images are prepared for a network that was trained on prepared ones: size, crop, normalization."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from diffmem.errors import UserError, nearest

__all__ = ["PREPARATIONS", "Preparation", "preparation_named"]

_IMAGENET = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
_HALF = (0.5, 0.5, 0.5), (0.5, 0.5, 0.5)


@dataclass(frozen=True)
class Preparation:
    """Bring uint8 images to what a network takes: RGB, values 0 to 1, resized, cropped, normalized.

    Attributes:
        side: Of the shorter side after resizing (bilinear with antialiasing), or of both.
        skewed: Whether both sides become `side`, whatever the shape.
        crop: Side of the square that is cut out of the middle; 0 for none.
        mean: Subtracted from each channel.
        std: Each channel is divided by it.
    """

    side: int
    skewed: bool
    crop: int
    mean: tuple[float, float, float]
    std: tuple[float, float, float]

    def __call__(self, images: Tensor) -> Tensor:
        """Return float32 (B, 3, h, w) for uint8 (B, 1 or 3, H, W)."""
        x = images.expand(-1, 3, -1, -1).float() / 255
        height, width = x.shape[2:]
        scale = self.side / min(height, width)
        size = (self.side, self.side) if self.skewed else (round(height * scale), round(width * scale))
        x = torch.nn.functional.interpolate(x, size, mode="bilinear", antialias=True, align_corners=False)
        if self.crop:
            top, left = (x.shape[2] - self.crop) // 2, (x.shape[3] - self.crop) // 2
            x = x[:, :, top : top + self.crop, left : left + self.crop]
        mean, std = (torch.tensor(values, device=x.device)[:, None, None] for values in (self.mean, self.std))
        return (x - mean) / std


PREPARATIONS: dict[str, Preparation | None] = {
    "uint8": None,
    "sscd": Preparation(288, False, 0, *_IMAGENET),
    "sscd-320": Preparation(320, True, 0, *_IMAGENET),
    "dcr": Preparation(256, False, 224, *_HALF),
}
"""Preparations in use, by name: 'uint8', none at all, for networks that prepare by themselves; 'sscd' and 'sscd-320', the two that the
authors of SSCD recommend (Pizzi et al. 2022; shorter side 288, or both sides 320); 'dcr', that of Somepalli et al. (2023). Similarities of
different preparations are not comparable, so the name stands in the protocol id."""


def preparation_named(name: str) -> Preparation | None:
    """Return a preparation by its name.

    Raises:
        UserError: There is none of this name.
    """
    if name not in PREPARATIONS:
        raise UserError(
            f"There is no preparation {name!r}; choose {', '.join(PREPARATIONS)}.{nearest(name, list(PREPARATIONS))}"
        )
    return PREPARATIONS[name]
