"""Encoded images to pixels: one decoder with its limits and its rules, for folders, zips and ImageNet alike."""

from __future__ import annotations

import contextlib
import io
import logging
import os
import tempfile
import threading
from collections.abc import Iterator
from typing import IO

import numpy as np
from numpy.typing import NDArray
from PIL import Image, UnidentifiedImageError

from diffmem.data.conversions import Tally
from diffmem.data.formats.deep import deep_pnm, deep_values, eight_bits
from diffmem.data.formats.guards import MAX_PIXELS
from diffmem.data.formats.guards import reading as as_text
from diffmem.data.formats.headers import (
    Header,
    check_size,
    orientation_of,
    read_header_of,
    upright,
    xmp_orientation,
)
from diffmem.data.formats.markers import CountedStream, without_exif
from diffmem.data.formats.signatures import HEAD_BYTES, not_an_image, readable_format
from diffmem.data.reading import OPTIONS, Reading
from diffmem.errors import UserError

__all__ = ["decode_pages", "quiet", "stored_orientation"]

_STDERR = 2
_LOCK = threading.RLock()

# Without a handler, Python prints Pillow's own log of damaged files; programs that set up logging still get it.
logging.getLogger("PIL").addHandler(logging.NullHandler())


_LONGEST_ROW = 65_535
_TILE_SIDES = (322, 323)  # tags of a TIFF
_WITH_ALPHA = ("LA", "La", "PA", "RGBA", "RGBa")
_COLOURS = {
    "P": "palette to RGB",
    "PA": "palette to RGB",
    "1": "black and white to grey",
    "CMYK": "CMYK to RGB",
    "YCbCr": "YCbCr to RGB",
    "LAB": "LAB to RGB",
    "HSV": "HSV to RGB",
}


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Let nothing that a C library prints on standard error out of the block; one thread at a time.

    The file descriptor is what such libraries know, so that what other threads print meanwhile is lost: keep the block
    short.
    """
    with _LOCK:
        try:
            kept = os.dup(_STDERR)
        except OSError:  # there is no standard error
            yield
            return
        try:
            nowhere = os.open(os.devnull, os.O_WRONLY)
            try:
                os.dup2(nowhere, _STDERR)
            finally:
                os.close(nowhere)
            yield
        finally:
            os.dup2(kept, _STDERR)
            os.close(kept)


def decode_pages(content: bytes, name: str, reading: Reading, tally: Tally) -> list[NDArray[np.uint8]]:
    """Decode the pages or frames of one file that are asked for, and count what is done to them.

    By default, transparency is composited on white; CMYK, palettes and other colour spaces become RGB; 16 bits become 8
    by 255 v / white, rounded, white being what the format tells or 65,535. The pixels are those that are stored: an
    orientation that a camera noted in EXIF data turns nothing, as in torchvision's ImageFolder (the imagefolder of
    Hugging Face datasets turns images; `Reading.exif` chooses). In a TIFF, the orientation is part of the format and is
    followed. Colour profiles are not applied.

    Args:
        content: The bytes of the file.
        name: What to call it in errors.
        reading: How it is read.
        tally: Where to count.

    Returns:
        One image, or with `pages` 'all' one or more, each uint8 (H, W) or (H, W, 3).

    Raises:
        UserError: The bytes are no whole image of the formats that are read, it is larger than `check_size` admits, or it
            has several pages and these are refused.
    """
    with as_text(name):
        head = content[:HEAD_BYTES]
        kind = readable_format(head)
        if kind is None:
            raise not_an_image(head, name)
        tally.files += 1
        header = read_header_of(content, kind)
        check_size(header.width, header.height, header.frames, name)
        deep = deep_pnm(content) if kind == "PPM" else None
        if deep is not None:
            return [eight_bits(deep, name, reading, tally)]
        try:
            with quiet() if kind == "TIFF" else contextlib.nullcontext():  # libtiff prints
                return _decoded(content, kind, header, name, reading, tally)
        except UnidentifiedImageError:
            raise ValueError(f"it begins like a {kind} but is none") from None
        except Image.DecompressionBombError as error:  # Pillow's own limit, which is higher
            raise UserError(f"{name} is refused: {error}; the limit is {MAX_PIXELS:,} pixels.") from error


def stored_orientation(content: bytes) -> int:
    """Return the EXIF orientation of an image, 0 to 8, without decoding it; 0 where it is no whole image."""
    kind = readable_format(content[:HEAD_BYTES])
    if kind not in ("PNG", "JPEG", "WEBP"):
        return 0
    try:
        return read_header_of(content, kind).orientation
    except (EOFError, ValueError):
        return 0


def _decoded(
    content: bytes, kind: str, header: Header, name: str, reading: Reading, tally: Tally
) -> list[NDArray[np.uint8]]:
    if kind == "JPEG":
        content = without_exif(content)
    elif header.hidden:
        changed = bytearray(content)
        for place in header.hidden:
            changed[place : place + 4] = b"EXIF"
        content = bytes(changed)
    every = _every_page(header.frames, kind, name, reading, tally)
    pages: list[NDArray[np.uint8]] = []
    of_file = Tally() if every else tally
    with _stream(content, kind, every) as stream:
        image = Image.open(stream, formats=(kind,))
        check_size(*image.size, 1, name)
        if header.bits > 8:
            tally.colours[f"{header.bits} bits of an AVIF to 8"] += 1
        turn = header.orientation
        if kind == "TIFF":  # whose orientation Pillow follows
            tally.tiff_turned += turn > 1
            turn = 0
        elif image.info:
            turn = turn or _noted_elsewhere(image)
        tally.turned += turn > 1
        tally.mpo += image.format == "MPO"
        if "icc_profile" in image.info:
            tally.profiles += not _is_srgb(image.info["icc_profile"])
        for page in range(getattr(image, "n_frames", 1) if every else 1):
            if page:
                image.seek(page)
                check_size(*image.size, 1, name)
            _check_layout(image, name)
            pixels = _pixels(image, content, kind, page, name, reading, of_file)
            pages.append(upright(pixels, turn) if reading.exif == "apply" else pixels)
    if every:
        tally.pages += len(pages)
        tally.add_pages(of_file)
    return pages


def _every_page(frames: int, kind: str, name: str, reading: Reading, tally: Tally) -> bool:
    """Return whether all pages are read; refuse several where that is wished for, and by default those of TIFFs."""
    if frames < 2:
        return False
    if reading.pages == "refuse" or (reading.pages is None and kind == "TIFF"):
        word = "pages" if kind == "TIFF" else "frames"
        raise UserError(
            f"{name} holds {frames:,} {word}: --pages first reads the first of each file, --pages all reads every one as an"
            f" image of its own ({OPTIONS})."
        )
    tally.several += 1
    tally.others += 0 if reading.pages == "all" else frames - 1
    return reading.pages == "all"


def _stream(content: bytes, kind: str, every: bool) -> IO[bytes]:
    """Open the bytes of a file as Pillow is to read them."""
    if kind != "TIFF":
        return io.BytesIO(content)
    if not every:
        return CountedStream(content)
    # Of a file in memory, libtiff is given a copy of the whole for each page.
    file = tempfile.TemporaryFile(prefix="diffmem-")  # noqa: SIM115 - closed by who asked for it
    file.write(content)
    file.seek(0)
    return file


def _noted_elsewhere(image: Image.Image) -> int:
    """Return the orientation where Pillow looks for it beside the usual place: in old PNGs, AVIFs and XMP."""
    noted = image.info.get("exif")
    old = image.info.get("Raw profile type exif")
    if noted is None and isinstance(old, (str, bytes)):
        text = old if isinstance(old, str) else old.decode("latin-1")
        with contextlib.suppress(ValueError):
            noted = bytes.fromhex("".join(text.split("\n")[3:]))
    turn = orientation_of(noted) if isinstance(noted, bytes) else 0
    if turn:
        return turn
    xmp = image.info.get("XML:com.adobe.xmp") or image.info.get("xmp")
    return (
        xmp_orientation(xmp.encode() if isinstance(xmp, str) else xmp) if isinstance(xmp, (str, bytes)) else 0
    )


def _is_srgb(profile: object) -> bool:
    return isinstance(profile, bytes) and (b"sRGB" in profile or "sRGB".encode("utf-16-be") in profile)


def _check_layout(image: Image.Image, name: str) -> None:
    """Refuse what takes far more memory than the pixels that an image tells of."""
    tags = getattr(image, "tag_v2", {})
    width, height = (tags.get(tag) for tag in _TILE_SIDES)
    if isinstance(width, int) and isinstance(height, int):
        check_size(width, height, 1, f"{name}: a tile")
    # Pillow makes as many as 255 rows of a run-length encoded BMP at a single word of the file.
    if image.width > _LONGEST_ROW and any(part[0] == "bmp_rle" for part in getattr(image, "tile", ())):
        raise ValueError(
            f"its rows have {image.width:,} pixels; of its kind of BMP, {_LONGEST_ROW:,} are read"
        )


def _pixels(
    image: Image.Image, content: bytes, kind: str, page: int, name: str, reading: Reading, tally: Tally
) -> NDArray[np.uint8]:
    if image.mode == "F":
        raise UserError(f"Cannot read {name}: its values are floats; save it with 8 bits per channel.")
    deep = deep_values(image, content, kind, page, name, tally)
    if deep is not None:
        return eight_bits(deep, name, reading, tally)
    if image.mode in _COLOURS:
        tally.colours[_COLOURS[image.mode]] += 1
    if image.mode in _WITH_ALPHA or "transparency" in image.info:
        return _on_ground(image, reading, tally)
    if image.mode in ("1", "L"):
        return np.asarray(image.convert("L"))
    return np.asarray(image if image.mode == "RGB" else image.convert("RGB"))


def _on_ground(image: Image.Image, reading: Reading, tally: Tally) -> NDArray[np.uint8]:
    grey = image.mode in ("1", "L", "LA", "La")
    front = image.convert("RGBA")
    tally.alpha += 1
    if front.getchannel("A").getextrema() != (255, 255):
        tally.transparent += 1
        if reading.alpha != "drop":
            back = Image.new("RGBA", image.size, reading.alpha)
            back.alpha_composite(front)
            front = back
    pixels = np.asarray(front.convert("RGB"))
    return pixels[..., 0] if grey else pixels
