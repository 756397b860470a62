"""Weights on disk: safetensors with the configuration inside; one file rebuilds its denoiser. No code."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import torch
from torch import Tensor

from diffmem.data.formats.guards import in_one_line, is_plain_file, reading
from diffmem.errors import DiffmemError, UserError, nearest
from diffmem.files import atomic_path
from diffmem.models.config import ModelConfig, build_denoiser
from diffmem.models.preconditioning import Preconditioned

__all__ = [
    "check_file",
    "check_numbers",
    "check_sizes",
    "check_tensors",
    "load_denoiser",
    "load_tensors",
    "naming",
    "read_tensors",
    "save_denoiser",
    "write_tensors",
]

MAX_FILE_BYTES = 4 * 2**30  # EDM's largest network, for ImageNet at 64x64 pixels, takes 1.2 billion
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
    """Write tensors and texts atomically as safetensors, with a checksum of the tensors among the texts.

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
    """Read a file of `write_tensors`; return the tensors and the texts.

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


def load_tensors(path: Path, limit: int = MAX_FILE_BYTES) -> dict[str, Tensor]:
    """Return the tensors of a safetensors file of at most `limit` bytes by name, on the CPU; the file need not be trusted.

    Raises:
        UserError: It is missing, too large, or damaged.
    """
    from safetensors.torch import load_file

    check_sizes(path, limit)
    with reading(str(path)):
        return load_file(path)


def save_denoiser(
    denoiser: Preconditioned, config: ModelConfig, path: Path, texts: Mapping[str, str] | None = None
) -> None:
    """Write a denoiser's weights with what is needed to rebuild it.

    Args:
        denoiser: The network.
        config: The configuration that it was built from.
        path: File to write, by custom ending in `.safetensors`.
        texts: Further texts to keep with it, such as the images seen.
    """
    metadata = {
        **(texts or {}),
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
    """Rebuild a denoiser of `save_denoiser` in evaluation mode; return it, its configuration and the texts.

    The file need not be trusted: nothing in it is run, and the network that it describes is compared with its tensors
    before any memory is spent on it.

    Raises:
        UserError: The file is missing, damaged, larger than 4 GiB, or not a denoiser of this package; or its tensors are
            of another architecture, not floating-point, or not finite.
    """
    path = Path(path)
    check_sizes(path)
    with reading(str(path)):
        try:
            tensors, texts = read_tensors(path)
        except DiffmemError as error:
            raise UserError(str(error)) from error  # whatever is wrong with it, somebody named the file
        if texts.get("format") != "diffmem-denoiser-1":
            raise UserError(
                f"{path} is not a denoiser written by diffmem (format {str(texts.get('format'))[:60]!r})."
            )
        config, shape, labels = _described(path, texts, len(tensors))
        with naming(path):
            with torch.device("meta"):  # names and shapes without numbers
                wanted = build_denoiser(config, shape, labels).state_dict()
            check_tensors(tensors, wanted)
            check_numbers(tensors)
            denoiser = build_denoiser(config, shape, labels)
        denoiser.load_state_dict(tensors)
    # As in training (see `FlatParameters`): another order is another computation, with other rounding.
    denoiser.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    return denoiser.eval().requires_grad_(False).to(device), config, texts


def check_file(path: Path, limit: int | None = None) -> int:
    """Return the size of a plain file in bytes, at most `limit`, which is `MAX_FILE_BYTES` if none.

    Raises:
        UserError: It is missing or too large.
    """
    if not is_plain_file(path):
        raise UserError(f"There is no file {path}.")
    size, limit = path.stat().st_size, MAX_FILE_BYTES if limit is None else limit
    if size > limit:
        raise UserError(f"{path} is refused: it has {size:,} bytes; the limit is {limit:,}.")
    return size


def check_sizes(path: Path, limit: int | None = None) -> None:
    """Refuse a safetensors file whose size, or whose header's size, no network of this field has.

    Raises:
        UserError: It is missing, cannot be read, or is too large.
    """
    size = check_file(path, limit)
    with reading(str(path)), path.open("rb") as stream:
        header = int.from_bytes(stream.read(8), "little")
    if _MAX_HEADER_BYTES < header < size:
        raise UserError(
            f"{path} is refused: its header has {header:,} bytes; the limit is {_MAX_HEADER_BYTES:,}."
        )


def _described(
    path: Path, texts: Mapping[str, str], tensors: int
) -> tuple[ModelConfig, tuple[int, int, int], int]:
    """The network that the texts of a file describe, checked to be no larger than its tensors could fill."""
    try:
        model = json.loads(texts["model"])
        blocks, levels = model.get("blocks", 1), len(model.get("multipliers", ()))
        if type(blocks) is not int or blocks * levels > tensors:  # before anything is counted up to it
            raise ValueError(f"it claims {str(blocks)[:20]} blocks at each of {levels} resolutions")
        config = ModelConfig.model_validate(model)
        channels, height, width = (int(side) for side in json.loads(texts["image_shape"]))
        labels = int(texts["num_labels"])
        if (
            not all(1 <= side <= _MAX_SIDE for side in (channels, height, width))
            or not 0 <= labels <= _MAX_LABELS
        ):
            raise ValueError(f"no network has images of {channels} x {height} x {width} and {labels} classes")
    except (AttributeError, KeyError, TypeError, ValueError, OverflowError, RecursionError) as error:
        reason = str(error) if isinstance(error, ValueError) else f"{type(error).__name__} {error}"
        reason = " ".join(reason.split())[:300].rstrip(".")
        raise UserError(
            f"{path} does not describe a network of its {tensors:,} tensors: {reason}."
        ) from error
    return config, (channels, height, width), labels


def check_tensors(tensors: Mapping[str, Tensor], wanted: Mapping[str, Tensor], hint: str = "") -> None:
    """Refuse tensors that are not, by names and shapes, exactly those of a network.

    Args:
        tensors: What was read.
        wanted: The state of the network.
        hint: What to check, for the end of the message.

    Raises:
        UserError: The message names the first offender.
    """
    for name, tensor in tensors.items():
        if name not in wanted:
            raise UserError(f"Tensor {name!r} is not one of this network.{nearest(name, list(wanted))}{hint}")
        if tensor.shape != wanted[name].shape:
            raise UserError(
                f"Tensor {name!r} has shape {tuple(tensor.shape)}, but this network needs {tuple(wanted[name].shape)}.{hint}"
            )
    missing = [name for name in wanted if name not in tensors]
    if missing:
        raise UserError(f"It lacks {len(missing)} tensor(s) of this network, first {missing[0]!r}.{hint}")


def check_numbers(tensors: Mapping[str, Tensor]) -> None:
    """Refuse tensors that cannot be weights.

    Raises:
        UserError: One is not floating-point, or not finite as float32.
    """
    for name, tensor in tensors.items():
        if not tensor.is_floating_point():
            raise UserError(f"Tensor {name!r} holds {tensor.dtype}; weights are floating-point numbers.")
        if not bool(tensor.to(torch.float32).isfinite().all()):
            raise UserError(f"Tensor {name!r} holds numbers that are not finite; the network is of no use.")


@contextmanager
def naming(path: Path) -> Iterator[None]:
    """Put the path before the text of a `UserError` that does not name it."""
    try:
        yield
    except UserError as error:
        text = str(error)
        raise UserError(text if str(path) in text else f"{path}: {text}") from error
