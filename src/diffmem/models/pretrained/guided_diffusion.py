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
from diffmem.models.networks.guided_unet import GuidedUNet, Heads
from diffmem.models.networks.shaped import filled
from diffmem.models.pretrained.answers import Answers, WantedShape, check_weights, image_shape_of
from diffmem.models.pretrained.published import check_name, published_settings
from diffmem.models.pretrained.recognition import SAMPLES_ONLY
from diffmem.models.weights import check_numbers, check_tensors

__all__ = ["CHOICES", "SETTINGS", "open_guided_diffusion", "recognise"]

SETTINGS = (
    "image_size",
    "num_heads",
    "num_head_channels",
    "num_heads_upsample",
    "use_new_attention_order",
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
_SIGNS = (
    "time_embed.0.weight",
    "input_blocks.0.0.weight",
    "middle_block.0.in_layers.2.weight",
    "out.2.weight",
)
_UNSET = ("num_head_channels", "num_heads_upsample")  # -1 is the trainers' word for an option that is not set
_MOST_CHANNELS = 4
_STEPS = 1000


def recognise(checkpoint: Mapping[str, Any]) -> bool:
    """Whether a checkpoint, as `torch.load` returns it, is one of improved-diffusion or guided-diffusion."""
    return all(isinstance(checkpoint.get(name), Tensor) for name in _SIGNS) and any(
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
    given = {name: value for name, value in (settings or {}).items() if name not in _UNSET or value != -1}
    if not all(isinstance(tensor, Tensor) for tensor in checkpoint.values()):
        raise UserError(f"{_WHAT} holds tensors alone; this one holds other things, too.")
    tensors = dict(checkpoint)
    name = "" if beside is None else beside.name
    check_name(name)
    given, by_name = published_settings(name, tensors, given, sized=image_shape is not None)
    answers = Answers(_WHAT, given, SETTINGS)
    named = _named(weights, beside)
    heads, split = _heads(answers, tensors)
    levels, rate, process_text = _process(answers)
    clean = answers.choice(
        "predict_xstart", CHOICES["predict_xstart"], "False (the network predicts the noise)"
    )
    network = GuidedUNet(tensors, heads, rate)
    check_tensors(tensors, network.state_dict())
    check_numbers(tensors)
    shape = _shape(network, answers, image_shape)
    network = filled(network, tensors, lambda one: _trial(one, shape), (1, *shape)).to(device)
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


def _trial(network: GuidedUNet, shape: tuple[int, int, int]) -> Tensor:
    label = torch.zeros(1, dtype=torch.int64, device="meta")
    made: Tensor = network(torch.zeros(1, *shape, device="meta"), torch.zeros(1, device="meta"), label)
    return made


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


def _heads(answers: Answers, tensors: Mapping[str, Tensor]) -> tuple[Heads, str]:
    """Return how attention is split, and that in words."""
    widths = {
        tensor.shape[1]
        for name, tensor in tensors.items()
        if name.endswith(".qkv.weight") and tensor.ndim == 3
    }
    if not widths:
        return Heads(), "The network has no attention."
    each: int | None = None
    number: int | None = None
    upwards: int | None = None
    if "num_head_channels" in answers:
        each = answers.whole("num_head_channels", "", 64)
        text, single = f"heads of {each} channels", widths == {each}
    else:
        number = answers.whole(
            "num_heads",
            "4 (or give num_head_channels, which goes before it: 64 in most published networks)",
            4,
        )
        text, single = f"{number} head(s)", number == 1
        if "num_heads_upsample" in answers:
            upwards = answers.whole("num_heads_upsample", "", 4)
            text, single = f"{text}, {upwards} in the way up", single and upwards == 1
        else:
            text += " (assumed: as many in the way up, the trainers' default of num_heads_upsample)"
    # The two orders are one for a single head.
    new = not single and answers.choice(
        "use_new_attention_order",
        CHOICES["use_new_attention_order"],
        "False (improved-diffusion has only that; of the published networks, the 64 x 64 ones have True)",
    )
    order = "" if single else f", in the {'new' if new else 'old'} order"
    return Heads(number, each, upwards, new), f"Attention: {text}{order}, as the settings say."


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


def _shape(network: GuidedUNet, answers: Answers, image_shape: WantedShape | None) -> tuple[int, int, int]:
    if network.channels > _MOST_CHANNELS:
        raise UserError(
            f"The network takes {network.channels} channels: one that is given more than the noisy image, as those for super-resolution, is"
            f" not supported. {SAMPLES_ONLY}"
        )
    if image_shape is not None and "image_size" not in answers:
        return image_shape_of(image_shape, network.channels, (image_shape[1], image_shape[2]), network.scale)
    side = answers.whole("image_size", "64; or give image_shape", 64)
    return image_shape_of(image_shape, network.channels, (side, side), network.scale)
