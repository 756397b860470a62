"""Models made elsewhere: a denoiser from the tensors and constructor arguments of an EDM checkpoint.

Only names and numbers are taken from such a file; the network is built by this package. Nothing is unpickled
here.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from diffmem.errors import UserError, nearest
from diffmem.models.networks.families import DhariwalUNet, SongSettings, SongUNet
from diffmem.models.networks.unet import UNet, UNetSettings
from diffmem.models.preconditioning import EDM, IDDPM, VE, VP, Preconditioned, Preconditioning, iddpm_levels
from diffmem.models.pretrained.arguments import number, numbers
from diffmem.models.weights import check_tensors

__all__ = ["from_edm_state_dict"]

# Constructor arguments and defaults of the four wrappers and the two networks (names and numbers of the file
# format).
_WRAPPERS: dict[str, dict[str, Any]] = {
    "VPPrecond": {"beta_d": 19.9, "beta_min": 0.1, "M": 1000, "epsilon_t": 1e-5, "model_type": "SongUNet"},
    "VEPrecond": {"sigma_min": 0.02, "sigma_max": 100.0, "model_type": "SongUNet"},
    "EDMPrecond": {
        "sigma_min": 0.0,
        "sigma_max": float("inf"),
        "sigma_data": 0.5,
        "model_type": "DhariwalUNet",
    },
    "iDDPMPrecond": {"C_1": 0.001, "C_2": 0.008, "M": 1000, "model_type": "DhariwalUNet"},
}
_SHARED: dict[str, Any] = {
    "img_resolution": None, "img_channels": None, "label_dim": 0, "use_fp16": False,
    "augment_dim": 0, "label_dropout": 0, "channel_mult_emb": 4, "dropout": 0.10,
}  # fmt: skip
_NETWORKS: dict[str, dict[str, Any]] = {
    "SongUNet": {
        "model_channels": 128, "channel_mult": [1, 2, 2, 2], "num_blocks": 4, "attn_resolutions": [16],
        "embedding_type": "positional", "channel_mult_noise": 1, "encoder_type": "standard",
        "decoder_type": "standard", "resample_filter": [1, 1], "skip_connections": None,
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
_IDDPM = "iDDPMPrecond"
_MOST_STEPS = 100_000


def from_edm_state_dict(state: Mapping[str, Tensor], config: Mapping[str, Any]) -> Preconditioned:
    """Rebuild a network of the EDM code base, or of the memorization study's fork of it, as a `Denoiser`.

    Args:
        state: Tensors by their EDM names (`model.enc.32x32_block0.conv0.weight`, ...), of any float type.
            Constant resampling filters may be left out. `model.map_augment.weight` is dropped: it acts only
            on augmented training images.
        config: Constructor arguments: `class_name` ending in VPPrecond, VEPrecond, EDMPrecond or iDDPMPrecond
            (whose noise levels are the tensor `u`), `img_resolution`, `img_channels`, `label_dim`,
            `model_type` (SongUNet or DhariwalUNet), and those of the network, with `skip_connections` (one 0
            or 1 for each encoder output) where present. What is absent has EDM's default.

    Returns:
        The denoiser, float32 on the CPU, in evaluation mode. It computes in float32 whatever `use_fp16` says.

    Raises:
        UserError: An argument is unknown or impossible, or the tensors are not exactly those of that network;
            the message names the first offender.
    """
    settings = _settings(config)
    tensors = dict(state)
    levels = _levels(tensors, settings) if settings["class_name"] == _IDDPM else None
    denoiser = Preconditioned(_network(settings), _preconditioning(settings, levels))
    _load(denoiser, tensors, augmented=bool(settings["augment_dim"]))
    return denoiser.eval().requires_grad_(False)


def _settings(config: Mapping[str, Any]) -> dict[str, Any]:
    name = str(config.get("class_name", "")).rpartition(".")[2]
    if name not in _WRAPPERS:
        raise UserError(
            f"class_name {config.get('class_name')!r} is not supported: it must end in"
            f" {', '.join(_WRAPPERS)}."
        )
    model_type = str(config.get("model_type", _WRAPPERS[name]["model_type"]))
    if model_type not in _NETWORKS:
        raise UserError(f"model_type {model_type!r} is not supported: it must be SongUNet or DhariwalUNet.")
    known = _SHARED | _WRAPPERS[name] | _NETWORKS[model_type]
    for key in config:
        if key not in known and key not in _IGNORED:
            raise UserError(f"{name} with {model_type} has no argument {key!r}.{nearest(key, list(known))}")
    settings = known | dict(config) | {"class_name": name, "model_type": model_type}
    if name == _IDDPM and model_type != "DhariwalUNet":
        raise UserError(f"{name} with {model_type} is not supported: model_type must be DhariwalUNet.")
    for key, choices in _CHOICES.items():
        if key in settings and settings[key] not in choices:
            raise UserError(
                f"{key} {settings[key]!r} is not supported: it must be one of {', '.join(choices)}."
            )
    return settings


def _taps(settings: Mapping[str, Any]) -> tuple[float, ...]:
    taps = numbers(settings, "resample_filter")
    if not taps or len(taps) % 2 or sum(taps) == 0 or not math.isfinite(sum(taps)):
        raise UserError(
            f"resample_filter {settings['resample_filter']!r} is not supported: it must have an even number"
            " of taps and a sum other than 0, such as [1, 1] or [1, 3, 3, 1]."
        )
    return taps


def _mask(settings: Mapping[str, Any]) -> tuple[bool, ...] | None:
    value = settings["skip_connections"]
    if value is None:
        return None
    entries = list(value) if isinstance(value, Sequence) and not isinstance(value, str) else [None]
    texts = [str(int(entry)) if isinstance(entry, bool | int) else entry for entry in entries]
    if not all(text in ("0", "1") for text in texts):
        raise UserError(
            f"skip_connections must be a list of 0 and 1, one for each encoder output, not {value!r}."
        )
    return tuple(text == "1" for text in texts)


def _network(settings: Mapping[str, Any]) -> UNet:
    resolution = number(settings, "img_resolution", whole=True)
    multipliers = numbers(settings, "channel_mult", whole=True)
    base_width = number(settings, "model_channels", whole=True)
    if not multipliers:
        raise UserError("channel_mult is empty: give one number for each resolution of the network.")
    if resolution % 2 ** (len(multipliers) - 1):
        raise UserError(
            f"img_resolution {resolution} does not fit the {len(multipliers)} resolutions of channel_mult"
            f" {list(multipliers)}: it must be a multiple of {2 ** (len(multipliers) - 1)}."
        )
    if base_width % 2:
        raise UserError(f"model_channels {base_width} is not supported: it must be even.")
    shared: dict[str, Any] = {
        "resolution": resolution,
        "image_channels": number(settings, "img_channels", whole=True),
        "num_labels": 0 if settings["label_dim"] in (0, None) else number(settings, "label_dim", whole=True),
        "base_width": base_width,
        "multipliers": multipliers,
        "embedding_multiplier": number(settings, "channel_mult_emb", whole=True),
        "blocks": number(settings, "num_blocks", whole=True),
        "attention": numbers(settings, "attn_resolutions", whole=True),
        "dropout": number(settings, "dropout"),
        "skip_mask": _mask(settings),
    }
    if settings["model_type"] == "DhariwalUNet":
        return DhariwalUNet(UNetSettings(**shared), with_variance=settings["class_name"] == _IDDPM)
    song = SongSettings(
        **shared,
        embedding=settings["embedding_type"],
        noise_multiplier=number(settings, "channel_mult_noise", whole=True),
        encoder=settings["encoder_type"],
        decoder=settings["decoder_type"],
        taps=_taps(settings),
    )
    return SongUNet(song)


def _levels(tensors: dict[str, Tensor], settings: Mapping[str, Any]) -> Tensor:
    """Take the noise levels of iDDPM out of the tensors, checked to be those that the arguments describe."""
    steps = number(settings, "M", whole=True)
    levels = tensors.pop("u", None)
    if levels is None or tuple(levels.shape) != (steps + 1,):
        found = "absent" if levels is None else f"of shape {tuple(levels.shape)}"
        raise UserError(
            f"The noise levels u of M {steps} timesteps must have shape ({steps + 1},); they are {found}."
        )
    smallest, offset = number(settings, "C_1"), number(settings, "C_2")
    if steps > _MOST_STEPS or not (1e-9 < smallest < 1 and 0 <= offset <= 1):
        raise UserError(
            f"M {steps}, C_1 {smallest:g} and C_2 {offset:g} are no cosine schedule; the usual ones are 1000, 0.001 and 0.008."
        )
    wanted = iddpm_levels(steps, smallest, offset)
    if levels.is_meta:
        return wanted.float()
    if not torch.allclose(levels.cpu().double(), wanted, rtol=1e-3):
        raise UserError("The noise levels u are not those of M, C_1 and C_2. Correct these arguments.")
    return levels.float()


def _preconditioning(settings: Mapping[str, Any], levels: Tensor | None) -> Preconditioning:
    if levels is not None:
        return IDDPM(levels)
    if settings["class_name"] == "VPPrecond":
        return VP(
            beta_d=number(settings, "beta_d"),
            beta_min=number(settings, "beta_min"),
            steps=number(settings, "M", whole=True),
            epsilon_t=number(settings, "epsilon_t"),
        )
    sigma_min, sigma_max = number(settings, "sigma_min"), number(settings, "sigma_max")
    if settings["class_name"] == "VEPrecond":
        return VE(sigma_min, sigma_max)
    return EDM(sigma_min, sigma_max, sigma_data=number(settings, "sigma_data"))


def _load(denoiser: Preconditioned, state: Mapping[str, Tensor], augmented: bool) -> None:
    """Copy the tensors by name after checking that they are exactly those of the network."""
    own = denoiser.state_dict()
    given = {
        name: tensor
        for name, tensor in state.items()
        if not (augmented and name == "model.map_augment.weight")
    }
    # Filters are constants, which may be left out.
    wanted = {name: one for name, one in own.items() if name in given or not name.endswith("resample_filter")}
    check_tensors(
        given,
        wanted,
        " Check the constructor arguments (model_channels, channel_mult, num_blocks, attn_resolutions, label_dim, augment_dim).",
    )
    for name, tensor in given.items():
        if name.endswith("resample_filter") and not torch.allclose(
            tensor.to(own[name]), own[name], rtol=1e-3
        ):
            raise UserError(
                f"Tensor {name!r} is not the filter that resample_filter describes. Correct that argument,"
                " or leave the filters out."
            )
    denoiser.load_state_dict(given, strict=False)
