"""Networks of EDM2's training code (`network-snapshot-*-0.NNN.pkl`): pixels, or latents together with an autoencoder.

`edm_pickle` takes names, numbers and tensors out of the file; here they become a denoiser. The autoencoder of latents is not in the file,
which names it and holds the affine map of its codes. That trainer shows it images in [0, 1]: so its code says; it was not run for this.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

from diffmem.data.formats.guards import MAX_PIXELS
from diffmem.data.formats.pickle_arrays import PickledArray
from diffmem.errors import UserError, nearest
from diffmem.models.continuous import ContinuousDenoiser, edm
from diffmem.models.denoiser import count_parameters
from diffmem.models.latent import LatentDenoiser
from diffmem.models.networks.edm2_unet import EDM2Settings, EDM2UNet, prepared
from diffmem.models.networks.shaped import filled
from diffmem.models.pretrained.answers import Answers
from diffmem.models.pretrained.arguments import number, numbers
from diffmem.models.pretrained.diffusers_folder import open_autoencoder
from diffmem.models.pretrained.pickle_reader import PickledObject, PickledTensor
from diffmem.models.weights import check_numbers, check_tensors

__all__ = ["EDM2_POSITIONS", "EMA_LENGTH", "open_edm2"]

EDM2_POSITIONS = ("sigma_data", "logvar_channels")
"""Constructor arguments behind those that EDM's wrappers share."""

EMA_LENGTH = re.compile(r"-(\d+)-(\d\.\d{3})\.pkl")
"""The end of a file's name: thousands of images seen, and the length of the average."""

_WHAT = "A network of EDM2 that denoises latents"
_DEFAULTS: dict[str, Any] = {
    "img_resolution": None, "img_channels": None, "label_dim": None, "use_fp16": True, "sigma_data": 0.5, "logvar_channels": 128,
    "model_channels": 192, "channel_mult": [1, 2, 3, 4], "channel_mult_noise": None, "channel_mult_emb": None, "num_blocks": 3,
    "attn_resolutions": [16, 8], "label_balance": 0.5, "concat_balance": 0.5, "resample_filter": [1, 1], "channels_per_head": 64,
    "dropout": 0, "res_balance": 0.3, "attn_balance": 0.3, "clip_act": 256,
}  # fmt: skip
_ENCODER_DEFAULTS: dict[str, Any] = {
    "vae_name": "stabilityai/sd-vae-ft-mse", "raw_mean": [5.81, 3.25, 0.12, -2.15], "raw_std": [4.17, 4.62, 3.71, 3.28],
    "final_mean": 0, "final_std": 0.5, "batch_size": 8,
}  # fmt: skip
_PIXELS, _LATENTS = "StandardRGBEncoder", "StabilityVAEEncoder"
_LONGEST = 60


class Asked(NamedTuple):
    """What is known beside the file.

    Attributes:
        settings: Of the user.
        device: Where the denoiser computes.
        allow_pickle: Whether the autoencoder's weights may be read from a pickle.
    """

    settings: Mapping[str, Any] | None = None
    device: torch.device | str = "cpu"
    allow_pickle: bool = False


class _Map(NamedTuple):
    """z = scale * code + bias, float32 (channels,) both; and the name of the autoencoder in the file."""

    scale: Tensor
    bias: Tensor
    name: str


def open_edm2(
    tensors: Mapping[str, PickledTensor],
    arguments: Mapping[str, Any],
    encoder: object,
    path: Path,
    asked: Asked,
) -> tuple[ContinuousDenoiser | LatentDenoiser, tuple[str, ...]]:
    """Make a denoiser of an EDM2 network.

    It computes in float32; the trainer's code computes in float16 on a GPU if `use_fp16` says so. Scalar gains are divided in the type of
    the file, see `prepared`.

    Args:
        tensors: By their names in the file.
        arguments: Of the constructor of `Precond`.
        encoder: The entry `encoder` of the file; none where there is none, which stands for pixels.
        path: The file; its name tells the EMA length and the images seen.
        asked: What is known beside it. `vae`, a folder of an AutoencoderKL that save_pretrained of diffusers wrote, is needed for latents.

    Returns:
        The denoiser, float32, weights frozen; "no label" is -1 or no labels. And what a reader of its results must know.

    Raises:
        UserError: An argument or a tensor is unknown, missing, impossible or not finite; the encoder is not known; or `vae` is missing or
            does not fit.
    """
    settings, sigma_data = _settings(arguments)
    given = {
        name.removeprefix("unet."): tensor
        for name, tensor in tensors.items()
        if not name.startswith("logvar_")  # of the loss
    }
    network = EDM2UNet(settings)
    # Without numbers first: a file that claims a network larger than its tensors is refused before any memory is spent.
    claimed = {name: torch.empty(tensor.shape, device="meta") for name, tensor in given.items()}
    gains = {name: torch.empty((), device="meta") for name in network.gains}
    check_tensors(claimed, {**network.state_dict(), **gains}, " Check the constructor's arguments.")
    codes = _encoding(encoder, settings.image_channels)
    if codes is None and asked.settings is not None:
        raise UserError("It is a network of EDM2 for pixels, which tells everything: it takes no settings.")
    values = {name: tensor.value() for name, tensor in given.items()}
    check_numbers(values)
    shape = (settings.image_channels, settings.resolution, settings.resolution)
    network = filled(network, prepared(values), lambda one: _trial(one, shape), (1, *shape)).to(asked.device)
    denoiser = ContinuousDenoiser(
        network, edm(sigma_data), shape, settings.num_labels, null_label=-1, device=asked.device
    )
    gain = str(values["out_gain"].dtype).removeprefix("torch.")
    notes = [
        f"Trainer: EDM2; averaged weights (ema), {_named(path)}.",
        f"{count_parameters(network):,} parameters, normalised once when they were read; the file's gains are divided in {gain}, as that"
        " trainer does. Computed in float32.",
        f"EDM preconditioning with sigma_data {sigma_data:g}: every noise level is served.",
        f"{settings.num_labels:,} classes; without a label, the network is given zeros."
        if settings.num_labels
        else "It has no classes.",
    ]
    if codes is None:
        return denoiser, (*notes, "It denoises pixels.")
    latent, more = _with_codes(denoiser, codes, asked)
    return latent, (*notes, *more)


def _trial(network: EDM2UNet, shape: tuple[int, int, int]) -> Tensor:
    labels = torch.zeros(1, dtype=torch.int64, device="meta") if network.settings.num_labels else None
    made: Tensor = network(torch.zeros(1, *shape, device="meta"), torch.zeros(1, device="meta"), labels)
    return made


def _named(path: Path) -> str:
    found = EMA_LENGTH.search(path.name)
    if found is None:
        return "whose EMA length the file's name does not tell"
    return f"EMA length {found[2]} after {int(found[1]):,} thousand images (by the file's name)"


def _settings(arguments: Mapping[str, Any]) -> tuple[EDM2Settings, float]:
    """Return what the network is built from, and sigma_data."""
    for name in arguments:
        if name not in _DEFAULTS and name != "class_name":
            raise UserError(f"EDM2's Precond has no argument {name!r}.{nearest(name, list(_DEFAULTS))}")
    given = _DEFAULTS | dict(arguments)
    if list(numbers(given, "resample_filter")) != [1, 1]:
        raise UserError(
            f"resample_filter {given['resample_filter']!r} is not supported: it must be [1, 1], as in all of EDM2's configurations."
        )
    base = number(given, "model_channels", whole=True)
    resolution = number(given, "img_resolution", whole=True)
    widths = tuple(base * times for times in numbers(given, "channel_mult", whole=True))
    if not widths or resolution % 2 ** (len(widths) - 1):
        raise UserError(
            f"img_resolution {resolution} does not fit the {len(widths)} resolutions of channel_mult: it must be a multiple of"
            f" {2 ** max(0, len(widths) - 1)}."
        )
    noise, embedding = given["channel_mult_noise"], given["channel_mult_emb"]
    sigma_data = number(given, "sigma_data")
    if not 0 < sigma_data < math.inf:
        raise UserError(f"sigma_data must be positive, not {sigma_data!r}.")
    clip = given["clip_act"]
    settings = EDM2Settings(
        resolution=resolution,
        image_channels=number(given, "img_channels", whole=True),
        num_labels=0 if given["label_dim"] in (0, None) else number(given, "label_dim", whole=True),
        widths=widths,
        noise_width=widths[0] if noise is None else base * number(given, "channel_mult_noise", whole=True),
        embedding_width=max(widths)
        if embedding is None
        else base * number(given, "channel_mult_emb", whole=True),
        blocks=number(given, "num_blocks", whole=True),
        attention=numbers(given, "attn_resolutions", whole=True),
        head_channels=number(given, "channels_per_head", whole=True),
        label_balance=_share(given, "label_balance"),
        concat_balance=_share(given, "concat_balance"),
        residual_balance=_share(given, "res_balance"),
        attention_balance=_share(given, "attn_balance"),
        clip=None if clip is None else number(given, "clip_act"),
    )
    return settings, sigma_data


def _share(arguments: Mapping[str, Any], name: str) -> float:
    value: float = number(arguments, name)
    if not 0 <= value <= 1:
        raise UserError(f"{name} must be 0 to 1, not {value!r}.")
    return value


def _encoding(encoder: object, channels: int) -> _Map | None:
    """Return how latents lie to the codes of an autoencoder; none for pixels."""
    if encoder is None and channels in (1, 3):
        return None  # the trainer's own reading of a file without the entry
    kind = encoder.class_name if isinstance(encoder, PickledObject) else ""
    if kind == _PIXELS and channels in (1, 3):
        return None
    if kind != _LATENTS or not isinstance(encoder, PickledObject):
        raise UserError(
            f"Its encoder {kind[:_LONGEST]!r} with {channels} channels is not supported: it must be {_PIXELS} with 1 or 3, or"
            f" {_LATENTS}."
        )
    scale, bias, name = _affine(encoder)
    if scale.shape != (channels,) or bias.shape != (channels,):
        raise UserError(f"Its encoder scales {len(scale)} channels, but the network has {channels}.")
    if not bool((scale > 0).all() and scale.isfinite().all() and bias.isfinite().all()):
        raise UserError("Its encoder scales latents by numbers that are not positive and finite.")
    return _Map(scale, bias, name)


def _affine(encoder: PickledObject) -> _Map:
    """Return the map that the file stores, or that its arguments make."""
    positional, keywords = encoder.arguments, encoder.keywords
    if not isinstance(positional, tuple) or not isinstance(keywords, dict):
        raise ValueError("the encoder's arguments are not in the file")
    given = _ENCODER_DEFAULTS | dict(zip(_ENCODER_DEFAULTS, positional, strict=False)) | keywords
    name = given["vae_name"]
    name = name[:_LONGEST] if isinstance(name, str) and name.isprintable() else ""
    stored = encoder.state or {}
    arrays = [stored.get(part) for part in ("scale", "bias")]
    if all(isinstance(array, PickledArray) and array.value is not None for array in arrays):
        scale, bias = (torch.tensor(array.value.astype("float32")).reshape(-1) for array in arrays)  # type: ignore[union-attr]
        return _Map(scale, bias, name)
    mean, std, final_mean, final_std = (
        torch.tensor(numbers(given, part) if isinstance(given[part], list | tuple) else [number(given, part)])
        for part in ("raw_mean", "raw_std", "final_mean", "final_std")
    )
    scale = final_std / std
    return _Map(scale, final_mean - mean * scale, name)


def _with_codes(
    denoiser: ContinuousDenoiser, codes: _Map, asked: Asked
) -> tuple[LatentDenoiser, tuple[str, ...]]:
    """Return a denoiser of latents together with the autoencoder that the user names."""
    answers = Answers(_WHAT, asked.settings, ["vae"])
    folder = answers.folder("vae", f"{codes.name or 'not told'}, downloaded by its name")
    autoencoder, settings = open_autoencoder(folder, asked.device, asked.allow_pickle)
    if settings.channels != len(codes.scale):
        raise UserError(
            f"The codes of {folder} have {settings.channels} channels; the network denoises {len(codes.scale)}."
        )
    _, height, width = denoiser.image_shape
    shape = (settings.out_channels, height * settings.factor, width * settings.factor)
    if shape[1] * shape[2] > MAX_PIXELS:
        raise UserError(f"Images of {shape[1]} x {shape[2]} pixels are refused; the limit is {MAX_PIXELS:,}.")
    scale, bias = (part.to(denoiser.device)[:, None, None] for part in (codes.scale, codes.bias))

    def decode(z: Tensor) -> Tensor:
        return 2 * autoencoder.decode((z - bias) / scale) - 1

    def encode(x: Tensor) -> Tensor:
        return autoencoder.encode((x + 1) / 2) * scale + bias

    return LatentDenoiser(denoiser, decode, encode, shape), (
        f"It denoises latents of the autoencoder that the settings name; the file names {codes.name or 'none'}, and another one gives other"
        " images.",
        "That autoencoder is given and gives images in [0, 1], which EDM2's code says; this was read there, not run. An image's latents are"
        " the mean of its codes; that trainer draws them.",
        "Its samples are decoded and compared as pixels. What the autoencoder cannot draw sharply, no copy has.",
    )
