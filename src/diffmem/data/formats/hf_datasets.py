"""What the library Hugging Face datasets leaves on disk: a set saved by `save_to_disk`, and its cache.

Layout: `save_to_disk` writes data-00000-of-00001.arrow, dataset_info.json and state.json, which lists the files; of several splits,
a folder each and dataset_dict.json. The cache has <set>/<config>/<version>/<hash>/<set>-train.arrow and dataset_info.json.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from diffmem.data.conversions import Conversion, name_text
from diffmem.data.formats.encoded import image_set_of
from diffmem.data.formats.files import divide
from diffmem.data.formats.guards import is_plain_file, read_plain, stays_inside
from diffmem.data.formats.guards import reading as as_text
from diffmem.data.formats.shards import find_shards
from diffmem.data.formats.tables import encoded_rows
from diffmem.data.images import ImageSet
from diffmem.data.reading import Reading
from diffmem.errors import UserError
from diffmem.progress import Progress, Stages

__all__ = ["is_saved", "read_cached", "read_saved"]

_DICT, _STATE, _INFO = "dataset_dict.json", "state.json", "dataset_info.json"
_MAX_JSON_BYTES = 64 * 2**20


def is_saved(path: Path) -> bool:
    """Whether a folder is a set that `save_to_disk` wrote, or several splits of one."""
    return is_plain_file(path / _DICT) or (is_plain_file(path / _STATE) and is_plain_file(path / _INFO))


def read_saved(path: Path, progress: Progress, reading: Reading, split: str | None) -> ImageSet:
    """Read a set that `save_to_disk` wrote.

    Args:
        path: Its folder.
        progress: Called now and then.
        reading: How images are decoded, and which columns are read.
        split: Which split is read, where there are several.

    Raises:
        UserError: A file is missing or damaged, or see `encoded_rows`.
    """
    folder, conversions = path, tuple[Conversion, ...]()
    if is_plain_file(path / _DICT):
        folder, conversions = _of_splits(path, split)
    elif split not in (None, "train") and _json(path / _STATE).get("_split") != split:
        raise UserError(f"{path} has no {split} split: it is one set. Leave the split out.")
    state = _json(folder / _STATE)
    if state.get("_indices_data_files") or state.get("_indices_files"):
        raise UserError(
            f"{folder} is of an old version of datasets, with an order of its own; save it again."
        )
    listed = state.get("_data_files")
    if not isinstance(listed, list) or not listed:
        raise UserError(f"{folder / _STATE} lists no files; save the set again.")
    files = []
    for one in listed:
        file = one.get("filename") if isinstance(one, dict) else None
        files.append(folder / _check_name(file, folder / _STATE))
    return _read(path, files, conversions, progress, reading)


def _of_splits(path: Path, wanted: str | None) -> tuple[Path, tuple[Conversion, ...]]:
    """Return the folder of the split that is read, and what is said of it."""
    splits = _json(path / _DICT).get("splits")
    if not isinstance(splits, list) or not splits:
        raise UserError(f"{path / _DICT} lists no splits; save the set again.")
    names = [_check_name(name, path / _DICT) for name in splits]
    chosen = wanted
    if chosen not in names:
        places = divide([f"{name}/x" for name in names], wanted, str(path), unit="split").chosen
        if len(places) > 1:
            listed = ", ".join(map(name_text, names))
            raise UserError(f"{path} holds several sets: {listed}. Name one: {path / names[0]}.")
        chosen = names[places[0]]
    assert chosen is not None
    if len(names) == 1:
        return path / chosen, ()
    others = ", ".join(name_text(name) for name in names if name != chosen)
    text = f"split {name_text(chosen)} (not read: {others})"
    return path / chosen, (Conversion("split", chosen, 1, len(names), text, True),)


def read_cached(path: Path, progress: Progress, reading: Reading, split: str | None) -> ImageSet:
    """Read a set from the cache of datasets.

    Args:
        path: The folder of its .arrow files, or one above it that holds no other set.
        progress: Called now and then.
        reading: How images are decoded, and which columns are read.
        split: Which split is read, where there are several.

    Raises:
        UserError: There are several sets, rows are missing, or see `encoded_rows`.
    """
    shards = find_shards(path, (".arrow",), split, skipped=("cache-", "tmp"))
    folder = shards.files[0].parent
    other = next((file for file in shards.files if file.parent != folder), None)
    if other is not None:
        raise UserError(f"{path} holds several sets: {folder} and {other.parent}. Name one of them.")
    splits = _json(folder / _INFO).get("splits") if is_plain_file(folder / _INFO) else None
    said = list(splits.values()) if isinstance(splits, dict) else []
    counts = [one.get("num_examples") for one in said if isinstance(one, dict)]
    return _read(path, shards.files, shards.conversions, progress, reading, counts)


def _read(
    path: Path,
    files: list[Path],
    conversions: tuple[Conversion, ...],
    progress: Progress,
    reading: Reading,
    counts: list[Any] | None = None,
) -> ImageSet:
    folder, root = files[0].parent, path.resolve()
    for file in files:
        if not is_plain_file(file):
            raise UserError(f"{folder} is no whole set: {file.name} is missing. Save or download it again.")
        if not stays_inside(file, root):
            raise UserError(f"{file} is refused: it is a link that leads out of {path}.")
    stages = Stages(progress, look=1, decode=9)
    encoded = encoded_rows(files, str(path), reading, stages.look, arrow=True, conversions=conversions)
    if counts and len(encoded.names) not in counts:
        raise UserError(
            f"{folder} is no whole set: its files hold {len(encoded.names):,} rows, and {_INFO} tells of"
            f" {', '.join(map(str, counts))}. Delete it, and load the set again."
        )
    return image_set_of(encoded, str(path), f"datasets {path.resolve().name}", reading, stages.decode)


def _check_name(name: object, where: Path) -> str:
    if (
        not isinstance(name, str)
        or not name
        or name in (".", "..")
        or "/" in name
        or "\\" in name
        or "\0" in name
    ):
        raise UserError(f"{where} is refused: {name_text(str(name))} is no name of a file beside it.")
    return name


def _json(path: Path) -> dict[str, Any]:
    content = read_plain(path, _MAX_JSON_BYTES, str(path))
    with as_text(str(path)):
        said = json.loads(content)
        if not isinstance(said, dict):
            raise ValueError("it holds no JSON object")
        return said
