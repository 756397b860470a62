"""The options that several commands have."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Any, Literal

from cyclopts import Parameter

from diffmem.errors import UserError

if TYPE_CHECKING:
    from diffmem.data.reading import Reading

__all__ = [
    "AS_USUAL",
    "ModelSettings",
    "ReadingOptions",
    "ReadingPairs",
    "Settings",
    "parse_model_settings",
    "parse_shape",
]

Settings = Annotated[list[str] | None, Parameter(name="--set", negative="")]
"""The option `--set key=value`, which may be repeated."""

ModelSettings = Annotated[list[str] | None, Parameter(name="--model-set", negative="")]
"""The option `--model-set key=value`, which may be repeated: what a checkpoint does not tell."""

ReadingPairs = Annotated[list[str] | None, Parameter(negative="")]
"""An option such as `--train-read alpha=black`, which may be repeated; `diffmem.data.parse_reading` makes a `Reading` of it."""


@Parameter(name="*")
@dataclass(frozen=True)
class ReadingOptions:
    """How encoded images become pixels; see `diffmem.data.Reading`, whose fields these are but for the resolution."""

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
            " CIFAR-10 and IDX files (train if left out)."
        ),
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
            follow_links=self.follow_links,
        )


AS_USUAL = ReadingOptions()
"""The options where none is given."""


def parse_model_settings(pairs: list[str] | None) -> dict[str, Any] | None:
    """Return what `--model-set` says of a model; none if it was not given."""
    from diffmem.settings import override

    return override({}, pairs) if pairs else None


def parse_shape(text: str | None) -> tuple[int, int, int] | None:
    """Return (C, H, W) of a text such as 3x32x32; none of none.

    Raises:
        UserError: It is no such text.
    """
    if text is None:
        return None
    parts = text.split("x")
    if len(parts) != 3 or not all(part.isdecimal() and int(part) > 0 for part in parts):
        raise UserError(f"--shape {text!r} must read CxHxW, for example 3x32x32.")
    channels, height, width = map(int, parts)
    return channels, height, width
