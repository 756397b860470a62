"""Text-to-image folders of diffusers: where the parts of Stable Diffusion 1.x, 2.x and SDXL are, and their settings, as data.

Names of classes are compared with a table and never imported from the folder. What changes a prediction and is not known here is refused by
name: networks that an image directs, too (inpainting, ControlNet), and those that are distilled for a few steps and are no denoisers.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar, Literal, NoReturn, Self

from pydantic import Field, ValidationInfo, field_validator, model_validator

from diffmem.data.formats.guards import is_folder, is_plain_file
from diffmem.errors import UserError
from diffmem.models.pretrained.diffusers_files import (
    OTHER_BETAS,
    STEPPERS,
    TRAINERS,
    Parts,
    read_settings,
    variant_of,
)
from diffmem.models.pretrained.diffusers_schedulers import (
    PartSettings,
    SchedulerSettings,
    read_part,
    read_scheduler,
)
from diffmem.models.pretrained.diffusers_settings import LevelSettings
from diffmem.models.pretrained.recognition import SAMPLES_ONLY, unlike

__all__ = [
    "PIPELINES",
    "EncoderPart",
    "EncoderSettings",
    "TextParts",
    "TextUnetSettings",
    "check_name",
    "find_text_parts",
    "is_text_folder",
    "read_encoder",
    "read_text_network",
    "read_text_scheduler",
]

PIPELINES = ("StableDiffusionPipeline", "StableDiffusionXLPipeline")
"""The pipelines that are read."""

_TOKENIZERS = ("CLIPTokenizer", "CLIPTokenizerFast", "TokenizersBackend")
_CLASSES = {
    "unet": ("diffusers", ("UNet2DConditionModel",)),
    "vae": ("diffusers", ("AutoencoderKL",)),
    "scheduler": ("diffusers", (*TRAINERS, *STEPPERS, *OTHER_BETAS)),
    "text_encoder": ("transformers", ("CLIPTextModel",)),
    "tokenizer": ("transformers", _TOKENIZERS),
    "text_encoder_2": ("transformers", ("CLIPTextModelWithProjection",)),
    "tokenizer_2": ("transformers", _TOKENIZERS),
}
_OF_XL = ("text_encoder_2", "tokenizer_2")
_AFTERWARDS = ("safety_checker", "feature_extractor")  # they look at finished images
_BY_IMAGES = "it is conditioned on images besides text"
_DISTILLED = "it is distilled for a few steps (LCM, Turbo, Lightning), and is no denoiser at the noise levels between them"
_REASONS = {
    "Inpaint": "an inpainting model completes a given image, of which training captions say nothing",
    "ControlNet": _BY_IMAGES,
    "Adapter": _BY_IMAGES,
    "Img2Img": f"{_BY_IMAGES}. If its parts are those of a plain pipeline, save them as one",
    "Pix2Pix": _BY_IMAGES,
    "Depth": _BY_IMAGES,
    "Upscale": _BY_IMAGES,
    "LatentConsistency": _DISTILLED,
    "StableDiffusion3": "its network predicts the velocity of a flow, which is not read from a folder of diffusers yet",
    "Flux": "its network predicts the velocity of a flow, which is not read from a folder of diffusers yet",
}
_FEW_STEPS = re.compile(r"(?<![a-z])(lcm|turbo|lightning|dmd2?|hyper-?sd)(?![a-z])", re.IGNORECASE)
_CHANNELS = {
    9: "an inpainting network, which is also given a mask and the image under it",
    8: "a network that is also given the latents of an image (InstructPix2Pix)",
    5: "a network that is also given depth",
    7: "an upscaling network, which is also given a small image",
}
_WHY = {
    "time_cond_proj_dim": f"it is given the strength of guidance: {_DISTILLED}",
    "class_embed_type": "it is given something besides the prompt",
    "num_class_embeds": "it is given a class besides the prompt, as networks for upscaling are",
    "encoder_hid_dim": "its prompts pass a projection, or come with an image (IP-Adapter)",
    "encoder_hid_dim_type": "its prompts pass a projection, or come with an image (IP-Adapter)",
}


@dataclass(frozen=True)
class EncoderPart:
    """Where a text encoder and its tokenizer are.

    Attributes:
        name: Of the part, 'text_encoder' or 'text_encoder_2'.
        kind: Its class.
        config: Its settings; its weights are beside it.
        tokenizer: Folder of the tokenizer.
    """

    name: str
    kind: str
    config: Path
    tokenizer: Path


@dataclass(frozen=True)
class TextParts(Parts):
    """Where the parts of a text-to-image pipeline are; see `Parts`.

    Attributes:
        encoders: Its text encoders, in the order in which their states are joined.
        zero_null: Whether "no prompt" is zeros, and not the states of the empty prompt.
    """

    encoders: tuple[EncoderPart, ...]
    zero_null: bool

    @property
    def is_xl(self) -> bool:
        """Whether it is of SDXL, whose network is given pooled states and sizes as well."""
        return len(self.encoders) > 1

    @property
    def variants(self) -> set[str]:
        """The precisions in the names of the weights that are read."""
        found = [
            variant_of(self.network.parent),
            *(variant_of(part.config.parent, encoder=True) for part in self.encoders),
        ]
        return {each for each in found if each is not None}


def is_text_folder(folder: Path) -> bool:
    """Return whether a folder is that of a pipeline with a text encoder, supported or not."""
    index = folder / "model_index.json"
    if not is_folder(folder) or not is_plain_file(index):
        return False
    settings = read_settings(index, folder)
    return any(
        key.startswith("text_encoder") and isinstance(value, list) and any(value)
        for key, value in settings.items()
    )


def find_text_parts(home: Path) -> TextParts:
    """Return where the parts of a pipeline are.

    Raises:
        UserError: It is of another class, has other parts, or lacks one.
    """
    index = home / "model_index.json"
    if not is_plain_file(index):
        raise UserError(
            f"{home} lacks model_index.json. Give the folder of a pipeline that save_pretrained of diffusers wrote."
        )
    settings = read_settings(index, home)
    pipeline = settings.get("_class_name")
    if not isinstance(pipeline, str) or pipeline not in PIPELINES:
        _refuse(index, pipeline)
    check_name(index, home.resolve().name, settings.get("_name_or_path"))
    needed = [name for name in _CLASSES if pipeline == PIPELINES[1] or name not in _OF_XL]
    held = {
        key: value
        for key, value in settings.items()
        if not key.startswith("_") and isinstance(value, list) and any(value)
    }
    for key in sorted(set(held) - {*needed, *_AFTERWARDS}):
        reason = next((why for name, why in _REASONS.items() if name.lower() in key.lower()), _BY_IMAGES)
        raise UserError(
            f"{index}: {pipeline} with a part {key!r:.80} is not supported: {reason}. {SAMPLES_ONLY}"
        )
    for key in needed:
        (module, kind), (library, possible) = [*held.get(key, []), None, None][:2], _CLASSES[key]
        if module != library or kind not in possible:
            raise UserError(
                f"{index}: {key} {kind!r:.80} of {module!r:.80} is not supported: {unlike(kind, possible)}"
            )
        name = "scheduler_config.json" if key == "scheduler" else "config.json"
        if not key.startswith("tokenizer") and not is_plain_file(home / key / name):
            raise UserError(f"{home / key} lacks {name}, which {index.name} names. Copy the whole folder.")
    zero = settings.get("force_zeros_for_empty_prompt", True)
    if not isinstance(zero, bool):
        raise UserError(f"{index}: force_zeros_for_empty_prompt {zero!r:.80} must be true or false.")
    return TextParts(
        home=home,
        pipeline=pipeline,
        kinds=_CLASSES["unet"][1],
        network=home / "unet" / "config.json",
        scheduler=home / "scheduler" / "scheduler_config.json",
        scheduler_root=home,
        scheduler_kind=held["scheduler"][1],
        autoencoder=home / "vae" / "config.json",
        autoencoder_root=home,
        encoders=tuple(
            EncoderPart(
                name,
                held[name][1],
                home / name / "config.json",
                home / name.replace("text_encoder", "tokenizer"),
            )
            for name in needed
            if name.startswith("text_encoder")
        ),
        zero_null=zero and pipeline == PIPELINES[1],
    )


def _refuse(index: Path, pipeline: object) -> NoReturn:
    reason = next((why for name, why in _REASONS.items() if name in str(pipeline)), None)
    possible = " or ".join(PIPELINES)
    raise UserError(
        f"{index}: the pipeline {pipeline!r:.80} is not supported: {reason or f'it must be {possible}'}. {SAMPLES_ONLY}"
    )


def check_name(path: Path, *names: object) -> None:
    """Refuse a model that is named as distilled ones are, which nothing else in their folders tells.

    Args:
        path: Names the model in the message.
        names: What the model may be called; what is no text is left out.

    Raises:
        UserError: One of them is such a name.
    """
    for name in names:
        found = _FEW_STEPS.search(name) if isinstance(name, str) else None
        if found is not None:
            raise UserError(
                f"{path}: the model is named {name!r:.80}: {_DISTILLED}. {SAMPLES_ONLY} If it is an ordinary model, give it another name."
            )


_MOST_LAYERS = 64
_LAYERS = ("layers_per_block", "transformer_layers_per_block", "reverse_transformer_layers_per_block")
_Layers = int | tuple[int | tuple[int, ...], ...]


class TextUnetSettings(LevelSettings):
    """The settings of a `UNet2DConditionModel`; others that it may have are built by the library as they are."""

    kind: ClassVar[str] = "UNet2DConditionModel"
    in_channels: int = Field(4, ge=1)
    out_channels: int = Field(4, ge=1)
    center_input_sample: Literal[False] = False
    block_out_channels: tuple[int, ...] = Field((320, 640, 1280, 1280), min_length=1, max_length=16)
    layers_per_block: int | tuple[int, ...] = 2
    transformer_layers_per_block: _Layers = 1
    reverse_transformer_layers_per_block: _Layers | None = None
    down_block_types: tuple[str, ...] = (*("CrossAttnDownBlock2D",) * 3, "DownBlock2D")
    up_block_types: tuple[str, ...] = ("UpBlock2D", *("CrossAttnUpBlock2D",) * 3)
    cross_attention_dim: int = Field(1280, ge=1)
    attention_type: Literal["default"] = "default"
    addition_embed_type: Literal["text_time"] | None = None
    class_embed_type: None = None
    num_class_embeds: None = None
    encoder_hid_dim: None = None
    encoder_hid_dim_type: None = None
    time_cond_proj_dim: None = None

    @field_validator(*_WHY, mode="before")
    @classmethod
    def _absent(cls, value: object, info: ValidationInfo) -> object:
        if value is not None:
            raise ValueError(_WHY[info.field_name or ""])
        return value

    @field_validator("in_channels")
    @classmethod
    def _of_latents(cls, value: int) -> int:
        if value in _CHANNELS:
            raise ValueError(f"it is {_CHANNELS[value]}. {SAMPLES_ONLY.rstrip('.')}")
        return value

    @field_validator(*_LAYERS)
    @classmethod
    def _few(cls, value: object) -> object:
        if not all(1 <= each <= _MOST_LAYERS for each in _numbers(value)):
            raise ValueError(f"layers must be 1 to {_MOST_LAYERS}")
        return value

    @model_validator(mode="after")
    def _one_for_each_block(self) -> Self:
        count = len(self.block_out_channels)
        for name in ("down_block_types", "up_block_types", *_LAYERS):
            value = getattr(self, name)
            if isinstance(value, tuple) and len(value) != count:
                raise ValueError(f"{name} has {len(value)} entries for {count} blocks (block_out_channels)")
        return self

    @property
    def layers(self) -> int:
        """How many layers it has at least."""
        down = _blocks(self.layers_per_block, self.transformer_layers_per_block, self.down_block_types)
        reverse = self.reverse_transformer_layers_per_block
        return (
            down if reverse is None else down + _blocks(self.layers_per_block, reverse, self.up_block_types)
        )


def _blocks(layers: _Layers, depths: _Layers, kinds: tuple[str, ...]) -> int:
    """Return how many blocks these settings of a side name: of convolutions and, where it attends to the prompt, of attention."""
    count = 0
    for index, kind in enumerate(kinds):
        convolutions, depth = (each[index] if isinstance(each, tuple) else each for each in (layers, depths))
        count += sum(_numbers(convolutions))
        if "CrossAttn" in kind:
            count += sum(depth) if isinstance(depth, tuple) else sum(_numbers(convolutions)) * depth
    return count


def _numbers(value: object) -> list[int]:
    if isinstance(value, tuple):
        return [number for each in value for number in _numbers(each)]
    return [value] if isinstance(value, int) else []


def read_text_network(parts: TextParts) -> TextUnetSettings:
    """Return the settings of the network; see `read_part`."""
    check_name(parts.network, read_settings(parts.network, parts.home).get("_name_or_path"))
    network = read_part(
        "network", {TextUnetSettings.kind: TextUnetSettings}, parts.network, parts.home, TextUnetSettings.kind
    )
    if network.in_channels != network.out_channels:
        raise UserError(
            f"{parts.network}: out_channels {network.out_channels} differ from in_channels {network.in_channels}."
        )
    if parts.is_xl != (network.addition_embed_type is not None):
        raise UserError(
            f"{parts.network}: addition_embed_type {network.addition_embed_type!r} does not fit {parts.pipeline}: SDXL has 'text_time', the"
            " others have none."
        )
    return network


def read_text_scheduler(parts: TextParts) -> SchedulerSettings:
    """Return the settings of the scheduler; see `read_part`."""
    scheduler = read_scheduler(parts)
    assert isinstance(scheduler, SchedulerSettings)  # the classes that `find_text_parts` lets pass
    settings = read_settings(parts.scheduler, parts.home)
    if settings.get("timestep_spacing") == "trailing" and not scheduler.rescale_betas_zero_snr:
        raise UserError(
            f"{parts.scheduler}: timestep_spacing 'trailing' is how SD Turbo and SDXL Turbo step: {_DISTILLED}. {SAMPLES_ONLY} If it is an"
            " ordinary model, write 'leading': how its own scheduler steps is not used."
        )
    return scheduler


class EncoderSettings(PartSettings):
    """The settings of a text encoder of CLIP that change what it computes."""

    model_type: Literal["clip_text_model"]
    vocab_size: int = Field(49408, ge=3)
    hidden_size: int = Field(512, ge=1)
    intermediate_size: int = Field(2048, ge=1)
    projection_dim: int = Field(512, ge=1)
    num_hidden_layers: int = Field(12, ge=1, le=256)
    num_attention_heads: int = Field(8, ge=1)
    max_position_embeddings: int = Field(77, ge=3, le=4096)
    hidden_act: Literal["quick_gelu", "gelu"] = "quick_gelu"
    layer_norm_eps: float = Field(1e-5, gt=0, allow_inf_nan=False)
    eos_token_id: int = Field(49407, ge=0)
    use_attention_mask: Literal[False] = False
    quantization_config: None = None

    @property
    def arguments(self) -> dict[str, object]:
        """Those that the library's class takes."""
        return self.model_dump(exclude={"model_type", "use_attention_mask", "quantization_config"}) | {
            "bos_token_id": None,  # nothing is computed from them
            "pad_token_id": None,
        }


def read_encoder(part: EncoderPart, root: Path) -> EncoderSettings:
    """Return the settings of a text encoder; see `read_part`."""
    return read_part(part.name, {part.kind: EncoderSettings}, part.config, root, part.kind)
