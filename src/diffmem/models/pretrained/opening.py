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

from diffmem.data.formats.guards import in_one_line, is_folder, is_plain_file, read_plain, reading
from diffmem.environment import choose_device
from diffmem.errors import UserError
from diffmem.files import sha256_file
from diffmem.models.denoiser import Denoiser, Latent, Origin, Reading, pixel_shape_of
from diffmem.models.discrete import DiscreteDenoiser
from diffmem.models.latent import LatentDenoiser
from diffmem.models.preconditioning import Preconditioned
from diffmem.models.pretrained.checkpoint import read_checkpoint, with_tensors
from diffmem.models.pretrained.diffusers_folder import doubts_of, open_diffusers
from diffmem.models.pretrained.doors import DOORS, Opened, door_of
from diffmem.models.pretrained.edm_pickle import edm_network, holds_networks
from diffmem.models.pretrained.foreign import from_edm_state_dict
from diffmem.models.pretrained.recognition import WAYS_ON, described
from diffmem.models.weights import check_numbers, check_sizes, load_denoiser, load_tensors, naming

__all__ = ["MODELS_UNDERSTOOD", "OWN_FORMAT", "open_model", "origin_of"]

MODELS_UNDERSTOOD = (
    "a run's folder of diffmem or one of its snapshots (.safetensors); a network pickle of NVIDIA's EDM (.pkl); a folder that"
    " save_pretrained of diffusers wrote; a checkpoint of denoising-diffusion-pytorch, pytorch-ddpm, improved-diffusion or guided-diffusion"
)
"""What `open_model` reads, in words."""

OWN_FORMAT = "diffmem snapshot"
"""`Origin.format` of what was trained here."""

_Model = Preconditioned | DiscreteDenoiser | LatentDenoiser
_AVERAGED = "ema"
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
) -> Denoiser:
    """Open a trained model; nothing in it is executed.

    Args:
        path: See `MODELS_UNDERSTOOD`. Of a run's folder, the last snapshot is taken.
        image_shape: (C, H, W) of the images that it must make; none for any.
        settings: What a checkpoint does not tell, by name; a message asks for it. For a safetensors file that holds the tensors of a
            network of EDM alone, its constructor arguments, see `from_edm_state_dict`.
        weights: Which network of an EDM pickle, that of the averaged weights ('ema') by default, or which weights of a checkpoint, 'ema' or
            'raw'; other files hold one network.
        device: Where it computes: 'cpu', 'cuda' or 'cuda:N'; by default a GPU where there is one.
        allow_pickle: Whether the weights of a diffusers folder may be read from a pickle where there are no safetensors.

    Returns:
        The model; its `origin` says what was read, and what a reader of its results must know.

    Raises:
        UserError: Nothing is there, it is no model, it is damaged, or of a kind that is not supported; or an argument does not fit it.
    """
    device = choose_device(device) if device is None else device
    source = Path(path)
    denoiser: _Model | Opened
    with suppress(RuntimeError):  # a user who is not known: the name is taken as it is
        source = source.expanduser()
    if settings is not None and source.suffix == ".safetensors":
        denoiser, origin = _from_settings(source, settings)
    else:
        source = _revision_of(source) if is_folder(source) else source
        if is_folder(source) and not (source / "snapshots").is_dir() and not _networks_of_edm(source):
            denoiser, origin = _diffusers(source, device, allow_pickle)
        else:
            file = _snapshot_of(source) if is_folder(source) else source
            asked = _Asked(image_shape, settings, weights, device)
            denoiser, origin = _from_file(file, asked)
    if weights != _AVERAGED and origin.format not in ("EDM pickle", *(door.name for door in DOORS)):
        raise UserError(
            f"weights {weights!r} is for EDM pickles and checkpoints; a {origin.format} holds one network."
        )
    if image_shape is not None and pixel_shape_of(denoiser) != tuple(image_shape):
        raise UserError(
            f"{path} makes images of {pixel_shape_of(denoiser)} (C, H, W), not {tuple(image_shape)}."
        )
    if isinstance(denoiser, torch.nn.Module):
        denoiser.to(device)
    again = partial(open_model, path, image_shape, weights=weights, device=device, allow_pickle=allow_pickle)
    denoiser.origin = replace(origin, readings=_readings(origin.format, settings or {}, again))
    return denoiser


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


def _revision_of(folder: Path) -> Path:
    """Return the folder of a revision, of a folder models--x--y of a hub's cache; any other as it is."""
    if not (folder / "refs").is_dir() or not (folder / "snapshots").is_dir():
        return folder
    revisions = sorted(path for path in (folder / "snapshots").iterdir() if path.is_dir())
    main = folder / "refs" / "main"
    if is_plain_file(main):
        wanted = read_plain(main, 1000, str(main)).decode(errors="replace").strip()
        revisions = [path for path in revisions if path.name == wanted] or revisions
    if len(revisions) != 1:
        names = ", ".join(path.name for path in revisions[:5]) or "none"
        raise UserError(
            f"{folder} holds {len(revisions)} revisions ({names}); name one, in {folder / 'snapshots'}."
        )
    return revisions[0]


def _networks_of_edm(folder: Path) -> list[Path]:
    """Return the networks in a run's folder of EDM's code, the newest last."""
    return sorted(folder.glob("network-snapshot-*.pkl"))


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

    image_shape: tuple[int, int, int] | None
    settings: Mapping[str, Any] | None
    weights: str
    device: torch.device | str


def _from_file(path: Path, asked: _Asked) -> tuple[_Model | Opened, Origin]:
    if not is_plain_file(path):
        raise UserError(f"There is no file or folder {path}. Models are read from: {MODELS_UNDERSTOOD}.")
    with reading(str(path)), path.open("rb") as stream:
        head = stream.read(9)
    if path.suffix == ".safetensors" or head[8:9] == b"{":
        _check_own(path)
        snapshot, _, texts = load_denoiser(path)
        name = f"{path.name} at epoch {texts.get('epoch', 'unknown')}"
        return snapshot, Origin(OWN_FORMAT, name, sha256_file(path), path=path)
    with reading(str(path)):
        content = read_checkpoint(path)
    if not holds_networks(content):
        return _from_checkpoint(path, content, asked)
    if asked.settings is not None:
        raise UserError(f"{path} is a network pickle of EDM, which tells everything: it takes no settings.")
    which = "averaged weights (ema)" if asked.weights == _AVERAGED else f"weights {asked.weights!r}"
    network = edm_network(content, asked.weights, path)
    return network, Origin("EDM pickle", f"{path.name}, {which}", sha256_file(path), path=path)


def _from_checkpoint(path: Path, content: object, asked: _Asked) -> tuple[Opened, Origin]:
    """Open what another trainer saved."""
    with reading(str(path)):
        tensors = with_tensors(content)
    door = door_of(tensors)
    if door is None or not isinstance(tensors, Mapping):
        raise UserError(described(path, tensors))
    with naming(path):
        denoiser, notes = door.open(
            tensors, asked.image_shape, asked.settings, asked.weights, path, asked.device
        )
    return denoiser, Origin(door.name, path.name, sha256_file(path), notes, path)


def _check_own(path: Path) -> None:
    """Refuse safetensors that another program wrote, by what they are."""
    from safetensors import SafetensorError, safe_open

    check_sizes(path)
    try:
        with safe_open(path, "pt") as file:
            texts = dict(file.metadata() or {})
            names = list(file.keys())
    except (SafetensorError, OSError, ValueError):
        return  # damaged, which reading it says
    if "format" in texts and texts["format"] != "pt":
        return
    if "config" in texts and '"model"' in texts["config"]:
        raise UserError(f"{path} is a network of k-diffusion, which is not supported yet. {WAYS_ON}")
    raise UserError(described(path, dict.fromkeys(names, torch.empty(0))))


def _from_settings(path: Path, settings: Mapping[str, Any]) -> tuple[_Model, Origin]:
    tensors = load_tensors(path)
    with naming(path):
        check_numbers(tensors)
        denoiser = from_edm_state_dict(tensors, settings)
    return denoiser, Origin("EDM state dict", path.name, sha256_file(path), path=path)


def _network_of(checkpoint: Path) -> tuple[Path, list[str]]:
    """Return the network's folder in one named checkpoint-N of diffusers' training examples, and what to know of it; others as they are."""
    averaged, raw = checkpoint / "unet_ema", checkpoint / "unet"
    if not any((checkpoint / name).is_file() for name in ("model_index.json", "config.json")):
        if (averaged / "config.json").is_file():
            return averaged, ["The averaged weights of the checkpoint (unet_ema) were taken."]
        if (raw / "config.json").is_file():
            return raw, ["The checkpoint holds no averaged weights (unet_ema): the raw ones were taken."]
    elif checkpoint.resolve().name == "unet" and (checkpoint.resolve().parent / "unet_ema").is_dir():
        return checkpoint, ["These are the raw weights; the averaged ones lie beside them (unet_ema)."]
    return checkpoint, []


def _diffusers(folder: Path, device: torch.device | str, allow_pickle: bool) -> tuple[_Model, Origin]:
    folder, known = _network_of(folder)
    if not any((folder / name).is_file() for name in ("model_index.json", "config.json")):
        raise UserError(
            f"{folder} is no folder of a model. Models are read from: {MODELS_UNDERSTOOD}. {WAYS_ON}"
        )
    denoiser = open_diffusers(folder, device=device, allow_pickle=allow_pickle)
    notes = [
        *known,
        *doubts_of(folder),
        "Noise levels between the timesteps of training are interpolated, and images are sampled by diffmem's sampler, not by the"
        " pipeline's own scheduler.",
    ]
    if isinstance(denoiser, Latent):
        notes.append(
            "The model denoises latents; its samples are decoded by its autoencoder and compared as pixels. What the autoencoder cannot"
            " draw sharply, no copy has."
        )
    if denoiser.num_labels:
        notes.append("Classes are drawn at random, and no guidance is applied; guided samples may copy more.")
    return denoiser, Origin("diffusers folder", folder.resolve().name, _digest(folder), tuple(notes), folder)


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
