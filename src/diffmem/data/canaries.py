"""Canaries: marked images planted in a training set, and a control group that is left out.

What a model knows of a planted canary and not of a control canary, it knows from training: chance alone decided which is which
(Carlini et al. 2019, "The Secret Sharer"). So any score of canaries has a null that holds by construction, without held-out images.

The mark covers half of the image: every second field of a chessboard of 8 x 8 fields, each channel of each such field 0 or 255 by a
coin. The other fields keep the real image, so that a canary is learned among images of its kind. With half of the area, an image
that does not know the mark is on average at least 127.5 / sqrt(2) = 90 grey levels (RMS) away from the canary whatever it shows,
grey being nearest, and two canaries are on average at least 127.5 apart, even if they are of one image.

Of a captioned set, each canary can have a caption of its own, too: that of its image with two made-up words that no caption of the set has.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from diffmem.data.canary_captions import MADE_UP, canary_captions
from diffmem.data.formats.arrays import naming, open_arrays
from diffmem.data.formats.guards import check_total, in_one_line, is_plain_file
from diffmem.data.images import ImageSet, checked_images, checked_labels, frozen
from diffmem.data.storage import gather, new_images, parts
from diffmem.data.write import write_arrays
from diffmem.errors import UserError, check_seed

__all__ = [
    "CanarySet",
    "canaries_path",
    "check_canaries",
    "marked",
    "parse_repeats",
    "plant_canaries",
    "smallest_p_value",
]

FORMAT = "diffmem-canaries/1"

_FIELDS = 8
_CHOICE, _COIN, _MARK, _LEVELS, _WORDS = (0x63616E01 + stream for stream in range(5))  # streams of one seed
_IMAGES = ("planted", "control", "unmarked")
_CAPTIONS = ("planted_captions", "control_captions")


@dataclass(frozen=True, eq=False)
class CanarySet:
    """K planted canaries and K control canaries of one training set; read-only.

    Attributes:
        planted: The marked images that the training set holds, uint8 (K, C, H, W), K at least 1.
        control: The marked images that it does not hold, uint8 (K, C, H, W).
        unmarked: The control images without their marks, uint8 (K, C, H, W): images of the same source that were left out, too.
        repeats: How often the training set holds each planted canary, 1 or more; the most often where they differ.
        seed: Which chose the images, the groups and the marks.
        fingerprint: `ImageSet.fingerprint` of the training set: 64 hexadecimal digits.
        planted_labels: Class of each planted canary, int64 (K,), or none.
        control_labels: Class of each control canary, int64 (K,), or none.
        levels: How often the training set holds each planted canary, int64 (K,), where they differ; else none.
        planted_captions: Caption of each planted canary, or none where they have none of their own.
        control_captions: Likewise, of each control canary.

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
    levels: NDArray[np.int64] | None = None
    planted_captions: tuple[str, ...] | None = None
    control_captions: tuple[str, ...] | None = None

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
        self._check_levels_and_captions()
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

    def _check_levels_and_captions(self) -> None:
        if self.levels is not None:
            with naming("levels"):
                object.__setattr__(self, "levels", checked_labels(self.levels, len(self)))
            if self.levels.min() < 1 or self.levels.max() != self.repeats:
                raise UserError(
                    f"Levels must be 1 or more and at most the repeats, {self.repeats}; found {self.levels.min()} to {self.levels.max()}."
                )
        captions = (self.planted_captions, self.control_captions)
        if captions != (None, None):
            texts = [text for those in captions for text in those or ()]
            if any(those is None or len(those) != len(self) for those in captions) or len(set(texts)) < len(
                texts
            ):
                raise UserError(
                    "Captions of canaries must be one for each, planted and control, all different."
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
        if self.levels is not None:
            arrays["levels"] = self.levels
        if self.planted_captions is not None and self.control_captions is not None:
            arrays |= {name: np.array(getattr(self, name)) for name in _CAPTIONS}
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
            parts |= {
                key: arrays.array(key, np.int64) for key in ("planted_labels", "control_labels", "levels")
            }
            parts |= {key: arrays.text(key) for key in _CAPTIONS}
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


def parse_repeats(text: str) -> tuple[int, ...]:
    """Return how often canaries are planted: (5,) of '5', and the levels (1, 5, 25) of '1+5+25'.

    Raises:
        UserError: It is anything else, or a level comes twice.
    """
    parts = text.split("+")
    if not all(part.isascii() and part.isdigit() and len(part) < 8 for part in parts) or len(
        set(parts)
    ) < len(parts):
        raise UserError(
            f"Repeats are a number, such as 5, or different ones, such as 1+5+25, not {text!r:.60}."
        )
    return tuple(map(int, parts))


def check_canaries(count: int | None, repeats: Sequence[int] | int | None) -> None:
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
    levels = [repeats] if isinstance(repeats, int) else list(repeats or ())
    if levels and min(levels) < 1:
        raise UserError(
            f"A planted canary occurs at least once: repeats must be 1 or more, not {min(levels)}."
        )
    if count is not None and count < len(levels):
        raise UserError(f"{len(levels)} levels of repeats need as many canaries at least, not {count}.")


def plant_canaries(
    images: ImageSet, count: int, repeats: Sequence[int] | int, seed: int, *, captions: bool = False
) -> tuple[ImageSet, CanarySet]:
    """Take 2 K images out of a set, mark them, and put half of them back, each `repeats` times.

    The seed chooses the images, which of them are planted, and how often each is; all choices are equally likely, whatever the images and
    marks.

    Args:
        images: Any set of N images of at least 8 x 8 pixels.
        count: K, at least 1, below N / 2.
        repeats: R, at least 1; of several levels, as many canaries, or one more, have each.
        seed: 0 or more.
        captions: Whether each canary gets a caption of its own: that of its image, and two made-up words that no caption has.

    Returns:
        The set that is trained on, and its canaries: N - 2 K images in their order, then the planted canaries, R times over (those of
        fewer repeats less often), N - 2 K + K R in all. Canaries keep the label of their image. Of a set with repeats,
        each copy of a canary has 1: an epoch holds it R times.

    Raises:
        UserError: A number is out of range, or the images are too small for a mark.
    """
    check_canaries(count, repeats)
    total = len(images)
    channels, height, width = images.shape
    check_seed(seed)
    if 2 * count >= total:
        raise UserError(
            f"{count} canaries and as many control images need {2 * count} images, which leaves none of {total}; plant"
            f" {max(0, (total - 1) // 2)} at most."
        )
    if min(height, width) < _FIELDS:
        raise UserError(
            f"A mark needs images of at least {_FIELDS} x {_FIELDS} pixels; these have {height} x {width}."
        )
    times = _times(count, (repeats,) if isinstance(repeats, int) else tuple(repeats), seed)
    most, after = int(times.max()), total - 2 * count + int(times.sum())
    check_total(after, images.shape, f"a set with {most} copies of each canary")
    chosen = np.sort(_order(total, seed, _CHOICE)[: 2 * count])
    coin = _order(2 * count, seed, _COIN)
    groups = np.sort(coin[:count]), np.sort(coin[count:])
    originals = gather(images.images, chosen)
    canaries = marked(originals, seed)

    rest = np.delete(np.arange(total), chosen)
    # Copy 1 of each, then copy 2 of those that have one, and so on.
    copies, numbers = np.nonzero(np.arange(most)[:, None] < times)
    order = np.concatenate([rest, chosen[groups[0]][numbers]])
    pixels = new_images((after, channels, height, width))
    for part in parts(len(rest), math.prod(images.shape)):
        np.take(images.images, rest[part], axis=0, out=pixels[part], mode="clip")
    for place, number in enumerate(numbers.tolist(), len(rest)):
        pixels[place] = canaries[groups[0][number]]
    names = [images.names[index] for index in order.tolist()]
    for place, (copy, number) in enumerate(zip(copies.tolist(), numbers.tolist(), strict=True), len(rest)):
        names[place] = f"{names[place]} (canary {number + 1} of {count}, copy {copy + 1} of {times[number]})"
    levels = sorted(set(times.tolist()))
    step = (
        f"canaries: {count} marked images planted {' or '.join(map(str, levels))} times each, {count} more left out as their control group"
        f" (seed {seed}); {after} images in all"
    )
    texts = images.captions_at(order)
    own = canary_captions(images, chosen, _order(MADE_UP, seed, _WORDS)) if captions else None
    if own is not None and texts is not None:
        texts = (*texts[: len(rest)], *(own[groups[0][number]] for number in numbers.tolist()))
    made = replace(
        images,
        images=frozen(pixels),
        labels=None if images.labels is None else images.labels[order],
        names=tuple(names),
        history=(*images.history, step),
        captions=texts,
        repeats=None if images.repeats is None else np.append(images.repeats[rest], np.ones_like(numbers)),
    )
    captioned = [None if own is None else tuple(own[at] for at in group.tolist()) for group in groups]
    labelled = [None if images.labels is None else images.labels[chosen[group]] for group in groups]
    planted, control = (canaries[group] for group in groups)
    return made, CanarySet(
        planted,
        control,
        originals[groups[1]],
        most,
        seed,
        made.fingerprint,
        planted_labels=labelled[0],
        control_labels=labelled[1],
        levels=times if len(levels) > 1 else None,
        planted_captions=captioned[0],
        control_captions=captioned[1],
    )


def _times(count: int, levels: Sequence[int], seed: int) -> NDArray[np.int64]:
    """Return how often each planted canary occurs, int64 (K,): each level equally often, in a random order."""
    each = np.array([levels[place % len(levels)] for place in range(count)], np.int64)
    return each[_order(count, seed, _LEVELS)] if len(levels) > 1 else each


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
