"""Many encoded images as one array of one shape, and what had to be done to them."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence
from functools import partial
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from diffmem.data.conversions import Conversion, Tally
from diffmem.data.formats.decode import decode_pages, stored_orientation
from diffmem.data.formats.files import PassedOver
from diffmem.data.formats.guards import check_bulk, check_total
from diffmem.data.formats.headers import quarter_turned
from diffmem.data.images import frozen
from diffmem.data.reading import AS_USUAL, OPTIONS, Reading
from diffmem.data.storage import new_images
from diffmem.data.transforms import fitted
from diffmem.errors import UserError
from diffmem.progress import NO_PROGRESS, Progress
from diffmem.text import count_text

__all__ = ["Stacked", "stack_images"]

_MOST_LOOKED_AT = 20_000  # files whose orientation an error tells of
_SMALL_PART = 0.25  # of the range of 16 bits


class Stacked(NamedTuple):
    """Images that were decoded.

    Attributes:
        images: uint8 (N, C, H, W), read-only. If any image is in colour, all are RGB.
        files: Which file each image is of, int64 (N,), ascending.
        names: Name of each image: of its file, with the page where there are several.
        conversions: What had to be done.
    """

    images: NDArray[np.uint8]
    files: NDArray[np.int64]
    names: tuple[str, ...]
    conversions: tuple[Conversion, ...]


class _Stack:
    """An array of images that grows, and turns from grey to RGB, as it has to.

    Args:
        expected: Number of images that are expected.
        what: The folder or archive, for errors.
        held: Bytes of all encoded images, where they are known; see `check_bulk`.
    """

    def __init__(self, expected: int, what: str, held: int | None) -> None:
        self._expected, self._what, self._held = expected, what, held
        self._array: NDArray[np.uint8] | None = None
        self.count = 0

    @property
    def size(self) -> tuple[int, int] | None:
        """Height and width of the images; none before the first."""
        return None if self._array is None else (self._array.shape[2], self._array.shape[3])

    def add(self, pixels: NDArray[np.uint8]) -> None:
        """Add an image, (H, W) or (H, W, 3), of the size of the others.

        Raises:
            UserError: All together would fill the memory.
        """
        array, planes = self._array, 1 if pixels.ndim == 2 else 3
        if array is None:
            array = self._made(self._expected, planes, *pixels.shape[:2])
        elif self.count == len(array) or planes > array.shape[1]:
            length = len(array) if self.count < len(array) else len(array) + len(array) // 2 + 16
            wider = self._made(length, max(planes, array.shape[1]), *pixels.shape[:2])
            wider[: self.count] = array[: self.count]
            array = wider
        array[self.count] = pixels if planes == 1 else pixels.transpose(2, 0, 1)
        self._array = array
        self.count += 1

    def _made(self, count: int, channels: int, height: int, width: int) -> NDArray[np.uint8]:
        check_total(count, (channels, height, width), self._what)
        if self._held is not None:
            check_bulk(count * channels * height * width, self._held, self._what)
        return new_images((count, channels, height, width))

    def images(self) -> NDArray[np.uint8]:
        """Return all images, read-only."""
        assert self._array is not None
        return frozen(self._array[: self.count])


def stack_images(
    names: Sequence[str],
    read: Callable[[int], bytes],
    what: str,
    reading: Reading = AS_USUAL,
    progress: Progress = NO_PROGRESS,
    held: int | None = None,
    prepared: Callable[[NDArray[np.uint8]], NDArray[np.uint8]] | None = None,
) -> Stacked:
    """Decode many images of one size, or brought to one, into one array.

    Args:
        names: Name of each file.
        read: Gives the bytes of the file of an index.
        what: The folder or archive, for errors.
        reading: How they are read.
        progress: Called now and then with files done and files in all.
        held: Bytes of all encoded images, where they are known before they are read; see `check_bulk`.
        prepared: Brings an image, (H, W) or (H, W, 3), to its shape; as `reading` says if left out.

    Raises:
        UserError: An image is broken, the sizes differ, there are none, all together would fill the memory, or the white
            level of 16-bit images is unclear.
    """
    if not names:
        raise PassedOver().nothing(what)
    if prepared is None and reading.fit is not None and reading.resolution is not None:
        prepared = partial(fitted, fit=reading.fit, side=reading.resolution)
    tally, stack = Tally(), _Stack(len(names), what, held)
    files: list[int] = []
    labels: list[str] = []
    with warnings.catch_warnings():
        # Pillow warns about harmless metadata and about sizes that are checked here.
        warnings.simplefilter("ignore")
        for index, name in enumerate(names):
            pages = decode_pages(read(index), f"{what}: {name}", reading, tally)
            for page, pixels in enumerate(pages):
                square = pixels if prepared is None else prepared(pixels)
                tally.fitted += square.shape[:2] != pixels.shape[:2]
                size = stack.size
                if size is not None and size != square.shape[:2]:
                    raise _unequal(names, read, what, index, (names[0], *size), square.shape[:2], reading)
                stack.add(square)
                tally.images += 1
                tally.grey += square.ndim == 2
                files.append(index)
                labels.append(name if len(pages) == 1 else f"{name} page {page + 1} of {len(pages)}")
            if index % 256 == 255:
                progress(index + 1, len(names), "decoding images")
    _check_white(tally, what)
    return Stacked(
        stack.images(), frozen(np.array(files, np.int64)), tuple(labels), tally.conversions(reading)
    )


def _check_white(tally: Tally, what: str) -> None:
    """Refuse 16-bit images that use a small part of their range: which value is white is not known.

    Raises:
        UserError: Their largest value is below a quarter of 65,535, none is chosen, and their format tells none.
    """
    largest = tally.undeclared_largest
    if not 0 < largest < _SMALL_PART * 65_535:
        return
    bits = largest.bit_length()
    raise UserError(
        f"{what}: the largest value of its {count_text(tally.undeclared, '16-bit file')} is {largest:,}, which is {bits} bits;"
        f" divided by 257, as values up to 65,535 are, that leaves {(largest + 128) // 257 + 1} grey levels. Say which value"
        f" is white: --white {2**bits - 1} or, if the images are that dark, --white 65535 ({OPTIONS})."
    )


def _unequal(
    names: Sequence[str],
    read: Callable[[int], bytes],
    what: str,
    index: int,
    first: tuple[str, int, int],
    size: Sequence[int],
    reading: Reading,
) -> UserError:
    """Return the error about two images of unequal size, with its cause and its remedy."""
    text = f"{what}: the images differ in size: {first[0]} is {first[2]} x {first[1]} but {names[index]} is {size[1]} x {size[0]}."
    turned = 0
    if reading.exif == "ignore" and tuple(size) == first[:0:-1]:
        looked_at = range(min(len(names), _MOST_LOOKED_AT))
        turned = sum(quarter_turned(stored_orientation(read(place))) for place in looked_at)
    if turned:
        of = f"{turned:,} of {count_text(len(looked_at), 'file')}"
        text += f" {of} carry an EXIF orientation: --exif apply rotates them."
    return UserError(
        f"{text} {'Or bring' if turned else 'Bring'} all to one size: --fit crop (or stretch, or pad) with"
        f" --resolution ({OPTIONS})."
    )
