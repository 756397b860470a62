"""Models made elsewhere: a denoiser from the tensors and constructor arguments of an EDM checkpoint.

Only names and numbers are taken from such a file; the network is built by this package. Nothing is unpickled here.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from torch import Tensor

from diffmem.errors import UserError, nearest
from diffmem.models.adm import DhariwalUNet
from diffmem.models.preconditioning import EDM, VE, VP, Preconditioned, Preconditioning
from diffmem.models.song import SongUNet
from diffmem.models.unet import UNet

__all__ = ["from_edm_state_dict"]

# Constructor arguments and defaults of the three wrappers and the two networks (names and numbers of the file format).
_WRAPPERS: dict[str, dict[str, Any]] = {
    "VPPrecond": {"beta_d": 19.9, "beta_min": 0.1, "M": 1000, "epsilon_t": 1e-5, "model_type": "SongUNet"},
    "VEPrecond": {"sigma_min": 0.02, "sigma_max": 100.0, "model_type": "SongUNet"},
    "EDMPrecond": {"sigma_min": 0.0, "sigma_max": float("inf"), "sigma_data": 0.5, "model_type": "DhariwalUNet"},
}
_SHARED: dict[str, Any] = {
    "img_resolution": None, "img_channels": None, "label_dim": 0, "use_fp16": False,
    "augment_dim": 0, "label_dropout": 0, "channel_mult_emb": 4, "dropout": 0.10,
}  # fmt: skip
_NETWORKS: dict[str, dict[str, Any]] = {
    "SongUNet": {
        "model_channels": 128, "channel_mult": [1, 2, 2, 2], "num_blocks": 4, "attn_resolutions": [16],
        "embedding_type": "positional", "channel_mult_noise": 1, "encoder_type": "standard", "decoder_type": "standard",
        "resample_filter": [1, 1], "skip_connections": None,
    },
    "DhariwalUNet": {
        "model_channels": 192, "channel_mult": [1, 2, 3, 4], "num_blocks": 3, "attn_resolutions": [32, 16, 8],
        "skip_connections": None,
    },
}  # fmt: skip
_CHOICES = {
    "embedding_type": ("positional", "fourier"),
    "encoder_type": ("standard", "skip", "residual"),
    "decoder_type": ("standard", "skip"),
}
_IGNORED = {"class_name"}


def from_edm_state_dict(state: Mapping[str, Tensor], config: Mapping[str, Any]) -> Preconditioned:
    """Rebuild a network of the EDM code base, or of the memorization study's fork of it, as a `Denoiser`.

    Args:
        state: Tensors by their EDM names (`model.enc.32x32_block0.conv0.weight`, ...), of any float type. Constant resampling
            filters may be left out. `model.map_augment.weight` is dropped: it acts only on augmented training images.
        config: Constructor arguments: `class_name` ending in VPPrecond, VEPrecond or EDMPrecond, `img_resolution`,
            `img_channels`, `label_dim`, `model_type` (SongUNet or DhariwalUNet), and those of the network, with
            `skip_connections` (one 0 or 1 for each encoder output) where present. What is absent has EDM's default.

    Returns:
        The denoiser, float32 on the CPU, in evaluation mode. It computes in float32 whatever `use_fp16` says.

    Raises:
        UserError: An argument is unknown or impossible, or the tensors are not exactly those of that network; the message
            names the first offender.
    """
    settings = _settings(config)
    resolution, channels = _positive(settings, "img_resolution"), _positive(settings, "img_channels")
    denoiser = Preconditioned(_network(settings, resolution, channels), channels, _preconditioning(settings))
    _load(denoiser, state, augmented=bool(settings["augment_dim"]))
    return denoiser.eval().requires_grad_(False)


def _settings(config: Mapping[str, Any]) -> dict[str, Any]:
    name = str(config.get("class_name", "")).rpartition(".")[2]
    if name not in _WRAPPERS:
        raise UserError(f"class_name {config.get('class_name')!r} is not supported: it must end in {', '.join(_WRAPPERS)}.")
    model_type = str(config.get("model_type", _WRAPPERS[name]["model_type"]))
    if model_type not in _NETWORKS:
        raise UserError(f"model_type {model_type!r} is not supported: it must be SongUNet or DhariwalUNet.")
    known = _SHARED | _WRAPPERS[name] | _NETWORKS[model_type]
    for key in config:
        if key not in known and key not in _IGNORED:
            raise UserError(f"{name} with {model_type} has no argument {key!r}.{nearest(key, list(known))}")
    settings = known | dict(config) | {"class_name": name, "model_type": model_type}
    for key, choices in _CHOICES.items():
        if key in settings and settings[key] not in choices:
            raise UserError(f"{key} {settings[key]!r} is not supported: it must be one of {', '.join(choices)}.")
    return settings


def _positive(settings: Mapping[str, Any], key: str) -> int:
    try:
        value = int(settings[key])
    except (TypeError, ValueError):
        value = 0
    if value < 1:
        raise UserError(f"{key} must be a positive whole number, not {settings[key]!r}.")
    return value


def _integers(settings: Mapping[str, Any], key: str) -> tuple[int, ...]:
    value = settings[key]
    if not isinstance(value, Sequence) or isinstance(value, str):
        raise UserError(f"{key} must be a list of whole numbers, not {value!r}.")
    return tuple(int(item) for item in value)


def _network(settings: dict[str, Any], resolution: int, channels: int) -> UNet:
    mask = settings["skip_connections"]
    shared: dict[str, Any] = {
        "num_labels": int(settings["label_dim"]),
        "channels": _positive(settings, "model_channels"),
        "multipliers": _integers(settings, "channel_mult"),
        "embedding_multiplier": _positive(settings, "channel_mult_emb"),
        "blocks": _positive(settings, "num_blocks"),
        "attention": _integers(settings, "attn_resolutions"),
        "dropout": float(settings["dropout"]),
        "skip_mask": None if mask is None else [bool(int(keep)) for keep in mask],
    }
    if settings["model_type"] == "DhariwalUNet":
        return DhariwalUNet(resolution, channels, channels, **shared)
    return SongUNet(
        resolution,
        channels,
        channels,
        **shared,
        embedding=settings["embedding_type"],
        noise_multiplier=_positive(settings, "channel_mult_noise"),
        encoder=settings["encoder_type"],
        decoder=settings["decoder_type"],
        taps=_integers(settings, "resample_filter"),
    )


def _preconditioning(settings: Mapping[str, Any]) -> Preconditioning:
    if settings["class_name"] == "VPPrecond":
        return VP(
            beta_d=float(settings["beta_d"]),
            beta_min=float(settings["beta_min"]),
            steps=int(settings["M"]),
            epsilon_t=float(settings["epsilon_t"]),
        )
    sigma_min, sigma_max = float(settings["sigma_min"]), float(settings["sigma_max"])
    if settings["class_name"] == "VEPrecond":
        return VE(sigma_min, sigma_max)
    return EDM(sigma_min, sigma_max, sigma_data=float(settings["sigma_data"]))


def _load(denoiser: Preconditioned, state: Mapping[str, Tensor], augmented: bool) -> None:
    """Copy the tensors by name after checking that they are exactly those of the network."""
    wanted = denoiser.state_dict()
    given = {name: tensor for name, tensor in state.items() if not (augmented and name == "model.map_augment.weight")}
    for name, tensor in given.items():
        if name not in wanted:
            raise UserError(
                f"The checkpoint holds a tensor {name!r} that this network does not have.{nearest(name, list(wanted))}"
                " Check the constructor arguments (num_blocks, channel_mult, attn_resolutions, label_dim, augment_dim)."
            )
        if tensor.shape != wanted[name].shape:
            raise UserError(
                f"Tensor {name!r} has shape {tuple(tensor.shape)}, but this network needs {tuple(wanted[name].shape)}."
                " Check the constructor arguments (model_channels, channel_mult, label_dim)."
            )
    missing = [name for name in wanted if name not in given and not name.endswith("resample_filter")]
    if missing:
        raise UserError(f"The checkpoint lacks {len(missing)} tensor(s) of this network, first {missing[0]!r}.")
    denoiser.load_state_dict(given, strict=False)
