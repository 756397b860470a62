"""Canaries: marked images planted in a training set, and a control group that is left out.

What a model knows of a planted canary and not of a control canary, it knows from training: chance alone decided which is which
(Carlini et al. 2019, "The Secret Sharer"). So any score of canaries has a null that holds by construction, without held-out images.

The mark covers half of the image: every second field of a chessboard of 8 x 8 fields, each channel of each such field 0 or 255 by a
coin. The other fields keep the real image, so that a canary is learned among images of its kind. With half of the area, an image
that does not know the mark is on average at least 127.5 / sqrt(2) = 90 grey levels (RMS) away from the canary whatever it shows,
grey being nearest, and two canaries are on average at least 127.5 apart, even if they are of one image.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from diffmem.data.formats.arrays import naming, open_arrays
from diffmem.data.formats.guards import check_total, in_one_line, is_plain_file
from diffmem.data.images import ImageSet, checked_images, checked_labels, frozen
from diffmem.data.storage import gather, new_images, parts
from diffmem.data.write import write_arrays
from diffmem.errors import UserError

__all__ = ["CanarySet", "canaries_path", "check_canaries", "marked", "plant_canaries", "smallest_p_value"]

FORMAT = "diffmem-canaries/1"

_FIELDS = 8
_CHOICE, _COIN, _MARK = 0x63616E01, 0x63616E02, 0x63616E03  # streams of one seed
_IMAGES = ("planted", "control", "unmarked")


@dataclass(frozen=True, eq=False)
class CanarySet:
    """K planted canaries and K control canaries of one training set; read-only.

    Attributes:
        planted: The marked images that the training set holds, uint8 (K, C, H, W), K at least 1.
        control: The marked images that it does not hold, uint8 (K, C, H, W).
        unmarked: The control images without their marks, uint8 (K, C, H, W): images of the same source that were left out, too.
        repeats: How often the training set holds each planted canary, 1 or more.
        seed: Which chose the images, the groups and the marks.
        fingerprint: `ImageSet.fingerprint` of the training set: 64 hexadecimal digits.
        planted_labels: Class of each planted canary, int64 (K,), or none.
        control_labels: Class of each control canary, int64 (K,), or none.

    Raises:
        UserError: A part is missing or has another type or shape, or two canaries are the same image.
    """

    planted: NDArray[np.uint8]
    control: NDArray[np.uint8]
    unmarked: NDArray[np.uint8]
    repeats: int
    seed: int
    fingerprint: str
    planted_labels: NDArray[np.int64] | None = None
    control_labels: NDArray[np.int64] | None = None

    def __post_init__(self) -> None:
        for name in _IMAGES:
            with naming(name):
                object.__setattr__(self, name, checked_images(getattr(self, name)))
            shape, planted = getattr(self, name).shape, self.planted.shape
            if shape != planted:
                raise UserError(
                    f"There must be as many {name} images as planted ones, of one shape, not {shape} and {planted}."
                )
        if (self.planted_labels is None) != (self.control_labels is None):
            raise UserError("Either both groups of canaries have labels or none has.")
        for name in ("planted_labels", "control_labels") if self.planted_labels is not None else ():
            with naming(name.replace("_", " ")):
                object.__setattr__(self, name, checked_labels(getattr(self, name), len(self)))
        if len({image.tobytes() for image in (*self.planted, *self.control)}) < 2 * len(self):
            raise UserError(
                "Two canaries are the same image; each group must differ from the other and in itself."
            )
        if self.repeats < 1 or self.seed < 0:
            raise UserError(
                f"Canaries need repeats of 1 or more and a seed of 0 or more, not {self.repeats} and {self.seed}."
            )
        if len(self.fingerprint) != 64 or set(self.fingerprint) - set("0123456789abcdef"):
            raise UserError(
                f"The fingerprint of the training set must be 64 hexadecimal digits, not {self.fingerprint[:80]!r}."
            )

    def __len__(self) -> int:
        """K, the number of each kind."""
        return len(self.planted)

    @property
    def shape(self) -> tuple[int, int, int]:
        """(C, H, W) of each image."""
        _, channels, height, width = self.planted.shape
        return channels, height, width

    def save(self, path: Path) -> None:
        """Write to an .npz, whole or not at all; the same canaries give the same bytes.

        Raises:
            UserError: The name has another ending.
            DiffmemError: The file cannot be written.
        """
        if path.suffix.lower() != ".npz":
            raise UserError(f"Canaries are written as .npz, not as {path.name!r}.")
        arrays: dict[str, NDArray[Any]] = {
            "format": np.array(FORMAT),
            **{name: getattr(self, name) for name in _IMAGES},
            "repeats": np.array([self.repeats], np.int64),
            "seed": np.array([self.seed], np.int64),
            "fingerprint": np.array(self.fingerprint),
        }
        if self.planted_labels is not None and self.control_labels is not None:
            arrays |= {"planted_labels": self.planted_labels, "control_labels": self.control_labels}
        write_arrays(path, arrays)

    @classmethod
    @in_one_line()
    def load(cls, path: Path) -> CanarySet:
        """Read a file that `save` wrote, and check all of it. Nothing in it is executed.

        Raises:
            UserError: There is no such file, it is damaged, or it holds something else.
        """
        if not is_plain_file(path):
            raise UserError(
                f"There is no file {path}; name the .canaries.npz that was written with the training set."
            )
        with open_arrays(path) as arrays:
            if arrays.text("format") != (FORMAT,):
                raise UserError(
                    f"{path} holds no canaries ({FORMAT}); name the .canaries.npz that was written with the training set."
                )
            needed = (*_IMAGES, "repeats", "seed", "fingerprint")
            missing = [key for key in needed if key not in arrays.members]
            if missing:
                raise UserError(
                    f"{path} lacks {', '.join(missing)}; it is damaged. Build the set again with the same seed."
                )
            parts: dict[str, Any] = {key: arrays.array(key, np.uint8) for key in _IMAGES}
            parts |= {key: arrays.array(key, np.int64) for key in ("planted_labels", "control_labels")}
            numbers: dict[str, Any] = {key: arrays.array(key, np.int64) for key in ("repeats", "seed")}
            fingerprint = arrays.text("fingerprint") or ("",)
        if any(number.size != 1 for number in numbers.values()):
            raise UserError(f"{path}: repeats and seed must be one number each; it is damaged.")
        with naming(path):
            parts |= {key: int(number.item()) for key, number in numbers.items()}
            return cls(**parts, fingerprint=fingerprint[0])


def canaries_path(out: Path) -> Path:
    """Return where the canaries of a set are kept: train.canaries.npz beside train.zip."""
    return out.with_name(f"{out.stem}.canaries.npz")


def smallest_p_value(count: int) -> float:
    """Return the p-value that the test of exposure has if all `count` planted canaries score above all control ones.

    It is 1 / C(2 K, K), the chance that a fair draw of the groups does that: 0.05 for K = 3, 0.004 for K = 5.
    """
    return 1 / math.comb(2 * count, count)


def check_canaries(count: int | None, repeats: int | None) -> None:
    """Refuse numbers of canaries and repeats that make no sense, or one without the other.

    Raises:
        UserError: See above.
    """
    if (count is None) != (repeats is None):
        raise UserError(
            "Canaries need both: canaries, how many are planted, and repeats, how often each one is."
        )
    if count is not None and count < 1:
        raise UserError(f"At least 1 canary must be planted, not {count}; 20 or more show something.")
    if repeats is not None and repeats < 1:
        raise UserError(f"A planted canary occurs at least once: repeats must be 1 or more, not {repeats}.")


def plant_canaries(images: ImageSet, count: int, repeats: int, seed: int) -> tuple[ImageSet, CanarySet]:
    """Take 2 K images out of a set, mark them, and put half of them back, each `repeats` times.

    The seed chooses the images and which of them are planted; all subsets of K are equally likely, whatever the images and marks.

    Args:
        images: Any set of N images of at least 8 x 8 pixels.
        count: K, at least 1, below N / 2.
        repeats: R, at least 1.
        seed: 0 or more.

    Returns:
        The set that is trained on, and its canaries: N - 2 K images in their order, then the planted canaries, R times over, N - 2 K
        + K R in all. Canaries keep the label of their image.

    Raises:
        UserError: A number is out of range, or the images are too small for a mark.
    """
    check_canaries(count, repeats)
    total = len(images)
    channels, height, width = images.shape
    if seed < 0:
        raise UserError(f"The seed must be 0 or more, not {seed}.")
    if 2 * count >= total:
        raise UserError(
            f"{count} canaries and as many control images need {2 * count} images, which leaves none of {total}; plant"
            f" {max(0, (total - 1) // 2)} at most."
        )
    if min(height, width) < _FIELDS:
        raise UserError(
            f"A mark needs images of at least {_FIELDS} x {_FIELDS} pixels; these have {height} x {width}."
        )
    after = total - 2 * count + count * repeats
    check_total(after, images.shape, f"a set with {repeats} copies of each canary")
    chosen = np.sort(_order(total, seed, _CHOICE)[: 2 * count])
    coin = _order(2 * count, seed, _COIN)
    groups = np.sort(coin[:count]), np.sort(coin[count:])
    originals = gather(images.images, chosen)
    canaries = marked(originals, seed)

    rest = np.delete(np.arange(total), chosen)
    order = np.concatenate([rest, *[chosen[groups[0]]] * repeats])
    pixels = new_images((after, channels, height, width))
    for part in parts(len(rest), math.prod(images.shape)):
        np.take(images.images, rest[part], axis=0, out=pixels[part], mode="clip")
    for copy in range(repeats):
        start = len(rest) + copy * count
        pixels[start : start + count] = canaries[groups[0]]
    names = [images.names[index] for index in order.tolist()]
    for place in range(len(rest), after):
        copy, number = divmod(place - len(rest), count)
        names[place] = f"{names[place]} (canary {number + 1} of {count}, copy {copy + 1} of {repeats})"
    step = (
        f"canaries: {count} marked images planted {repeats} times each, {count} more left out as their control group (seed {seed});"
        f" {after} images in all"
    )
    labels = None if images.labels is None else images.labels[order]
    history = (*images.history, step)
    made = replace(
        images,
        images=frozen(pixels),
        labels=labels,
        names=tuple(names),
        history=history,
        captions=images.captions_at(order),
    )
    of_groups = [None if images.labels is None else images.labels[chosen[group]] for group in groups]
    planted, control = (canaries[group] for group in groups)
    return made, CanarySet(
        planted, control, originals[groups[1]], repeats, seed, made.fingerprint, *of_groups
    )


def marked(images: NDArray[np.uint8], seed: int) -> NDArray[np.uint8]:
    """Return the images with marks over every second field; that of image i depends on the seed, i and the channels only.

    But for marks that would come twice, of which the later one is drawn again.

    Args:
        images: uint8 (n, C, H, W), H and W at least 8.
        seed: 0 or more.
    """
    count, channels, height, width = images.shape
    rows, columns = (np.arange(size) * _FIELDS // size for size in (height, width))
    covered = (rows[:, None] + columns) % 2 == 0
    # Fields of a row of the board in pairs: one of each pair is covered.
    field = rows[:, None] * (_FIELDS // 2) + columns // 2
    result = images.copy()
    seen: set[bytes] = set()
    for number in range(count):
        bits = _bits(channels, seed, number, seen)
        result[number][:, covered] = 255 * bits[:, field[covered]]
    return result


def _bits(channels: int, seed: int, number: int, seen: set[bytes]) -> NDArray[np.uint8]:
    """Return one bit for each channel and covered field, (C, 32), as no mark before has them."""
    attempt = 0
    while True:
        source = np.random.PCG64(np.random.SeedSequence([seed, _MARK, number, attempt]))
        bits = (source.random_raw(channels * _FIELDS**2 // 2) >> np.uint64(63)).astype(np.uint8)
        if bits.tobytes() not in seen:
            seen.add(bits.tobytes())
            return bits.reshape(channels, -1)
        attempt += 1


def _order(count: int, seed: int, stream: int) -> NDArray[np.int64]:
    """Return a permutation that depends on its arguments only; raw bits are fixed across versions of NumPy."""
    source = np.random.PCG64(np.random.SeedSequence([seed, stream]))
    return np.argsort(source.random_raw(count), kind="stable").astype(np.int64)
