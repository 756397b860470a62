"""Checkpoints of torchcfm's CIFAR-10 script (`MODEL_cifar10_weights_step_N.pt`), for each of its four kinds of paths.

A checkpoint holds two networks. Its kind of path is told by the name of the file alone. The network predicts a velocity; images are paired
with noise by optimal transport in 'otcfm', so that its D(x; sigma) is no mean over independent noise.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor

from diffmem.data.formats.guards import in_one_line
from diffmem.errors import UserError
from diffmem.models.continuous import ContinuousDenoiser, straight_flow, trigonometric_flow
from diffmem.models.pretrained.answers import Answers, WantedShape, check_weights
from diffmem.models.pretrained.guided_network import (
    HEAD_SETTINGS,
    SIGNS,
    HeadDefaults,
    given_of,
    heads_of,
    network_of,
    tensors_of,
)

__all__ = ["CHOICES", "SETTINGS", "open_torchcfm", "recognise"]

SETTINGS = ("path", "image_size", *HEAD_SETTINGS)
"""What may be asked: `path` is the script's option `model`; the others are named as the arguments of its network."""

CHOICES: dict[str, tuple[Any, ...]] = {
    "path": ("icfm", "si"),  # the other two are read as icfm is
    "use_new_attention_order": (False, True),
}
"""Those of few values that predict differently."""

_WHAT = "A checkpoint of torchcfm"
_NETWORKS = {"ema": "ema_model", "raw": "net_model"}
_PATHS = ("otcfm", "icfm", "fm", "si")
_NAME = rf"({'|'.join(_PATHS)})_cifar10_weights_step_[0-9]+\.pt"
_SIDE = 32
_HEADS = HeadDefaults("num_head_channels", "64 in its CIFAR-10 script", 64, None)
_PARALLEL = "module."


def recognise(checkpoint: Mapping[str, Any]) -> bool:
    """Whether a checkpoint, as `torch.load` returns it, is one of torchcfm's CIFAR-10 script."""
    networks = [checkpoint.get(name) for name in _NETWORKS.values()]
    return any(
        isinstance(one, Mapping) and all(f"{prefix}{name}" in one for name in SIGNS)
        for one in networks
        for prefix in ("", _PARALLEL)
    )


@in_one_line()
def open_torchcfm(
    checkpoint: Mapping[str, Any],
    image_shape: WantedShape | None = None,
    settings: Mapping[str, Any] | None = None,
    weights: Literal["ema", "raw"] = "ema",
    beside: Path | None = None,
    device: torch.device | str = "cpu",
) -> tuple[ContinuousDenoiser, tuple[str, ...]]:
    """Open a checkpoint of torchcfm's CIFAR-10 script as a `Denoiser`.

    Args:
        checkpoint: One that `recognise` recognises.
        image_shape: (C, H, W) of the images; needed only for a file that has another name than the script gives.
        settings: See `SETTINGS`. Needed are `path` for a file of another name, which it goes before; with attention,
            `num_head_channels` or `num_heads`.
        weights: The averaged ones, or the raw ones.
        beside: The file of the checkpoint, whose name tells the kind of path, and that the images are those of CIFAR-10.
        device: Where to compute.

    Returns:
        The denoiser, float32, weights frozen; and what a reader of its results must know. D is not clipped. Its `independent_noise` is
        False for 'otcfm'.

    Raises:
        UserError: Something is missing, unknown or does not fit; the message says what.
    """
    answers = Answers(_WHAT, given_of(settings), SETTINGS)
    tensors = _tensors(checkpoint, weights)
    named = re.fullmatch(_NAME, "" if beside is None else beside.name)
    path = named[1] if named and "path" not in answers else _path(answers)
    heads, split = heads_of(answers, tensors, _HEADS)
    network, shape = network_of(
        tensors,
        heads,
        answers,
        image_shape,
        device,
        side=_SIDE if named else None,
        usual=f"{_SIDE} in its CIFAR-10 script",
    )
    if network.learns_variance:
        raise UserError(f"{_WHAT} has a velocity as its only output; this network has another beside.")
    trigonometric = path == "si"
    denoiser = ContinuousDenoiser(
        network,
        trigonometric_flow() if trigonometric else straight_flow(),
        shape,
        network.num_labels,
        device=next(network.parameters()).device,
    )
    denoiser.independent_noise = path != "otcfm"
    step = checkpoint.get("step")
    said = "the settings say" if "path" in answers else "the file's name says"
    curve, time = (
        ("trigonometric", "(2 / pi) atan(1 / sigma)") if trigonometric else ("straight", "1 / (1 + sigma)")
    )
    notes = [
        f"Trainer: torchcfm, its CIFAR-10 script, model {path}, as {said};"
        f" {'averaged' if weights == 'ema' else 'raw'} weights ({_NETWORKS[weights]})"
        + (f", saved at step {step:,} as the file counts." if type(step) is int else "."),
        f"The network predicts the velocity of {curve} paths from noise (t = 0) to images (t = 1), at t = {time}.",
        split,
        f"{network.num_labels:,} classes, none of them for 'no label'."
        if network.num_labels
        else "No classes.",
        "Assumed: images were scaled to [-1, 1], and paths have no noise of their own (sigma 0, as in the script).",
        f"The ends of the noise levels, {denoiser.sigma_min:g} and {denoiser.sigma_max:g}, are a choice: training knows none.",
    ]
    if not denoiser.independent_noise:
        notes.append(
            "Training paired noise with images by optimal transport: its samples are what they should be, but its estimate at a noise level"
            " is no mean over independent noise, so that membership inference and the gap to the optimum are not defined."
        )
    return denoiser, tuple(notes)


def _path(answers: Answers) -> str:
    path: str = answers.choice(
        "path",
        _PATHS,
        "'otcfm', and the script writes it in front of the file's name (otcfm_cifar10_weights_step_400000.pt)",
    )
    return path


def _tensors(checkpoint: Mapping[str, Any], weights: str) -> dict[str, Tensor]:
    check_weights(weights)
    name = _NETWORKS[weights]
    if name not in checkpoint:
        other = next(one for one in _NETWORKS if one != weights)
        raise UserError(f"The checkpoint has no network {name!r}. Take weights={other!r}.")
    tensors = tensors_of(checkpoint[name], f"The {name!r} of {_WHAT.lower()}")
    parallel = all(each.startswith(_PARALLEL) for each in tensors)
    return {each.removeprefix(_PARALLEL) if parallel else each: one for each, one in tensors.items()}
