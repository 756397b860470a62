"""Low-rank changes of a model's weights (LoRA) from a file, merged: W + weight alpha / r B A (Hu et al. 2022, "LoRA", section 4.1).

A file whose names fit nothing changes nothing, and libraries load it without a sound; the audit of such a model would be that of its base.
So every tensor must be used and fit, and some weight must change. Nothing here is executed: files are safetensors alone.
"""

from __future__ import annotations

import json
import math
import re
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from diffmem.data.formats.guards import is_folder, is_plain_file, reading
from diffmem.errors import UserError
from diffmem.models.pretrained.diffusers_files import read_settings
from diffmem.models.pretrained.lora_names import Layer, Role, layer_names, other_kind, split_name
from diffmem.models.weights import check_numbers, load_tensors, naming

__all__ = ["Lora", "LoraChoice", "parse_lora", "read_lora"]

_PREDICTIONS = {"epsilon": "epsilon", "v": "v_prediction"}  # of the metadata by Stability AI's ModelSpec
_MERGE = "Merge it into the model with the program that trained it, save the pipeline, and give its folder."


class LoraChoice(NamedTuple):
    """A file, and how strongly it is applied."""

    path: Path
    weight: float


def parse_lora(text: str | Path) -> LoraChoice:
    """Return what FILE or FILE:WEIGHT says; the weight is 1 where there is none.

    Raises:
        UserError: The weight is 0, not finite, or no number.
    """
    name, colon, number = str(text).rpartition(":")
    if not colon or is_plain_file(Path(text)):
        return LoraChoice(Path(text), 1.0)
    try:
        weight = float(number)
    except ValueError:
        if not is_plain_file(Path(name)):  # the colon is of the name
            return LoraChoice(Path(text), 1.0)
        weight = math.nan
    if not math.isfinite(weight):
        raise UserError(
            f"{text}: the weight {number!r} is no number. Give one behind the colon, as {Path(name).name}:0.8."
        )
    if weight == 0:
        raise UserError(
            f"{text}: the weight 0 is refused; with it, the model is its base. Give another, or leave the LoRA out."
        )
    return LoraChoice(Path(name), weight)


@dataclass(frozen=True, eq=False)
class _Pair:
    down: Tensor
    up: Tensor
    scale: float

    def change(self, shape: torch.Size) -> Tensor:
        """Return what is added to a weight, float32."""
        product = self.up.float().flatten(1) @ self.down.float().flatten(1)
        return product.reshape(shape) * self.scale


@dataclass(eq=False)
class Lora:
    """A LoRA that fits a pipeline, whose parts are merged one after another.

    Attributes:
        path: The file.
        weight: How strongly it is applied.
        tensors: How many tensors it holds, all of them used.
        ranks: The ranks of its layers, ascending.
        training: What its trainer noted: epoch, steps, training images, where it did.
        prediction: What its trainer noted that the network predicts, 'epsilon' or 'v_prediction'; none where it did not.
        without_alpha: How many of its layers have no alpha anywhere, so that it is taken to be their rank.
        clip_skip: From which layer, counted from the end, its trainer noted that it took the states of prompts; 1 for the last.
        changed: How many layers' weights changed so far, by part.
    """

    path: Path
    weight: float
    tensors: int
    ranks: tuple[int, ...]
    training: Mapping[str, int]
    prediction: str | None
    clip_skip: int
    without_alpha: int
    pairs: Mapping[Layer, _Pair]
    changed: Counter[str] = field(default_factory=Counter)

    def merge(self, part: str, network: nn.Module) -> None:
        """Add its changes to the weights of a part, in place."""
        for layer, pair in self.pairs.items():
            if layer.part != part:
                continue
            weight = network.get_submodule(layer.name).weight
            assert isinstance(weight, Tensor)
            before = weight.detach().clone()
            with torch.no_grad():
                weight += pair.change(weight.shape).to(weight)
            self.changed[part] += not torch.equal(before, weight)
            if not bool(weight.isfinite().all()):
                raise UserError(f"{self.path}: with it, weights of {part}.{layer.name} are not finite.")

    def check(self) -> None:
        """Refuse a LoRA that changed nothing, after all parts were merged.

        Raises:
            UserError: No weight changed.
        """
        if not self.changed.total():
            raise UserError(
                f"{self.path} changes nothing at weight {self.weight:g}: the products of all its {len(self.pairs)} pairs are 0, or too"
                " small for any weight to change. The model would be its base. Was it saved before its training began, or did that fail?"
            )

    def doubts(self, prediction: str) -> list[str]:
        """Return in which ways it was trained otherwise than the model is used, as far as its trainer noted.

        Args:
            prediction: What the model's folder says that its network predicts.
        """
        doubts = []
        if self.without_alpha:
            doubts.append(
                f"Of {self.without_alpha} of the LoRA's layers no alpha is told: it is taken to be the rank, as libraries take it. If the"
                " training had another one, the change is too strong or too weak by alpha / rank: give that as the weight."
            )
        if self.prediction not in (None, prediction):
            doubts.append(
                f"The LoRA's trainer notes that the network predicts {self.prediction!r}, but the folder says {prediction!r}. If the folder"
                " is wrong, every prediction is: correct prediction_type in its scheduler_config.json."
            )
        if self.clip_skip > 1:
            doubts.append(
                f"The LoRA's trainer notes clip_skip {self.clip_skip}: it took prompts from an earlier layer of the text encoder; here,"
                " as in the pipeline, they are taken from the last."
            )
        return doubts

    def text(self) -> str:
        """Return what was merged, in a sentence that does not name the file: it stands in private reports."""
        parts = ", ".join(f"{part} {count}" for part, count in sorted(self.changed.items()))
        still = len(self.pairs) - self.changed.total()
        rank = str(self.ranks[0]) if len(self.ranks) == 1 else f"{self.ranks[0]} to {self.ranks[-1]}"
        noted = ", ".join(f"{name} {number:,}" for name, number in self.training.items())
        return (
            f"A LoRA of rank {rank}, merged at weight {self.weight:g}: all {self.tensors} tensors used, layers changed:"
            f" {parts}{f'; {still} layer(s) with a change of 0' if still else ''}{f' (its trainer notes {noted})' if noted else ''}."
        )


def read_lora(choice: LoraChoice, parts: Mapping[str, nn.Module]) -> Lora:
    """Return a LoRA that fits the networks of a pipeline in every tensor.

    The strength of a layer is alpha / r; alpha is that of the tensors, of the adapter's settings in the file or beside it, or r.

    Args:
        choice: The file.
        parts: The networks, 'unet', 'text_encoder' and, of SDXL, 'text_encoder_2'; without storage is enough.

    Raises:
        UserError: It is no safetensors file, of another kind than LoRA, or a tensor is not used or does not fit; with counts.
    """
    path = choice.path
    if not is_plain_file(path):
        what = f"{path} is a folder" if is_folder(path) else f"There is no file {path}"
        raise UserError(f"{what}. Give the LoRA as FILE.safetensors or FILE.safetensors:WEIGHT.")
    if path.suffix.lower() != ".safetensors":
        raise UserError(
            f"{path} is refused: LoRA are read from .safetensors files only. Save it as such where it was made."
        )
    tensors, texts = load_tensors(path), _texts(path)
    # Of an alpha that nobody chose, kohya's scripts write a whole number.
    tensors |= {name: one.float() for name, one in tensors.items() if name.endswith(".alpha")}
    with naming(path):
        check_numbers(tensors)
        _check_kind(tensors)
    names = layer_names(parts)
    found: dict[Layer, dict[Role, Tensor]] = {}
    unused = []
    for tensor, value in tensors.items():
        split = split_name(tensor)
        layer = None if split is None else names.get(split[0])
        if split is None or layer is None or split[1] in found.get(layer, {}):
            unused.append(tensor)
        else:
            found.setdefault(layer, {})[split[1]] = value
    if unused:
        raise UserError(
            f"{path}: {len(unused)} of its {len(tensors)} tensors fit no layer of this model, first {unused[0]!r:.120}. What is not used"
            " would be left out without a trace, and the audit would be that of another model. Is it for another kind of model (SD 1, SD 2,"
            f" SDXL)? {_MERGE}"
        )
    if not found:
        raise UserError(f"{path} holds no tensors; copy it again.")
    beside = _adapter(path, texts, any(name.startswith("base_model.model.") for name in tensors))
    pairs = {layer: _pair(path, layer, roles, beside, choice.weight) for layer, roles in found.items()}
    wrong = [
        layer
        for layer, pair in pairs.items()
        if not _fits(pair, parts[layer.part].get_submodule(layer.name).weight.shape)  # type: ignore[arg-type]
    ]
    if wrong:
        pair, layer = pairs[wrong[0]], wrong[0]
        shape = tuple(parts[layer.part].get_submodule(layer.name).weight.shape)  # type: ignore[arg-type]
        raise UserError(
            f"{path}: {len(wrong)} of its {len(pairs)} pairs do not fit their layers: first {layer.part}.{layer.name},"
            f" {tuple(pair.up.shape)} times {tuple(pair.down.shape)} for a weight of {shape}. Is it for another kind of"
            " model (SD 1, SD 2, SDXL)?"
        )
    ranks = tuple(sorted({pair.down.shape[0] for pair in pairs.values()}))
    return Lora(
        path,
        choice.weight,
        len(tensors),
        ranks,
        _training(texts),
        _PREDICTIONS.get(texts.get("modelspec.prediction_type", "")),
        int(texts["ss_clip_skip"]) if re.fullmatch("[1-9]", texts.get("ss_clip_skip", "")) else 1,
        sum("alpha" not in roles and not beside.tells(layer) for layer, roles in found.items()),
        pairs,
    )


def _check_kind(tensors: Mapping[str, Tensor]) -> None:
    kinds = Counter(kind for name in tensors if (kind := other_kind(name)) is not None)
    if kinds:
        counts = ", ".join(f"{count} of {kind}" for kind, count in kinds.most_common())
        raise UserError(
            f"Of its {len(tensors)} tensors are {counts}, and only LoRA (pairs of low rank) is merged here. {_MERGE}"
        )


def _pair(path: Path, layer: Layer, roles: Mapping[Role, Tensor], beside: _Adapter, weight: float) -> _Pair:
    missing = {"down", "up"} - set(roles)
    if missing:
        raise UserError(
            f"{path}: {layer.part}.{layer.name} lacks its {missing.pop()} matrix; copy the file again."
        )
    down, up = roles["down"], roles["up"]
    if down.ndim < 2 or up.ndim < 2 or not down.shape[0] or up.shape[1] != down.shape[0]:
        raise UserError(
            f"{path}: {layer.part}.{layer.name} has matrices of {tuple(up.shape)} and {tuple(down.shape)}, whose ranks differ;"
            " copy the file again."
        )
    rank = down.shape[0]
    if "alpha" not in roles:
        return _Pair(down, up, weight * beside.scale(layer, rank))
    if roles["alpha"].numel() != 1:
        raise UserError(f"{path}: alpha of {layer.part}.{layer.name} must be one number.")
    return _Pair(down, up, weight * float(roles["alpha"]) / rank)


def _fits(pair: _Pair, shape: torch.Size) -> bool:
    """Whether a pair is of a layer: of a convolution, the second is one of 1 x 1."""
    down, up = pair.down.shape, pair.up.shape
    square = all(side == 1 for side in up[2:]) and (len(shape) == 4 or all(side == 1 for side in down[2:]))
    inner = (*shape[1:],) if len(down) == len(shape) else (shape[1], *(1 for _ in down[2:]))
    plain = len(down) == len(shape) or all(side == 1 for side in shape[2:])
    return square and plain and up[0] == shape[0] and tuple(down[1:]) == inner


_CHANGE_THE_BASE = ("pissa", "olora", "corda", "lora_ga", "loftq")
"""Beginnings of `init_lora_weights` in the settings of peft that take something from the weights of the model."""


class _Adapter(NamedTuple):
    """What the settings of an adapter say of its strengths; `alpha` none for that of r."""

    path: Path
    settings: Mapping[str, Any]

    def tells(self, layer: Layer) -> bool:
        """Whether the settings say alpha of a layer."""
        return any(self.settings.get(f"{prefix}lora_alpha") is not None for prefix in (f"{layer.part}.", ""))

    def scale(self, layer: Layer, rank: int) -> float:
        """Return alpha / r of a layer, alpha / sqrt(r) where the settings say so."""
        for prefix in (f"{layer.part}.", ""):
            alpha = self.settings.get(f"{prefix}lora_alpha")
            if alpha is None:
                continue
            pattern = self.settings.get(f"{prefix}alpha_pattern") or {}
            names = list(pattern) if isinstance(pattern, Mapping) else [repr(pattern)]
            for name in names:
                if not name.replace("_", "").replace(".", "").isalnum():
                    raise UserError(f"{self.path}: alpha_pattern {name:.80} is not supported. {_MERGE}")
            # As peft does, the first that fits counts.
            fits = (name for name in names if f".{layer.name}".endswith(f".{name}"))
            alpha = pattern.get(next(fits, None), alpha) if pattern else alpha
            if isinstance(alpha, bool) or not isinstance(alpha, int | float) or not math.isfinite(alpha):
                raise UserError(f"{self.path}: lora_alpha {alpha!r:.80} must be a number.")
            return alpha / (math.sqrt(rank) if self.settings.get(f"{prefix}use_rslora") else rank)
        return 1.0


def _adapter(path: Path, texts: Mapping[str, str], is_peft: bool) -> _Adapter:
    """Return the settings of the adapter: in the file, as diffusers writes them, or beside it, as peft does."""
    if "lora_adapter_metadata" in texts:
        with reading(str(path)):
            settings = json.loads(texts["lora_adapter_metadata"])
            if not isinstance(settings, dict):
                raise UserError(f"{path}: its lora_adapter_metadata are no settings; copy it again.")
    elif is_peft:
        beside = path.parent / "adapter_config.json"
        if not is_plain_file(beside):
            raise UserError(
                f"{path.parent} lacks adapter_config.json, which says alpha of {path.name}; copy it there."
            )
        settings = read_settings(beside, path.parent)
    else:
        settings = {}
    bad = [name for name, value in settings.items() if name.endswith("use_dora") and value]
    if bad:
        raise UserError(f"{path} is DoRA by its settings, and only LoRA is merged here. {_MERGE}")
    for name, value in settings.items():
        if name.endswith("init_lora_weights") and str(value).startswith(_CHANGE_THE_BASE):
            raise UserError(
                f"{path}: {name} is {value!r:.40}, by which training began with other weights of the model itself; merged into the model of"
                " the folder, the LoRA would be another model. Save it with path_initial_model_for_weight_conversion of peft, or merge it"
                " where it was trained."
            )
    return _Adapter(path, settings)


def _texts(path: Path) -> dict[str, str]:
    from safetensors import safe_open

    with reading(str(path)), safe_open(path, "pt") as file:
        return dict(file.metadata() or {})


def _training(texts: Mapping[str, str]) -> dict[str, int]:
    """Return the numbers that kohya's scripts note."""
    keys = {"epoch": "ss_epoch", "steps": "ss_steps", "training images": "ss_num_train_images"}
    return {
        name: int(texts[key])
        for name, key in keys.items()
        if texts.get(key, "").isdecimal() and len(texts[key]) < 12
    }
