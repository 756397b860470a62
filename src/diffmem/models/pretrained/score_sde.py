"""Checkpoints of score_sde_pytorch (`checkpoint_N.pth`) with a network DDPM++ or NCSN++: VP, sub-VP and VE (Song et al. 2021).

A checkpoint holds the network's raw weights by name, the averaged ones as a list in the order of those that are trained, and the noise
levels of VE, but nothing else of its configuration: what its tensors do not tell is asked by the configuration's own names.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from diffmem.data.formats.guards import in_one_line
from diffmem.errors import UserError
from diffmem.models.continuous import ContinuousDenoiser, ContinuousProcess
from diffmem.models.discrete import DiscreteDenoiser, DiscreteProcess, levels_of
from diffmem.models.networks.score_unet import LAYERS, ScoreLayout, ScoreUNet
from diffmem.models.pretrained.answers import Answers, WantedShape, check_weights, image_shape_of
from diffmem.models.pretrained.recognition import WAYS_ON
from diffmem.models.readings import MappedDenoiser, of_unit_range
from diffmem.models.sde import sub_variance_preserving, variance_exploding, variance_preserving

__all__ = ["CHOICES", "SETTINGS", "open_score_sde", "recognise"]

CHOICES: dict[str, tuple[Any, ...]] = {
    "sde": ("vpsde", "subvpsde", "vesde"),
    "continuous": (True, False),
    "centered": (True, False),
    "scale_by_sigma": (True, False),
    "fir": (True, False),
}
"""What may be asked and has few values."""

_RESCALES = "skip_rescale"
SETTINGS = (*CHOICES, "image_size", "beta_min", "beta_max", _RESCALES)
"""What may be asked, by the names of the trainer's configuration."""

_WHAT = "A checkpoint of score_sde_pytorch"
_LEVELS = "module.sigmas"
_FREQUENCIES = f"{LAYERS}.0.W"
_NOT_AVERAGED = (_LEVELS, _FREQUENCIES)
_MOST_NOISE = 700  # rates above it have levels beyond float64; a rate of the number of timesteps, a step that leaves nothing
_TOLERANCE = 1e-4  # of the ratios of neighbouring levels of VE, where files hold them in float32


def recognise(checkpoint: Mapping[str, Any]) -> bool:
    """Whether a checkpoint, as `torch.load` returns it, is one of score_sde_pytorch."""
    network, averaged = checkpoint.get("model"), checkpoint.get("ema")
    return (
        isinstance(network, Mapping)
        and isinstance(averaged, Mapping)
        and isinstance(averaged.get("shadow_params"), list)
        and any(str(name).startswith((f"{LAYERS}.", _LEVELS)) for name in network)
    )


@in_one_line()
def open_score_sde(
    checkpoint: Mapping[str, Any],
    image_shape: WantedShape | None = None,
    settings: Mapping[str, Any] | None = None,
    weights: str = "ema",
    beside: Path | None = None,
    device: torch.device | str = "cpu",
) -> tuple[DiscreteDenoiser | ContinuousDenoiser | MappedDenoiser, tuple[str, ...]]:
    """Open a checkpoint of score_sde_pytorch as a `Denoiser`.

    Args:
        checkpoint: One that `recognise` recognises.
        image_shape: (C, H, W) of the images; none to take `image_size` from the settings.
        settings: What the training's configuration says, see `SETTINGS`. Needed are `sde`, `centered`, and `image_size` (without
            `image_shape`); `continuous` unless sde is 'subvpsde'; `beta_min` and `beta_max` for 'vpsde' and 'subvpsde';
            `scale_by_sigma` for 'vesde'; `fir` unless the tensors tell. `skip_rescale` is True unless given, with a note.
        weights: The averaged ones ('ema') or the raw ones ('raw').
        beside: The file of the checkpoint; not used.
        device: Where to compute.

    Returns:
        The denoiser, float32, weights frozen, in [-1, 1] units also where the network's own are [0, 1]; and what a reader of its results
        must know. It has no classes.

    Raises:
        UserError: Something is missing, unknown, not supported or does not fit; the message says what.
    """
    answers = Answers(_WHAT, settings, SETTINGS)
    tensors, weights_text = _tensors(checkpoint, weights)
    _check_kind(tensors)
    layout = ScoreLayout.of(tensors)
    process, notes = _process(answers, _levels(tensors), layout.fourier)
    centered = answers.choice("centered", CHOICES["centered"], "False for 'vesde', True for the others")
    fir = layout.fir if layout.fir is not None else answers.choice(
        "fir", CHOICES["fir"], "True for NCSN++, False for DDPM++"
    )  # fmt: skip
    if layout.fir and not _agrees(answers, "fir", True):
        raise UserError("settings: fir must be True for this network, as its input pyramid has filters.")
    rescale = _RESCALES not in answers or answers.choice(_RESCALES, (True, False), "True")
    shape = _shape(layout, answers, image_shape)
    network = ScoreUNet(tensors, layout, shape[1], fir=fir, centered=centered, rescale=rescale).to(device)
    where = next(network.parameters()).device
    denoiser: DiscreteDenoiser | ContinuousDenoiser | MappedDenoiser
    if isinstance(process, DiscreteProcess):
        denoiser = DiscreteDenoiser(network, process, shape, device=where)
        if not centered:
            denoiser = of_unit_range(denoiser)
    else:
        denoiser = ContinuousDenoiser(network, replace(process, unit_range=not centered), shape, device=where)
    step = checkpoint.get("step")
    return denoiser, (
        f"Trainer: score_sde_pytorch; {weights_text}" + (f", saved at step {step:,}." if type(step) is int else "."),
        *notes,
        "Images were scaled to [-1, 1] (centered True), as the settings say."
        if centered
        else "Images were scaled to [0, 1] (centered False), as the settings say; sigma is given here in [-1, 1] units, twice theirs.",
        f"The resolution is changed by {'FIR filters' if fir else '2 x 2 means and repetition'} (fir {fir}). No classes.",
        *_pyramids(layout),
        f"Assumed: nonlinearity 'swish'{', skip_rescale True (a setting)' if _RESCALES not in answers else ''} and fir_kernel [1, 3, 3, 1],"
        " as in five of the trainer's configurations of these networks.",
        *([f"Sums of two paths are {'' if rescale else 'not '}divided by sqrt(2), as the settings say."] if _RESCALES in answers else []),
    )  # fmt: skip


def _pyramids(layout: ScoreLayout) -> tuple[str, ...]:
    """Return what to know of a network with pyramids of images."""
    if "skip" not in (layout.encoder, layout.decoder):
        return ()
    return (
        "Its pyramids of images (input_skip, output_skip) are those of the trainer's code; its answers were not compared.",
    )


def _agrees(answers: Answers, name: str, value: Any) -> bool:
    """Whether a setting has a value, or was not given."""
    return name not in answers or answers.choice(name, CHOICES[name], "") == value


def _tensors(checkpoint: Mapping[str, Any], weights: str) -> tuple[dict[str, Tensor], str]:
    """Return the network's tensors by name, and whose they are in words."""
    check_weights(weights)
    raw, averaged = dict(checkpoint["model"]), checkpoint["ema"]
    if not all(isinstance(name, str) and isinstance(tensor, Tensor) for name, tensor in raw.items()):
        raise UserError(
            f"{_WHAT} holds named tensors alone in its 'model'; this one holds other things, too."
        )
    if weights == "raw":
        return raw, "raw weights (model)"
    names = [name for name in raw if name not in _NOT_AVERAGED]
    shadows = averaged["shadow_params"]
    if len(shadows) != len(names):
        raise UserError(
            f"Its averaged weights (ema.shadow_params) are {len(shadows):,} tensors, but its network has {len(names):,} that are trained."
        )
    for name, shadow in zip(names, shadows, strict=True):
        if not isinstance(shadow, Tensor) or shadow.shape != raw[name].shape:
            found = tuple(shadow.shape) if isinstance(shadow, Tensor) else type(shadow).__name__
            raise UserError(
                f"Its averaged weights are not those of its network, in order: for {name!r} it has {found}, not {tuple(raw[name].shape)}."
            )
    decay, updates = averaged.get("decay"), averaged.get("num_updates")
    told = [f"decay {decay:g}"] if isinstance(decay, float) else []
    told += [f"{updates:,} updates"] if type(updates) is int else []
    text = "averaged weights (ema" + "".join(f", {one}" for one in told) + ")"
    return raw | dict(zip(names, shadows, strict=True)), text


def _check_kind(tensors: Mapping[str, Tensor]) -> None:
    """Refuse the trainer's other networks by what they are."""
    found = None
    if not any(name.startswith(f"{LAYERS}.") for name in tensors):
        found = "NCSN or NCSNv2"
    blocks = {name.removesuffix("Dense_0.weight") for name in tensors if name.endswith(".Dense_0.weight")}
    if any(f"{block}NIN_0.W" in tensors for block in blocks) or any(
        name.endswith(".Conv_0.weight")
        and tensor.shape[2:] == (3, 3)
        and f"{name.removesuffix('Conv_0.weight')}Conv_1.weight" not in tensors
        for name, tensor in tensors.items()
    ):
        found = "'ddpm', or a DDPM++ or NCSN++ with resblock_type 'ddpm' or with an input pyramid without fir"
    if found:
        raise UserError(f"Its network is {found}, which is not supported. {WAYS_ON}")


def _levels(tensors: Mapping[str, Tensor]) -> list[float]:
    """Return the noise levels of VE that every file holds, the highest first."""
    held = tensors.get(_LEVELS)
    if held is None or held.ndim != 1 or len(held) < 2:
        raise UserError(f"It lacks the tensor {_LEVELS!r} of this network.")
    levels = held.double()
    ratios = (levels[1:] / levels[:-1]).log()
    if not bool((levels > 0).all() and (ratios < 0).all()) or float(ratios.std(unbiased=False)) > _TOLERANCE:
        raise UserError(f"Tensor {_LEVELS!r} does not hold descending noise levels of one ratio.")
    return levels.tolist()


def _process(
    answers: Answers, levels: list[float], fourier: bool
) -> tuple[ContinuousProcess | DiscreteProcess, tuple[str, ...]]:
    """Return what the network was trained for, and that in words."""
    sde = answers.choice("sde", CHOICES["sde"], "'vesde' for NCSN++, 'vpsde' for DDPM++")
    continuous = (sde == "subvpsde" and _agrees(answers, "continuous", True)) or answers.choice(
        "continuous", CHOICES["continuous"], "True in configurations whose name ends in _continuous"
    )
    if sde == "subvpsde" and not continuous:
        raise UserError("settings: continuous must be True for 'subvpsde', which has no discrete training.")
    if fourier and not continuous:
        raise UserError(
            "settings: continuous must be True for this network: it embeds the logarithm of its time, which has none at label 0."
        )
    steps = len(levels)
    if sde == "vesde":
        scaled = answers.choice("scale_by_sigma", CHOICES["scale_by_sigma"], "True for 'vesde'")
        if continuous and scaled and not fourier:
            raise UserError(
                "A 'vesde' of continuous time whose network embeds sinusoids and is scaled_by_sigma is not supported: it divides by"
                f" the level at the place sigma. {WAYS_ON}"
            )
        made = variance_exploding(levels[-1], levels[0], scaled, None if continuous else steps)
        text = (
            "continuous time"
            if continuous
            else f"{steps:,} labels, which count from the highest level (so says the trainer's code; its answers were not compared)"
        )
        return made, (
            f"Process: VE with {text}; sigma_min {levels[-1]:g} and sigma_max {levels[0]:g} from {_LEVELS}, in the trainer's units.",
            f"The network predicts the score{', and is divided by sigma' if scaled else ''} (scale_by_sigma {scaled}), as the settings"
            " say.",
        )
    if not _agrees(answers, "scale_by_sigma", False):
        raise UserError(f"settings: scale_by_sigma True is supported for 'vesde' alone. {WAYS_ON}")
    first, last = answers.positive("beta_min", "0.1", 0.1), answers.positive("beta_max", "20", 20.0)
    limit = _MOST_NOISE if continuous else min(_MOST_NOISE, steps)
    if not max(first, last) < limit:
        raise UserError(f"settings: beta_min and beta_max must be below {limit}, not {first:g} and {last:g}.")
    rest = (
        f"Noise rates from {first:g} to {last:g}, as the settings say.",
        "The network predicts the noise. Assumed unless the settings say it: scale_by_sigma False, as in all of the trainer's"
        " configurations of VP and sub-VP.",
    )
    if continuous:
        make = variance_preserving if sde == "vpsde" else sub_variance_preserving
        return make(first, last), (
            f"Process: {'VP' if sde == 'vpsde' else 'sub-VP'} with continuous time.",
            *rest,
        )
    betas = torch.linspace(first / steps, last / steps, steps, dtype=torch.float32)
    return DiscreteProcess(levels_of(betas), "epsilon", "interpolated"), (
        f"Process: VP with {steps:,} timesteps.",
        *rest,
        "Noise levels between the timesteps of training are interpolated.",
    )


def _shape(layout: ScoreLayout, answers: Answers, image_shape: WantedShape | None) -> tuple[int, int, int]:
    if image_shape is not None and "image_size" not in answers:
        if image_shape[1] != image_shape[2]:
            raise UserError(f"{_WHAT} makes square images, not {image_shape[1]} x {image_shape[2]} pixels.")
        return image_shape_of(image_shape, layout.channels, (image_shape[1], image_shape[2]), layout.scale)
    side = answers.whole(
        "image_size", "32 for CIFAR-10; or give image_shape, or resolution=32 (--resolution 32)", 32
    )
    return image_shape_of(image_shape, layout.channels, (side, side), layout.scale)
