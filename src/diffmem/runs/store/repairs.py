"""What was found damaged in a run's folder and made anew: kept beside the run, so that every report of it can say so."""

from __future__ import annotations

import os
from contextlib import suppress
from pathlib import Path

from diffmem.distributed import world
from diffmem.errors import DiffmemError
from diffmem.files import read_json, write_json
from diffmem.runs.store.lock import locked

__all__ = ["incidents", "note_incident"]

_FILE = "incidents.json"


def note_incident(folder: Path, text: str) -> None:
    """Add a sentence to the incidents of a run; it is on the disk when this returns.

    Under torchrun the first process alone writes. Processes that note at the same time wait for each other.

    Args:
        folder: The run's folder, made if missing.
        text: What happened, as a sentence.

    Raises:
        DiffmemError: The file cannot be written.
    """
    if not world().is_main:
        return
    with locked(folder / ".incidents.lock"):
        write_json(
            folder / _FILE, [*incidents(folder), text]
        )  # a damaged file becomes the first of the new ones
        handle = os.open(folder, os.O_RDONLY)
        try:
            with suppress(OSError):  # some network file systems cannot be told to write out a folder
                os.fsync(handle)
        finally:
            os.close(handle)


def incidents(folder: Path) -> list[str]:
    """Return the incidents of a run, the oldest first; a damaged file is an incident itself, the only one that is known."""
    path = folder / _FILE
    if not path.exists():
        return []
    try:
        found = read_json(path)
    except DiffmemError:
        found = None
    if isinstance(found, list) and all(isinstance(text, str) for text in found):
        return found
    return [f"{_FILE} was found damaged: earlier incidents of this run are not known."]
