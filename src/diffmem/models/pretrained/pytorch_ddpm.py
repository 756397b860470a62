"""Checkpoints of w86763777's pytorch-ddpm (`ckpt.pt`), on which the membership attacks SecMI and PIA were published.

A checkpoint holds two networks and, by one of its tensors, the size of the images; the noise rates are in `flagfile.txt` beside it. That
trainer computes the rates in float32 and multiplies them in float64, and it trains on the noise whatever its option `mean_type` says.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor

from diffmem.data.formats.guards import in_one_line, is_folder, is_plain_file, reading
from diffmem.errors import UserError
from diffmem.models.discrete import DiscreteDenoiser, DiscreteProcess, levels_of
from diffmem.models.networks.shaped import filled
from diffmem.models.networks.tabled_unet import TIME_TABLE, TabledUNet, time_table
from diffmem.models.pretrained.answers import Answers, WantedShape, check_weights, image_shape_of
from diffmem.models.pretrained.guided_network import tensors_of
from diffmem.models.pretrained.recognition import WAYS_ON
from diffmem.models.weights import check_numbers, check_tensors

__all__ = ["open_pytorch_ddpm", "recognise"]

_WHAT = "A checkpoint of pytorch-ddpm"
_NETWORKS = {"ema": "ema_model", "raw": "net_model"}
_FLAGS = "flagfile.txt"
_MOST_FLAGS = 2**20
_DEFAULTS = {"beta_1": "0.0001", "beta_T": "0.02"}
# Rows are written in float32 with angles up to T.
_TABLE_TOLERANCE = 1e-3


def recognise(checkpoint: Mapping[str, Any]) -> bool:
    """Whether a checkpoint, as `torch.load` returns it, is one of pytorch-ddpm."""
    networks = [checkpoint.get(name) for name in _NETWORKS.values()]
    return any(isinstance(one, Mapping) and TIME_TABLE in one for one in networks)


@in_one_line()
def open_pytorch_ddpm(
    checkpoint: Mapping[str, Any],
    image_shape: WantedShape | None = None,
    settings: Mapping[str, Any] | None = None,
    weights: Literal["ema", "raw"] = "ema",
    beside: Path | None = None,
    device: torch.device | str = "cpu",
) -> tuple[DiscreteDenoiser, tuple[str, ...]]:
    """Open a checkpoint of pytorch-ddpm as a `Denoiser`.

    Args:
        checkpoint: One that `recognise` recognises.
        image_shape: (C, H, W) that the images must have; needed only if the checkpoint has no `x_T`.
        settings: `beta_1` and `beta_T`, the first and the last noise rate, where no `flagfile.txt` tells them; they go before it.
        weights: The averaged ones, or the raw ones.
        beside: The file of the checkpoint, or its folder, where `flagfile.txt` is looked for.
        device: Where to compute.

    Returns:
        The denoiser, float32, weights frozen; and what a reader of its results must know.

    Raises:
        UserError: Something is missing, unknown or does not fit; the message says what.
    """
    answers = Answers(_WHAT, settings, list(_DEFAULTS))
    tensors = _tensors(checkpoint, weights)
    network = TabledUNet(tensors)
    check_tensors(tensors, network.state_dict())
    check_numbers(tensors)
    _check_table(tensors[TIME_TABLE])
    shape = image_shape_of(image_shape, network.channels, _sides(checkpoint, image_shape), network.scale)
    rates, source = _rates(answers, beside, network.steps)
    betas = torch.linspace(*rates, network.steps, dtype=torch.float32)
    levels = levels_of(betas, products=torch.float64)
    network = filled(network, tensors, lambda one: _trial(one, shape), (1, *shape)).to(device)
    process = DiscreteProcess(levels, "epsilon", "interpolated")
    denoiser = DiscreteDenoiser(network, process, shape, device=next(network.parameters()).device)
    step = checkpoint.get("step")
    return denoiser, (
        f"Trainer: pytorch-ddpm (w86763777); {'averaged' if weights == 'ema' else 'raw'} weights ({_NETWORKS[weights]})"
        + (f", saved at step {step:,}." if type(step) is int else "."),
        f"{network.steps:,} timesteps; noise rates linear from {rates[0]:g} to {rates[1]:g}, from {source}.",
        "The network predicts the noise: that trainer trains on it whatever its mean_type says. It has no classes.",
        "Noise levels between the timesteps of training are interpolated.",
    )


def _trial(network: TabledUNet, shape: tuple[int, int, int]) -> Tensor:
    made: Tensor = network(torch.zeros(1, *shape, device="meta"), torch.zeros(1, device="meta"))
    return made


def _tensors(checkpoint: Mapping[str, Any], weights: str) -> dict[str, Tensor]:
    check_weights(weights)
    tensors = checkpoint.get(_NETWORKS[weights])
    if not isinstance(tensors, Mapping):
        other = next(name for name in _NETWORKS if name != weights)
        raise UserError(f"The checkpoint has no network {_NETWORKS[weights]!r}. Take weights={other!r}.")
    return tensors_of(tensors, f"The {_NETWORKS[weights]!r} of {_WHAT.lower()}")


def _check_table(table: Tensor) -> None:
    """Refuse a table of timesteps that is not the sinusoids, which are used in its stead."""
    wanted = time_table(torch.arange(len(table)), table.shape[1])
    if not torch.allclose(table.float().cpu(), wanted, rtol=0, atol=_TABLE_TOLERANCE):
        raise UserError(
            f"Tensor {TIME_TABLE!r} does not hold the sines and cosines of the timesteps; such a network is not supported."
            f" {WAYS_ON}"
        )


def _sides(checkpoint: Mapping[str, Any], image_shape: WantedShape | None) -> tuple[int, int]:
    noise = checkpoint.get("x_T")
    if isinstance(noise, Tensor) and noise.ndim == 4:
        return noise.shape[2], noise.shape[3]
    if image_shape is None:
        raise UserError(
            f"{_WHAT} without x_T does not tell the size of its images: give it as resolution=32 or image_shape=(C, H, W), for example"
            " (3, 32, 32); on the command line as --resolution 32. The trainer's own default (img_size) is 32."
        )
    return image_shape[1], image_shape[2]


def _rates(answers: Answers, beside: Path | None, steps: int) -> tuple[tuple[float, float], str]:
    """Return the first and the last noise rate, and where they are from."""
    flags = _flags(beside)
    if "T" in flags and flags["T"] != str(steps):
        raise UserError(
            f"{_FLAGS} says T={flags['T'][:20]}, but the network has {steps} timesteps: they are of two trainings. Give the {_FLAGS} of"
            " this one."
        )
    missing = [name for name in _DEFAULTS if name not in answers]
    if not missing or not all(name in flags for name in missing):
        first, last = (
            answers.fraction(name, f"{default} (its {_FLAGS}, beside the checkpoint, tells)", float(default))
            for name, default in _DEFAULTS.items()
        )
        return (first, last), "the settings"
    first, last = (
        answers.fraction(name, _DEFAULTS[name], 0.01) if name in answers else _rate(name, flags[name])
        for name in _DEFAULTS
    )
    return (first, last), _FLAGS if len(missing) == len(_DEFAULTS) else f"{_FLAGS} and the settings"


def _rate(name: str, text: str) -> float:
    try:
        rate = float(text)
    except ValueError:
        rate = 0.0
    if not 0 < rate < 1:
        raise UserError(f"{_FLAGS}: {name} must be a number above 0 and below 1, not {text[:40]!r}.")
    return rate


def _flags(beside: Path | None) -> dict[str, str]:
    """Return what `flagfile.txt` says, one --name=value a line; nothing if there is none."""
    if beside is None:
        return {}
    path = (beside if is_folder(beside) else beside.parent) / _FLAGS
    if not is_plain_file(path):
        return {}
    with reading(str(path)), path.open(encoding="utf-8") as file:
        text = file.read(_MOST_FLAGS)
    pairs = (line.strip().lstrip("-").partition("=") for line in text.splitlines())
    return {name: value for name, sign, value in pairs if sign}
