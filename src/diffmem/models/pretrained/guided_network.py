"""The network of guided-diffusion in the files of several trainers: what of it is asked, and how it is made.

Their state dicts tell everything of it but how attention is split into heads, and the size of the images.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

import torch
from torch import Tensor

from diffmem.errors import UserError
from diffmem.models.networks.guided_unet import GuidedUNet, Heads
from diffmem.models.networks.shaped import filled
from diffmem.models.pretrained.answers import Answers, WantedShape, image_shape_of
from diffmem.models.pretrained.recognition import SAMPLES_ONLY
from diffmem.models.weights import check_numbers, check_tensors

__all__ = ["HEAD_SETTINGS", "SIGNS", "HeadDefaults", "given_of", "heads_of", "network_of", "tensors_of"]

HEAD_SETTINGS = ("num_heads", "num_head_channels", "num_heads_upsample", "use_new_attention_order")
"""Those of the attention, by the names of the trainers' own options."""

SIGNS = (
    "time_embed.0.weight",
    "input_blocks.0.0.weight",
    "middle_block.0.in_layers.2.weight",
    "out.2.weight",
)
"""Tensors that each of these networks has."""

_UNSET = ("num_head_channels", "num_heads_upsample")  # -1 is the trainers' word for an option that is not set
_MOST_CHANNELS = 4
_GREY_TWICE = 2  # of the network for super-resolution of grey images, with or without a variance beside


class HeadDefaults(NamedTuple):
    """What a trainer sets when nobody says anything, in words for the messages that ask.

    Attributes:
        name: Of the setting that is asked, 'num_heads' or 'num_head_channels', where neither is given.
        heads: Its default.
        example: A value of it.
        order: The default of `use_new_attention_order`; none for a trainer that has only the old order, which is not asked then.
    """

    name: str
    heads: str
    example: int
    order: str | None


def tensors_of(held: object, what: str) -> dict[str, Tensor]:
    """Return a state dict, checked to be one.

    Args:
        held: What a file has in the place of one.
        what: Names the place in the message.

    Raises:
        UserError: It holds anything but named tensors.
    """
    if isinstance(held, Mapping) and all(
        isinstance(name, str) and isinstance(one, Tensor) for name, one in held.items()
    ):
        return dict(held)
    raise UserError(f"{what} holds tensors alone; this one holds other things, too.")


def given_of(settings: Mapping[str, Any] | None) -> dict[str, Any]:
    """Return settings without those that say, by -1, that they are not set."""
    return {name: value for name, value in (settings or {}).items() if name not in _UNSET or value != -1}


def heads_of(answers: Answers, tensors: Mapping[str, Tensor], defaults: HeadDefaults) -> tuple[Heads, str]:
    """Return how attention is split, and that in words.

    Raises:
        UserError: It is not told, or is impossible.
    """
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
    asked = defaults.name if "num_heads" not in answers else "num_heads"
    if "num_head_channels" in answers or asked == "num_head_channels":
        each = answers.whole("num_head_channels", defaults.heads, defaults.example)
        text, single = f"heads of {each} channels", widths == {each}
    else:
        number = answers.whole("num_heads", defaults.heads, defaults.example)
        text, single = f"{number} head(s)", number == 1
        if "num_heads_upsample" in answers:
            upwards = answers.whole("num_heads_upsample", "", 4)
            text, single = f"{text}, {upwards} in the way up", single and upwards == 1
        else:
            text += " (assumed: as many in the way up, the trainers' default of num_heads_upsample)"
    if single:  # the two orders are one for a single head
        return Heads(number, each, upwards), f"Attention: {text}, as the settings say."
    assumed = defaults.order is None and "use_new_attention_order" not in answers
    new = not assumed and answers.choice("use_new_attention_order", (False, True), defaults.order or "False")
    order = f"{'new' if new else 'old'} order"
    if assumed:
        return Heads(number, each, upwards), (
            f"Attention: {text}, as the settings say; assumed: in the {order}, the only one that the trainer's script has"
            " (use_new_attention_order)."
        )
    return Heads(number, each, upwards, new), f"Attention: {text}, in the {order}, as the settings say."


def network_of(
    tensors: Mapping[str, Tensor],
    heads: Heads,
    answers: Answers,
    image_shape: WantedShape | None,
    device: torch.device | str,
    *,
    rate: float = 1.0,
    side: int | None = None,
    usual: str = "64 in guided-diffusion",
) -> tuple[GuidedUNet, tuple[int, int, int]]:
    """Return the network with its tensors, frozen, on a device; and (C, H, W) of its images.

    Args:
        tensors: Its state dict, all of it.
        heads: Of its attention.
        answers: May tell `image_size`.
        image_shape: (C, H, W) of the images, where the user says it.
        device: Where it computes.
        rate: See `GuidedUNet`.
        side: Height and width of the images where neither the user nor the settings say it; none to ask.
        usual: The trainer's default of `image_size`, in words for the message that asks.

    Raises:
        UserError: The tensors are not those of such a network, or the size is not told or does not fit.
    """
    network = GuidedUNet(tensors, heads, rate)
    check_tensors(tensors, network.state_dict())
    check_numbers(tensors)
    _check_channels(network.channels, len(tensors["out.2.weight"]))
    shape = _shape(network, answers, image_shape, side, usual)
    network = filled(network, tensors, lambda one: _trial(one, shape), (1, *shape)).to(device)
    return network, shape


def _trial(network: GuidedUNet, shape: tuple[int, int, int]) -> Tensor:
    label = torch.zeros(1, dtype=torch.int64, device="meta")
    made: Tensor = network(torch.zeros(1, *shape, device="meta"), torch.zeros(1, device="meta"), label)
    return made


def _check_channels(channels: int, outputs: int) -> None:
    """Refuse a network that is given more than a noisy image."""
    if channels > _MOST_CHANNELS or (channels == _GREY_TWICE and outputs <= _GREY_TWICE):
        raise UserError(
            f"The network takes {channels} channels and makes {outputs}: one that is given more than the noisy image, as those for"
            f" super-resolution or with Fourier features of it, is not supported. {SAMPLES_ONLY}"
        )


def _shape(
    network: GuidedUNet, answers: Answers, image_shape: WantedShape | None, side: int | None, usual: str
) -> tuple[int, int, int]:
    if "image_size" in answers or (image_shape is None and side is None):
        side = answers.whole(
            "image_size", f"{usual}; or give image_shape, or resolution=64 (--resolution 64)", 64
        )
    elif image_shape is not None:
        return image_shape_of(image_shape, network.channels, (image_shape[1], image_shape[2]), network.scale)
    assert side is not None
    return image_shape_of(image_shape, network.channels, (side, side), network.scale)
