"""What a checkpoint does not tell and its user must: settings by name, checked, never guessed."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from diffmem.data.formats.guards import is_folder
from diffmem.errors import UserError, nearest

__all__ = [
    "Answers",
    "SuggestedShape",
    "WantedShape",
    "check_weights",
    "fits",
    "image_shape_of",
    "shape_text",
]

WantedShape = tuple[int | None, int, int]
"""(C, H, W) of the images of a model as its user says it; C none for as many channels as the network has."""


class SuggestedShape(tuple[int | None, int, int]):
    """A shape that a checkpoint gets if it does not tell the size of its images; others keep their own."""


_MOST_BITS = 1000  # of whole numbers that floats come near to


class Answers:
    """Settings that a user gave for a checkpoint.

    Args:
        what: Names the checkpoint in messages.
        settings: By name; none for none.
        known: The names that such a checkpoint may need.

    Attributes:
        known: See above.

    Raises:
        UserError: One is not among the known.
    """

    def __init__(self, what: str, settings: Mapping[str, Any] | None, known: Sequence[str]) -> None:
        self._what, self._given, self.known = what, dict(settings or {}), tuple(known)
        for name in self._given:
            if name not in known:
                raise UserError(
                    f"{what} takes no setting {name!r}.{nearest(str(name), list(known))} It takes {', '.join(known)}."
                )

    def __contains__(self, name: str) -> bool:
        return name in self._given

    def choice(self, name: str, choices: Sequence[Any], default: str) -> Any:
        """Return one of a few values.

        Args:
            name: Of the setting.
            choices: What it may be.
            default: The trainer's own, in words, for the message.

        Raises:
            UserError: It was not given, or is none of the choices.
        """
        value = self._value(name, " or ".join(map(repr, choices)), default, choices[0])
        for choice in choices:
            if type(value) is type(choice) and value == choice:
                return choice
        raise UserError(f"settings: {name} must be {' or '.join(map(repr, choices))}, not {value!r}.")

    def whole(self, name: str, default: str, example: int) -> int:
        """Return a positive whole number; see `choice`. The example is for the message."""
        value = self._value(name, "a positive whole number", default, example)
        if type(value) is not int or not 0 < value <= 1_000_000:
            raise UserError(f"settings: {name} must be a positive whole number, not {value!r}.")
        return value

    def fraction(self, name: str, default: str, example: float) -> float:
        """Return a number above 0 and below 1; see `whole`."""
        value = self._value(name, "a number above 0 and below 1", default, example)
        number = _number(value)
        if not 0 < number < 1:
            raise UserError(f"settings: {name} must be a number above 0 and below 1, not {value!r}.")
        return number

    def positive(self, name: str, default: str, example: float) -> float:
        """Return a positive number; see `whole`."""
        value = self._value(name, "a positive number", default, example)
        number = _number(value)
        if not 0 < number < math.inf:
            raise UserError(f"settings: {name} must be a positive number, not {value!r}.")
        return number

    def folder(self, name: str, default: str) -> Path:
        """Return a folder that exists; see `choice`."""
        value = self._value(name, "the path of a folder", default, "FOLDER")
        path = Path(str(value)).expanduser()
        if not is_folder(path):
            raise UserError(f"settings: {name}: there is no folder {path}.")
        return path

    def _value(self, name: str, permitted: str, default: str, example: Any) -> Any:
        if name not in self._given:
            raise UserError(
                f"{self._what} does not tell {name}: give {permitted}, as settings={{{name!r}: {example!r}}}; on the command line"
                f" --model-set {name}={example}. It decides what the network"
                f" predicts, so it is not guessed; the trainer's own default is {default}."
            )
        return self._given[name]


def _number(value: object) -> float:
    """Return a number, which may be a text with an exponent and no point, as YAML reads 1e-4; NaN for anything else."""
    if isinstance(value, str) and re.fullmatch(r"[0-9]+[eE][+-]?[0-9]+", value):
        return float(value)
    if type(value) is int:
        return float(value) if value.bit_length() < _MOST_BITS else math.inf
    return value if type(value) is float else math.nan


def check_weights(weights: str) -> None:
    """Refuse to choose other weights than the averaged ('ema') or the raw ones of a checkpoint."""
    if weights not in ("ema", "raw"):
        raise UserError(f"weights must be 'ema' or 'raw', not {weights!r}.")


def shape_text(wanted: WantedShape) -> str:
    """Return a shape as messages say it: '(3, 32, 32)', or '32 x 32 pixels' where its channels are not said."""
    return str(tuple(wanted)) if wanted[0] is not None else f"{wanted[1]} x {wanted[2]} pixels"


def fits(wanted: WantedShape | None, shape: tuple[int, int, int]) -> bool:
    """Whether images of (C, H, W) are what the caller expects; a suggestion is not insisted on."""
    if wanted is None or isinstance(wanted, SuggestedShape):
        return True
    return (wanted[0] or shape[0], *wanted[1:]) == shape


def image_shape_of(
    wanted: WantedShape | None, channels: int, sides: tuple[int, int], scale: int
) -> tuple[int, int, int]:
    """Return (C, H, W) of the images of a network, checked.

    Args:
        wanted: What the caller expects; none for any.
        channels: Of the network's images.
        sides: (H, W).
        scale: What the sides must be a multiple of.

    Raises:
        UserError: It is not what the caller expects, or the sides do not fit.
    """
    shape = (channels, *sides)
    if not fits(wanted, shape):
        assert wanted is not None
        raise UserError(f"It makes images of {shape} (C, H, W), not {shape_text(wanted)}.")
    if any(side < 1 or side % scale for side in sides):
        raise UserError(
            f"Images of {sides[0]} x {sides[1]} pixels do not fit this network: sides are multiples of {scale}."
        )
    return shape
