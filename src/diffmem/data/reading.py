"""`Reading`: the choices that are made when encoded images become pixels, for which loaders have different rules."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields
from typing import Any, Literal, get_args

from diffmem.errors import UserError, nearest

__all__ = [
    "ALPHA_TEXT",
    "AS_USUAL",
    "FIT_TEXT",
    "MAX_RESOLUTION",
    "NO_LABELS",
    "OPTIONS",
    "Alpha",
    "Exif",
    "Fit",
    "Layout",
    "Pages",
    "Reading",
    "ValueRange",
    "check_choice",
    "check_resolution",
    "parse_reading",
]

Alpha = Literal["white", "black", "drop"]
Exif = Literal["ignore", "apply"]
Pages = Literal["first", "all", "refuse"]
Fit = Literal["crop", "stretch", "pad"]
ValueRange = Literal["0..1", "-1..1"]
Layout = Literal["chw", "hwc"]

NO_LABELS = "none"
"""The key of labels that leaves them out."""

OPTIONS = "options of diffmem data build; of diffmem audit as --train-read KEY=VALUE"
"""Where the choices are made, for messages."""

ALPHA_TEXT: dict[Alpha, str] = {
    "white": "transparent pixels composited on white",
    "black": "transparent pixels composited on black",
    "drop": "transparency dropped",
}
FIT_TEXT: dict[Fit, str] = {
    "crop": "centre-cropped to a square",
    "stretch": "stretched",
    "pad": "padded with black",
}
"""What is done where a choice is made, for messages."""

_WORDS: dict[str, tuple[str | None, ...]] = {
    "alpha": get_args(Alpha),
    "exif": get_args(Exif),
    "pages": (None, *get_args(Pages)),
    "fit": (None, *get_args(Fit)),
    "range": (None, *get_args(ValueRange)),
    "layout": (None, *get_args(Layout)),
}
_NUMBERS = ("white", "resolution")
_SWITCHES = ("follow_links",)
_MAX_WHITE = 65_535


def check_choice(key: str, value: str | None, permitted: Sequence[str | None]) -> None:
    """Refuse a value that is none of those permitted; None among them means that nothing need be chosen."""
    if value not in permitted:
        words = [word for word in permitted if word is not None]
        raise UserError(f"{key} {value!r} is unknown; choose {', '.join(words[:-1])} or {words[-1]}.")


@dataclass(frozen=True)
class Reading:
    """How stored images become pixels, and where they are stored. What was done is said in a set's history.

    `alpha`, `exif`, `white` and `pages` are about encoded images (in folders, zips and ImageNet); `images_key`, `labels_key`,
    `range` and `layout` about arrays (.npz and .npy).

    Attributes:
        alpha: What transparent pixels become: 'white' and 'black' lay the image on that ground, 'drop' takes the colours
            that are stored and forgets the transparency, as Pillow's `convert("RGB")` does.
        exif: Whether the orientation that a camera noted turns an image: 'ignore' (as torchvision's ImageFolder) or
            'apply' (as the imagefolder of Hugging Face datasets). The orientation of a TIFF is part of its format and
            always followed.
        white: The stored value of 16-bit images that becomes 255; larger ones become 255, too. If none, what the format
            tells, else 65,535, which is refused where the largest value of all 16-bit files is below a quarter of it.
        pages: Of files that hold several images (pages of a TIFF; frames of a GIF, WebP, AVIF or animated PNG): 'first',
            'all', each as an image of its own, or 'refuse'. If none, such TIFFs are refused and animations give their
            first frame.
        fit: How images become squares of `resolution` pixels: 'crop' to the square in the middle, 'stretch', or 'pad' with
            black; then resampled by LANCZOS. If none, images of unequal shapes are refused.
        resolution: Side in pixels, from 1 to 4096; goes with `fit`.
        split: Which split is read of a folder, archive or table of splits, or of a published set that has them ('train' if none).
        images_key: Name of the array or column that holds the images; if none, the usual names are tried.
        labels_key: Name of the array or column that holds the labels, 'none' for no labels; if none, the usual names are tried. Of
            CIFAR-100, 'fine_labels' (if none) or 'coarse_labels'.
        range: The values of float images that become 0 and 255: '0..1' or '-1..1'. Float images are refused without it, and
            so are values outside of it.
        layout: Where the channels of arrays are: first ('chw') or last ('hwc'); needed only where the shape fits both.
        follow_links: Whether links in a folder that lead to folders, or out of it, are followed.

    Raises:
        UserError: A value is none of these, or `fit` and `resolution` are not given together.
    """

    alpha: Alpha = "white"
    exif: Exif = "ignore"
    white: int | None = None
    pages: Pages | None = None
    fit: Fit | None = None
    resolution: int | None = None
    split: str | None = None
    images_key: str | None = None
    labels_key: str | None = None
    range: ValueRange | None = None
    layout: Layout | None = None
    follow_links: bool = False

    def __post_init__(self) -> None:
        for key, permitted in _WORDS.items():
            check_choice(key, getattr(self, key), permitted)
        if self.white is not None and not 1 <= self.white <= _MAX_WHITE:
            raise UserError(
                f"white is the stored value that becomes 255, from 1 to {_MAX_WHITE:,}, not {self.white}."
            )
        if self.fit is not None and self.resolution is None:
            raise UserError(
                f"fit {self.fit} needs a resolution: the side in pixels that all images are brought to."
            )
        if self.resolution is not None:
            check_resolution(self.resolution)
            if self.fit is None:
                raise UserError(
                    f"resolution {self.resolution} needs a fit: crop, stretch or pad, for images that are not square."
                )

    def choices(self) -> dict[str, str]:
        """Return what differs from the usual, by key: {'alpha': 'black'}."""
        return {
            field.name: str(getattr(self, field.name))
            for field in fields(self)
            if getattr(self, field.name) != field.default
        }


AS_USUAL = Reading()
"""The reading where nothing was chosen."""


def parse_reading(pairs: Sequence[str]) -> Reading:
    """Return the reading of texts such as 'alpha=black' and 'white=4095'.

    Args:
        pairs: Each key=value; the keys are the fields of `Reading`.

    Raises:
        UserError: A text is no pair, a key is unknown or there twice, or a value is none of those that are permitted.
    """
    keys = [field.name for field in fields(Reading)]
    values: dict[str, Any] = {}
    for pair in pairs:
        key, equals, value = (part.strip() for part in pair.partition("="))
        if not equals or not value:
            raise UserError(f"{pair!r} is no key=value; write for example alpha=black or white=4095.")
        if key not in keys:
            raise UserError(f"There is no {key!r} to choose.{nearest(key, keys)} Keys are {', '.join(keys)}.")
        if key in values:
            raise UserError(f"{key} is chosen twice: {values[key]} and {value}.")
        if key in _NUMBERS and not (value.isascii() and value.isdigit()):
            raise UserError(f"{key} must be a whole number, not {value!r}.")
        if key in _SWITCHES and value.lower() not in ("true", "false"):
            raise UserError(f"{key} must be true or false, not {value!r}.")
        values[key] = value
        if key in _NUMBERS:
            values[key] = int(value)
        elif key in _SWITCHES:
            values[key] = value.lower() == "true"
    return Reading(**values)


MAX_RESOLUTION = 4096


def check_resolution(resolution: int) -> None:
    """Refuse a resolution that is not between 1 and 4096 pixels."""
    if not 1 <= resolution <= MAX_RESOLUTION:
        raise UserError(f"The resolution must lie between 1 and {MAX_RESOLUTION} pixels, not {resolution}.")
