"""Checkpoints of Meta's flow_matching, its image example (`checkpoint.pth`, `checkpoint-EPOCH.pth`).

A checkpoint holds the network and, where it was averaged, the averaged weights as a list in the order of the network's own; `args` holds
what the training was called with, an object that is read as an inert record and of which nothing is needed. The network predicts the
velocity of straight paths from noise to images.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor

from diffmem.data.formats.guards import in_one_line
from diffmem.errors import UserError
from diffmem.models.continuous import ContinuousDenoiser, straight_flow
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
from diffmem.models.pretrained.pickle_reader import PickledObject
from diffmem.models.pretrained.recognition import WAYS_ON

__all__ = ["CHOICES", "SETTINGS", "open_flow_matching", "recognise"]

SETTINGS = ("image_size", *HEAD_SETTINGS)
"""What may be asked, by the names of the arguments of the trainer's network."""

CHOICES: dict[str, tuple[Any, ...]] = {"use_new_attention_order": (True, False)}
"""Those of few values."""

_WHAT = "A checkpoint of flow_matching"
_HEADS = HeadDefaults(
    "num_heads",
    "1 for CIFAR-10 (or give num_head_channels, which goes before it: 64 for ImageNet)",
    1,
    "True in all of its configurations",
)
_WRAPPED, _AVERAGES = "model.", "shadow_params."
_BESIDE_NETWORK = ("num_updates", "decay")
_OF_THE_TRAINER = "lr_schedule"  # other trainers have an entry scaler or args, too


def recognise(checkpoint: Mapping[str, Any]) -> bool:
    """Whether a checkpoint, as `torch.load` returns it, is one of flow_matching, of images or of discrete values."""
    model = checkpoint.get("model")
    if not isinstance(model, Mapping):
        return False
    for prefix in ("", "unet."):
        if all(f"{_WRAPPED}{prefix}{name}" in model for name in SIGNS):
            return True
        if "epoch" in checkpoint and all(f"{prefix}{name}" in model for name in SIGNS):
            return True
    return False


@in_one_line()
def open_flow_matching(
    checkpoint: Mapping[str, Any],
    image_shape: WantedShape | None = None,
    settings: Mapping[str, Any] | None = None,
    weights: Literal["ema", "raw"] = "ema",
    beside: Path | None = None,
    device: torch.device | str = "cpu",
) -> tuple[ContinuousDenoiser, tuple[str, ...]]:
    """Open a checkpoint of flow_matching as a `Denoiser`.

    Args:
        checkpoint: One that `recognise` recognises.
        image_shape: (C, H, W) of the images; none to take `image_size` from the settings.
        settings: See `SETTINGS`. Needed are `image_size` (without `image_shape`); with attention, `num_heads` or `num_head_channels`,
            and with more than one head `use_new_attention_order`.
        weights: The averaged ones, or the raw ones; of a training without averages, the raw ones are taken and a note says so.
        beside: The file of the checkpoint, of which nothing more is asked.
        device: Where to compute.

    Returns:
        The denoiser, float32, weights frozen; and what a reader of its results must know. A network of classes has a class for "no
        label". D is not clipped.

    Raises:
        UserError: Something is missing, unknown or does not fit, or it is a model of discrete flow matching; the message says what.
    """
    answers = Answers(_WHAT, given_of(settings), SETTINGS)
    tensors, which = _tensors(checkpoint, weights)
    heads, split = heads_of(answers, tensors, _HEADS)
    network, shape = network_of(
        tensors, heads, answers, image_shape, device, usual="32 for CIFAR-10 and 64 for ImageNet"
    )
    if network.learns_variance or network.num_labels == 1:
        raise UserError(
            f"{_WHAT} has a velocity as its only output, and no or at least one class; this network is another."
        )
    classes = max(network.num_labels - 1, 0)
    denoiser = ContinuousDenoiser(
        network,
        straight_flow(),
        shape,
        classes,
        null_label=classes if classes else None,
        device=next(network.parameters()).device,
    )
    epoch = checkpoint.get("epoch")
    return denoiser, (
        f"Trainer: flow_matching; {which}"
        + (f", saved after epoch {epoch:,}." if type(epoch) is int else "."),
        "The network predicts the velocity of straight paths from noise (t = 0) to images (t = 1), at t = 1 / (1 + sigma).",
        split,
        _labels_text(classes, checkpoint.get("args")),
        "Assumed: images were scaled to [-1, 1].",
        f"The ends of the noise levels, {denoiser.sigma_min:g} and {denoiser.sigma_max:g}, are a choice: training knows none.",
    )


def _tensors(checkpoint: Mapping[str, Any], weights: str) -> tuple[dict[str, Tensor], str]:
    """Return the tensors of the network by its own names, and which they are in words."""
    check_weights(weights)
    model = tensors_of(checkpoint["model"], f"The 'model' of {_WHAT.lower()}")
    if any("pixel_embedding." in name or ".unet." in f".{name}" for name in model):
        raise UserError(
            "It is a model of discrete flow matching, which predicts chances of the values of each pixel: it is no denoiser of images with"
            f" noise. {WAYS_ON}"
        )
    raw = {name.removeprefix(_WRAPPED): one for name, one in model.items() if name.startswith(_WRAPPED)}
    if not raw:
        if _OF_THE_TRAINER not in checkpoint:
            raise UserError(
                "It holds a network of guided-diffusion's layout as many trainers save it, and nothing that tells what it was trained to"
                f" predict. If flow_matching trained it, give the checkpoint as that wrote it, with its entry {_OF_THE_TRAINER}. {WAYS_ON}"
            )
        return model, "raw weights, the only ones (training without use_ema)"
    averaged = _by_position(model, raw)
    if weights == "raw":
        return raw, "raw weights (model)"
    count = model.get("num_updates")
    known = count is not None and count.dtype == torch.int64 and count.numel() == 1
    updates = f", num_updates {int(count):,}" if count is not None and known else ""
    return averaged, f"averaged weights (shadow_params, by position){updates}"


def _by_position(model: Mapping[str, Tensor], raw: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return the averaged weights, which are kept in the order of the raw ones, by the names of these.

    Raises:
        UserError: Their number or a shape is not that of the raw ones, or there is something else.
    """
    shadows = [name for name in model if name.startswith(_AVERAGES)]
    names = {f"{_AVERAGES}{position}": name for position, name in enumerate(raw)}
    others = set(model) - {f"{_WRAPPED}{name}" for name in raw} - set(names) - set(_BESIDE_NETWORK)
    if len(shadows) != len(raw) or others:
        odd = f", and {min(others)[:60]!r}" if others else ""
        raise UserError(
            f"The averaged weights do not fit the network: {len(shadows)} tensors for {len(raw)}{odd}. weights='raw' is of no help: the"
            " file is not as flow_matching writes it."
        )
    for shadow, name in names.items():
        if model[shadow].shape != raw[name].shape:
            raise UserError(
                f"The averaged weight {shadow!r} has shape {tuple(model[shadow].shape)}, but {name!r}, whose place it has,"
                f" {tuple(raw[name].shape)}: the file is not as flow_matching writes it."
            )
    return {name: model[shadow] for shadow, name in names.items()}


def _labels_text(classes: int, arguments: object) -> str:
    """Return what there is of classes; and how often they were left out in training, if the file happens to tell."""
    if not classes:
        return "No classes."
    state = arguments.state if isinstance(arguments, PickledObject) else None
    left_out: Any = (state or {}).get("class_drop_prob")
    text = f"{classes:,} classes, and one for 'no label'"
    if type(left_out) not in (int, float):
        return f"{text}. Which of both training taught depends on its class_drop_prob: with 1, the trainer's default, no class."
    known = {
        1: " (classes were never learned: ask without labels)",
        0: " (no label was never learned: ask with labels)",
    }
    return f"{text}; class_drop_prob of the training: {left_out:g}{known.get(left_out, '')}."
