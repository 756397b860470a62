"""`open_model`: a trained model from whatever keeps it, recognised by its content."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import torch

from diffmem.data.formats.guards import in_one_line, is_folder, is_plain_file, reading
from diffmem.environment import choose_device
from diffmem.errors import UserError
from diffmem.files import sha256_file
from diffmem.models.continuous import ContinuousDenoiser
from diffmem.models.denoiser import Denoiser, Latent, Origin, Reading, pixel_shape_of
from diffmem.models.discrete import DiscreteDenoiser
from diffmem.models.latent import LatentDenoiser
from diffmem.models.preconditioning import Preconditioned
from diffmem.models.pretrained.answers import SuggestedShape, WantedShape, check_weights, fits, shape_text
from diffmem.models.pretrained.checkpoint import read_checkpoint, with_tensors
from diffmem.models.pretrained.checkpoints_in import checkpoints_in, refuse_several, revision_of, step_of
from diffmem.models.pretrained.diffusers_folder import doubts_of, open_diffusers
from diffmem.models.pretrained.doors import DOORS, Opened, door_of
from diffmem.models.pretrained.edm2 import Asked
from diffmem.models.pretrained.edm_pickle import edm_network, holds_networks, network_names
from diffmem.models.pretrained.foreign import from_edm_state_dict
from diffmem.models.pretrained.other_files import HEAD_BYTES, is_safetensors, other_file, other_folder
from diffmem.models.pretrained.recognition import WAYS_ON, described
from diffmem.models.weights import check_numbers, check_sizes, load_denoiser, load_tensors, naming

__all__ = ["MODELS_UNDERSTOOD", "OWN_FORMAT", "open_model", "origin_of"]

MODELS_UNDERSTOOD = (
    "a run's folder of diffmem or one of its snapshots (.safetensors); a network pickle of NVIDIA's EDM or EDM2 (.pkl); a folder that"
    " save_pretrained of diffusers wrote; a checkpoint of denoising-diffusion-pytorch, pytorch-ddpm, improved-diffusion, guided-diffusion,"
    " torchcfm, flow_matching or score_sde_pytorch"
)
"""What `open_model` reads, in words."""

OWN_FORMAT = "diffmem snapshot"
"""`Origin.format` of what was trained here."""

_Model = Preconditioned | Opened
_AVERAGED = "ema"
_OF_SEVERAL = ("EDM pickle", "diffusers checkpoint", *(door.name for door in DOORS))
_OWN = (".json", ".safetensors", ".bin")
_BESIDE = ("scheduler", "vae", "vqvae")


@in_one_line()
def open_model(
    path: Path | str,
    image_shape: tuple[int, int, int] | None = None,
    settings: Mapping[str, Any] | None = None,
    weights: str = _AVERAGED,
    device: torch.device | str | None = None,
    allow_pickle: bool = False,
    resolution: int | tuple[int, int] | None = None,
    suggested: tuple[int, int] | None = None,
) -> Denoiser:
    """Open a trained model; nothing in it is executed.

    Args:
        path: A run's folder (its last snapshot is taken) or a snapshot of diffmem (.safetensors); a network pickle of NVIDIA's EDM or EDM2;
            a folder that `save_pretrained` of diffusers wrote; or a checkpoint of denoising-diffusion-pytorch, pytorch-ddpm,
            improved-diffusion, guided-diffusion, torchcfm, flow_matching or score_sde_pytorch.
        image_shape: (C, H, W) of the images that it must make; none for any.
        settings: What a checkpoint does not record, by name; a message asks for it. For a safetensors file that holds only the tensors of
            a network of EDM, the arguments of its constructor, see `from_edm_state_dict`.
        weights: Which network of an EDM pickle, that of the averaged weights ('ema') by default, or which weights of a checkpoint, 'ema' or
            'raw'; also of a folder `checkpoint-N` of diffusers. Other files hold one network.
        device: Where it computes: 'cpu', 'cuda' or 'cuda:N'; by default a GPU where there is one.
        allow_pickle: Whether the weights of a diffusers folder may be read from a pickle where there are no safetensors.
        resolution: The side of the images, or (height, width), of a checkpoint that records their channels but not their size.
        suggested: (height, width) for such a checkpoint if `resolution` is not given, for example that of its training images; models
            that record another size keep it.

    Returns:
        The model; its `origin` says what was read, and what a reader of its results must know.

    Raises:
        UserError: Nothing is there, it is no model, it is damaged, or of a kind that is not supported; or an argument does not fit it.
    """
    device = choose_device(device) if device is None else device
    source = Path(path)
    wanted = _wanted(image_shape, resolution)
    if wanted is None and suggested is not None:
        wanted = SuggestedShape((None, *suggested))
    denoiser: _Model | Opened
    with suppress(RuntimeError):  # a user who is not known: the name is taken as it is
        source = source.expanduser()
    source, only = _chosen(revision_of(source))
    source, within = _chosen(revision_of(source))  # it may be a hub's cache
    if is_folder(source) and not (source / "snapshots").is_dir() and not _networks_of_edm(source):
        denoiser, origin = _diffusers(source, device, weights, allow_pickle)
        _check_no_settings(source, settings, "Correct its config.json or scheduler_config.json instead.")
    else:
        file = _snapshot_of(source) if is_folder(source) else source
        asked = _Asked(wanted, settings, weights, device, allow_pickle)
        denoiser, origin = _from_file(file, asked)
    origin = replace(origin, notes=(*(only or within), *origin.notes))
    if weights != _AVERAGED and origin.format not in _OF_SEVERAL:
        raise UserError(
            f"weights {weights!r} is for EDM pickles, checkpoints and folders checkpoint-N; a {origin.format} holds one network."
        )
    made = pixel_shape_of(denoiser)
    if not fits(wanted, made):
        assert wanted is not None
        raise UserError(f"{path} makes images of {made} (C, H, W), not {shape_text(wanted)}.")
    if isinstance(denoiser, torch.nn.Module):
        denoiser.to(device)
    again = partial(
        open_model,
        path,
        image_shape,
        weights=weights,
        device=device,
        allow_pickle=allow_pickle,
        resolution=resolution,
        suggested=suggested,
    )
    denoiser.origin = replace(origin, readings=_readings(origin.format, settings or {}, again))
    return denoiser


def _wanted(
    image_shape: tuple[int, int, int] | None, resolution: int | tuple[int, int] | None
) -> WantedShape | None:
    """Return what the caller says of the images in one."""
    if image_shape is not None and (
        len(image_shape) != 3 or not all(type(one) is int and one > 0 for one in image_shape)
    ):
        raise UserError(f"image_shape must be (C, H, W), three positive whole numbers, not {image_shape!r}.")
    if resolution is None:
        return image_shape
    height, width = (resolution, resolution) if isinstance(resolution, int) else resolution
    if image_shape is not None and tuple(image_shape[1:]) != (height, width):
        raise UserError(
            f"The resolution {height}x{width} is not that of the images that the model must make, {tuple(image_shape)} (C, H, W); leave it"
            " out, or give images of its size."
        )
    return image_shape or (None, height, width)


def _readings(
    layout: str, settings: Mapping[str, Any], again: Callable[..., Denoiser]
) -> tuple[Reading, ...]:
    """Return the readings of a file with one setting of few values changed."""
    choices = next((door.choices for door in DOORS if door.name == layout), {})
    changes = [(name, value) for name, values in choices.items() for value in values]
    return tuple(
        Reading(
            f"{name}={value}",
            f"Give --model-set {name}={value} (settings={{{name!r}: {value!r}}})",
            partial(again, settings={**settings, name: value}),
        )
        for name, value in changes
        if name not in settings or settings[name] != value
    )


def origin_of(denoiser: Denoiser) -> Origin:
    """Return where a model comes from: what `open_model` noted, or that it is the caller's own.

    The digest of the caller's own is that of its answers to fixed noise at three levels, so that two models are not taken for each other.
    """
    known: Origin | None = getattr(denoiser, "origin", None)
    if known is not None:
        return known
    digest = hashlib.sha256()
    low, high = max(denoiser.sigma_min, 0.05), min(denoiser.sigma_max, 10.0)
    x = torch.randn(1, *denoiser.image_shape, generator=torch.Generator().manual_seed(0)).to(denoiser.device)
    labels = torch.zeros(1, dtype=torch.int64, device=denoiser.device) if denoiser.num_labels else None
    with torch.no_grad():
        for sigma in (low, (low * high) ** 0.5, high):
            digest.update(denoiser(sigma * x, sigma, labels).float().cpu().numpy().tobytes())
    return Origin("model of the caller's own", type(denoiser).__name__, digest.hexdigest())


def _chosen(source: Path) -> tuple[Path, tuple[str, ...]]:
    """Return the only checkpoint of a folder that is no model itself, and what to know of it; anything else as it is."""
    signs = ("snapshots", "model_index.json", "config.json", "unet", "unet_ema")
    if not is_folder(source) or any((source / sign).exists() for sign in signs):
        return source, ()
    networks = _networks_of_edm(source)
    newest = [path for path in networks if step_of(path) == step_of(networks[-1])]
    if networks and len(newest) == 1:
        return source, ()
    if newest:
        refuse_several(source, newest, "EMA lengths of its newest step")
    found = checkpoints_in(source)
    if len(found) > 1:
        refuse_several(source, found)
    return (found[0], ("It is the only checkpoint in the folder that was given.",)) if found else (source, ())


def _networks_of_edm(folder: Path) -> list[Path]:
    """Return the networks in a run's folder of EDM's code, the newest last."""
    return sorted(folder.glob("network-snapshot-*.pkl"), key=lambda path: (step_of(path), path.name))


def _snapshot_of(run: Path) -> Path:
    networks = _networks_of_edm(run)
    if networks:
        return networks[-1]
    snapshots = sorted((run / "snapshots").glob("*.safetensors"))
    if not snapshots:
        raise UserError(f"{run} has no snapshot yet; train on, or name another run.")
    return snapshots[-1]


class _Asked(NamedTuple):
    """What the user said of a model."""

    image_shape: WantedShape | None
    settings: Mapping[str, Any] | None
    weights: str
    device: torch.device | str
    allow_pickle: bool


def _from_file(path: Path, asked: _Asked) -> tuple[_Model | Opened, Origin]:
    if not is_plain_file(path):
        raise UserError(f"There is no file or folder {path}. Models are read from: {MODELS_UNDERSTOOD}.")
    with reading(str(path)), path.open("rb") as stream:
        head = stream.read(HEAD_BYTES)
    told = other_file(path, head)
    if told is not None:
        raise UserError(told)
    if path.suffix == ".safetensors" or is_safetensors(head):
        names = _names_of_others(path)
        if names is not None:
            return _from_safetensors(path, names, asked)
        snapshot, _, texts = load_denoiser(path)
        _check_no_settings(path, asked.settings, "It is a snapshot of diffmem.")
        name = f"{path.name} at epoch {texts.get('epoch', 'unknown')}"
        return snapshot, Origin(OWN_FORMAT, name, sha256_file(path), path=path)
    with reading(str(path)):
        content = read_checkpoint(path)
    if not holds_networks(content):
        return _from_checkpoint(path, content, asked)
    which = "averaged weights (ema)" if asked.weights == _AVERAGED else f"weights {asked.weights!r}"
    beside = Asked(asked.settings, asked.device, asked.allow_pickle)
    network, known = edm_network(content, asked.weights, path, beside)
    others = ", ".join(repr(name) for name in network_names(content) if name != asked.weights)
    notes = (
        f"It is the network {asked.weights!r} of the file{others and f', which also holds {others}'}.",
        *(["Its weights are averaged."] if asked.weights == _AVERAGED else []),
        *known,
    )
    digest = sha256_file(path)
    if isinstance(network, LatentDenoiser):
        digest = hashlib.sha256(
            f"{digest} {_digest(Path((asked.settings or {})['vae']))}".encode()
        ).hexdigest()
    return network, Origin("EDM pickle", f"{path.name}, {which}", digest, notes, path)


def _from_checkpoint(path: Path, content: object, asked: _Asked) -> tuple[Opened, Origin]:
    """Open what another trainer saved."""
    with reading(str(path)):
        tensors = with_tensors(content)
    return _through_door(path, tensors, asked)


def _through_door(path: Path, tensors: object, asked: _Asked) -> tuple[Opened, Origin]:
    door = door_of(tensors)
    if door is None or not isinstance(tensors, Mapping):
        raise UserError(described(path, tensors))
    with naming(path):
        denoiser, notes = door.open(
            tensors, asked.image_shape, asked.settings, asked.weights, path, asked.device
        )
    return denoiser, Origin(door.name, path.name, sha256_file(path), notes, path)


def _names_of_others(path: Path) -> list[str] | None:
    """Return the names of tensors in safetensors that another program wrote; none for diffmem's own, and for damaged files.

    Raises:
        UserError: It is a network of k-diffusion.
    """
    from safetensors import SafetensorError, safe_open

    check_sizes(path)
    try:
        with safe_open(path, "pt") as file:
            texts = dict(file.metadata() or {})
            names = list(file.keys())
    except (SafetensorError, OSError, ValueError):
        return None  # damaged, which reading it says
    if texts.get("format", "").startswith("diffmem"):
        return None
    if "config" in texts and '"model"' in texts["config"]:
        raise UserError(f"{path} is a network of k-diffusion, which is not supported yet. {WAYS_ON}")
    return names


def _from_safetensors(path: Path, names: list[str], asked: _Asked) -> tuple[_Model | Opened, Origin]:
    """Open named tensors that another program wrote: the state dict of a trainer, or of a network of EDM with its arguments."""
    named = dict.fromkeys(names, torch.empty(0))
    if door_of(named) is not None:
        return _through_door(path, load_tensors(path), asked)
    is_edm = any(name.startswith("model.map_layer0.") for name in names) or "class_name" in (
        asked.settings or {}
    )
    if asked.settings is None or not is_edm:
        raise UserError(described(path, named))
    tensors = load_tensors(path)
    with naming(path):
        check_numbers(tensors)
        denoiser = from_edm_state_dict(tensors, asked.settings)
    return denoiser, Origin("EDM state dict", path.name, sha256_file(path), path=path)


def _check_no_settings(path: Path, settings: Mapping[str, Any] | None, instead: str) -> None:
    """Refuse settings for what records all of them, so that none is left out without a word."""
    if settings:
        raise UserError(
            f"{path} tells everything: it takes no settings, and {sorted(settings)[0]!r} was given. {instead}"
        )


def _network_of(checkpoint: Path, weights: str) -> tuple[Path, list[str]]:
    """Return the network's folder in one named checkpoint-N of diffusers' training examples, and what to know of it; others as they are."""
    folders = {"ema": checkpoint / "unet_ema", "raw": checkpoint / "unet"}
    held = [name for name, folder in folders.items() if (folder / "config.json").is_file()]
    if not any((checkpoint / name).is_file() for name in ("model_index.json", "config.json")) and held:
        check_weights(weights)
        if weights == "raw" and "raw" not in held:
            raise UserError(f"{checkpoint} holds no raw weights (unet): take weights='ema'.")
        if weights == "raw":
            return folders["raw"], ["The raw weights of the checkpoint (unet) were taken, as asked."]
        if "ema" in held:
            both = "; it holds raw ones, too (unet)" if "raw" in held else ""
            return folders["ema"], [f"The averaged weights of the checkpoint (unet_ema) were taken{both}."]
        return folders["raw"], [
            "The checkpoint holds no averaged weights (unet_ema): the raw ones were taken."
        ]
    if checkpoint.resolve().name == "unet" and (checkpoint.resolve().parent / "unet_ema").is_dir():
        return checkpoint, ["These are the raw weights; the averaged ones lie beside them (unet_ema)."]
    return checkpoint, []


def _diffusers(
    folder: Path, device: torch.device | str, weights: str, allow_pickle: bool
) -> tuple[_Model, Origin]:
    given = folder
    folder, known = _network_of(folder, weights)
    if not any((folder / name).is_file() for name in ("model_index.json", "config.json")):
        with reading(str(folder)):
            raise UserError(f"{other_folder(folder)} Models are read from: {MODELS_UNDERSTOOD}. {WAYS_ON}")
    denoiser = open_diffusers(folder, device=device, allow_pickle=allow_pickle)
    notes = [*known, *doubts_of(folder)]
    network = denoiser.inner if isinstance(denoiser, LatentDenoiser) else denoiser
    if isinstance(network, DiscreteDenoiser):
        notes.append("Noise levels between the timesteps of training are interpolated.")
    elif isinstance(network, ContinuousDenoiser) and network.process.unit_range:
        notes.append(
            "The network knows images in [0, 1]; here, images and noise levels are in units of [-1, 1], which are twice as wide."
        )
    notes.append("Images are sampled by diffmem's sampler, not by the pipeline's own scheduler.")
    if isinstance(denoiser, Latent):
        notes.append(
            "The model denoises latents; its samples are decoded by its autoencoder and compared as pixels. What the autoencoder cannot"
            " draw sharply, no copy has."
        )
    if denoiser.num_labels:
        notes.append("Classes are drawn at random, and no guidance is applied; guided samples may copy more.")
    kind = "diffusers folder" if folder == given else "diffusers checkpoint"
    return denoiser, Origin(kind, folder.resolve().name, _digest(folder), tuple(notes), folder)


def _digest(folder: Path) -> str:
    """Return the hash of the files that make a model of diffusers; a bare network may have parts beside its folder."""
    home = folder.resolve()
    roots = (
        [home] if (home / "model_index.json").is_file() else [home, *(home.parent / part for part in _BESIDE)]
    )
    digest = hashlib.sha256()
    for root in roots:
        for file in sorted(file for file in root.rglob("*") if file.suffix in _OWN and file.is_file()):
            digest.update(f"{root.name}/{file.relative_to(root).as_posix()} {sha256_file(file)}\n".encode())
    return digest.hexdigest()
