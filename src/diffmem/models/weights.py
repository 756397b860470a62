"""Weights on disk: safetensors with the configuration inside; one file rebuilds its denoiser. No code."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor

from diffmem.data.formats.guards import in_one_line, is_plain_file, reading
from diffmem.errors import DiffmemError, UserError
from diffmem.files import atomic_path
from diffmem.models.config import ModelConfig, build_denoiser
from diffmem.models.preconditioning import Preconditioned

__all__ = ["check_sizes", "load_denoiser", "read_tensors", "save_denoiser", "write_tensors"]

_MAX_FILE_BYTES = 4 * 2**30
_MAX_HEADER_BYTES = 8 * 2**20  # a network of a thousand tensors has 0.1
_MAX_SIDE, _MAX_LABELS = 2**14, 10_000_000


def _digest(tensors: Mapping[str, Tensor]) -> str:
    digest = hashlib.sha256()
    for name in sorted(tensors):
        tensor = tensors[name].detach().cpu().contiguous()
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)};".encode())
        digest.update(tensor.reshape(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()


def write_tensors(path: Path, tensors: Mapping[str, Tensor], metadata: Mapping[str, str]) -> None:
    """Write tensors and words atomically as safetensors, with a checksum of the tensors among the words.

    Raises:
        DiffmemError: The file cannot be written.
    """
    from safetensors.torch import save_file

    held = {name: tensor.detach().cpu().contiguous().clone() for name, tensor in tensors.items()}
    with atomic_path(path) as temporary:
        try:
            save_file(held, temporary, metadata={**metadata, "sha256": _digest(held)})
        except Exception as error:  # safetensors wraps the operating system's errors in a type of its own
            raise DiffmemError(f"Cannot write {path}: {error}.") from error


def read_tensors(path: Path) -> tuple[dict[str, Tensor], dict[str, str]]:
    """Read a file of `write_tensors`; return the tensors and the words.

    Raises:
        UserError: The file is missing.
        DiffmemError: It is truncated, not safetensors, or its checksum does not fit.
    """
    from safetensors import SafetensorError, safe_open

    if not path.is_file():
        raise UserError(f"There is no file {path}.")
    try:
        with safe_open(path, framework="pt") as file:
            metadata = dict(file.metadata() or {})
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - not a mapping
    except (SafetensorError, OSError, ValueError) as error:
        raise DiffmemError(
            f"{path} is damaged or not a safetensors file ({error}); it was not used."
        ) from error
    if metadata.pop("sha256", None) != _digest(tensors):
        raise DiffmemError(f"{path} is damaged: its checksum does not fit its content; it was not used.")
    return tensors, metadata


def save_denoiser(
    denoiser: Preconditioned, config: ModelConfig, path: Path, words: Mapping[str, str] | None = None
) -> None:
    """Write a denoiser's weights with what is needed to rebuild it.

    Args:
        denoiser: The network.
        config: The configuration that it was built from.
        path: File to write, by custom ending in `.safetensors`.
        words: Further words to keep with it, such as the images seen.
    """
    metadata = {
        **(words or {}),
        "format": "diffmem-denoiser-1",
        "model": config.model_dump_json(),
        "image_shape": json.dumps(denoiser.image_shape),
        "num_labels": str(denoiser.num_labels),
    }
    write_tensors(path, denoiser.state_dict(), metadata)


@in_one_line()
def load_denoiser(
    path: Path, device: torch.device | str = "cpu"
) -> tuple[Preconditioned, ModelConfig, dict[str, str]]:
    """Rebuild a denoiser of `save_denoiser` in evaluation mode; return it, its configuration and the words.

    The file need not be trusted: nothing in it is run, and the network that it describes is compared with its tensors
    before any memory is spent on it.

    Raises:
        UserError: The file is missing, damaged, larger than 4 GiB, or not a denoiser of this package; or its tensors are
            of another architecture, not floating-point, or not finite.
    """
    path = Path(path)
    if not is_plain_file(path):
        raise UserError(f"There is no file {path}.")
    with reading(str(path)):
        check_sizes(path)
        try:
            tensors, words = read_tensors(path)
        except DiffmemError as error:
            raise UserError(str(error)) from error  # whatever is wrong with it, somebody named the file
        if words.get("format") != "diffmem-denoiser-1":
            kind = str(words.get("format"))[:60]
            raise UserError(f"{path} is not a denoiser written by diffmem (format {kind!r}).")
        config, shape, labels = _described(path, words, len(tensors))
        try:
            with torch.device("meta"):  # names and shapes without numbers
                wanted = build_denoiser(config, shape, labels).state_dict()
            _check_tensors(path, tensors, wanted)
            denoiser = build_denoiser(config, shape, labels)
        except UserError as error:
            told = str(error)
            raise UserError(told if str(path) in told else f"{path}: {told}") from error
        denoiser.load_state_dict(tensors)
    return denoiser.eval().requires_grad_(False).to(device), config, words


def check_sizes(path: Path) -> None:
    """Refuse a safetensors file whose size, or whose header's size, no network of this field has.

    Raises:
        UserError: It is too large.
    """
    with path.open("rb") as stream:
        size, header = os.fstat(stream.fileno()).st_size, int.from_bytes(stream.read(8), "little")
    if size > _MAX_FILE_BYTES:
        raise UserError(f"{path} is refused: it has {size:,} bytes; the limit is {_MAX_FILE_BYTES:,}.")
    if _MAX_HEADER_BYTES < header < size:
        raise UserError(
            f"{path} is refused: its header has {header:,} bytes; the limit is {_MAX_HEADER_BYTES:,}."
        )


def _described(
    path: Path, words: Mapping[str, str], tensors: int
) -> tuple[ModelConfig, tuple[int, int, int], int]:
    """The network that the words of a file describe, checked to be no larger than its tensors could fill."""
    try:
        model = json.loads(words["model"])
        blocks, levels = model.get("blocks", 1), len(model.get("multipliers", ()))
        if type(blocks) is not int or blocks * levels > tensors:  # before anything is counted up to it
            raise ValueError(f"it claims {str(blocks)[:20]} blocks at each of {levels} resolutions")
        config = ModelConfig.model_validate(model)
        channels, height, width = (int(side) for side in json.loads(words["image_shape"]))
        labels = int(words["num_labels"])
        if (
            not all(1 <= side <= _MAX_SIDE for side in (channels, height, width))
            or not 0 <= labels <= _MAX_LABELS
        ):
            raise ValueError(f"no network has images of {channels} x {height} x {width} and {labels} classes")
    except (AttributeError, KeyError, TypeError, ValueError, OverflowError, RecursionError) as error:
        kind = "" if isinstance(error, ValueError) else f"{type(error).__name__} "
        told = " ".join(f"{kind}{error}".split())[:300].rstrip(".")
        raise UserError(f"{path} does not describe a network of its {tensors:,} tensors: {told}.") from error
    return config, (channels, height, width), labels


def _check_tensors(path: Path, tensors: Mapping[str, Tensor], wanted: Mapping[str, Tensor]) -> None:
    needed = {name: tuple(tensor.shape) for name, tensor in wanted.items()}
    given = {name: tuple(tensor.shape) for name, tensor in tensors.items()}
    if needed != given:
        offender = sorted(set(needed.items()) ^ set(given.items()))[0][0]
        raise UserError(
            f"{path} is a checkpoint of another architecture: tensor {offender!r} is"
            f" {given.get(offender, 'absent')},"
            f" but its configuration needs {needed.get(offender, 'none')}."
        )
    for name, tensor in tensors.items():
        if not tensor.is_floating_point():
            raise UserError(
                f"{path}: tensor {name!r} holds {tensor.dtype}; weights are floating-point numbers."
            )
        if not bool(tensor.to(torch.float32).isfinite().all()):
            raise UserError(
                f"{path}: tensor {name!r} holds numbers that are not finite; the network is of no use."
            )
