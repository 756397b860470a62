"""The options that several commands have."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, fields
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal, get_args

from cyclopts import Group, Parameter, Token, convert

from diffmem.errors import UserError

if TYPE_CHECKING:
    from diffmem.data.reading import Reading

__all__ = [
    "AS_USUAL",
    "COPIES",
    "MACHINE",
    "MODEL",
    "NO_MODEL_OPTIONS",
    "NO_TEXT_MODEL_OPTIONS",
    "PROMPTS",
    "READING",
    "SELF_TEST",
    "Executor",
    "ModelOptions",
    "ReadingOptions",
    "ReadingPairs",
    "Settings",
    "TextModelOptions",
    "whole_numbers",
]

COPIES = Parameter(group=Group("How copies are looked for", sort_key=1))
MODEL = Parameter(group=Group("How a model is read and sampled", sort_key=2))
PROMPTS = Parameter(group=Group("Text-to-image models and prompts", sort_key=3))
READING = Parameter(group=Group("How files become pixels", sort_key=4))
MACHINE = Parameter(group=Group("Where it runs", sort_key=5))
SELF_TEST = Parameter(group=Group("Does the audit work here?", sort_key=6))
"""Headings of the help of commands with many options; what has none is what most people need."""


def whole_numbers(type_: Any, tokens: Sequence[Token]) -> Any:
    """Convert what is typed, as cyclopts does, but for numbers with a fraction where a whole one is asked for: it would round them.

    Raises:
        ValueError: Names such a number.
    """
    if int in (type_, *get_args(type_)):
        for token in tokens:
            with suppress(ValueError):  # no number at all: cyclopts says so
                if "." in token.value and not float(token.value).is_integer():
                    raise _FractionError(f"{token.value} is not a whole number.")
    return convert(type_, tokens)


class _FractionError(AssertionError):
    """cyclopts tells these of a converter with the name of the option."""


Settings = Annotated[list[str] | None, Parameter(name="--set", negative="")]
"""The option `--set key=value`, which may be repeated."""

Executor = Annotated[str | None, Parameter(negative="")]
"""The option `--executor`: 'local', or a YAML file; see `diffmem.api.spreading.read_executor`."""

ReadingPairs = Annotated[list[str] | None, Parameter(negative="")]
"""An option such as `--train-read alpha=black`, which may be repeated; `diffmem.data.parse_reading` makes a `Reading` of it."""


@Parameter(name="*", group=READING.group)
@dataclass(frozen=True)
class ReadingOptions:
    """How stored images become pixels; see `diffmem.data.Reading`, whose fields these are but for the resolution."""

    alpha: Annotated[
        Literal["white", "black", "drop"],
        Parameter(
            help="Transparent pixels: composited on white or black, or the stored colours without the transparency."
        ),
    ] = "white"
    exif: Annotated[
        Literal["ignore", "apply"],
        Parameter(help="EXIF orientation: ignore it (as torchvision) or apply it (as HF datasets)."),
    ] = "ignore"
    white: Annotated[
        int | None,
        Parameter(
            help="The stored value of 16-bit images that becomes 255; 65535 if left out and the range is used."
        ),
    ] = None
    pages: Annotated[
        Literal["first", "all", "refuse"] | None,
        Parameter(
            help="Pages of a TIFF, frames of an animation: read the first, all as images of their own, or refuse such files."
            " If left out, such TIFFs are refused and animations give their first frame."
        ),
    ] = None
    fit: Annotated[
        Literal["crop", "stretch", "pad"] | None,
        Parameter(
            help="How images of unequal shapes become squares of --resolution. If left out, they are refused."
        ),
    ] = None
    split: Annotated[
        str | None,
        Parameter(
            help="Which split: a folder's name where a folder or zip holds train, val, test and the like; train or test of"
            " CIFAR, SVHN, STL-10, MedMNIST and IDX files (train if left out)."
        ),
    ] = None
    key: Annotated[
        list[str] | None,
        Parameter(
            negative="",
            help="images=NAME or labels=NAME: where they are in an .npz; labels=none leaves labels out; of CIFAR-100,"
            " labels=coarse_labels. May be repeated.",
        ),
    ] = None
    range: Annotated[
        Literal["0..1", "-1..1"] | None,
        Parameter(
            allow_leading_hyphen=True,
            help="Float images in .npz and .npy: the values that become 0 and 255. If left out, they are refused.",
        ),
    ] = None
    layout: Annotated[
        Literal["chw", "hwc"] | None,
        Parameter(help="Channels of an .npz or .npy: first or last; needed where the shape fits both."),
    ] = None
    follow_links: Annotated[
        bool,
        Parameter(
            negative="",
            help="Follow links of a folder that lead to folders or out of it; refused if left out.",
        ),
    ] = False

    def reading(self, resolution: int | None) -> Reading:
        """Return what is chosen.

        Args:
            resolution: Of --resolution; it is of the reading where --fit is given.

        Raises:
            UserError: See `Reading`.
        """
        from diffmem.data.reading import Reading

        if self.fit is not None and resolution is None:
            raise UserError(
                f"--fit {self.fit} needs --resolution, the side in pixels that all images are brought to."
            )
        return Reading(
            alpha=self.alpha,
            exif=self.exif,
            white=self.white,
            pages=self.pages,
            fit=self.fit,
            resolution=None if self.fit is None else resolution,
            split=self.split,
            **_keys(self.key or []),
            range=self.range,
            layout=self.layout,
            follow_links=self.follow_links,
        )


AS_USUAL = ReadingOptions()
"""The options where none is given."""


@Parameter(name="*", group=MODEL.group)
@dataclass(frozen=True)
class ModelOptions:
    """What the file of a model does not record, and which of its weights are taken."""

    model_set: Annotated[
        list[str] | None,
        Parameter(
            negative="",
            help="What a checkpoint of another trainer does not record, key=value; a message asks for it. May be repeated.",
        ),
    ] = None
    resolution: Annotated[
        str | None,
        Parameter(
            help="Size of the images, where the checkpoint does not record it: SIDE or HxW in pixels, for example 64."
        ),
    ] = None
    weights: Annotated[
        str,
        Parameter(
            help="Averaged (ema) or raw weights, where a file holds both; of an EDM pickle, the name of a network."
        ),
    ] = "ema"
    allow_pickle: Annotated[
        bool,
        Parameter(
            negative="",
            help="Read the weights of a diffusers folder from a pickle (.bin) where there are no safetensors; nothing in it is executed.",
        ),
    ] = False

    def details(self) -> dict[str, Any]:
        """Return the arguments of `open_model`.

        Raises:
            UserError: The resolution cannot be read.
        """
        from diffmem.settings import override

        return {
            "settings": override({}, self.model_set) if self.model_set else None,
            "resolution": _parse_resolution(self.resolution),
            "weights": self.weights,
            "allow_pickle": self.allow_pickle,
        }

    def refuse(self, reason: str) -> None:
        """Refuse any of these options, where there is no model that they are for.

        Raises:
            UserError: One is given.
        """
        for field in fields(self):
            if getattr(self, field.name) != field.default:
                raise UserError(f"--{field.name.replace('_', '-')} is for a model that is opened; {reason}.")


NO_MODEL_OPTIONS = ModelOptions()
"""The options where none is given."""


@Parameter(name="*", group=PROMPTS.group)
@dataclass(frozen=True)
class TextModelOptions:
    """How the folder of a text-to-image model is audited; see `diffmem.auditing.prompts.sampling.PromptedModel`."""

    lora: Annotated[
        list[str] | None,
        Parameter(
            consume_multiple=True,
            negative="",
            help="LoRA of a text-to-image model, FILE or FILE:WEIGHT, merged into --model; without it, the same model is the base. Of"
            " several (epochs), each is audited, and one page compares them.",
        ),
    ] = None
    base: Annotated[
        Path | None,
        Parameter(
            help="Folder of the model that a fine-tune was trained from: sampled with the same prompts and noise."
        ),
    ] = None
    seeds_per_prompt: Annotated[int, Parameter(help="Images of each prompt of a text-to-image model.")] = 4
    prompts_per_group: Annotated[
        int,
        Parameter(
            help="Most training captions, and most held-out captions, that a text-to-image model is sampled with; drawn by --seed where"
            " there are more. 299 without copies exclude 1% at 95% confidence."
        ),
    ] = 300
    guidance: Annotated[
        float, Parameter(help="Classifier-free guidance of a text-to-image model; 1 for none.")
    ] = 7.5
    dtype: Annotated[
        Literal["float32", "bfloat16"],
        Parameter(help="Precision of the network of a text-to-image model."),
    ] = "float32"

    def details(self) -> dict[str, Any]:
        """Return the arguments of `diffmem.api.auditing.audit` but for the LoRA."""
        return {each.name: getattr(self, each.name) for each in fields(self) if each.name != "lora"}

    def refuse(self, reason: str) -> None:
        """Refuse any of these options, where there is no such model.

        Raises:
            UserError: One is given.
        """
        for each in fields(self):
            if getattr(self, each.name) != each.default:
                raise UserError(f"--{each.name.replace('_', '-')} is for a text-to-image model; {reason}.")


NO_TEXT_MODEL_OPTIONS = TextModelOptions()
"""The options where none is given."""


def _parse_resolution(text: str | None) -> tuple[int, int] | None:
    """Return (H, W) of a text such as 64 or 48x64; none of none."""
    if text is None:
        return None
    sides = text.split("x")
    if len(sides) > 2 or not all(side.isdecimal() and 0 < int(side) < 10**6 for side in sides):
        raise UserError(f"--resolution {text!r} must be SIDE or HxW in pixels, for example 64 or 48x64.")
    return int(sides[0]), int(sides[-1])


def _keys(pairs: list[str]) -> dict[str, str]:
    """Return what --key says, by the field of `Reading`."""
    keys: dict[str, str] = {}
    for pair in pairs:
        what, equals, name = (part.strip() for part in pair.partition("="))
        if what not in ("images", "labels") or not equals or not name:
            raise UserError(f"--key {pair!r} must read images=NAME or labels=NAME.")
        if f"{what}_key" in keys:
            raise UserError(f"--key {what} is given twice: {keys[f'{what}_key']} and {name}.")
        keys[f"{what}_key"] = name
    return keys
