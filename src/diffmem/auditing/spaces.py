"""The spaces in which images are compared: the common pixels of all sets, as they are or changed, and spaces of features."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from diffmem.auditing.records import Role
from diffmem.data import ImageSet, grayscale, resize
from diffmem.errors import UserError
from diffmem.memorization import Transforms, open_features
from diffmem.progress import NO_PROGRESS, Progress

__all__ = ["Aligned", "FeatureSpace", "align", "open_feature_space", "parse_transforms"]

_BLOCK = 2048
_WORD = re.compile("(flip|shift|brightness)([0-9]{0,3})")
_SIMILARITY = 0.75


@dataclass(frozen=True)
class FeatureSpace:
    """A space of features in which a sample is a copy if it is similar enough to a training image.

    Attributes:
        key: Short name of the criterion.
        title: For people.
        protocol: Id of the network and of how images are prepared for it.
        threshold: Smallest cosine similarity of a copy, in (-1, 1), not reached itself.
        compute: uint8 (n, C, H, W) -> floating point (n, F).
    """

    key: str
    title: str
    protocol: str
    threshold: float
    compute: Callable[[NDArray[np.uint8]], NDArray[np.floating]]

    def rows(self, images: NDArray[np.uint8], progress: Progress = NO_PROGRESS) -> NDArray[np.float32]:
        """Return the features of images, float32 (N, F).

        Raises:
            UserError: The features are not finite numbers, (n, F), or all zero for an image.
        """
        parts = []
        for start in range(0, len(images), _BLOCK):
            block = np.asarray(self.compute(images[start : start + _BLOCK]))
            here = len(images[start : start + _BLOCK])
            if block.ndim != 2 or len(block) != here or not np.issubdtype(block.dtype, np.floating):
                raise UserError(
                    f"The features ({self.title}) of {here} images are {block.dtype} of shape {block.shape}; they must be"
                    f" floating-point numbers ({here}, F)."
                )
            if not np.isfinite(block).all() or not block.any(axis=1).all():
                raise UserError(
                    f"The features ({self.title}) of some images among {start} to {start + here - 1} are not finite, or all zero."
                )
            parts.append(block.astype(np.float32))
            progress(start + here, len(images), f"features ({self.title})")
        return np.concatenate(parts)


@dataclass(frozen=True, eq=False)
class Aligned:
    """Sets in one space.

    Attributes:
        sets: By role, in the order given.
        steps: What was done to each set, by role.
        protocol: Id of the space.
        notes: What a reader must know.
    """

    sets: dict[Role, ImageSet]
    steps: dict[Role, list[str]]
    protocol: str
    notes: list[str]


def align(sets: dict[Role, ImageSet], progress: Progress = NO_PROGRESS) -> Aligned:
    """Bring sets into one space: the resolution of the smallest, and grey if any of them is grey.

    Sets of one shape stay as they are. Otherwise all become squares of the smallest side of all (centre crop, LANCZOS; see
    `diffmem.data.resize`): a model that makes small images was shown small ones, and what is not in the pixels of the smaller
    set cannot be compared. Colour becomes grey by luma (see `diffmem.data.grayscale`).

    Args:
        sets: By role, for messages and the record.
    """
    shapes = {images.shape for images in sets.values()}
    sizes = {shape[1:] for shape in shapes}
    side = min(min(size) for size in sizes)
    grey = len({shape[0] for shape in shapes}) > 1
    protocol, notes = "pixel-l2/uint8", []
    if len(sizes) > 1:
        protocol += f"/lanczos{side}"
        given = ", ".join(f"{role} {images.shape[1]} x {images.shape[2]}" for role, images in sets.items())
        notes.append(
            f"The sets have different sizes ({given}); all were compared at {side} x {side} pixels, the smallest."
            " Detail above that is not compared. If the model was trained on images prepared in another way (another filter or"
            " crop), give the training images in the form that it saw."
        )
    if grey:
        protocol += "/grey"
        alone = [role for role, images in sets.items() if images.shape[0] == 1]
        notes.append(f"Compared in grey: the {' and '.join(alone)} set is grey. Colour is not compared.")
    found: dict[Role, ImageSet] = {}
    steps: dict[Role, list[str]] = {}
    for role, images in sets.items():
        new = resize(images, side, progress) if len(sizes) > 1 else images
        new = grayscale(new) if grey else new
        steps[role] = list(new.history[len(images.history) :])
        found[role] = new
    return Aligned(found, steps, protocol, notes)


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
