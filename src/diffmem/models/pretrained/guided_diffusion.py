"""Checkpoints of improved-diffusion and guided-diffusion (`ema_RATE_STEP.pt`, `modelSTEP.pt`): one state dict, and nothing else.

Their tensors tell the network but for its attention heads, whether there are classes, and whether a variance is predicted beside; they
do not tell the process that it was trained for. Those trainers compute the noise rates and their products in float64.
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
from diffmem.models.discrete import DiscreteDenoiser, DiscreteProcess, cosine_rates, levels_of
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
from diffmem.models.pretrained.published import check_name, published_settings
from diffmem.models.pretrained.recognition import WAYS_ON

__all__ = ["CHOICES", "SETTINGS", "open_guided_diffusion", "recognise"]

SETTINGS = (
    "image_size",
    *HEAD_SETTINGS,
    "noise_schedule",
    "diffusion_steps",
    "rescale_timesteps",
    "predict_xstart",
)
"""What may be asked, by the names of the trainers' own options."""

CHOICES: dict[str, tuple[Any, ...]] = {
    "use_new_attention_order": (False, True),
    "noise_schedule": ("linear", "cosine"),
    "rescale_timesteps": (False, True),
    "predict_xstart": (False, True),
}
"""Those of few values."""

_WHAT = "A checkpoint of improved-diffusion or guided-diffusion"
_HEADS = HeadDefaults(
    "num_heads",
    "4 (or give num_head_channels, which goes before it: 64 in most published networks)",
    4,
    "False (improved-diffusion has only that; of the published networks, the 64 x 64 ones have True)",
)
_STEPS = 1000
_OF_IMAGES = 4


def recognise(checkpoint: Mapping[str, Any]) -> bool:
    """Whether a checkpoint, as `torch.load` returns it, is one of improved-diffusion or guided-diffusion."""
    return all(isinstance(checkpoint.get(name), Tensor) for name in SIGNS) and any(
        str(name).startswith("output_blocks.") for name in checkpoint
    )


@in_one_line()
def open_guided_diffusion(
    checkpoint: Mapping[str, Any],
    image_shape: WantedShape | None = None,
    settings: Mapping[str, Any] | None = None,
    weights: Literal["ema", "raw"] = "ema",
    beside: Path | None = None,
    device: torch.device | str = "cpu",
) -> tuple[DiscreteDenoiser, tuple[str, ...]]:
    """Open a checkpoint of improved-diffusion or guided-diffusion as a `Denoiser`.

    Args:
        checkpoint: One that `recognise` recognises.
        image_shape: (C, H, W) of the images; none to take `image_size` from the settings.
        settings: The options of the training, by the trainers' names, see `SETTINGS`. Needed are `image_size` (without `image_shape`),
            `noise_schedule`, `diffusion_steps` and `predict_xstart`; `rescale_timesteps` unless there are 1,000 steps; with attention,
            `num_heads` or `num_head_channels`, and with more than one head `use_new_attention_order`.
        weights: 'raw' is refused for a file that is not named as one of raw weights: a file holds one network.
        beside: The file of the checkpoint, whose name says whether its weights are averaged, and whether it is one that the trainers'
            authors published: then settings that are not given are theirs.
        device: Where to compute.

    Returns:
        The denoiser, float32, weights frozen; and what a reader of its results must know. A network of classes has no class for "no
        label". D is not clipped.

    Raises:
        UserError: Something is missing, unknown or does not fit; the message says what.
    """
    tensors = tensors_of(checkpoint, _WHAT)
    name = "" if beside is None else beside.name
    check_name(name)
    _check_attention(tensors)
    given, by_name = published_settings(name, tensors, given_of(settings), sized=image_shape is not None)
    answers = Answers(_WHAT, given, SETTINGS)
    named = _named(weights, beside)
    heads, split = heads_of(answers, tensors, _HEADS)
    levels, rate, process_text = _process(answers)
    clean = answers.choice(
        "predict_xstart", CHOICES["predict_xstart"], "False (the network predicts the noise)"
    )
    network, shape = network_of(tensors, heads, answers, image_shape, device, rate=rate)
    prediction: Literal["sample", "epsilon"] = "sample" if clean else "epsilon"
    denoiser = DiscreteDenoiser(
        network,
        DiscreteProcess(levels, prediction, "interpolated"),
        shape,
        network.num_labels,
        device=next(network.parameters()).device,
    )
    variance = "; the variance that it predicts beside is not used" if network.learns_variance else ""
    return denoiser, (
        f"Trainer: improved-diffusion or guided-diffusion, whose files do not differ; {named}.",
        *([] if by_name is None else [by_name]),
        process_text,
        f"The network predicts the {'clean image' if clean else 'noise'}, as the settings say{variance}.",
        split,
        f"{network.num_labels:,} classes, none of them for 'no label'."
        if network.num_labels
        else "No classes.",
        "Assumed: images were scaled to [-1, 1], and training was not respaced (timestep_respacing was empty).",
        "Noise levels between the timesteps of training are interpolated.",
    )


def _check_attention(tensors: Mapping[str, Tensor]) -> None:
    """Refuse networks of consistency_models, whose attention maps pixels of two dimensions, unlike guided-diffusion's."""
    if any(name.endswith(".qkv.weight") and one.ndim == _OF_IMAGES for name, one in tensors.items()):
        raise UserError(
            "By its attention, it is a network of consistency_models or of code made from that: a denoiser with EDM's preconditioning, or"
            f" distilled and none. Neither is supported. {WAYS_ON}"
        )


def _named(weights: str, beside: Path | None) -> str:
    """Return what the name of the file says of its weights."""
    check_weights(weights)
    name = "" if beside is None else beside.name
    averaged = re.fullmatch(r"ema_([0-9.]+)_([0-9]+)\.pt", name)
    raw = re.fullmatch(r"model([0-9]+)\.pt", name)
    if weights == "raw" and raw is None:
        raise UserError(
            "weights 'raw' is for files named model*.pt; the file holds one network, and its name does not say raw weights."
        )
    if averaged:
        return f"averaged weights by the file's name (rate {averaged[1]}), saved at step {int(averaged[2]):,}"
    if raw:
        return f"raw weights by the file's name, saved at step {int(raw[1]):,}; the averaged ones are in ema_*.pt beside it"
    return "the file holds one network and does not tell whether its weights are averaged; files of averaged ones are named ema_*.pt"


def _process(answers: Answers) -> tuple[Tensor, float, str]:
    """Return the noise levels, what timesteps are multiplied by, and both in words."""
    schedule = answers.choice("noise_schedule", CHOICES["noise_schedule"], "'linear'")
    steps = answers.whole("diffusion_steps", "1000 (networks of improved-diffusion's authors: 4000)", _STEPS)
    rescaled = (steps != _STEPS or "rescale_timesteps" in answers) and answers.choice(
        "rescale_timesteps", (True, False), "True in improved-diffusion, False in guided-diffusion"
    )
    if schedule == "linear":
        if steps <= _STEPS * 0.02:
            raise UserError(
                f"diffusion_steps {steps} is too small: the last of its linear noise rates would be 1 or more."
            )
        betas = torch.linspace(_STEPS / steps * 1e-4, _STEPS / steps * 0.02, steps, dtype=torch.float64)
    else:
        betas = torch.tensor(cosine_rates(steps), dtype=torch.float64)
    text = f"{steps:,} timesteps, {schedule} noise schedule" + (
        ", timesteps rescaled to 1,000" if rescaled else ""
    )
    return (
        levels_of(betas, products=torch.float64),
        _STEPS / steps if rescaled else 1.0,
        f"{text}, as the settings say.",
    )
