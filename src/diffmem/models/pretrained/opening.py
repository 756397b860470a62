"""`open_model`: a trained model from whatever keeps it, recognised by its content."""

from __future__ import annotations

import hashlib
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import torch

from diffmem.data.formats.guards import in_one_line, is_folder, is_plain_file, reading
from diffmem.errors import UserError
from diffmem.files import sha256_file
from diffmem.models.denoiser import Denoiser, Latent
from diffmem.models.pretrained.diffusers_folder import open_diffusers
from diffmem.models.pretrained.edm_pickle import open_edm_pickle
from diffmem.models.weights import load_denoiser

__all__ = ["MODELS_UNDERSTOOD", "OpenedModel", "open_model"]

MODELS_UNDERSTOOD = (
    "a run's folder of diffmem or one of its snapshots (.safetensors); a network pickle of NVIDIA's EDM (.pkl); a folder that"
    " save_pretrained of diffusers wrote"
)
"""What `open_model` reads, in words."""

_OWN = (".json", ".safetensors", ".bin")
_BESIDE = ("scheduler", "vae", "vqvae")


@dataclass(frozen=True, eq=False)
class OpenedModel:
    """A model with its origin.

    Attributes:
        denoiser: The model.
        kind: How it was kept, for example 'EDM pickle'.
        name: Of the file that was read, without its folder; with what is known about it.
        digest: SHA-256 in hexadecimal of what was read.
        notes: What a reader of its results must know.
        path: The file or folder that was read; none for a model of the caller's own.
    """

    denoiser: Denoiser
    kind: str
    name: str
    digest: str
    notes: tuple[str, ...] = ()
    path: Path | None = None

    @classmethod
    def of(cls, denoiser: Denoiser, name: str) -> OpenedModel:
        """Return a model of the caller's own, for example a `FunctionDenoiser`.

        Its digest is that of its answers to fixed noise at three levels, so that models of one name are not taken for each other.

        Args:
            denoiser: The model.
            name: For people.
        """
        digest = hashlib.sha256(name.encode())
        low, high = max(denoiser.sigma_min, 0.05), min(denoiser.sigma_max, 10.0)
        x = torch.randn(1, *denoiser.image_shape, generator=torch.Generator().manual_seed(0)).to(
            denoiser.device
        )
        labels = torch.zeros(1, dtype=torch.int64, device=denoiser.device) if denoiser.num_labels else None
        with torch.no_grad():
            for sigma in (low, (low * high) ** 0.5, high):
                digest.update(denoiser(sigma * x, sigma, labels).float().cpu().numpy().tobytes())
        return cls(denoiser, "model of the caller's own", name, digest.hexdigest())


@in_one_line()
def open_model(
    path: Path | str, device: torch.device | str = "cpu", *, allow_pickle: bool = False
) -> OpenedModel:
    """Open a trained model; nothing in it is executed.

    Args:
        path: See `MODELS_UNDERSTOOD`. Of a run's folder, the last snapshot is taken; of an EDM pickle, the averaged weights.
        device: Where it computes.
        allow_pickle: Whether the weights of a diffusers folder may be read from a pickle where there are no safetensors.

    Raises:
        UserError: Nothing is there, it is no model, it is damaged, or of a kind that is not supported.
    """
    place = Path(path)
    with suppress(RuntimeError):  # a user who is not known: the name is taken as it is
        place = place.expanduser()
    if is_folder(place):
        return _folder(place, device, allow_pickle)
    if not is_plain_file(place):
        raise UserError(f"There is no file or folder {path}. Models are read from: {MODELS_UNDERSTOOD}.")
    with reading(str(place)), place.open("rb") as stream:
        head = stream.read(9)
    if place.suffix == ".safetensors" or head[8:9] == b"{":
        return _snapshot(place, device)
    denoiser = open_edm_pickle(place).to(device)
    name = f"{place.name}, averaged weights (ema)"
    return OpenedModel(denoiser, "EDM pickle", name, sha256_file(place), path=place)


def _folder(place: Path, device: torch.device | str, allow_pickle: bool) -> OpenedModel:
    if (place / "snapshots").is_dir():
        snapshots = sorted((place / "snapshots").glob("*.safetensors"))
        if not snapshots:
            raise UserError(f"{place} has no snapshot yet; train on, or name another run.")
        return _snapshot(snapshots[-1], device)
    if any((place / name).is_file() for name in ("model_index.json", "config.json")):
        denoiser = open_diffusers(place, device=device, allow_pickle=allow_pickle)
        return OpenedModel(
            denoiser, "diffusers folder", place.resolve().name, _digest(place), _notes(denoiser), place
        )
    raise UserError(f"{place} is no folder of a model. Models are read from: {MODELS_UNDERSTOOD}.")


def _snapshot(path: Path, device: torch.device | str) -> OpenedModel:
    denoiser, _, words = load_denoiser(path, device)
    return OpenedModel(
        denoiser,
        "diffmem snapshot",
        f"{path.name} at epoch {words.get('epoch', 'unknown')}",
        sha256_file(path),
        path=path,
    )


def _digest(place: Path) -> str:
    """Return the hash of the files that make a model of diffusers; a bare network may have parts beside its folder."""
    home = place.resolve()
    roots = (
        [home] if (home / "model_index.json").is_file() else [home, *(home.parent / part for part in _BESIDE)]
    )
    digest = hashlib.sha256()
    for root in roots:
        for file in sorted(file for file in root.rglob("*") if file.suffix in _OWN and file.is_file()):
            digest.update(f"{root.name}/{file.relative_to(root).as_posix()} {sha256_file(file)}\n".encode())
    return digest.hexdigest()


def _notes(denoiser: Denoiser) -> tuple[str, ...]:
    notes = [
        "Noise levels between the timesteps of training are interpolated, and images are sampled by diffmem's sampler, not by the"
        " pipeline's own scheduler."
    ]
    if isinstance(denoiser, Latent):
        notes.append(
            "The model denoises latents; its samples are decoded by its autoencoder and compared as pixels. What the autoencoder cannot"
            " draw sharply, no copy has."
        )
    if denoiser.num_labels:
        notes.append("Classes are drawn at random, and no guidance is applied; guided samples may copy more.")
    return tuple(notes)
