"""What the functions of the public API take: images and models, at hand or on disk."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from diffmem.data import ImageSet, Reading, open_images
from diffmem.data.names import NumberedNames
from diffmem.errors import UserError
from diffmem.models import Denoiser, open_model
from diffmem.progress import show_progress

__all__ = ["Images", "Model", "as_images", "as_model"]

Images = ImageSet | NDArray[np.uint8] | str | Path
"""A set, an array uint8 (N, C, H, W), or anything that `open_images` reads."""

Model = Denoiser | str | Path
"""A denoiser, or anything that `open_model` reads."""


def as_images(images: Images, reading: Reading | None = None) -> ImageSet:
    """Return a set of images, read if it is named.

    Args:
        images: See `Images`.
        reading: How encoded images become pixels.

    Raises:
        UserError: The images cannot be read, or the array is none of images.
    """
    if isinstance(images, ImageSet):
        return images
    if isinstance(images, str | Path):
        with show_progress("Reading images") as progress:
            return open_images(images, progress=progress, reading=reading or Reading())
    if not isinstance(images, np.ndarray):
        raise UserError(
            f"Images are an ImageSet, an array uint8 (N, C, H, W) or a path, not {type(images).__name__};"
            " of a tensor, give x.cpu().numpy() in 0 to 255."
        )
    return ImageSet(images, None, NumberedNames("array", range(len(images))), None, ("given as an array",))


def as_model(model: Model, device: str, **details: Any) -> Denoiser:
    """Return a model, opened if it is named.

    Args:
        model: See `Model`. A denoiser computes where it is.
        device: Where a model that is opened computes.
        details: Further arguments of `open_model`.

    Raises:
        UserError: The model cannot be read.
    """
    if isinstance(model, str | Path):
        return open_model(model, device=device, **details)
    return model
