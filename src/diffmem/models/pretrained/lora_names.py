"""What the tensors of a LoRA file are called: the layer that each belongs to, in the names of several trainers.

peft and diffusers write the dotted names of layers, kohya's scripts join them by `_`, which is ambiguous to take apart; so all names that
the layers of a network may have are made, and those of the file are looked up. For SDXL, kohya's names are those of the original code,
whose blocks are counted through.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import Literal, NamedTuple

from torch import nn

__all__ = ["Layer", "Role", "layer_names", "other_kind", "split_name"]

Role = Literal["down", "up", "alpha"]
_ENDINGS: tuple[tuple[str, Role], ...] = (
    (".lora_down.weight", "down"),
    (".lora_up.weight", "up"),
    (".lora_A.weight", "down"),
    (".lora_B.weight", "up"),
    (".lora_A.default.weight", "down"),
    (".lora_B.default.weight", "up"),
    (".lora.down.weight", "down"),
    (".lora.up.weight", "up"),
    (".lora_linear_layer.down.weight", "down"),
    (".lora_linear_layer.up.weight", "up"),
    (".alpha", "alpha"),
)
# diffusers before 0.21
_PROCESSOR = re.compile(r"(.*)\.processor\.to_(q|k|v|out)_lora\.(down|up)\.weight")
_OTHER_KINDS = {
    "hada_": "LoHa (LyCORIS)",
    "lokr_": "LoKr (LyCORIS)",
    "lora_mid.": "LoCon with a Tucker decomposition (LyCORIS)",
    "dora_scale": "DoRA",
    "lora_magnitude_vector": "DoRA",
    "oft_": "OFT",
    "boft_": "BOFT",
    ".on_input": "IA3 (LyCORIS)",
    ".diff": "full difference (LyCORIS)",
    ".w_norm": "change of norms (LyCORIS)",
}
_RESNET = {
    "conv1": "in_layers.2",
    "conv2": "out_layers.3",
    "time_emb_proj": "emb_layers.1",
    "conv_shortcut": "skip_connection",
}
_OUTER = {
    "conv_in": "input_blocks.0.0",
    "conv_out": "out.2",
    "time_embedding.linear_1": "time_embed.0",
    "time_embedding.linear_2": "time_embed.2",
    "add_embedding.linear_1": "label_emb.0.0",
    "add_embedding.linear_2": "label_emb.0.2",
}


class Layer(NamedTuple):
    """A layer whose weight a LoRA may change: the part of the pipeline, and its name in the part."""

    part: str
    name: str


def split_name(tensor: str) -> tuple[str, Role] | None:
    """Return what the name of a tensor says of its layer, and what the tensor is; none for one that is no part of a LoRA."""
    for ending, role in _ENDINGS:
        if tensor.endswith(ending):
            return tensor[: -len(ending)], role
    old = _PROCESSOR.fullmatch(tensor)
    if old is None:
        return None
    return f"{old[1]}.to_{old[2]}{'.0' if old[2] == 'out' else ''}", "down" if old[3] == "down" else "up"


def other_kind(tensor: str) -> str | None:
    """Return which other kind of change of weights a tensor belongs to, if it is known."""
    return next((kind for sign, kind in _OTHER_KINDS.items() if sign in tensor), None)


def layer_names(parts: Mapping[str, nn.Module]) -> dict[str, Layer]:
    """Return the layers by every name that a file may give them.

    Args:
        parts: The networks of a pipeline, 'unet', 'text_encoder' and, of SDXL, 'text_encoder_2'; their numbers are not looked at.
    """
    is_xl = "text_encoder_2" in parts
    prefixes = {
        "unet": "lora_unet_",
        "text_encoder": "lora_te1_" if is_xl else "lora_te_",
        "text_encoder_2": "lora_te2_",
    }
    found: dict[str, Layer] = {}
    for part, network in parts.items():
        layers = [
            name for name, module in network.named_modules() if isinstance(module, nn.Linear | nn.Conv2d)
        ]
        for name in layers:
            layer = Layer(part, name)
            if part == "unet":
                dotted = [name]
                found[name] = found[f"base_model.model.{name}"] = layer
                if is_xl and (original := _original_name(name, network)) is not None:
                    found[f"lora_unet_{original.replace('.', '_')}"] = layer
            else:
                inner = name.removeprefix("text_model.")
                dotted = [inner, f"text_model.{inner}"]
                if not is_xl:
                    found |= {f"base_model.model.{each}": layer for each in dotted}
            for each in dotted:
                found[f"{part}.{each}"] = layer
                found[f"{prefixes[part]}{each.replace('.', '_')}"] = layer
    return found


def _original_name(name: str, network: nn.Module) -> str | None:
    """Return the name of a layer of the network in the original code, whose blocks are counted through."""
    if name in _OUTER:
        return _OUTER[name]
    place, *rest = name.split(".")
    if place == "mid_block":
        kind, number, *inner = rest
        return f"middle_block.{2 * int(number) if kind == 'resnets' else 1}.{_inner(kind, inner)}"
    if place not in ("down_blocks", "up_blocks") or len(rest) < 4:
        return None
    block, kind, number, *inner = rest
    count = len(list(_children(network, f"{place}.{block}.resnets")))
    before = sum(
        len(list(_children(network, f"{place}.{other}.resnets"))) + (place == "down_blocks")
        for other in range(int(block))
    )
    if kind == "downsamplers":
        return f"input_blocks.{1 + before + count}.0.op"
    if kind == "upsamplers":
        has_attention = next(_children(network, f"{place}.{block}.attentions"), None) is not None
        return f"output_blocks.{before + count - 1}.{2 if has_attention else 1}.conv"
    index = before + int(number)
    at = f"input_blocks.{1 + index}" if place == "down_blocks" else f"output_blocks.{index}"
    return f"{at}.{0 if kind == 'resnets' else 1}.{_inner(kind, inner)}"


def _inner(kind: str, names: list[str]) -> str:
    name = ".".join(names)
    return _RESNET.get(name, name) if kind == "resnets" else name


def _children(network: nn.Module, name: str) -> Iterator[nn.Module]:
    try:
        yield from network.get_submodule(name).children()
    except AttributeError:
        return
