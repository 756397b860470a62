"""Weights on disk: safetensors with the configuration inside; one file rebuilds its denoiser. No code."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path

import torch
from pydantic import ValidationError
from torch import Tensor

from diffmem.errors import DiffmemError, UserError
from diffmem.files import atomic_path
from diffmem.models.config import ModelConfig, build_denoiser
from diffmem.models.preconditioning import Preconditioned

__all__ = ["load_denoiser", "read_tensors", "save_denoiser", "write_tensors"]


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


def load_denoiser(
    path: Path, device: torch.device | str = "cpu"
) -> tuple[Preconditioned, ModelConfig, dict[str, str]]:
    """Rebuild a denoiser of `save_denoiser` in evaluation mode; return it, its configuration and the words.

    Raises:
        UserError: The file is missing or not a denoiser of this package, or its tensors are of another
            architecture.
        DiffmemError: The file is damaged.
    """
    tensors, words = read_tensors(path)
    if words.get("format") != "diffmem-denoiser-1":
        raise UserError(f"{path} is not a denoiser written by diffmem (format {words.get('format')!r}).")
    try:
        config = ModelConfig.model_validate_json(words["model"])
        shape = tuple(int(side) for side in json.loads(words["image_shape"]))
        labels = int(words["num_labels"])
    except (KeyError, ValueError, ValidationError) as error:
        raise UserError(f"{path} does not describe its network: {error}.") from error
    if len(shape) != 3:
        raise UserError(f"{path} has image shape {shape}; three sizes (C, H, W) are needed.")
    denoiser = build_denoiser(config, shape, labels)
    wanted = {name: tuple(tensor.shape) for name, tensor in denoiser.state_dict().items()}
    given = {name: tuple(tensor.shape) for name, tensor in tensors.items()}
    if wanted != given:
        offender = sorted(set(wanted.items()) ^ set(given.items()))[0][0]
        raise UserError(
            f"{path} is a checkpoint of another architecture: tensor {offender!r} is"
            f" {given.get(offender, 'absent')},"
            f" but its configuration needs {wanted.get(offender, 'none')}."
        )
    denoiser.load_state_dict(tensors)
    return denoiser.eval().requires_grad_(False).to(device), config, words
