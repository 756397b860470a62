"""Where the parts of a diffusers folder are: its network, its scheduler and, if the network denoises latents, its autoencoder.

A part lies in a subfolder of its name. Pipelines and parts of other kinds than those of `diffusers_folder` are refused by name.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn

from diffmem.errors import UserError
from diffmem.models.pretrained.diffusers_files import read_settings

__all__ = ["AUTOENCODERS", "SCHEDULERS", "Parts", "find_parts"]

SCHEDULERS = ("DDPMScheduler", "DDIMScheduler", "DDPMParallelScheduler", "DDIMParallelScheduler")
"""The classes of schedulers that are supported."""

AUTOENCODERS = ("AutoencoderKL", "VQModel")
"""The classes of autoencoders that are supported."""

# What each pipeline calls its network; in the latent ones of the library, an autoencoder is a must.
_PIPELINES = {
    "DDPMPipeline": "unet",
    "DDIMPipeline": "unet",
    "LDMPipeline": "unet",
    "DiTPipeline": "transformer",
}
_LATENT = ("LDMPipeline", "DiTPipeline")
# The transformer of DiTPipeline had the second name when the first ones were published.
_KINDS = {
    "unet": ("UNet2DModel",),
    "transformer": ("DiTTransformer2DModel", "Transformer2DModel"),
    "scheduler": SCHEDULERS,
    "vae": AUTOENCODERS,
    "vqvae": AUTOENCODERS,
}
_CODECS = ("vae", "vqvae")
_TEXT = ("text_encoder", "tokenizer")


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
    found = next(
        (p / "scheduler_config.json" for p in candidates if (p / "scheduler_config.json").is_file()), None
    )
    if found is None:
        raise UserError(
            f"{home} lacks scheduler_config.json, which says with what noise the network was trained. Copy it there from the training."
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
        scheduler_root=home if found.parent in candidates[:2] else above,
        scheduler_kind=kinds.get("scheduler", ""),
        autoencoder=autoencoder,
        autoencoder_root=home if autoencoder is None or autoencoder.parent.parent == home else above,
    )


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
                f"{index}: {name} with a part {key!r} is not supported; it has a {_PIPELINES[name]}, a scheduler and, for latents, a vae."
            )
        if module != "diffusers" or kind not in _KINDS[key]:
            raise UserError(
                f"{index}: {key} {kind!r} of {module!r} is not supported: it must be {' or '.join(_KINDS[key])} of 'diffusers'."
            )
    return name, {key: parts[key][1] for key in held}


def _refuse(index: Path, name: object, parts: Mapping[str, Any]) -> NoReturn:
    if any(key.startswith(_TEXT) and any(value) for key, value in parts.items()):
        raise UserError(
            f"{index.parent} is a pipeline that text directs ({name!r:.80}), which is not supported. Generate images with it and audit the"
            " folder of these samples instead."
        )
    *most, last = _PIPELINES
    raise UserError(
        f"{index}: the pipeline {name!r:.80} is not supported: it must be {', '.join(most)} or {last}. Or generate images with it and"
        " audit the folder of these samples."
    )
