"""Options of the command line: transformations and feature spaces, from words."""

from __future__ import annotations

import re
from pathlib import Path

from diffmem.auditing.spaces import FeatureSpace
from diffmem.errors import UserError
from diffmem.memorization import Transforms, open_features

__all__ = ["open_feature_space", "parse_transforms"]

_WORD = re.compile("(flip|shift|brightness)([0-9]{0,3})")
_SIMILARITY = 0.75


def parse_transforms(text: str) -> Transforms:
    """Read transformations such as 'flip+shift2+brightness16': the mirror image, shifts by up to 2 pixels, 16 grey levels up and down.

    Raises:
        UserError: A word is not known, lacks its number, or stands twice.
    """
    found: dict[str, int] = {}
    for word in text.split("+"):
        match = _WORD.fullmatch(word.strip())
        if match is None or match[1] in found or (match[1] == "flip") != (match[2] == "") or match[2] == "0":
            raise UserError(
                f"Cannot read the transformations {text!r}: {word.strip()!r} must be flip, shiftN or brightnessN, each at most once;"
                " for example flip+shift2."
            )
        found[match[1]] = int(match[2] or 0)
    light = found.get("brightness", 0)
    return Transforms("flip" in found, found.get("shift", 0), (-light, light) if light else ())


def open_feature_space(text: str, device: str) -> FeatureSpace:
    """Open features such as 'inception' or 'sscd.pt:sscd:0.75': a network, how images are prepared for it, the similarity of a copy.

    Args:
        text: 'inception', or a TorchScript file; then a preparation, see `diffmem.memorization.features`; then the similarity above
            which a sample is a copy. Left out, the preparation is 'uint8' and the similarity 0.75, that of SSCD's authors.
        device: Where the network computes.

    Raises:
        UserError: The text cannot be read, or the network cannot be opened.
    """
    name, preparation, threshold = text, "uint8", _SIMILARITY
    if not Path(text).is_file():
        head, *rest = text.split(":")
        name, preparation = head, (rest[0] if rest else "uint8") or "uint8"
        try:
            threshold = float(rest[1]) if len(rest) > 1 else _SIMILARITY
        except ValueError:
            raise UserError(
                f"The similarity {rest[1]!r} of the features {text!r} is no number; write for example 0.75."
            ) from None
        if len(rest) > 2:
            raise UserError(f"Cannot read the features {text!r}; write PATH:PREPARATION:SIMILARITY.")
    if name == "pixels":
        raise UserError("Pixels are always compared; give --features a network.")
    if not -1 < threshold < 1:
        raise UserError(f"The similarity {threshold:g} of the features {text!r} must lie between -1 and 1.")
    features = open_features(name, device, preparation)
    title = Path(name).name if preparation == "uint8" else f"{Path(name).name}, {preparation}"
    return FeatureSpace(f"features {title}", title, features.key, threshold, features.compute)
