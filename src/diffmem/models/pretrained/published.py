"""The files that the authors of improved-diffusion and guided-diffusion published: told by name and shapes, with their known settings.

The settings are those that the README files of the two repositories name for each file, and their scripts' defaults for the rest. A name
alone proves nothing: it is believed where the tensors have the shapes of that network, and what its user says goes before.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any, NamedTuple

from torch import Tensor

from diffmem.errors import UserError
from diffmem.models.pretrained.recognition import SAMPLES_ONLY, WAYS_ON

__all__ = ["check_name", "published_settings"]


class _Shapes(NamedTuple):
    """What the tensors of a published network show.

    Attributes:
        width: Of the first embedding of time.
        classes: Number of them, 0 for none.
        blocks: On the way down.
        deepest: Channels in the middle.
        convolved: Whether resolutions change by convolutions; otherwise in residual blocks.
    """

    width: int
    classes: int
    blocks: int
    deepest: int
    convolved: bool


_GUIDED = {
    "diffusion_steps": 1000,
    "noise_schedule": "linear",
    "rescale_timesteps": False,
    "predict_xstart": False,
}
_EACH_64 = {"num_head_channels": 64, "use_new_attention_order": False}
_FOUR = {"num_heads": 4, "use_new_attention_order": False}
_IMPROVED = {
    "diffusion_steps": 4000, "noise_schedule": "cosine", "rescale_timesteps": True, "predict_xstart": False, **_FOUR,
}  # fmt: skip
_BEDROOM = {**_GUIDED, "image_size": 256, "num_heads": 1, "use_new_attention_order": False}
_LSUN = (_Shapes(256, 0, 18, 1024, False), {**_GUIDED, **_EACH_64, "image_size": 256})
_CIFAR = (_Shapes(128, 0, 16, 256, True), {**_IMPROVED, "image_size": 32})
_IMAGENET_64 = (_Shapes(128, 0, 16, 512, True), {**_IMPROVED, "image_size": 64})
_PUBLISHED: dict[str, tuple[_Shapes, dict[str, Any]]] = {
    "64x64_diffusion.pt": (
        _Shapes(192, 1000, 16, 768, False),
        {
            **_GUIDED,
            **_EACH_64,
            "image_size": 64,
            "noise_schedule": "cosine",
            "use_new_attention_order": True,
        },
    ),
    "128x128_diffusion.pt": (_Shapes(256, 1000, 15, 1024, False), {**_GUIDED, **_FOUR, "image_size": 128}),
    "256x256_diffusion.pt": (_Shapes(256, 1000, 18, 1024, False), {**_GUIDED, **_EACH_64, "image_size": 256}),
    "256x256_diffusion_uncond.pt": _LSUN,
    "512x512_diffusion.pt": (_Shapes(256, 1000, 21, 1024, False), {**_GUIDED, **_EACH_64, "image_size": 512}),
    "lsun_bedroom.pt": _LSUN,
    "lsun_cat.pt": _LSUN,
    "lsun_horse.pt": _LSUN,
    "lsun_horse_nodropout.pt": _LSUN,
    "cifar10_uncond_50M_500K.pt": _CIFAR,
    "cifar10_uncond_vlb_50M_500K.pt": _CIFAR,
    "imagenet64_uncond_100M_1500K.pt": _IMAGENET_64,
    "imagenet64_uncond_vlb_100M_1500K.pt": _IMAGENET_64,
    "imagenet64_cond_270M_250K.pt": (
        _Shapes(192, 1000, 16, 768, True),
        {**_IMPROVED, "image_size": 64, "rescale_timesteps": False},
    ),
    "lsun_uncond_100M_1200K_bs128.pt": (_Shapes(128, 0, 18, 512, True), _BEDROOM),
    "lsun_uncond_100M_2400K_bs64.pt": (_Shapes(128, 0, 18, 512, True), _BEDROOM),
}
_HEADS = {"num_heads", "num_head_channels", "num_heads_upsample"}
_DISTILLED = re.compile(r"(cd|ct)_(imagenet64|bedroom256|cat256)\w*\.pt|target_model\d+\.pt")
_FLOWS = re.compile(r"(otcfm|icfm|fm|si)_cifar10_\w+\.pt")
_PRECONDITIONED = re.compile(r"edm_(imagenet64|bedroom256|cat256)_ema\.pt")


def check_name(name: str) -> None:
    """Refuse files of consistency_models and torchcfm, whose tensors have the names of guided-diffusion's and mean other things.

    Raises:
        UserError: It has such a name.
    """
    if _DISTILLED.fullmatch(name):
        raise UserError(
            f"By its name, {name} is a network of consistency_models: it maps noise to the end of a trajectory and is no denoiser."
            f" {SAMPLES_ONLY}"
        )
    if _FLOWS.fullmatch(name):
        raise UserError(
            f"By its name, {name} is of torchcfm, whose networks predict a velocity; but that trainer's checkpoints hold dictionaries"
            " net_model and ema_model. Put the state dict into such a one: torch.save({'ema_model': state_dict}, ...)."
        )
    if _PRECONDITIONED.fullmatch(name):
        raise UserError(
            f"By its name, {name} is a network of consistency_models with EDM's preconditioning around guided-diffusion's network, which is"
            f" not supported yet. {WAYS_ON}"
        )


def published_settings(
    name: str, tensors: Mapping[str, Tensor], given: Mapping[str, Any], sized: bool
) -> tuple[dict[str, Any], str | None]:
    """Return the settings of a file, those of a published one where the user gave none, and what to know of that.

    Args:
        name: Of the file.
        tensors: What it holds.
        given: Settings of the user's, which go before.
        sized: Whether the user said the size of the images.
    """
    known = _PUBLISHED.get(name)
    if known is None:
        return dict(given), None
    shapes, settings = known
    if _shapes_of(tensors) != shapes:
        return dict(
            given
        ), f"{name} is the name of a published file, whose shapes it has not: the name was not believed."
    dropped = (_HEADS if _HEADS.intersection(given) else set()) | ({"image_size"} if sized else set())
    taken = {key: value for key, value in settings.items() if key not in dropped and key not in given}
    text = ", ".join(f"{key}={value}" for key, value in taken.items())
    return {**taken, **given}, (
        f"By its name, {name}, and its shapes, it is the published file; where no settings were given, those that its authors publish were"
        f" taken: {text or 'none'}."
    )


def _shapes_of(tensors: Mapping[str, Tensor]) -> _Shapes | None:
    """Return what the tensors of a network with a learned variance show; none for another one."""
    blocks = {name.split(".")[1] for name in tensors if name.startswith("input_blocks.")}
    classes = tensors.get("label_emb.weight")
    try:
        width, deepest = (
            tensors["time_embed.0.weight"].shape[1],
            len(tensors["middle_block.0.in_layers.0.weight"]),
        )
        is_learned = len(tensors["out.2.weight"]) == 2 * tensors["input_blocks.0.0.weight"].shape[1]
    except (KeyError, IndexError, TypeError):  # damaged, which building the network says
        return None
    if not is_learned:
        return None
    convolved = any(re.fullmatch(r"input_blocks\.\d+\.0\.op\.weight", name) for name in tensors)
    return _Shapes(width, 0 if classes is None else len(classes), len(blocks), deepest, convolved)
