"""Many encoded images as one array of one shape, and what had to be done to them."""

from __future__ import annotations

from array import array
from collections.abc import Sequence
from functools import partial
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from diffmem.data.conversions import Conversion, Tally
from diffmem.data.formats.decode import stored_orientation
from diffmem.data.formats.decoding import Decoder, Files, Prepared
from diffmem.data.formats.files import PassedOver
from diffmem.data.formats.guards import check_bulk, check_total
from diffmem.data.formats.headers import quarter_turned
from diffmem.data.formats.workers import decoded, is_large
from diffmem.data.images import frozen
from diffmem.data.names import LazyNames
from diffmem.data.reading import AS_USUAL, OPTIONS, Reading
from diffmem.data.resuming import Kept, kept_work
from diffmem.data.storage import new_images
from diffmem.data.transforms import fitted
from diffmem.errors import UserError
from diffmem.progress import NO_PROGRESS, Progress
from diffmem.text import count_text

__all__ = ["Stacked", "stack_images"]

_MOST_LOOKED_AT = 20_000  # files whose orientation an error tells of
_SMALL_PART = 0.25  # of the range of 16 bits
_FEW_LEVELS = (
    16  # as images of 4 bits have: a window of values of a scanner, offset by half of the range, say
)


class Stacked(NamedTuple):
    """Images that were decoded.

    Attributes:
        images: uint8 (N, C, H, W), read-only. If any image is in colour, all are RGB.
        files: Which file each image is of, int64 (N,), ascending.
        names: Name of each image: of its file, with the page where there are several.
        several: Whether a file gave several images.
        conversions: What had to be done.
    """

    images: NDArray[np.uint8]
    files: NDArray[np.int64]
    names: Sequence[str]
    several: bool
    conversions: tuple[Conversion, ...]


class _Stack:
    """An array of images that grows, and turns from grey to RGB, as it has to.

    Args:
        files: What is decoded.
        decoder: How.
    """

    def __init__(self, files: Files, decoder: Decoder) -> None:
        self._files, self._what = files, decoder.what
        self._array: NDArray[np.uint8] | None = None
        self._pages = array("q")  # of each file; nothing while there is one of each
        self._kept: Kept | None = kept_work(files, decoder) if is_large(files) else None
        self.count = self.done = 0
        self.tally = Tally()
        earlier = None if self._kept is None else self._kept.load()
        if self._kept is not None and earlier is not None:
            self._array, self.count = earlier
            self.done, self.tally = self._kept.done, self._kept.tally
            if self._kept.pages is not None:
                self._pages.frombytes(self._kept.pages.tobytes())

    @property
    def size(self) -> tuple[int, int] | None:
        """Height and width of the images; none before the first."""
        return None if self._array is None else (self._array.shape[2], self._array.shape[3])

    def add(self, block: NDArray[np.uint8]) -> None:
        """Add images, (n, H, W) or (n, H, W, 3), of the size of the others.

        Raises:
            UserError: All together would fill the memory.
        """
        array, planes = self._array, 1 if block.ndim == 3 else 3
        end = self.count + len(block)
        if array is None:
            array = self._made(max(len(self._files.names), end), planes, *block.shape[1:3])
        elif end > len(array) or planes > array.shape[1]:
            length = len(array) if end <= len(array) else max(end, len(array) + len(array) // 2 + 16)
            wider = self._made(length, max(planes, array.shape[1]), *block.shape[1:3])
            wider[: self.count] = array[: self.count]
            array = wider
        array[self.count : end] = block[:, None] if planes == 1 else block.transpose(0, 3, 1, 2)
        self._array, self.count = array, end

    def _made(self, count: int, channels: int, height: int, width: int) -> NDArray[np.uint8]:
        check_total(count, (channels, height, width), self._what)
        if self._files.held is not None:
            check_bulk(count * channels * height * width, self._files.held, self._what)
        shape = count, channels, height, width
        return new_images(shape) if self._kept is None else self._kept.new_array(shape)

    def finished(self, pages: Sequence[int]) -> None:
        """Take note that files are done, each of which gave so many images."""
        if not self._pages and any(number > 1 for number in pages):
            self._pages.extend([1] * self.done)
        if self._pages or any(number > 1 for number in pages):
            self._pages.extend(pages)
        self.done += len(pages)
        if self._kept is not None and self._array is not None:
            several = np.array(self._pages, np.int64) if self._pages else None
            self._kept.note(self._array, self.count, self.done, self.tally, several)

    def images(self) -> NDArray[np.uint8]:
        """Return all images, read-only."""
        assert self._array is not None
        return frozen(self._array[: self.count])

    def pages(self) -> NDArray[np.int64] | None:
        """Return the number of images of each file; none if there is one of each."""
        return np.array(self._pages, np.int64) if self._pages else None


def stack_images(
    files: Files,
    what: str,
    reading: Reading = AS_USUAL,
    progress: Progress = NO_PROGRESS,
    prepared: Prepared | None = None,
) -> Stacked:
    """Decode many images of one size, or brought to one, into one array.

    Args:
        files: The encoded images.
        what: The folder or archive, for errors.
        reading: How they are read.
        progress: Called now and then with files done and files in all.
        prepared: Brings an image, (H, W) or (H, W, 3), to its shape; as `reading` says if left out.

    Raises:
        UserError: An image is broken, the sizes differ, there are none, all together would fill the memory, or the white
            level of 16-bit images is unclear.
    """
    names = files.names
    if not len(names):
        raise PassedOver().nothing(what)
    if prepared is None and reading.fit is not None and reading.resolution is not None:
        prepared = partial(fitted, fit=reading.fit, side=reading.resolution)
    decoder = Decoder(what, reading, prepared)
    stack = _Stack(files, decoder)
    for batch in decoded(files, stack.done, decoder):
        before = 0
        for block in batch.blocks:
            size = stack.size
            if size is not None and size != block.shape[1:3]:
                place = int(np.searchsorted(np.cumsum(batch.pages), before, "right"))
                raise _unequal(files, what, stack.done + place, size, block.shape[1:3], reading)
            stack.add(block)
            before += len(block)
        stack.tally.add(batch.tally)
        stack.finished(batch.pages)
        progress(stack.done, len(names), "decoding images")
    _check_white(stack.tally, what)
    pages = stack.pages()
    conversions = stack.tally.conversions(reading)
    if pages is None:
        plain = names if isinstance(names, LazyNames) else tuple(names)
        return Stacked(stack.images(), frozen(np.arange(len(names))), plain, False, conversions)
    shown = tuple(
        name if number == 1 else f"{name} page {page + 1} of {number}"
        for name, number in zip(names, pages.tolist(), strict=True)
        for page in range(number)
    )
    return Stacked(stack.images(), frozen(np.repeat(np.arange(len(names)), pages)), shown, True, conversions)


def _check_white(tally: Tally, what: str) -> None:
    """Refuse 16-bit images that use a small part of their range: which value is white is not known.

    Raises:
        UserError: Their largest value is below a quarter of 65,535, or they have few values, none is chosen, and their format tells none.
    """
    largest, smallest = tally.undeclared_largest, 65_535 - tally.undeclared_below
    if tally.undeclared and 0 < (largest - smallest) // 257 < _FEW_LEVELS and largest >= _SMALL_PART * 65_535:
        raise UserError(
            f"{what}: the values of its {count_text(tally.undeclared, '16-bit file')} run from {smallest:,} to {largest:,}; divided by 257"
            f" that leaves {(largest - smallest) // 257 + 1} grey levels. Save them with 8 bits, with the window that the training code"
            f" takes, or, if the images are that faint, say --white 65535 ({OPTIONS})."
        )
    if not 0 < largest < _SMALL_PART * 65_535:
        return
    bits = largest.bit_length()
    raise UserError(
        f"{what}: the largest value of its {count_text(tally.undeclared, '16-bit file')} is {largest:,}, which is {bits} bits;"
        f" divided by 257, as values up to 65,535 are, that leaves {(largest + 128) // 257 + 1} grey levels. Say which value"
        f" is white: --white {2**bits - 1} or, if the images are that dark, --white 65535 ({OPTIONS})."
    )


def _unequal(
    files: Files, what: str, index: int, first: Sequence[int], size: Sequence[int], reading: Reading
) -> UserError:
    """Return the error about two images of unequal size, with its cause and its remedy."""
    names = files.names
    text = f"{what}: the images differ in size: {names[0]} is {first[1]} x {first[0]} but {names[index]} is {size[1]} x {size[0]}."
    turned = 0
    if reading.exif == "ignore" and tuple(size) == tuple(first[::-1]):
        looked_at = range(min(len(names), _MOST_LOOKED_AT))
        turned = sum(quarter_turned(stored_orientation(files.read(place))) for place in looked_at)
    if turned:
        of = f"{turned:,} of {count_text(len(looked_at), 'file')}"
        text += f" {of} carry an EXIF orientation: --exif apply rotates them."
    return UserError(
        f"{text} {'Or bring' if turned else 'Bring'} all to one size: --fit crop (or stretch, or pad) with"
        f" --resolution ({OPTIONS}). Or take out what does not belong, such as a sheet of samples or a thumbnail."
    )
