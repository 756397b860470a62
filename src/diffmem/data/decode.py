"""Encoded images to pixels: one decoder with its limits and its colour rules, for folders and zips alike."""

from __future__ import annotations

import io
import warnings
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, UnidentifiedImageError

from diffmem.data.guards import MAX_PIXELS, check_bulk, check_total, reading
from diffmem.data.images import frozen
from diffmem.data.markers import (
    GIF_SIGNATURES,
    JPEG_SIGNATURE,
    TIFF_SIGNATURES,
    CountedStream,
    check_gif,
    check_jpeg,
    without_exif,
)
from diffmem.data.png import PNG_SIGNATURE, check_png
from diffmem.data.storage import new_images, parts
from diffmem.errors import UserError
from diffmem.progress import NO_PROGRESS, Progress

__all__ = ["FORMATS", "decode_image", "stack_images"]

FORMATS = {
    ".png": "PNG",
    ".jpg": "JPEG",
    ".jpeg": "JPEG",
    ".bmp": "BMP",
    ".gif": "GIF",
    ".webp": "WEBP",
    ".tif": "TIFF",
    ".tiff": "TIFF",
}
"""Image file endings and the names that Pillow has for their formats."""

_LONGEST_ROW = 65_535
_TILE_SIDES = (322, 323)  # tags of a TIFF
_GREY_16 = ("I", "I;16", "I;16B", "I;16L", "I;16N")


def decode_image(
    content: bytes, name: str, formats: tuple[str, ...] = tuple(sorted(set(FORMATS.values())))
) -> NDArray[np.uint8]:
    """Decode one image; of an animation, the first frame.

    Transparency is composited on white; CMYK, palettes and other colour spaces become RGB; 16-bit grey
    becomes 8-bit by v / 257, rounded. The pixels are those that are stored: an orientation that a
    camera noted in EXIF data turns nothing, as in the loaders that models are trained with (in a TIFF, the orientation
    is part of the format and is followed).

    Args:
        content: The bytes of the file.
        name: What to call it in errors.
        formats: The formats that are admitted, by Pillow's names.

    Returns:
        uint8 (H, W) for a grey image, (H, W, 3) for a colour one.

    Raises:
        UserError: The bytes are no whole image of these formats, or it has more than 64 megapixels.
    """
    with reading(name):
        if content.startswith(PNG_SIGNATURE):
            _check_pixels(*check_png(content), name)  # Pillow skips the CRC of the pixels
        elif content.startswith(JPEG_SIGNATURE):
            check_jpeg(content)
            content = without_exif(content)
        elif content.startswith(GIF_SIGNATURES):
            check_gif(content)
        stream = (CountedStream if content.startswith(TIFF_SIGNATURES) else io.BytesIO)(content)
        try:
            image = Image.open(stream, formats=formats)
            _check_pixels(*image.size, name)
            _check_layout(image, name)
            return _pixels(image)
        except UnidentifiedImageError:
            raise ValueError(f"it is no image of the formats {', '.join(formats)}") from None
        except Image.DecompressionBombError as error:  # Pillow's own limit, which is higher
            raise UserError(f"{name} is refused: {error}; the limit is {MAX_PIXELS:,} pixels.") from error


def _check_pixels(width: int, height: int, name: str) -> None:
    if width * height > MAX_PIXELS:
        raise UserError(
            f"{name} is refused: it has {width} x {height} pixels; the limit is {MAX_PIXELS:,}. Resize it first."
        )


def _check_layout(image: Image.Image, name: str) -> None:
    """Refuse what takes far more memory than the pixels that an image tells of."""
    tags = getattr(image, "tag_v2", {})
    width, height = (tags.get(tag) for tag in _TILE_SIDES)
    if isinstance(width, int) and isinstance(height, int):
        _check_pixels(width, height, f"{name}: a tile")
    # Pillow makes as many as 255 rows of a run-length encoded BMP at a single word of the file.
    if image.width > _LONGEST_ROW and any(part[0] == "bmp_rle" for part in getattr(image, "tile", ())):
        raise ValueError(
            f"its rows have {image.width:,} pixels; of its kind of BMP, {_LONGEST_ROW:,} are read"
        )


def _pixels(image: Image.Image) -> NDArray[np.uint8]:
    if image.mode in _GREY_16:
        return _eight_bits(np.asarray(image))
    if image.mode == "F":
        raise ValueError("its values are floats; save it with 8 bits per channel")
    if image.mode in ("LA", "La", "PA", "RGBA", "RGBa") or "transparency" in image.info:
        grey = image.mode in ("1", "L", "LA", "La")
        front = image.convert("RGBA")
        back = Image.new("RGBA", image.size, "white")
        back.alpha_composite(front)
        return np.asarray(back.convert("RGB"))[..., 0] if grey else np.asarray(back.convert("RGB"))
    if image.mode in ("1", "L"):
        return np.asarray(image.convert("L"))
    return np.asarray(image if image.mode == "RGB" else image.convert("RGB"))


def _eight_bits(values: NDArray[Any]) -> NDArray[np.uint8]:
    result = np.empty(values.shape, np.uint8)
    for part in parts(len(values), 8 * values.shape[1]):
        rows = values[part].astype(np.int64)
        if rows.min() < 0 or rows.max() > 65535:
            raise ValueError(f"its values run from {rows.min()} to {rows.max()}, outside of 16 bits")
        result[part] = (rows + 128) // 257
    return result


def stack_images(
    names: Sequence[str],
    read: Callable[[int], bytes],
    what: str,
    formats: tuple[str, ...] = tuple(sorted(set(FORMATS.values()))),
    progress: Progress = NO_PROGRESS,
    held: int | None = None,
) -> tuple[NDArray[np.uint8], tuple[str, ...]]:
    """Decode many images of one size into one array.

    Args:
        names: Name of each image.
        read: Gives the bytes of the image of an index.
        what: The folder or archive, for errors.
        formats: See `decode_image`.
        progress: Called now and then with images done and images in all.
        held: Bytes of all encoded images, where they are known before they are read; see `check_bulk`.

    Returns:
        uint8 (N, C, H, W), read-only, and what had to be done to the images, in words, one step per entry. If
        any image is in colour, all are RGB.

    Raises:
        UserError: An image is broken, the sizes differ, there are none, or all together would fill the memory.
    """
    if not names:
        raise UserError(f"{what} holds no images; images end in {', '.join(FORMATS)}.")
    stack: NDArray[np.uint8] | None = None
    grey = 0
    with warnings.catch_warnings():
        warnings.simplefilter(
            "ignore"
        )  # Pillow warns about harmless metadata and about sizes that are checked here
        for index, name in enumerate(names):
            pixels = decode_image(read(index), f"{what}: {name}", formats)
            grey += pixels.ndim == 2
            if stack is None:
                channels = 1 if pixels.ndim == 2 else 3
                check_total(len(names), (channels, *pixels.shape[:2]), what)
                if held is not None:
                    check_bulk(len(names) * pixels.size, held, what)
                stack = new_images((len(names), channels, *pixels.shape[:2]))
            if pixels.shape[:2] != stack.shape[2:]:
                raise UserError(
                    f"{what}: the images differ in size: {names[0]} is {_size(stack.shape[2:])} "
                    f"but {name} is {_size(pixels.shape[:2])}. Bring them to one size first."
                )
            if pixels.ndim == 3 and stack.shape[1] == 1:
                check_total(len(names), (3, *pixels.shape[:2]), what)
                wider = new_images((len(names), 3, *stack.shape[2:]))
                wider[:index] = stack[:index]
                stack = wider
            stack[index] = pixels if pixels.ndim == 2 else pixels.transpose(2, 0, 1)
            if index % 256 == 255:
                progress(index + 1, len(names), "decoding images")
    assert stack is not None
    mixed = 0 < grey < len(names)
    return frozen(stack), (
        f"{grey} grey images turned into RGB, like the other {len(names) - grey}",
    ) if mixed else ()


def _size(shape: Sequence[int]) -> str:
    return f"{shape[1]} x {shape[0]}"
