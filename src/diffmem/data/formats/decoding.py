"""Encoded files to blocks of pixels, a batch at a time, in this process; see `workers` for several."""

from __future__ import annotations

import hashlib
import os
import warnings
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from diffmem.data.conversions import Tally
from diffmem.data.formats.decode import decode_pages
from diffmem.data.reading import Reading
from diffmem.errors import DiffmemError

__all__ = ["Batch", "Decoder", "FileFacts", "Files", "Prepared", "identity_of"]

Prepared = Callable[[NDArray[np.uint8]], NDArray[np.uint8]]

_BATCH_BYTES = 2**20
_BATCH_FILES = 256


@dataclass(frozen=True)
class Files:
    """Encoded images, in order.

    Attributes:
        names: Name of each file within its source.
        read: Gives the bytes of the file of an index; it is asked in ascending order, but for errors.
        held: Bytes of all encoded images, where they are known.
        path: Gives the path of the file of an index, where each is a file of its own.
        identity: Tells the source, as it is now, from others and from what it was before it was changed; none where that is not known.
    """

    names: Sequence[str]
    read: Callable[[int], bytes]
    held: int | None = None
    path: Callable[[int], str] | None = None
    identity: str | None = None


class FileFacts:
    """The identity of very many files, whatever their order: the sum of a hash of the name, size and time of each."""

    def __init__(self) -> None:
        self._sum = 0

    def add(self, name: str, facts: os.stat_result) -> None:
        """Count a file."""
        text = f"{facts.st_size} {facts.st_mtime_ns} {name}"
        digest = hashlib.blake2b(os.fsencode(text), digest_size=16).digest()
        self._sum += int.from_bytes(digest, "little")

    def __str__(self) -> str:
        return f"{self._sum:x}"


def identity_of(files: Iterable[Path]) -> str:
    """Return the identity of a few files: the path, size and time of each."""
    facts = FileFacts()
    for file in files:
        facts.add(str(file.resolve()), file.stat())
    return str(facts)


@dataclass
class Batch:
    """Some files that were decoded, one after the other.

    Attributes:
        blocks: Their images in order, each block of one shape: uint8 (n, H, W) or (n, H, W, 3).
        pages: Number of images of each file.
        tally: What was done to them.
    """

    blocks: list[NDArray[np.uint8]] = field(default_factory=list)
    pages: list[int] = field(default_factory=list)
    tally: Tally = field(default_factory=Tally)


class Decoder:
    """How files become pixels.

    Args:
        what: The folder or archive, for errors.
        reading: How they are read.
        prepared: Brings an image to its shape, or none.
    """

    def __init__(self, what: str, reading: Reading, prepared: Prepared | None) -> None:
        self.what, self.reading, self.prepared = what, reading, prepared

    def batches(self, files: Iterable[tuple[str, bytes]]) -> Iterator[Batch]:
        """Yield files, each its name and content, in batches of about 1 MiB of pixels.

        Raises:
            DiffmemError: A file is broken or refused; those before it have been yielded.
        """
        batch, images, size = Batch(), list[NDArray[np.uint8]](), 0
        failure: DiffmemError | None = None
        with warnings.catch_warnings():
            # Pillow warns about harmless metadata and about sizes that are checked here.
            warnings.simplefilter("ignore")
            source = iter(files)
            while True:
                try:
                    name, content = next(source)
                    pages = self._pages(name, content, batch.tally)
                except StopIteration:
                    break
                except DiffmemError as error:
                    failure = error
                    break
                images += pages
                batch.pages.append(len(pages))
                size += sum(page.nbytes for page in pages)
                if size >= _BATCH_BYTES or len(batch.pages) >= _BATCH_FILES:
                    batch.blocks = _blocks(images)
                    yield batch
                    batch, images, size = Batch(), [], 0
        if images:
            batch.blocks = _blocks(images)
            yield batch
        if failure is not None:
            raise failure

    def _pages(self, name: str, content: bytes, tally: Tally) -> list[NDArray[np.uint8]]:
        pages = decode_pages(content, f"{self.what}: {name}", self.reading, tally)
        if self.prepared is not None:
            squares = [self.prepared(page) for page in pages]
            tally.fitted += sum(
                one.shape[:2] != two.shape[:2] for one, two in zip(pages, squares, strict=True)
            )
            pages = squares
        tally.images += len(pages)
        tally.grey += sum(page.ndim == 2 for page in pages)
        return pages


def _blocks(images: list[NDArray[np.uint8]]) -> list[NDArray[np.uint8]]:
    blocks, start = [], 0
    for end in range(1, len(images) + 1):
        if end == len(images) or images[end].shape != images[start].shape:
            blocks.append(np.stack(images[start:end]) if end - start > 1 else images[start][None])
            start = end
    return blocks
