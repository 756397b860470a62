"""Decoded images that outlive a process that is killed: a folder beside the set that is built, with pixels and a note of what is done.

The note is trusted only for the same source (path, size and time of its files, and their names), read in the same way by the same version,
and if the pixels still have the hash that it tells. Otherwise the work starts anew.
"""

from __future__ import annotations

import hashlib
import json
import math
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from contextvars import ContextVar
from dataclasses import asdict, fields
from pathlib import Path
from typing import Any

import numpy as np
import PIL
from numpy.typing import NDArray

from diffmem.data.conversions import Tally
from diffmem.data.formats.decoding import Decoder, Files
from diffmem.data.storage import parts, reserve
from diffmem.errors import DiffmemError
from diffmem.files import write_bytes, write_json
from diffmem.version import __version__

__all__ = ["Kept", "kept_work", "partial_folder", "resumable"]

SECONDS_BETWEEN_NOTES = 5.0
_FORMAT = 1
_folder: ContextVar[_Folder | None] = ContextVar("folder", default=None)


class _Folder:
    """The folder of one build: numbers the sets that are decoded in it, which come in a fixed order."""

    def __init__(self, path: Path, say: Callable[[str], None]) -> None:
        self.path, self.say, self.count = path, say, 0


def partial_folder(out: Path) -> Path:
    """Return where unfinished work for a set is kept: a hidden folder beside it."""
    return out.with_name(f".{out.name}.partial")


@contextmanager
def resumable(out: Path, say: Callable[[str], None]) -> Iterator[None]:
    """Keep what is decoded in the block, for a later call, if the process is interrupted or killed; not if it fails or succeeds.

    Args:
        out: The set that is built.
        say: Told when earlier work is gone on with, or cannot be used.

    Raises:
        BusyFolderError: Another process builds the same set.
    """
    from diffmem.folder_lock import locked_folder

    folder = partial_folder(out)
    with locked_folder(folder, "name another file"):
        token = _folder.set(_Folder(folder, say))
        try:
            yield
        except Exception:
            _empty(folder)
            raise
        finally:
            _folder.reset(token)
        _empty(folder)
    with suppress(OSError):
        folder.rmdir()


def _empty(folder: Path) -> None:
    for file in folder.iterdir():
        with suppress(OSError):
            if file.name != ".lock":
                file.unlink()


def kept_work(files: Files, decoder: Decoder) -> Kept | None:
    """Return where the work on some files is kept; none outside of `resumable`, or where their source cannot be told."""
    folder = _folder.get()
    if folder is None or files.identity is None:
        return None
    folder.count += 1
    return Kept(folder.path / f"{folder.count}.json", _identity(files, decoder), folder.say)


def _identity(files: Files, decoder: Decoder) -> str:
    prepared = decoder.prepared
    how = [str(getattr(prepared, key, "")) for key in ("args", "keywords")]
    how.append(getattr(getattr(prepared, "func", prepared), "__qualname__", ""))
    told = [
        _FORMAT,
        __version__,
        PIL.__version__,
        decoder.what,
        repr(decoder.reading),
        *how,
        files.identity,
        files.held,
    ]
    digest = hashlib.sha256(json.dumps(told).encode())
    for name in files.names:
        digest.update(name.encode("utf-8", "surrogatepass") + b"\0")
    return digest.hexdigest()


class Kept:
    """The unfinished work on one set.

    Args:
        note: The file that tells what is done; the pixels lie beside it.
        identity: Of the source and of how it is read.
        say: See `resumable`.

    Attributes:
        done: Files that are decoded.
        pages: Number of images of each; none if one of each.
        tally: What was done to them.
    """

    def __init__(self, note: Path, identity: str, say: Callable[[str], None]) -> None:
        self._note, self._identity, self._say = note, identity, say
        self._pages = note.with_suffix(".pages")
        self._pixels: Path | None = None
        self._hash, self._hashed, self._noted = hashlib.sha256(), 0, time.monotonic()
        self.done = 0
        self.pages: NDArray[np.int64] | None = None
        self.tally = Tally()

    def load(self) -> tuple[NDArray[np.uint8], int] | None:
        """Return the array of an earlier process and its number of images, if it is there and right; else say so and remove it."""
        if not self._note.exists():
            self._remove()
            return None
        try:
            said = json.loads(self._note.read_text("utf-8"))
            if said["identity"] != self._identity:
                self._say(
                    "The source or how it is read has changed since this build was interrupted; it starts anew."
                )
                self._remove()
                return None
            array, count = self._loaded(said)
        except (OSError, ValueError, KeyError, TypeError, AttributeError):
            self._say("What an interrupted build left is damaged; it starts anew.")
            self._remove()
            return None
        self._say(f"An interrupted build is gone on with: {self.done:,} files are decoded already.")
        return array, count

    def _loaded(self, said: dict[str, Any]) -> tuple[NDArray[np.uint8], int]:
        shape, count, done = tuple(map(int, said["shape"])), int(said["images"]), int(said["done"])
        pixels = self._note.with_name(Path(said["pixels"]).name)
        if pixels.stat().st_size != math.prod(shape) or not 0 < count <= shape[0]:
            raise ValueError("other pixels")
        with pixels.open("r+b") as stream:
            array = np.asarray(np.memmap(stream, np.uint8, "r+", shape=shape))
        digest = _hash_on(hashlib.sha256(), array, 0, count)
        # The file may be of a later note, and longer.
        pages = np.fromfile(self._pages, np.int64, done) if said["several"] else None
        digest_of_pages = "" if pages is None else hashlib.sha256(pages.tobytes()).hexdigest()
        if digest.hexdigest() != said["sha256"] or digest_of_pages != said["sha256_pages"]:
            raise ValueError("other pixels")
        tally = Tally(**{one.name: said["tally"][one.name] for one in fields(Tally)})
        tally.whites = Counter({int(white): number for white, number in said["tally"]["whites"].items()})
        tally.colours = Counter(said["tally"]["colours"])
        self._pixels, self._hash, self._hashed = pixels, digest, count
        self.done, self.pages, self.tally = done, pages, tally
        return array, count

    def new_array(self, shape: tuple[int, ...]) -> NDArray[np.uint8]:
        """Return a writeable array of any content in a file of the folder, instead of the one before.

        Raises:
            DiffmemError: The folder has too little space.
        """
        number = 0 if self._pixels is None else int(self._pixels.suffix.rpartition("-")[2]) + 1
        path = self._note.with_suffix(f".pixels-{number}")
        try:
            with path.open("w+b") as stream:
                reserve(stream, math.prod(shape))
                array = np.asarray(np.memmap(stream, np.uint8, "r+", shape=shape))
        except OSError as error:
            with suppress(OSError):
                path.unlink()
            raise DiffmemError(
                f"Cannot keep images of {math.prod(shape) / 2**30:,.1f} GiB in {path.parent}: {error.strerror or error}. Free some space or"
                " choose another folder."
            ) from error
        with suppress(OSError):
            self._note.unlink(missing_ok=True)  # it is of the array before
            if self._pixels is not None:
                self._pixels.unlink()
        self._pixels, self._hash, self._hashed = path, hashlib.sha256(), 0
        return array

    def note(
        self, array: NDArray[np.uint8], images: int, done: int, tally: Tally, pages: NDArray[np.int64] | None
    ) -> None:
        """Take note of what is done, if the last time is some seconds ago.

        Raises:
            DiffmemError: The note cannot be written.
        """
        if time.monotonic() - self._noted < SECONDS_BETWEEN_NOTES:
            return
        assert self._pixels is not None
        _hash_on(self._hash, array, self._hashed, images)
        self._hashed = images
        content = b"" if pages is None else pages.tobytes()
        write_bytes(self._pages, content)
        write_json(
            self._note,
            {
                "identity": self._identity,
                "done": done,
                "images": images,
                "shape": array.shape,
                "pixels": self._pixels.name,
                "sha256": self._hash.hexdigest(),
                "several": pages is not None,
                "sha256_pages": hashlib.sha256(content).hexdigest() if content else "",
                "tally": asdict(tally),
            },
        )
        self._noted = time.monotonic()

    def _remove(self) -> None:
        for file in self._note.parent.glob(f"{self._note.stem}.*"):
            with suppress(OSError):
                file.unlink()


def _hash_on(digest: Any, array: NDArray[np.uint8], start: int, end: int) -> Any:
    """Count the images from one to another to a hash."""
    for part in parts(end - start, math.prod(array.shape[1:])):
        digest.update(array[start + part.start : start + part.stop].reshape(-1).data)
    return digest
