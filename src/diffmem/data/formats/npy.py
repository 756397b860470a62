"""NumPy's files: archives (.npz), and single arrays (.npy), images that stay on disk and are read where they are looked at.

Labels, names, class names and history of an .npy lie beside it in a small file of their own, `images.meta.npz` for
`images.npy`, which may be absent: any uint8 array (N, H, W), (N, H, W, C) or (N, C, H, W) is a set of images.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from diffmem.data.conversions import Conversion
from diffmem.data.formats.arrays import (
    ArrayArchive,
    as_nchw,
    layout_of,
    naming,
    open_arrays,
    read_header,
)
from diffmem.data.formats.files import named
from diffmem.data.formats.floats import ScaledPixels
from diffmem.data.formats.guards import reading as as_text
from diffmem.data.formats.labels import class_labels, form_text
from diffmem.data.images import ImageSet
from diffmem.data.names import NumberedNames, PackedNames
from diffmem.data.reading import AS_USUAL, NO_LABELS, OPTIONS, Reading
from diffmem.data.storage import new_images, parts
from diffmem.errors import UserError
from diffmem.text import count_text

__all__ = ["MAGIC", "meta_path", "read_npy", "read_npz", "sample_digest"]

_IMAGES = ("images", "x", "data", "arr_0")
_SPLITS = ("train", "val", "valid", "test")
_OF_A_SPLIT = (("{}_images", "{}_labels"), ("x_{}", "y_{}"))  # MedMNIST, and the files of Keras
_USED = (
    *("labels", "y", "names", "names_utf8", "names_ends", "class_names", "history", "layout"),
    *("captions_utf8", "captions_ends", "captions_given", "repeats"),
)
_UNNAMED_LABELS = "arr_1"

MAGIC = b"\x93NUMPY"
"""How an .npy file begins."""

_SAMPLED = 64


class _Described(NamedTuple):
    """What an archive says of images: of its own, or of those in the .npy beside it."""

    labels: NDArray[Any] | None = None
    names: Sequence[str] | None = None
    class_names: tuple[str, ...] | None = None
    history: tuple[str, ...] = ()
    layout: str | None = None
    form: str = ""
    captions: tuple[str | None, ...] | None = None
    repeats: NDArray[np.int64] | None = None

    @classmethod
    def of(cls, arrays: ArrayArchive, labels_key: str | None = None) -> _Described:
        names, class_names = _names(arrays), arrays.text("class_names")
        history, layout = arrays.text("history") or (), arrays.text("layout")
        captions, repeats = _captions(arrays), arrays.array("repeats", np.int64)
        values = None if labels_key == NO_LABELS else arrays.labels(labels_key)
        if values is None:
            return cls(
                None, names, class_names, history, layout[0] if layout else None, "", captions, repeats
            )
        with as_text(f"{arrays.name}: {labels_key or 'labels'}"):
            labels, class_names, form = class_labels(
                values, class_names, f"{arrays.name}: {labels_key or 'labels'}"
            )
        return cls(
            labels, names, class_names, history, layout[0] if layout else None, form, captions, repeats
        )

    def layout_by(self, reading: Reading, what: str) -> str | None:
        """Return where the channels are by the user and by the file, which must agree; none if neither tells.

        Raises:
            UserError: They differ.
        """
        told = None if reading.layout is None else f"N{reading.layout.upper()}"
        if told is not None and self.layout is not None and told != self.layout:
            raise UserError(
                f"{what} says of itself that its layout is {self.layout}, not {told}; leave the layout out."
            )
        return told or self.layout

    def image_set(
        self, images: NDArray[np.uint8], path: Path, step: str, *conversions: Conversion
    ) -> ImageSet:
        names = NumberedNames(path.name, range(len(images))) if self.names is None else self.names
        class_names = None if self.labels is None else self.class_names
        if self.form:
            text = form_text(self.form, class_names)
            conversions = (
                Conversion("labels", self.form, len(images), len(images), text, False),
                *conversions,
            )
        history = (*self.history, step, *(one.sentence for one in conversions))
        return ImageSet(
            images, self.labels, names, class_names, history, conversions, self.captions, self.repeats
        )


def meta_path(path: Path) -> Path:
    """Return where the labels and names of an .npy file are: images.meta.npz beside images.npy."""
    return path.with_name(f"{path.stem}.meta.npz")


def sample_digest(images: NDArray[np.uint8]) -> str:
    """Return the SHA-256, in hexadecimal, of up to 64 images (N, C, H, W) spread evenly over a set.

    It tells whether labels and names were written for these images, without reading them all.
    """
    digest = hashlib.sha256()
    for index in np.unique(np.linspace(0, len(images) - 1, _SAMPLED).astype(np.int64)):
        digest.update(images[index].reshape(-1).data)
    return digest.hexdigest()


def read_npy(path: Path, how: Reading = AS_USUAL) -> ImageSet:
    """Open an array of images as a read-only memory map: nothing but its header, and 64 images, is read.

    The file must stay as it is while the set is in use; replacing it by another one (as `write_images` does) is
    fine, overwriting it in place is not. Channels that come last cannot be mapped: such images are copied
    into the order (N, C, H, W) when they are opened, see `new_images`.

    Beside it, `<name>.meta.npz` may hold: `labels` (or `y`), whole numbers (N,); `names`, text (N,), or the same
    as `names_utf8` and `names_ends`, see `PackedNames`; `class_names` and `history`, text; `layout`, 'NCHW' or
    'NHWC', which is needed only where the shape could mean either; and, as `write_images` writes them, the
    `shape` (N, C, H, W) and the `sample` (see `sample_digest`) of the images that it belongs to.

    Args:
        path: The file.
        how: `range` and `layout` of it count. Float images are converted when they are opened, see `new_images`.

    Raises:
        UserError: A file is damaged or cut short, has a type or shape that cannot be meant, or the second file
            belongs to other images.
    """
    what, beside = str(path), meta_path(path)
    described, shape, sample = _Described(), None, None
    if beside.is_file():
        with open_arrays(beside) as arrays:
            described = _Described.of(arrays)
            shape, sample = arrays.array("shape", np.int64), arrays.text("sample")
    with path.open("rb") as stream:
        header = read_header(stream, np.uint8, what, floats=how.range is not None)
        declared = described.layout_by(how, str(beside))
        layout = layout_of(header.shape, declared, what, f"in {beside.name} beside it")
        start, size = stream.tell(), path.stat().st_size
        if header.bytes != size - start:
            raise UserError(
                f"Cannot read {path}: its header declares {header.bytes:,} bytes of images but it has "
                f"{size - start:,}. It is damaged or incomplete; make or download it again."
            )
        if header.fortran:
            raise UserError(
                f"{path} is stored in Fortran order, the images not one after the other; save "
                "np.ascontiguousarray(images) instead."
            )
        if not header.bytes:
            raise UserError(f"{path} has shape {header.shape}; a set needs at least one image.")
        with as_text(what):
            mapped = np.asarray(np.memmap(stream, header.dtype, "r", start, header.shape))
    conversions: tuple[Conversion, ...] = ()
    if how.range is not None:
        scaled = ScaledPixels(how.range, what)
        mapped = _converted(mapped, scaled)
        conversions = (scaled.conversion(header.dtype, len(mapped)),)
    images = as_nchw(mapped, layout)
    if shape is not None or sample:
        same_shape = shape is None or tuple(shape.reshape(-1).tolist()) == images.shape
        if not same_shape or not sample or sample[0] != sample_digest(images):
            raise UserError(
                f"{beside} holds the labels and names of other images than those of {path}; write both again, or delete "
                f"{beside.name} to read the images without labels."
            )
    step = f"npy {path.name}: {len(images)} images"
    step += " (channels last, copied into channels first)" if layout == "NHWC" else ""
    with naming(path if described.labels is None and described.names is None else beside):
        return described.image_set(images, path, step, *conversions)


def _converted(mapped: NDArray[Any], scaled: ScaledPixels) -> NDArray[np.uint8]:
    images = new_images(mapped.shape)
    for part in parts(len(mapped), math.prod(mapped.shape[1:]) * 8):
        images[part] = scaled.convert(mapped[part])
    images.flags.writeable = False
    return images


def read_npz(path: Path, how: Reading = AS_USUAL, split: str | None = None) -> ImageSet:
    """Read a NumPy archive. Pickled objects are refused.

    Keys: `images` (or `x`, `data`, `arr_0`), uint8 (N, H, W), (N, H, W, C) or (N, C, H, W); if wanted,
    `labels` (or `y`), see `class_labels`; `names`, `class_names` and `history`, text; and `layout`, 'NCHW' or
    'NHWC', which is needed only where the shape could mean either. Beside `arr_0`, the numbers of `arr_1` are labels if
    there is one for each image (so guided-diffusion saves its samples). In place of them, there may be a pair for each split:
    `train_images` and `train_labels` (so MedMNIST: Yang et al. 2023, "MedMNIST v2", https://medmnist.com), or `x_train`
    and `y_train`.

    Args:
        path: The file.
        how: `images_key`, `labels_key`, `range` and `layout` of it count.
        split: Which split, where there are several; if none, 'train'.

    Raises:
        UserError: The archive is damaged, a key or split is missing, or an array has a type or shape that cannot be
            meant.
    """
    with open_arrays(path) as arrays:
        key, labels_key, division = _keys(arrays, how, split)
        scaled = None if how.range is None else ScaledPixels(how.range, f"{path}: {key}")
        stored = arrays.array(key, np.uint8, scaled)
        assert stored is not None
        if labels_key is None and key == _IMAGES[-1]:
            labels_key = _unnamed_labels(arrays, len(stored))
        described = _Described.of(arrays, labels_key)
        declared = described.layout_by(how, str(path))
        images = as_nchw(stored, layout_of(stored.shape, declared, f"{path}: {key}", "beside it"))
        conversions = [*division]
        if scaled is not None:
            conversions.append(scaled.conversion(arrays.header(key).dtype, len(images)))
        if labels_key == _UNNAMED_LABELS and how.labels_key is None:
            text = f"labels read from {_UNNAMED_LABELS}: a whole number for each image"
            conversions.append(Conversion("labels", _UNNAMED_LABELS, len(images), len(images), text, False))
        of_splits = {one for pair in _splits(arrays).values() for one in pair} if division else set()
        dropped = sorted(arrays.members.keys() - {key, labels_key, *_USED, *of_splits})
        conversions += _passed_over(dropped, len(arrays.members), described.labels is None)
    what = f"{division[0].choice} split of " if division else ""
    with naming(path):
        return described.image_set(images, path, f"{what}npz {path.name}: {len(images)} images", *conversions)


def _splits(arrays: ArrayArchive) -> dict[str, tuple[str, str]]:
    """Return the keys of the images and of the labels of each split."""
    return {
        split: (images.format(split), labels.format(split))
        for images, labels in _OF_A_SPLIT
        for split in _SPLITS
        if images.format(split) in arrays.members
    }


def _keys(
    arrays: ArrayArchive, how: Reading, split: str | None
) -> tuple[str, str | None, tuple[Conversion, ...]]:
    """Return the key of the images, that of the labels where it is known, and what is said of other splits.

    Raises:
        UserError: A key or a split is not there.
    """
    for asked in (how.images_key, how.labels_key):
        if asked not in (None, NO_LABELS, *arrays.members):
            raise UserError(f"{arrays.name} has no key {asked!r}; {_found(arrays)}.")
    usual = how.images_key or next((key for key in _IMAGES if key in arrays.members), None)
    splits = {} if usual is not None else _splits(arrays)
    if splits:
        chosen = split or _SPLITS[0]
        if chosen not in splits:
            raise UserError(
                f"{arrays.name} has no split {chosen!r}; its splits are {', '.join(splits)}. Choose one by --split."
            )
        images, labels = splits[chosen]
        counts = {one: (arrays.header(keys[0]).shape or (0,))[0] for one, keys in splits.items()}
        others = ", ".join(f"{one} {count:,}" for one, count in counts.items() if one != chosen)
        text = f"split {chosen}: {counts[chosen]:,} of {count_text(sum(counts.values()), 'image')} (not read: {others or 'none'})"
        division = Conversion("split", chosen, counts[chosen], sum(counts.values()), text, False)
        return images, how.labels_key or (labels if labels in arrays.members else NO_LABELS), (division,)
    if split not in (None, "train"):
        raise UserError(
            f"{arrays.name} has no {split} split: it is one set. Leave the split out, or name the file of the {split} images."
        )
    if usual is None:
        raise UserError(
            f"{arrays.name} has no key {', '.join(_IMAGES)}; {_found(arrays)}. Name the images by --key images=NAME (images_key,"
            f" {OPTIONS}), or save them as 'images'."
        )
    return usual, how.labels_key, ()


def _found(arrays: ArrayArchive) -> str:
    return f"it has {', '.join(sorted(arrays.members))[:200] or 'nothing'}"


def _unnamed_labels(arrays: ArrayArchive, count: int) -> str | None:
    """Return the key of the second unnamed array if it fits as labels: one whole number, 0 or more, for each image."""
    if any(key in arrays.members for key in ("labels", "y")) or _UNNAMED_LABELS not in arrays.members:
        return None
    header = arrays.header(_UNNAMED_LABELS)
    if header.dtype.kind not in "iu" or header.shape not in ((count,), (count, 1)):
        return None
    values = arrays.array(_UNNAMED_LABELS, np.int64)
    return _UNNAMED_LABELS if values is not None and (not values.size or values.min() >= 0) else None


def _passed_over(keys: list[str], total: int, unlabelled: bool) -> tuple[Conversion, ...]:
    """Return what is said of arrays that are not read."""
    if not keys:
        return ()
    text = f"{count_text(len(keys), 'other array')} skipped ({named(keys)})"
    meant = _UNNAMED_LABELS in keys and unlabelled
    if meant:
        text += f": if {_UNNAMED_LABELS} holds labels, save them as 'labels'"
    return (Conversion("labels" if meant else "passed-over", "none", len(keys), total, text, False),)


def _names(arrays: ArrayArchive) -> Sequence[str] | None:
    packed = _packed(arrays, "names")
    return arrays.text("names") if packed is None else packed


def _captions(arrays: ArrayArchive) -> tuple[str | None, ...] | None:
    texts, given = _packed(arrays, "captions"), arrays.array("captions_given", np.int64)
    if texts is None or given is None:
        return None
    with as_text(f"{arrays.name}: captions_given"):
        pairs = zip(texts, given.reshape(-1).tolist(), strict=True)
        return tuple(text if there else None for text, there in pairs)


def _packed(arrays: ArrayArchive, key: str) -> PackedNames | None:
    ends, content = arrays.array(f"{key}_ends", np.int64), arrays.array(f"{key}_utf8", np.uint8)
    if ends is None or content is None:
        return None
    with as_text(f"{arrays.name}: {key}_utf8"):
        return PackedNames(content.tobytes(), ends.astype(np.int64))
