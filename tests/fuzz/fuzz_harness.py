"""Fuzzing the readers of foreign files: what a kind of file is, and what must come of a damaged one.

A damaged file is opened, or refused by a `UserError` of one printable line that names it; anything else is a
finding. Where a checksum would hide the reader from every change (the CRC of a PNG's chunks and of a zip's members),
the damage is done inside of it and the checksum made right again.
"""

from __future__ import annotations

import time
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

from diffmem.errors import UserError

__all__ = ["CPU_SECONDS", "Harness", "in_file", "in_folder"]

CPU_SECONDS = 10
"""More than any file of a few kilobytes may take, on a machine that does other things as well."""


class Harness(NamedTuple):
    """One kind of file.

    Attributes:
        seeds: Good files, or good contents that `place` puts into one.
        place: Writes a content into a folder and returns what to open.
        open: Opens it.
        examples: How many damages are tried in every run of the tests.
    """

    seeds: tuple[bytes, ...]
    place: Callable[[bytes, Path], Path]
    open: Callable[[Path], object]
    examples: int = 20

    def check(self, content: bytes, folder: Path) -> bool:
        """Open a content; return whether it was accepted, or raise if the outcome is a finding."""
        path = self.place(content, folder)
        started = time.process_time()
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                self.open(path)
            accepted, told = True, ""
        except UserError as error:
            accepted, told = False, str(error)
        spent = time.process_time() - started
        assert spent < CPU_SECONDS, f"{spent:.0f} s for {len(content)} bytes"
        if not accepted:
            assert told.isprintable(), told
            assert len(told) < 2000, told[:3000]
            assert path.stem in told, told
        return accepted


def in_file(name: str, repair: Callable[[bytes], bytes] = bytes) -> Callable[[bytes, Path], Path]:
    def place(content: bytes, folder: Path) -> Path:
        path = folder / name
        path.write_bytes(repair(content))
        return path

    return place


def in_folder(name: str, repair: Callable[[bytes], bytes] = bytes) -> Callable[[bytes, Path], Path]:
    def place(content: bytes, folder: Path) -> Path:
        inside = folder / "images of unknown origin"
        inside.mkdir(exist_ok=True)
        (inside / name).write_bytes(repair(content))
        return inside

    return place
