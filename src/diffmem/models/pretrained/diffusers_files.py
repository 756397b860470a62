"""What a diffusers folder holds, read as data: where its parts are, their settings in JSON and tensors, with bounds; no code of it is run.

The parts are the network, the scheduler and, if the network denoises latents, the autoencoder, each in a subfolder of its name. Pipelines
and parts of other kinds than those of `diffusers_folder` are refused by name.

Names of files are those that `save_pretrained` of diffusers writes: `config.json` or `scheduler_config.json` beside
`diffusion_pytorch_model.safetensors`, whole or in shards with an index; `diffusion_pytorch_model.bin` is a pickle.
"""

from __future__ import annotations

import json
import pickle
import re
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn

import torch
from torch import Tensor

from diffmem.data.formats.guards import checked_zip, is_plain_file, read_plain, reading
from diffmem.errors import UserError
from diffmem.models.pretrained.recognition import SAMPLES_ONLY, WAYS_ON, unlike
from diffmem.models.weights import check_numbers, load_tensors, naming

__all__ = [
    "AUTOENCODERS",
    "EDM_STEPPERS",
    "KARRAS_VE",
    "OTHER_BETAS",
    "SCHEDULERS",
    "SCORE_SDE_VE",
    "STEPPERS",
    "TRAINERS",
    "Parts",
    "find_parts",
    "inside",
    "read_settings",
    "read_weights",
    "variant_of",
]

TRAINERS = ("DDPMScheduler", "DDIMScheduler", "DDPMParallelScheduler", "DDIMParallelScheduler")
"""The classes of schedulers that networks are trained with."""

STEPPERS = (
    "DPMSolverMultistepScheduler", "DPMSolverSinglestepScheduler", "EulerDiscreteScheduler", "EulerAncestralDiscreteScheduler",
    "LMSDiscreteScheduler", "PNDMScheduler", "DEISMultistepScheduler", "UniPCMultistepScheduler", "SASolverScheduler",
)  # fmt: skip
"""Those that only step in another way through the same noise."""

OTHER_BETAS = (
    "HeunDiscreteScheduler", "KDPM2DiscreteScheduler", "KDPM2AncestralDiscreteScheduler", "DPMSolverSDEScheduler",
)  # fmt: skip
"""Those that do so, and whose default betas are others."""

EDM_STEPPERS = ("EDMEulerScheduler", "EDMDPMSolverMultistepScheduler")
"""Those of networks with EDM's preconditioning."""

SCORE_SDE_VE, KARRAS_VE = "ScoreSdeVeScheduler", "KarrasVeScheduler"
"""Those of networks that predict the score of images in [0, 1]."""

SCHEDULERS = (*TRAINERS, *STEPPERS, *OTHER_BETAS, *EDM_STEPPERS, SCORE_SDE_VE, KARRAS_VE)
"""The classes of schedulers that are supported."""

AUTOENCODERS = ("AutoencoderKL", "VQModel")
"""The classes of autoencoders that are supported."""

# What each pipeline calls its network; in the latent ones of the library, an autoencoder is a must.
_PIPELINES = {
    "DDPMPipeline": "unet",
    "DDIMPipeline": "unet",
    "PNDMPipeline": "unet",
    "ScoreSdeVePipeline": "unet",
    "KarrasVePipeline": "unet",
    "LDMPipeline": "unet",
    "DiTPipeline": "transformer",
}
_SCHEDULED = {"ScoreSdeVePipeline": (SCORE_SDE_VE,), "KarrasVePipeline": (KARRAS_VE,)}
_LATENT = ("LDMPipeline", "DiTPipeline")
# The transformer of DiTPipeline had the second name when the first ones were published.
_KINDS = {
    "unet": ("UNet2DModel",),
    "transformer": ("DiTTransformer2DModel", "Transformer2DModel"),
    "vae": AUTOENCODERS,
    "vqvae": AUTOENCODERS,
}
_CODECS = ("vae", "vqvae")
_MODULES = ("diffusers", "deprecated")  # by the second, the library names its KarrasVeScheduler now
_TEXT = ("text_encoder", "tokenizer")
_STEM = "diffusion_pytorch_model"
_SAFE, _PICKLE = f"{_STEM}.safetensors", f"{_STEM}.bin"
_ENCODER = ("model.safetensors", "pytorch_model.bin")  # the same of transformers
# Whole and in shards; without a precision in the name, or the same weights in one. Others, as non_ema, are other weights.
_VARIANTS = (None, "fp16", "bf16", "fp32")
_MAX_WEIGHTS_BYTES = 16 * 2**30  # the network of SDXL takes 10.3 billion bytes


def _names_of(file: str) -> dict[str | None, tuple[str, str]]:
    """Return the names of a file of weights, whole and its index of shards, of each variant."""
    stem, ending = file.rsplit(".", 1)
    return {
        each: (f"{stem}.{each}.{ending}", f"{file}.index.{each}.json")
        if each
        else (file, f"{file}.index.json")
        for each in _VARIANTS
    }


_MAX_JSON_BYTES = 8 * 2**20
CHECKPOINT = re.compile(r"checkpoint-\d+")
"""Names of the folders that the library's training examples save states in."""


def read_settings(path: Path, root: Path) -> dict[str, Any]:
    """Return the object that a JSON file of at most 8 MiB holds.

    Args:
        path: The file.
        root: The folder that it must belong to, whatever links there are.

    Raises:
        UserError: The file lies elsewhere, is too large, no JSON, or no object.
    """
    content = read_plain(inside(path, root), _MAX_JSON_BYTES, str(path))
    with reading(str(path)):
        settings = json.loads(content)
    if not isinstance(settings, dict):
        raise UserError(f"{path} does not hold settings: its JSON is no object ({{...}}).")
    return settings


def read_weights(folder: Path, root: Path, allow_pickle: bool, encoder: bool = False) -> dict[str, Tensor]:
    """Return the tensors of a network by name, on the CPU.

    An index of shards goes before a whole file, and safetensors before a pickle.

    Args:
        folder: Where the files are. Where there is no file without a precision in its name, one with fp16, bf16 or fp32 is read.
        root: The folder that they must belong to, whatever links there are.
        allow_pickle: Whether to read a pickle where there are no safetensors. It is read without running what it asks for (the
            restricted reader of torch).
        encoder: Whether the files have the names of transformers.

    Raises:
        UserError: There are no weights of an allowed kind, or a file is damaged, or holds anything but floating-point tensors of finite
            numbers.
    """
    safe, pickles = (_names_of(file) for file in (_ENCODER if encoder else (_SAFE, _PICKLE)))
    for name, index in [*safe.values(), *(pickles.values() if allow_pickle else ())]:
        if is_plain_file(folder / index):
            return _sharded(folder / index, root)
        if is_plain_file(folder / name):
            return _tensors(folder / name, root)
    raise UserError(_missing(folder, allow_pickle, encoder))


def variant_of(folder: Path, encoder: bool = False) -> str | None:
    """Return the precision in the name of the files that `read_weights` reads; none if there is none in it."""
    files = [item for file in (_ENCODER if encoder else (_SAFE, _PICKLE)) for item in _names_of(file).items()]
    return next((each for each, names in files if any(is_plain_file(folder / name) for name in names)), None)


def _missing(folder: Path, allow_pickle: bool, encoder: bool) -> str:
    safe, pickle_ = _ENCODER if encoder else (_SAFE, _PICKLE)
    pickles = [
        name for names in _names_of(pickle_).values() for name in names if is_plain_file(folder / name)
    ]
    if not allow_pickle and pickles:
        return (
            f"{folder} holds its weights as a pickle only ({pickles[0]}). Save them as safetensors (save_pretrained of diffusers does), or"
            " allow the pickle (the option --allow-pickle, the argument allow_pickle; not for text-to-image models)."
        )
    others = sorted(path.name for path in folder.glob(f"{safe.split('.')[0]}*"))
    if others:
        return (
            f"{folder} lacks {safe}. It holds {', '.join(others)[:200]}; if that is a variant, copy it to the missing name (a pickle to"
            f" {pickle_})."
        )
    return f"{folder} lacks the weights of its network, {safe}; copy them there."


def inside(path: Path, root: Path) -> Path:
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
        held = _tensors(index.parent / name, root)
        twice = sorted(tensors.keys() & held)
        if twice:
            raise UserError(f"{index.parent / name} holds {twice[0][:100]!r}, which another part holds, too.")
        tensors |= held
    return tensors


def _tensors(path: Path, root: Path) -> dict[str, Tensor]:
    path = inside(path, root)
    tensors = _unpickled(path) if path.suffix == ".bin" else load_tensors(path, _MAX_WEIGHTS_BYTES)
    # Text encoders saved by older versions of transformers hold the numbers of positions beside their weights.
    tensors = {name: each for name, each in tensors.items() if not name.endswith("embeddings.position_ids")}
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


@dataclass(frozen=True)
class Parts:
    """Where the parts of a folder are.

    Attributes:
        home: The folder.
        pipeline: Class of the pipeline; empty for a bare network.
        kinds: Classes that the network may have.
        network: Settings of the network; its weights are beside it.
        scheduler: Settings of the scheduler.
        scheduler_root: The folder that these must belong to: home or, for a bare network with a scheduler beside it, the one above.
        scheduler_kind: Class of the scheduler where the pipeline says it; else empty.
        autoencoder: Settings of the autoencoder, its weights beside it; none if the network denoises pixels.
        autoencoder_root: The folder that it must belong to, as that of the scheduler.
    """

    home: Path
    pipeline: str
    kinds: tuple[str, ...]
    network: Path
    scheduler: Path
    scheduler_root: Path
    scheduler_kind: str
    autoencoder: Path | None
    autoencoder_root: Path


def find_parts(home: Path) -> Parts:
    """Return where the parts of a folder are.

    The autoencoder is in `vae` or `vqvae`. Of a bare network, that and `scheduler` may also lie beside its folder; the former only
    beside one whose name begins with `unet`, as folders of other models may be neighbours of it.

    Raises:
        UserError: A part is missing, or the folder is of a pipeline that is not supported.
    """
    index = home / "model_index.json"
    is_pipeline = index.is_file()
    pipeline, kinds = _checked_pipeline(index) if is_pipeline else ("", {})
    part = _PIPELINES.get(pipeline, "unet")
    folder = home / part if is_pipeline and (home / part).is_dir() else home
    if not (folder / "config.json").is_file():
        raise UserError(
            f"{folder} lacks config.json, the settings of a network. Give a folder that save_pretrained of diffusers wrote."
        )
    above = home.resolve().parent
    candidates = [home / "scheduler", home] + ([] if is_pipeline else [above / "scheduler"])
    if not is_pipeline and CHECKPOINT.fullmatch(
        above.name
    ):  # the library's training example writes it there at the end
        candidates.append(above.parent / "scheduler")
    found = next(
        (p / "scheduler_config.json" for p in candidates if (p / "scheduler_config.json").is_file()), None
    )
    if found is None:
        _check_network(folder / "config.json", home, _KINDS[part])
        raise UserError(
            f"{home} lacks scheduler_config.json, which says with what noise the network was trained. Copy it there from the training; the"
            " training example of diffusers writes it at its end only: before, save it with the values of the training, as"
            f" DDPMScheduler(num_train_timesteps=1000, beta_schedule='linear').save_pretrained('{home}')."
        )
    named = [home / name for name in _CODECS if name in kinds]
    beside = [] if is_pipeline or not home.resolve().name.startswith("unet") else [above]
    autoencoder = _autoencoder(named, [root / name for root in [home, *beside] for name in _CODECS])
    return Parts(
        home=home,
        pipeline=pipeline,
        kinds=_KINDS[part],
        network=folder / "config.json",
        scheduler=found,
        scheduler_root=home if found.parent in candidates[:2] else found.parent.parent,
        scheduler_kind=kinds.get("scheduler", ""),
        autoencoder=autoencoder,
        autoencoder_root=home if autoencoder is None or autoencoder.parent.parent == home else above,
    )


def _check_network(path: Path, root: Path, possible: tuple[str, ...]) -> None:
    """Refuse settings of another network, which no scheduler would help."""
    settings = read_settings(path, root)
    kind = settings.get("_class_name", settings.get("architectures"))
    if kind not in possible:
        raise UserError(f"{path}: the network {kind!r:.80} is not supported: {unlike(kind, possible)}")


def _autoencoder(named: list[Path], possible: list[Path]) -> Path | None:
    """Return the settings of the autoencoder that the pipeline names, or else of the one that is there."""
    found = [part / "config.json" for part in named or possible if (part / "config.json").is_file()]
    if len(found) < len(named):
        raise UserError(
            f"{named[0].parent} lacks the settings of an autoencoder that model_index.json names, {named[0].name}/config.json. Copy the"
            " whole folder."
        )
    if len(found) > 1:
        raise UserError(
            f"There are two autoencoders, {found[0].parent} and {found[1].parent}; leave the one that made the latents."
        )
    return found[0] if found else None


def _checked_pipeline(index: Path) -> tuple[str, dict[str, str]]:
    """Refuse pipelines of other kinds; return the class of the pipeline and of each of its parts."""
    settings = read_settings(index, index.parent)
    name = settings.get("_class_name")
    parts = {
        key: value for key, value in settings.items() if not key.startswith("_") and isinstance(value, list)
    }
    held = {key for key, value in parts.items() if any(value)}
    if not isinstance(name, str) or name not in _PIPELINES:
        _refuse(index, name, parts)
    needed = {_PIPELINES[name], "scheduler"}
    if name in _LATENT and not held.intersection(_CODECS):
        needed.add("vae")
    for key in sorted(held | needed):
        module, kind = [*parts.get(key, []), None, None][:2]
        if key not in {*needed, *_CODECS}:
            raise UserError(
                f"{index}, of diffusers: {name} with a part {key!r} is not supported; it has a {_PIPELINES[name]}, a scheduler and, for"
                f" latents, a vae. {WAYS_ON}"
            )
        possible = _SCHEDULED.get(name, SCHEDULERS) if key == "scheduler" else _KINDS[key]
        if module not in _MODULES or kind not in possible:
            raise UserError(
                f"{index}, of diffusers: {key} {kind!r:.80} of {module!r:.80} is not supported: {unlike(kind, possible)}"
            )
    return name, {key: parts[key][1] for key in held}


def _refuse(index: Path, name: object, parts: Mapping[str, Any]) -> NoReturn:
    if any(key.startswith(_TEXT) and any(value) for key, value in parts.items()):
        raise UserError(
            f"{index.parent} is a text-to-image pipeline of diffusers ({name!r:.80}): D depends on the prompt. Open it with prompts"
            f" (diffmem.open_text_model, diffmem model info). Or: {SAMPLES_ONLY}"
        )
    raise UserError(
        f"{index}, of diffusers: the pipeline {name!r:.80} is not supported: {unlike(name, _PIPELINES)}"
    )
