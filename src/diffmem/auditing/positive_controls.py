"""Planted copies: real images, changed in known ways, so that it is known what the criteria ought to find."""

from __future__ import annotations

import io
import zlib
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from diffmem.data.transforms import to_pil
from diffmem.errors import UserError, check_seed
from diffmem.memorization.neighbours.contents import content_keys, taken

__all__ = [
    "FRESH",
    "NEAR_COPIES",
    "NEAR_NOISE",
    "POSITIVE_CONTROLS",
    "PositiveControl",
    "control_named",
    "make_controls",
    "near_copies",
    "partners",
]

Pixels = NDArray[np.uint8]

NEAR_COPIES = 2
"""Near-copies of an image that a training set with near-copies holds beside it."""

NEAR_NOISE = 6.0
"""Their noise, RMS grey levels before clipping."""


@dataclass(frozen=True)
class PositiveControl:
    """One kind of planted image.

    Attributes:
        key: Short name.
        text: For people.
        level: How strong the change is, in the unit that the text names; 0 if nothing is changed.
        near_copies: Whether it makes sense only where the training set holds the near-copies of `near_copies`.
    """

    key: str
    text: str
    level: float = 0.0
    near_copies: bool = False


POSITIVE_CONTROLS: tuple[PositiveControl, ...] = (
    PositiveControl("exact", "exact copy"),
    PositiveControl("noise4", "Gaussian noise, 4 grey levels RMS", 4),
    PositiveControl("noise12", "Gaussian noise, 12 grey levels RMS", 12),
    PositiveControl("noise24", "Gaussian noise, 24 grey levels RMS", 24),
    PositiveControl("jpeg75", "JPEG, quality 75", 75),
    PositiveControl("jpeg50", "JPEG, quality 50", 50),
    PositiveControl("jpeg20", "JPEG, quality 20", 20),
    PositiveControl("brighter", "20 grey levels brighter", 20),
    PositiveControl("darker", "20 grey levels darker", -20),
    PositiveControl("contrast", "contrast of 75%", 0.75),
    PositiveControl("mirrored", "mirrored, left to right"),
    PositiveControl("shift1", "shifted by 1 pixel", 1),
    PositiveControl("shift2", "shifted by 2 pixels", 2),
    PositiveControl("crop", "cropped to 7/8 of each side and resized", 7 / 8),
    PositiveControl("blur", "Gaussian blur of 1 pixel", 1),
    PositiveControl("blend80", "blend of 80% with 20% of another training image", 0.8),
    PositiveControl("blend50", "blend of two training images in equal parts", 0.5),
    PositiveControl(
        "averaged", "average of an image and its near-copies in the training set", NEAR_COPIES, True
    ),
)
"""Kinds of copies, mildest first within each sort of change.

Noise is meant before values are rounded and clipped to 0..255, as brightness is. Contrast is that around the image's mean. A shift
goes in one of eight directions, drawn for each image; the pixels that come in repeat the image's edge. A crop lies anywhere, drawn for
each image, and Pillow's bicubic filter resizes it. A blur repeats the edge outwards. JPEG is Pillow's, colour subsampled 4:2:0.
"""

FRESH = PositiveControl("fresh", "fresh image, not copied")
"""Images that were not trained on: what they make a criterion flag are false alarms."""

_KINDS = {kind.key: kind for kind in (*POSITIVE_CONTROLS, FRESH)}
_PARTNER, _NEAR = 0x70617274, 0x6E656172  # streams of random bits
_COMPASS = tuple((down, right) for down in (-1, 0, 1) for right in (-1, 0, 1) if (down, right) != (0, 0))


def control_named(key: str) -> PositiveControl:
    """Return the kind with a key, `FRESH` among them.

    Raises:
        UserError: There is none.
    """
    if key not in _KINDS:
        raise UserError(f"There is no positive control {key!r}; known are {', '.join(_KINDS)}.")
    return _KINDS[key]


def make_controls(images: Pixels, key: str, seed: int, others: Pixels) -> Pixels:
    """Return planted copies of images.

    What becomes of an image depends on its own pixels, the kind, the seed and, for blends, on `others`; not on the images beside it.

    Args:
        images: uint8 (n, C, H, W), C 1 or 3.
        key: Of one of `POSITIVE_CONTROLS` or `FRESH`; a fresh image stays as it is.
        seed: 0 or more.
        others: Training images of the same shape, for blends: uint8 (m, C, H, W), also memory-mapped.

    Returns:
        uint8 (n, C, H, W), a new array.

    Raises:
        UserError: The key is not known, or a blend finds no other image.
    """
    kind = control_named(key)
    if key in ("blend80", "blend50"):
        second = taken(others, partners(images, seed, others)).astype(np.float64)
        return _to_pixels(kind.level * images + (1 - kind.level) * second)
    if kind.near_copies:
        group = np.stack([images, *near_copies(images, seed)]).astype(np.float64)
        return _to_pixels(group.sum(axis=0) / len(group))
    make = _MAKERS.get(key.rstrip("0123456789"))
    if make is None:
        return np.array(images)
    streams = _streams(images, seed, zlib.crc32(key.encode()))
    made = np.empty(images.shape, np.uint8)
    for at, (image, bits) in enumerate(zip(images, streams, strict=True)):
        made[at] = _to_pixels(make(image, kind.level, bits))
    return made


def partners(images: Pixels, seed: int, others: Pixels) -> NDArray[np.int64]:
    """Return which of the other images each image is blended with, int64 (n,): never one of the same pixels.

    Raises:
        UserError: All others are the same as an image.
    """
    found = np.empty(len(images), np.int64)
    for at, (image, bits) in enumerate(zip(images, _streams(images, seed, _PARTNER), strict=True)):
        start = int(bits.random_raw() % len(others))
        order = ((start + step) % len(others) for step in range(len(others)))
        chosen = next((one for one in order if not np.array_equal(others[one], image)), None)
        if chosen is None:
            raise UserError("A blend needs two different training images, and there is only one.")
        found[at] = chosen
    return found


def near_copies(images: Pixels, seed: int) -> list[Pixels]:
    """Return the near-copies of images: the same pictures with a little noise, `NEAR_COPIES` arrays of uint8 (n, C, H, W).

    They are what a training set holds where it holds another compression or another frame; `make_controls` averages an image with these.
    """
    return [
        np.stack(
            [
                _to_pixels(_noise(image, NEAR_NOISE, bits))
                for image, bits in zip(images, _streams(images, seed, _NEAR + copy), strict=True)
            ]
        )
        for copy in range(NEAR_COPIES)
    ]


def _streams(images: Pixels, seed: int, stream: int) -> list[np.random.PCG64]:
    """Return random bits for each image that depend on its pixels; raw bits are fixed across versions of NumPy."""
    check_seed(seed)
    return [
        np.random.PCG64(np.random.SeedSequence([seed, stream, *key])) for key in content_keys(images).tolist()
    ]


def _to_pixels(values: NDArray[np.floating] | Pixels) -> Pixels:
    return np.rint(values).clip(0, 255).astype(np.uint8)


def _noise(image: Pixels, level: float, bits: np.random.PCG64) -> NDArray[np.float64]:
    from scipy.special import ndtri

    uniform = ((bits.random_raw(image.size) >> np.uint64(11)) + 0.5) * 2.0**-53
    return np.asarray(image + level * ndtri(uniform).reshape(image.shape), np.float64)


def _jpeg(image: Pixels, level: float, bits: np.random.PCG64) -> Pixels:
    from PIL import Image

    stored = io.BytesIO()
    to_pil(image).save(stored, "JPEG", quality=int(level))
    with Image.open(stored) as opened:
        pixels = np.asarray(opened)
    return pixels.reshape(*image.shape[1:], -1).transpose(2, 0, 1)


def _shift(image: Pixels, level: float, bits: np.random.PCG64) -> Pixels:
    down, right = _COMPASS[int(bits.random_raw() % len(_COMPASS))]
    size = int(level)
    _, height, width = image.shape
    rows = (np.arange(height) - size * down).clip(0, height - 1)
    columns = (np.arange(width) - size * right).clip(0, width - 1)
    return image[:, rows][:, :, columns]


def _crop(image: Pixels, level: float, bits: np.random.PCG64) -> Pixels:
    from PIL import Image

    _, height, width = image.shape
    tall, wide = max(1, round(level * height)), max(1, round(level * width))
    top, left = (int(bits.random_raw() % (free + 1)) for free in (height - tall, width - wide))
    part = to_pil(image[:, top : top + tall, left : left + wide])
    back = np.asarray(part.resize((width, height), Image.Resampling.BICUBIC))
    return back.reshape(height, width, -1).transpose(2, 0, 1)


def _blur(image: Pixels, level: float, bits: np.random.PCG64) -> NDArray[np.float64]:
    from scipy.ndimage import gaussian_filter

    return np.asarray(gaussian_filter(image.astype(np.float64), (0, level, level), mode="nearest"))


_Maker = Callable[[Pixels, float, np.random.PCG64], NDArray[np.float64] | Pixels]
_MAKERS: dict[str, _Maker] = {
    "noise": _noise,
    "jpeg": _jpeg,
    "brighter": lambda image, level, bits: image.astype(np.float64) + level,
    "darker": lambda image, level, bits: image.astype(np.float64) + level,
    "contrast": lambda image, level, bits: image.mean() + level * (image - image.mean()),
    "mirrored": lambda image, level, bits: image[..., ::-1],
    "shift": _shift,
    "crop": _crop,
    "blur": _blur,
}
