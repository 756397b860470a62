"""What a diffusers folder holds, read as data: settings in JSON and tensors, with bounds, and no code of the folder run.

Names of files are those that `save_pretrained` of diffusers writes: `config.json` or `scheduler_config.json` beside
`diffusion_pytorch_model.safetensors`, whole or in shards with an index; `diffusion_pytorch_model.bin` is a pickle.
"""

from __future__ import annotations

import json
import pickle
import zipfile
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from diffmem.data.formats.guards import checked_zip, is_plain_file, read_plain, reading
from diffmem.errors import UserError
from diffmem.models.weights import check_numbers, load_tensors, naming

__all__ = ["read_settings", "read_weights"]

_STEM = "diffusion_pytorch_model"
_SAFE, _PICKLE = f"{_STEM}.safetensors", f"{_STEM}.bin"
_MAX_JSON_BYTES = 8 * 2**20


def read_settings(path: Path, root: Path) -> dict[str, Any]:
    """Return the object that a JSON file of at most 8 MiB holds.

    Args:
        path: The file.
        root: The folder that it must belong to, whatever links there are.

    Raises:
        UserError: The file lies elsewhere, is too large, no JSON, or no object.
    """
    content = read_plain(_inside(path, root), _MAX_JSON_BYTES, str(path))
    with reading(str(path)):
        settings = json.loads(content)
    if not isinstance(settings, dict):
        raise UserError(f"{path} does not hold settings: its JSON is no object ({{...}}).")
    return settings


def read_weights(folder: Path, root: Path, allow_pickle: bool) -> dict[str, Tensor]:
    """Return the tensors of a network by name, on the CPU.

    An index of shards goes before a whole file, and safetensors before a pickle.

    Args:
        folder: Where the files are.
        root: The folder that they must belong to, whatever links there are.
        allow_pickle: Whether to read a pickle where there are no safetensors. It is read without running what it asks for (the
            restricted reader of torch).

    Raises:
        UserError: There are no weights of an allowed kind, or a file is damaged, or holds anything but floating-point tensors of finite
            numbers.
    """
    for name in [_SAFE, _PICKLE] if allow_pickle else [_SAFE]:
        index = folder / f"{name}.index.json"
        if is_plain_file(index):
            return _sharded(index, root)
        if is_plain_file(folder / name):
            return _tensors(folder / name, root)
    raise UserError(_missing(folder, allow_pickle))


def _missing(folder: Path, allow_pickle: bool) -> str:
    if not allow_pickle and any(is_plain_file(folder / name) for name in (_PICKLE, f"{_PICKLE}.index.json")):
        return (
            f"{folder} holds its weights as a pickle only ({_PICKLE}). Save them as safetensors (save_pretrained of diffusers does), or"
            " allow the pickle (the argument allow_pickle)."
        )
    others = sorted(path.name for path in folder.glob(f"{_STEM}*"))
    if others:
        return f"{folder} lacks {_SAFE}. It holds {', '.join(others)[:200]}; if that is a variant, copy it to the missing name."
    return f"{folder} lacks the weights of its network, {_SAFE}; copy them there."


def _inside(path: Path, root: Path) -> Path:
    """Return the path of a file after checking that it is in its folder."""
    home = root.resolve()
    # A hub's cache keeps the files of a snapshot as links into the folder of blobs beside all snapshots.
    blobs = [up.parent.parent / "blobs" for up in (home, *home.parents) if up.parent.name == "snapshots"]
    if not any(path.resolve().is_relative_to(folder) for folder in [home, *blobs]):
        raise UserError(f"{path} is refused: it is a link out of its folder. Copy the file itself there.")
    return path


def _sharded(index: Path, root: Path) -> dict[str, Tensor]:
    files = read_settings(index, root).get("weight_map")
    if not isinstance(files, dict) or not all(isinstance(name, str) for name in files.values()):
        raise UserError(f"{index} does not say which file each tensor is in (weight_map); copy it again.")
    ending = ".bin" if index.name.startswith(_PICKLE) else ".safetensors"
    tensors: dict[str, Tensor] = {}
    for name in sorted(set(files.values())):
        if Path(name).name != name or not name.endswith(ending):
            raise UserError(
                f"{index} is refused: it names {name[:100]!r}, which is no {ending} file beside it."
            )
        if not is_plain_file(index.parent / name):
            raise UserError(f"{index.parent} lacks {name}, which {index.name} names; copy it there.")
        tensors |= _tensors(index.parent / name, root)
    return tensors


def _tensors(path: Path, root: Path) -> dict[str, Tensor]:
    tensors = (_unpickled if path.suffix == ".bin" else load_tensors)(_inside(path, root))
    with naming(path):
        check_numbers(tensors)
    return tensors


def _unpickled(path: Path) -> dict[str, Tensor]:
    if not zipfile.is_zipfile(path):
        raise UserError(
            f"{path} is refused: it is damaged, or written by a torch older than 1.6; save it anew."
        )
    with checked_zip(path):
        pass
    with reading(str(path)):
        try:
            content = torch.load(path, map_location="cpu", weights_only=True)
        except pickle.UnpicklingError as error:
            # Torch's own message recommends the unrestricted reader.
            raise UserError(
                f"{path} is refused: it asks for more than tensors, or is damaged. Nothing in it was run; save the network as safetensors"
                " where it was made."
            ) from error
    plain = isinstance(content, dict) and all(
        isinstance(name, str) and isinstance(value, Tensor) for name, value in content.items()
    )
    if not plain:
        raise UserError(
            f"{path} is refused: it holds more than named tensors. Save the network's state_dict alone."
        )
    dense = [
        value for value in content.values() if value.layout == torch.strided and value.device.type == "cpu"
    ]
    # A view can repeat a few bytes as often as it likes.
    if len(dense) < len(content) or sum(t.numel() * t.element_size() for t in dense) > path.stat().st_size:
        raise UserError(
            f"{path} is refused: its tensors are not stored in full. Save the network as safetensors."
        )
    return dict(content)
