"""What was found damaged in a run's folder and made anew: kept beside the run, so that every report of it can say so."""

from __future__ import annotations

from pathlib import Path

from diffmem.distributed import world
from diffmem.errors import DiffmemError
from diffmem.files import read_json, write_json

__all__ = ["REPAIRS_FILE", "note_repair", "repairs"]

REPAIRS_FILE = "incidents.json"


def note_repair(folder: Path, text: str) -> None:
    """Add a sentence to the repairs of a run that this process has locked; under torchrun the first process alone writes.

    Args:
        folder: The run's folder, made if missing.
        text: What happened, as a sentence.

    Raises:
        DiffmemError: The file cannot be written.
    """
    if world().is_main:
        # A damaged file becomes the first of the new ones.
        write_json(folder / REPAIRS_FILE, [*repairs(folder), text])


def repairs(folder: Path) -> list[str]:
    """Return the repairs of a run, the oldest first; a damaged file is one itself, the only one that is known."""
    path = folder / REPAIRS_FILE
    if not path.exists():
        return []
    try:
        found = read_json(path)
    except DiffmemError:
        found = None
    if isinstance(found, list) and all(isinstance(text, str) for text in found):
        return found
    return [f"{REPAIRS_FILE} was found damaged: earlier incidents of this run are not known."]
