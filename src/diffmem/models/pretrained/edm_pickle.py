"""Network snapshots of EDM's training code, opened without executing anything in them.

EDM and its forks save a network as a pickle that carries the source text of its classes, and load it by
executing that text. This module takes out of the file only names, numbers and tensors (see `pickle_reader`),
and `from_edm_state_dict` builds the network of this package from them. Every size that the file claims is
checked against what it holds before memory is spent on it.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch

from diffmem.data.formats.guards import in_one_line, reading
from diffmem.errors import UserError
from diffmem.models.continuous import ContinuousDenoiser
from diffmem.models.latent import LatentDenoiser
from diffmem.models.preconditioning import Preconditioned
from diffmem.models.pretrained.checkpoint import read_checkpoint
from diffmem.models.pretrained.edm2 import EDM2_POSITIONS, Asked, open_edm2
from diffmem.models.pretrained.foreign import from_edm_state_dict
from diffmem.models.pretrained.pickle_reader import PickledObject, PickledStorage, PickledTensor
from diffmem.models.pretrained.recognition import WAYS_ON, described
from diffmem.models.weights import check_numbers, naming

__all__ = ["edm_network", "holds_networks", "network_names", "open_edm_pickle"]

EdmDenoiser = Preconditioned | ContinuousDenoiser | LatentDenoiser

_JUMPS = (
    "iDDPM's preconditioning: the network is told the timestep whose noise level is nearest, as its trainer does, so D jumps between"
    " timesteps.",
)
_MAX_PARTS = 20_000
_MAX_DEPTH = 20
_MAX_ENTRIES = 256
_LONGEST_WORD = 60

_EDM2 = "Precond"

# Constructor arguments that EDM's wrappers take by position (facts of the format).
_SHARED_POSITIONS = ("img_resolution", "img_channels", "label_dim", "use_fp16")
_POSITIONS = {
    "VPPrecond": (*_SHARED_POSITIONS, "beta_d", "beta_min", "M", "epsilon_t", "model_type"),
    "VEPrecond": (*_SHARED_POSITIONS, "sigma_min", "sigma_max", "model_type"),
    "EDMPrecond": (*_SHARED_POSITIONS, "sigma_min", "sigma_max", "sigma_data", "model_type"),
    "iDDPMPrecond": (*_SHARED_POSITIONS, "C_1", "C_2", "M", "model_type"),
    _EDM2: (*_SHARED_POSITIONS, *EDM2_POSITIONS),
}


@in_one_line()
def open_edm_pickle(path: Path, which: str = "ema") -> EdmDenoiser:
    """Rebuild a network out of a snapshot of the training code of EDM or EDM2 (`network-snapshot-*.pkl`).

    Nothing that the file names is imported or called, and its source text is neither compiled nor executed.
    It may be a plain pickle of protocol 0 to 5, or a file of `torch.save`, of the newer or the older format.
    Reading it takes about twice its size in memory (four times for protocols below 3), besides the network.

    Args:
        path: The file. It holds a dictionary of networks, whose wrapper is VPPrecond, VEPrecond, EDMPrecond or
            iDDPMPrecond and whose model is SongUNet or DhariwalUNet; or whose wrapper is EDM2's Precond, for pixels.
        which: The entry to take; "ema" holds the averaged weights.

    Returns:
        The denoiser, float32 on the CPU, in evaluation mode. Labels are those of `label_dim`. It computes in
        float32 even if the file says `use_fp16`.

    Raises:
        UserError: The file is missing, damaged or too large; it asks for anything that such a network never
            needs (named in the message); it lacks the entry; or the entry is no network of the kinds above:
            an argument or a tensor is unknown, missing, impossible, or not finite (named).
    """
    path = Path(path)
    with reading(str(path)):
        content = read_checkpoint(path)
    return edm_network(content, which, path, Asked())[0]


def edm_network(content: object, which: str, path: Path, asked: Asked) -> tuple[EdmDenoiser, tuple[str, ...]]:
    """Rebuild a network out of what `read_checkpoint` returned for a file; see `open_edm_pickle`.

    Returns:
        The denoiser, and what a reader of its results must know.
    """
    with reading(str(path)):
        network = _entry(content, which, path)
        tensors = dict(_tensors(network, path))
        arguments = _arguments(network, path)
        _check_sizes(tensors, arguments, path)
        if arguments["class_name"] == _EDM2:
            assert isinstance(content, dict)
            with naming(path):
                return open_edm2(tensors, arguments, content.get("encoder"), path, asked)
        if asked.settings is not None:
            raise UserError(
                f"{path} is a network pickle of EDM, which tells everything: it takes no settings."
            )
        return _rebuild(tensors, arguments, path), _JUMPS if arguments["class_name"] == "iDDPMPrecond" else ()


def holds_networks(snapshot: object) -> bool:
    """Say whether what a file holds is for `open_edm_pickle`: networks as objects, or what it refuses in words of its own."""
    return not isinstance(snapshot, dict) or "optimizer_state" in snapshot or bool(_networks(snapshot))


def network_names(snapshot: object) -> list[str]:
    """Return the names of the networks in what a file holds."""
    held = _networks(snapshot) if isinstance(snapshot, dict) else {}
    return [str(name)[:_LONGEST_WORD] for name, entry in held.items() if entry.class_name.endswith("Precond")]


def _networks(snapshot: dict[Any, Any]) -> dict[Any, PickledObject]:
    return {
        name: entry
        for name, entry in snapshot.items()
        if isinstance(entry, PickledObject) and isinstance(entry.state, dict) and "_modules" in entry.state
    }


def _entry(snapshot: object, which: str, path: Path) -> PickledObject:
    if not isinstance(snapshot, dict):
        raise UserError(described(path, snapshot))
    networks = _networks(snapshot)
    if which in networks:
        return networks[which]
    if not networks or "optimizer_state" in snapshot:
        raise UserError(described(path, snapshot))
    names = ", ".join(repr(str(name)[:_LONGEST_WORD]) for name in list(networks)[:20])
    raise UserError(f"{path} has no network {which!r}: give one of {names}.")


def _tensors(network: PickledObject, path: Path) -> Iterator[tuple[str, PickledTensor]]:
    """The tensors that the module and those below it would save, by their dotted names."""
    waiting: list[tuple[str, object, int]] = [("", network, 0)]
    seen = 0
    while waiting:
        prefix, module, depth = waiting.pop()
        if module is None:
            continue
        if not isinstance(module, PickledObject) or not isinstance(module.state, dict):
            raise ValueError(f"{prefix[:_LONGEST_WORD]!r} is not a module")
        if depth > _MAX_DEPTH:
            raise UserError(f"{path} is refused: its modules are nested more than {_MAX_DEPTH} deep.")
        parts: dict[str, dict[str, object]] = {}
        for part in ("_parameters", "_buffers", "_modules"):
            parts[part] = _named(module.state.get(part), f"{prefix[:_LONGEST_WORD]}{part}")
            seen += 1 + len(parts[part])
        if seen > _MAX_PARTS:
            raise UserError(f"{path} is refused: it has more than {_MAX_PARTS:,} modules and tensors.")
        passing = module.state.get("_non_persistent_buffers_set", ())
        for part in ("_parameters", "_buffers"):
            for name, tensor in parts[part].items():
                if tensor is None or (part == "_buffers" and isinstance(passing, set) and name in passing):
                    continue
                if not isinstance(tensor, PickledTensor):
                    raise ValueError(f"{prefix}{name} is not a tensor")
                yield prefix + name, tensor
        waiting.extend((f"{prefix}{name}.", child, depth + 1) for name, child in parts["_modules"].items())


def _named(entries: object, what: str) -> dict[str, object]:
    if not isinstance(entries, dict):
        raise ValueError(f"the file lacks {what}")
    for name in entries:
        if not isinstance(name, str) or not 0 < len(name) <= _LONGEST_WORD or "." in name:
            raise ValueError(f"{what} has an entry with an unusual name")
    return entries


def _arguments(network: PickledObject, path: Path) -> dict[str, Any]:
    """The constructor's arguments, all of them plain values of bounded size."""
    kind = network.class_name[:_LONGEST_WORD]
    positional, keywords = network.arguments, network.keywords
    if not isinstance(positional, tuple) or not isinstance(keywords, dict):
        raise ValueError("the constructor's arguments are not in the file")
    if kind not in _POSITIONS:
        raise UserError(
            f"{path} is a pickle of NVIDIA's code. It holds a network {kind!r}, which is not supported: it must be one of"
            f" {', '.join(_POSITIONS)}. {WAYS_ON}"
        )
    names = _POSITIONS[kind]
    if len(positional) > len(names):
        raise ValueError(f"{kind} is given {len(positional)} arguments by position; it takes {len(names)}")
    given = dict(zip(names, positional, strict=False))
    if not all(isinstance(name, str) for name in keywords) or given.keys() & keywords.keys():
        raise ValueError("the constructor is given an argument twice, or one without a name")
    given |= keywords
    if len(given) > _MAX_ENTRIES:
        raise UserError(f"{path} is refused: its constructor has {len(given):,} arguments.")
    arguments = {name: _plain(name[:_LONGEST_WORD], value, path) for name, value in given.items()}
    return {**arguments, "class_name": kind}


def _plain(name: str, value: object, path: Path) -> Any:
    if _is_scalar(value):
        return value
    if isinstance(value, list | tuple) and len(value) <= _MAX_ENTRIES and all(map(_is_scalar, value)):
        return list(value)
    raise UserError(
        f"{path}: argument {name!r} is a {type(value).__name__} that is neither a number, a short text, nor a"
        f" list of up to {_MAX_ENTRIES} of them."
    )


def _is_scalar(value: object) -> bool:
    if isinstance(value, str):
        return len(value) <= _LONGEST_WORD and value.isprintable()
    return value is None or isinstance(value, bool | int | float)


def _rebuild(tensors: dict[str, PickledTensor], arguments: dict[str, Any], path: Path) -> Preconditioned:
    with naming(path):
        # On the meta device a network has names and shapes but no numbers: a file that claims a network larger
        # than its tensors is refused before any memory is spent.
        claimed = {
            name: torch.empty(tensor.shape, device="meta")
            for name, tensor in tensors.items()
            if not name.endswith("resample_filter")
        }
        with torch.device("meta"):
            from_edm_state_dict(claimed, arguments)
        state = {name: tensor.value() for name, tensor in tensors.items()}
        check_numbers(state)
        return from_edm_state_dict(state, arguments)


def _check_sizes(tensors: dict[str, PickledTensor], arguments: dict[str, Any], path: Path) -> None:
    """Refuse a network of more parts than the file holds, whose construction alone would not end."""
    storages: dict[int, PickledStorage] = {id(tensor.storage): tensor.storage for tensor in tensors.values()}
    held = sum(storage.count for storage in storages.values())
    used = sum(
        math.prod(tensor.shape) for name, tensor in tensors.items() if not name.endswith("resample_filter")
    )
    if used > held:
        raise UserError(
            f"{path} is refused: its tensors have {used:,} numbers, but it holds only {held:,}."
            " Tensors that share numbers are not supported."
        )
    blocks, levels = arguments.get("num_blocks"), arguments.get("channel_mult")
    count = blocks if isinstance(blocks, int | float) else 1
    if isinstance(levels, list):
        count *= max(1, len(levels))
    if count > len(tensors):
        raise UserError(f"{path} claims {count:,} blocks, but holds only {len(tensors):,} tensors.")
