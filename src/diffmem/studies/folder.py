"""The folder of a study: the recipe in it, and the note of where its runs lie."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import yaml

from diffmem.distributed import world
from diffmem.errors import DiffmemError, UserError
from diffmem.files import read_json, write_json, write_text
from diffmem.folder_lock import locked_folder
from diffmem.runs.recipe import StudyRecipe
from diffmem.studies.search.recipe import load_study

__all__ = ["read_study", "store_of", "study_at_work", "write_study_folder"]

_RECIPE, _STORE = "recipe.yaml", "place.json"


def write_study_folder(folder: Path, recipe: StudyRecipe, store: Path) -> None:
    """Write what a study is and where its store lies, so that its folder can be opened again.

    Raises:
        DiffmemError: A file cannot be written.
    """
    write_text(folder / _RECIPE, yaml.safe_dump(recipe.model_dump(mode="json"), sort_keys=False))
    own = store.resolve() == folder.resolve()  # then the folder can be moved
    write_json(folder / _STORE, {"store": "." if own else str(store.resolve())})


@contextmanager
def study_at_work(folder: Path, recipe: StudyRecipe, store: Path) -> Iterator[None]:
    """Keep other processes out of the folder of a study while the block carries it out, and write there what it is; see `locked_folder`.

    Raises:
        BusyFolderError: Another process is at it.
        DiffmemError: A file cannot be written.
    """
    with locked_folder(folder):
        if world().is_main:
            write_study_folder(folder, recipe, store)
        yield


def read_study(folder: Path) -> StudyRecipe:
    """Return the recipe of the study in a folder.

    Raises:
        UserError: It is no such folder, or its recipe was changed and is wrong.
    """
    path = folder / _RECIPE
    if not path.is_file():
        raise UserError(
            f"{folder} is not the folder of a study: it has no {_RECIPE}. Name the folder that was given to diffmem study --out."
        )
    return load_study(path)


def store_of(folder: Path) -> Path:
    """Return the store of a study, as an earlier command wrote it into the study's folder; the folder itself if none did.

    Raises:
        UserError: The store that was named is gone.
        DiffmemError: The note is damaged.
    """
    note = folder / _STORE
    if not note.is_file():
        return folder
    content = read_json(note)
    if not isinstance(content, dict) or not isinstance(content.get("store"), str):
        raise DiffmemError(f"{note} is damaged; name the store again with --store.")
    if content["store"] == ".":
        return folder
    store = Path(content["store"])
    if not store.is_dir():
        raise UserError(
            f"The store {store} of the study {folder} is gone; if it was moved, name it once:"
            f" diffmem study {folder / _RECIPE} --out {folder} --store STORE."
        )
    return store
