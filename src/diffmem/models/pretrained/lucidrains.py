"""Models made elsewhere: checkpoints of the trainer of denoising-diffusion-pytorch, version 1.9 and later.

A `model-N.pt` holds the raw weights, their moving average, and the constants of the process, noise levels of all timesteps among them. The
layout was taken from files of versions 1.9.4 to 2.3.4. State dicts of its `classifier_free_guidance` and `ElucidatedDiffusion`, which have
no trainer, are read too. Nothing is unpickled here.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor

from diffmem.errors import UserError, nearest
from diffmem.models.continuous import ContinuousDenoiser, edm
from diffmem.models.discrete import DiscreteDenoiser, DiscreteProcess, Prediction
from diffmem.models.networks.lucidrains_settings import Untold, settings_of
from diffmem.models.networks.lucidrains_unet import load_unet
from diffmem.models.pretrained.answers import Answers, WantedShape, check_weights, image_shape_of
from diffmem.models.pretrained.recognition import WAYS_ON
from diffmem.models.readings import MappedDenoiser, of_unit_range
from diffmem.models.weights import check_numbers

__all__ = ["CHOICES", "open_lucidrains", "recognise"]

CHOICES: dict[str, tuple[Any, ...]] = {"auto_normalize": (True, False), "resnet_block_groups": (4, 8, 16)}
"""What no file tells and has few values; not all files have such a setting."""

_TRAINER = "denoising-diffusion-pytorch"
_OBJECTIVES: dict[str, Prediction] = {
    "pred_v": "v_prediction",
    "pred_noise": "epsilon",
    "pred_x0": "sample",
}
_LEVELS = "sqrt_recipm1_alphas_cumprod"
_CONSTANTS = {
    "betas", "alphas_cumprod", "alphas_cumprod_prev", "sqrt_alphas_cumprod", "sqrt_one_minus_alphas_cumprod",
    "log_one_minus_alphas_cumprod", "sqrt_recip_alphas_cumprod", _LEVELS, "posterior_variance",
    "posterior_log_variance_clipped", "posterior_mean_coef1", "posterior_mean_coef2", "loss_weight", "p2_loss_weight",
}  # fmt: skip
_NETWORK, _ELUCIDATED, _AVERAGE = "model.", "net.", "ema_model."
_HEADS, _HEAD_WIDTH = 4, 32  # the defaults of classifier_free_guidance, whose tensors do not tell
_GROUP_NORM = "mid_block1.block1.norm.weight"
_SIGMA_DATA = 0.5  # the default of ElucidatedDiffusion
_MAX_SIDE = 2**14


def recognise(checkpoint: Mapping[str, Any]) -> bool:
    """Return whether what was read from a file has the layout of this trainer, of whatever version.

    Args:
        checkpoint: The dictionary of the file: of `Trainer.save`, or the state dict of the package's diffusion alone.
    """
    model = checkpoint.get("model", checkpoint)
    if not isinstance(model, Mapping):
        return False
    return {_LEVELS, f"{_NETWORK}init_conv.weight"} <= set(model) or _is_elucidated(model)


def _is_elucidated(state: Mapping[str, Any]) -> bool:
    return {f"{_ELUCIDATED}init_conv.weight", f"{_ELUCIDATED}time_mlp.0.weights"} <= set(state)


def open_lucidrains(
    checkpoint: Mapping[str, Any],
    image_shape: WantedShape | None = None,
    settings: Mapping[str, Any] | None = None,
    weights: Literal["ema", "raw"] = "ema",
    beside: Path | None = None,
    device: torch.device | str = "cpu",
) -> tuple[DiscreteDenoiser | ContinuousDenoiser | MappedDenoiser, tuple[str, ...]]:
    """Make a `Denoiser` of a checkpoint that `recognise` accepts.

    At the noise level of each timestep, as stored, it is the network's own prediction of the clean image, in [-1, 1] units.

    Args:
        checkpoint: The dictionary of the file.
        image_shape: (C, H, W) of the images, whose size the file does not tell; C may be none.
        settings: What else the file may not tell: `objective`, 'pred_v', 'pred_noise' or 'pred_x0'; `heads` of the attention at
            the bottom of networks of `classifier_free_guidance` (4 unless given, if it has the default's 128 channels);
            `sigma_data` of `ElucidatedDiffusion` (0.5 unless given). Of the trainer's own files also what is taken to be its default
            unless given, with a note: `auto_normalize` (true: images were scaled to [-1, 1], not left in [0, 1]),
            `sinusoidal_pos_emb_theta` (10,000) and, of versions with GroupNorm, `resnet_block_groups` (8).
        weights: 'ema' for the moving average, 'raw' for the weights that were trained. A state dict alone has one kind.
        beside: The file, of which nothing more is asked: the checkpoint tells what its name does.
        device: Where the network will compute.

    Returns:
        The denoiser, and what a reader of its results must know. Classes have their label, or -1 for none; guidance is not applied.

    Raises:
        UserError: The file is of an earlier version, incomplete or damaged, has other tensors than those of its network, or does not tell
            something that was not given.
    """
    state, said = _state_of(checkpoint, weights)
    elucidated = _is_elucidated(state)
    prefix = _ELUCIDATED if elucidated else _NETWORK
    tensors = {name.removeprefix(prefix): one for name, one in state.items() if name.startswith(prefix)}
    constants = {name: one for name, one in state.items() if not name.startswith(prefix)}
    for name in constants:
        if elucidated or name not in _CONSTANTS:
            others = (
                []
                if elucidated
                else [*_CONSTANTS.difference(constants), *(one for one in state if one != name)]
            )
            raise UserError(
                f"Tensor {name!r} is not one of this trainer's{' ElucidatedDiffusion' if elucidated else ''}.{nearest(name, others)}"
            )
    if getattr(tensors.get("init_conv.weight"), "ndim", 4) == 3:
        raise UserError(f"It is a model of sequences (Unet1D) of {_TRAINER}, not of images.")
    guided = "classes_emb.weight" in tensors
    if guided:
        if _GROUP_NORM in tensors:
            raise UserError(
                f"It is of {_TRAINER}'s classifier_free_guidance with GroupNorm, as before version 2.0. The first of these versions"
                f" standardised the weights of convolutions, and the file does not tell its version. That is not supported. {WAYS_ON}"
            )
        tensors = {_renamed(name): one for name, one in tensors.items()}
    elif not any(name.endswith(".mem_kv") for name in tensors) or any(".fn.fn." in name for name in tensors):
        raise UserError(_refusal(checkpoint))
    answers = Answers(f"Such a file of {_TRAINER}", settings, _known(tensors, elucidated, guided))
    wanted = _checked_shape(image_shape)
    untold = Untold(
        _heads_of(tensors, answers) if guided else None,
        answers.whole("resnet_block_groups", "", 8) if "resnet_block_groups" in answers else Untold().groups,
        answers.positive("sinusoidal_pos_emb_theta", "", 1)
        if "sinusoidal_pos_emb_theta" in answers
        else Untold().base,
    )
    scaled = "auto_normalize" not in answers or answers.choice("auto_normalize", (True, False), "True")
    notes = [said, *_assumed(answers, untold, scaled)]

    channels = wanted[0] or _channels_of(tensors, untold)
    unet = load_unet(tensors, channels, untold).to(device)
    shape = image_shape_of(wanted, channels, wanted[1:], 2 ** (unet.levels - 1))
    denoiser: DiscreteDenoiser | ContinuousDenoiser | MappedDenoiser
    if elucidated:
        data = answers.positive("sigma_data", "", 1) if "sigma_data" in answers else _SIGMA_DATA
        denoiser = ContinuousDenoiser(unet, edm(data), shape, device=device)
        notes.append(
            f"The preconditioning takes images of standard deviation (sigma_data) {data:g}, which the file does not tell."
        )
    else:
        levels = _levels_of(constants)
        objective, source = _objective_of(constants, answers, unet.learned_variance)
        denoiser = DiscreteDenoiser(
            unet,
            DiscreteProcess(levels, _OBJECTIVES[objective]),
            shape,
            unet.num_labels,
            null_label=unet.num_labels or None,
            device=device,
        )
        if not scaled:
            denoiser = of_unit_range(denoiser)
        notes[1:1] = [
            f"The objective is {objective}, {source}.",
            f"Noise levels are the stored ones of {len(levels):,} timesteps, {levels[0]:.3g} to {levels[-1]:.5g}; between them, the"
            " timestep is fractional.",
        ]
    if unet.self_conditioned:
        notes.append(
            "The network was trained with self-conditioning; here its earlier estimate is always zeros, as in half of its training. The"
            " trainer's own sampler shows it the last estimate."
        )
    if guided:
        notes.append(
            f"The attention at the bottom is taken to have {untold.heads} heads, which the file does not tell, and all to be"
            " that of version 2.3.4. D is that of the class alone, without guidance."
        )
    return denoiser, tuple(notes)


def _known(tensors: Mapping[str, Tensor], elucidated: bool, guided: bool) -> list[str]:
    """Return the settings of a file; classifier_free_guidance and ElucidatedDiffusion have no options for some of the trainer's."""
    if elucidated:
        known = ["sigma_data"]
    else:
        known = ["objective", *(["heads"] if guided else ["auto_normalize", "sinusoidal_pos_emb_theta"])]
    return [*known, *(["resnet_block_groups"] if _GROUP_NORM in tensors else [])]


def _assumed(answers: Answers, untold: Untold, scaled: bool) -> list[str]:
    """Return what the file does not tell, and what it is taken to be."""
    taken = {
        "auto_normalize": f"images were {'scaled to [-1, 1]' if scaled else 'left in [0, 1]'} (auto_normalize {scaled})",
        "sinusoidal_pos_emb_theta": f"timesteps are embedded with the base sinusoidal_pos_emb_theta {untold.base:g}",
        "resnet_block_groups": f"GroupNorm has resnet_block_groups {untold.groups}",
    }
    of_file = [name for name in taken if name in answers.known]
    assumed = [taken[name] for name in of_file if name not in answers]
    given = [taken[name] for name in of_file if name in answers]
    noise = "noise was white and drawn on its own (no offset_noise_strength, not immiscible)"
    return [
        "The file does not tell some of its options. Taken to be the trainer's defaults: "
        + "; ".join([*assumed, noise])
        + ("." if not assumed else ". Others are given as settings, by these names."),
        *([f"As the settings say: {'; '.join(given)}."] if given else []),
    ]


def _heads_of(tensors: Mapping[str, Tensor], answers: Answers) -> int:
    """Return the heads of the attention at the bottom of a network of `classifier_free_guidance`."""
    weight = tensors.get("mid_attn.to_qkv.weight")
    usual = weight is None or weight.shape[:1] == (3 * _HEADS * _HEAD_WIDTH,)
    if "heads" not in answers and usual:
        return _HEADS
    return answers.whole("heads", f"{_HEADS} of {_HEAD_WIDTH} channels, which this network has not", 8)


def _checked_shape(image_shape: WantedShape | None) -> WantedShape:
    if image_shape is None:
        raise UserError(
            f"Checkpoints of {_TRAINER} do not tell the size of the images: give it as resolution=64 or image_shape=(C, H, W), for"
            " example (3, 64, 64); on the command line as --resolution 64."
        )
    channels, *sides = image_shape
    numbers = [*sides, 1 if channels is None else channels]
    if len(numbers) != 3 or not all(type(one) is int and 1 <= one <= _MAX_SIDE for one in numbers):
        raise UserError(f"image_shape must be (C, H, W), three positive whole numbers, not {image_shape!r}.")
    return image_shape


def _channels_of(tensors: Mapping[str, Tensor], untold: Untold) -> int:
    """Return the channels of the images: what the network reads and predicts, each of which may be twice as much.

    It reads its last estimate beside with self-conditioning, and predicts a variance beside in `LearnedGaussianDiffusion`.
    """
    settings = settings_of(tensors, untold)
    reads, predicts = settings.inputs, settings.outputs
    if reads == predicts and reads not in (1, 3) and reads % 2 == 0:
        raise UserError(
            f"The network reads and predicts {reads} channels: images of {reads}, or of {reads // 2} with self-conditioning and a learned"
            f" variance. The file does not tell: give image_shape, such as ({reads // 2}, 64, 64)."
        )
    return min(reads, predicts)


def _state_of(checkpoint: Mapping[str, Any], weights: str) -> tuple[dict[str, Tensor], str]:
    """Return the tensors that were asked for, and a sentence that says which they are."""
    check_weights(weights)
    if not recognise(checkpoint):
        raise UserError(f"It holds no checkpoint of {_TRAINER}.")
    if "model" not in checkpoint:
        return _tensors(
            checkpoint, ""
        ), f"A state dict of {_TRAINER}: it does not tell whether its weights are an average."
    text = f"{_origin(checkpoint)}, step {_count(checkpoint.get('step'))}"
    if weights == "raw":
        return _tensors(
            checkpoint["model"], ""
        ), f"{text}: the raw weights as trained, not their moving average."
    average = checkpoint.get("ema")
    state = _tensors(average, _AVERAGE) if isinstance(average, Mapping) else {}
    if not state:
        raise UserError("It holds no moving average (ema.ema_model) of the weights; ask for weights 'raw'.")
    return (
        state,
        f"{text}: the moving average of the weights (EMA), of {_count(average.get('step'))} updates.",  # type: ignore[union-attr]
    )


def _tensors(state: Mapping[str, Any], prefix: str) -> dict[str, Tensor]:
    found = {}
    for name, tensor in state.items():
        if str(name).startswith(prefix):
            if not isinstance(tensor, Tensor):
                raise UserError(f"{str(name)[:80]!r} is no tensor.")
            found[str(name).removeprefix(prefix)] = tensor
    return found


def _count(value: object) -> str:
    if isinstance(value, Tensor) and value.numel() == 1 and not value.is_floating_point():
        value = int(value)
    return f"{value:,}" if type(value) is int else "unknown"


def _origin(checkpoint: Mapping[str, Any]) -> str:
    version = checkpoint.get("version")
    named = isinstance(version, str) and version.isascii() and version.isprintable()
    return f"{_TRAINER} {str(version)[:20] if named else 'of unknown version'}"


def _refusal(checkpoint: Mapping[str, Any]) -> str:
    return (
        f"It was written by {_origin(checkpoint)}: its attention is that of versions before 1.9 (named 'fn.fn', or without mem_kv), which"
        f" computed other things under the same names from version to version. That is not supported. {WAYS_ON}"
    )


def _renamed(name: str) -> str:
    """The present name of a tensor of `classifier_free_guidance`, which wraps its attention twice."""
    return name.replace(".fn.fn.", ".").replace(".fn.norm.", ".norm.")


def _levels_of(constants: Mapping[str, Tensor]) -> Tensor:
    stored = constants.get(_LEVELS)
    if stored is None or stored.ndim != 1 or len(stored) < 2:
        raise UserError(f"It lacks the noise levels {_LEVELS!r} of at least 2 timesteps.")
    check_numbers({_LEVELS: stored})
    levels = stored.detach().cpu().double()
    if levels[0] <= 0 or not bool((levels.diff() > 0).all()):
        raise UserError(f"The noise levels {_LEVELS!r} do not grow from one timestep to the next.")
    return levels


def _objective_of(
    constants: Mapping[str, Tensor], answers: Answers, learned_variance: bool
) -> tuple[str, str]:
    """Return the objective, and how it is known.

    The weight of the loss is that of a noise estimate in units of each objective. Weights may be capped at a signal-to-noise ratio of
    (typically) 5, so only timesteps below 1 tell; close to 0, objectives do not differ enough. With a learned variance they do not count:
    `LearnedGaussianDiffusion` trains an estimate of the noise whatever its objective is.
    """
    default = "'pred_v' since 2.0 and was 'pred_noise' in early versions"
    found = "pred_noise" if learned_variance else _objective_shown(constants)
    if found is None:
        given = answers.choice("objective", list(_OBJECTIVES), default)
        return given, "as given; the file does not tell"
    shown = "the learned variance shows" if learned_variance else "the stored weights of its loss show"
    if "objective" in answers and (given := answers.choice("objective", list(_OBJECTIVES), default)) != found:
        raise UserError(f"The objective is {found!r}, as {shown}, not {given!r}; leave the setting out.")
    return found, f"as {shown}"


def _objective_shown(constants: Mapping[str, Tensor]) -> str | None:
    weight, product = constants.get("loss_weight"), constants.get("alphas_cumprod")
    if weight is None or product is None or weight.ndim != 1 or weight.shape != product.shape:
        return None
    product = product.double()
    ratio = product / (1 - product)
    telling = (ratio > 0.3) & (ratio < 1)
    if not bool(telling.any()):
        return None
    expected = {"pred_noise": torch.ones_like(product), "pred_x0": ratio, "pred_v": product}
    for objective, one in expected.items():
        if torch.allclose(weight.double()[telling], one[telling], rtol=1e-3):
            return objective
    return None
