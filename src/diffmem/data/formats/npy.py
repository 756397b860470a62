"""NumPy's files: archives (.npz), and single arrays (.npy), images that stay on disk and are read where they are looked at.

Labels, names, class names and history of an .npy lie beside it in a small file of their own, `images.meta.npz` for
`images.npy`, which may be absent: any uint8 array (N, H, W), (N, H, W, C) or (N, C, H, W) is a set of images.
"""

from __future__ import annotations

import hashlib
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
from diffmem.data.formats.guards import reading
from diffmem.data.images import ImageSet
from diffmem.data.names import NumberedNames, PackedNames
from diffmem.errors import UserError
from diffmem.text import count_text

__all__ = ["MAGIC", "meta_path", "read_npy", "read_npz", "sample_digest"]

_IMAGES = ("images", "x", "data", "arr_0")
_USED = (
    *("labels", "y", "names", "names_utf8", "names_ends", "class_names", "history", "layout"),
    *("captions_utf8", "captions_ends", "captions_given"),
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
    captions: tuple[str | None, ...] | None = None

    @classmethod
    def of(cls, arrays: ArrayArchive) -> _Described:
        labels, names, class_names = arrays.labels(), _names(arrays), arrays.text("class_names")
        history, layout = arrays.text("history") or (), arrays.text("layout")
        return cls(labels, names, class_names, history, layout[0] if layout else None, _captions(arrays))

    def image_set(
        self, images: NDArray[np.uint8], path: Path, step: str, *conversions: Conversion
    ) -> ImageSet:
        names = NumberedNames(path.name, range(len(images))) if self.names is None else self.names
        class_names = None if self.labels is None else self.class_names
        history = (*self.history, step, *(one.sentence for one in conversions))
        return ImageSet(images, self.labels, names, class_names, history, conversions, self.captions)


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


def read_npy(path: Path) -> ImageSet:
    """Open an array of images as a read-only memory map: nothing but its header, and 64 images, is read.

    The file must stay as it is while the set is in use; replacing it by another one (as `write_images` does) is
    fine, overwriting it in place is not. Channels that come last cannot be mapped: such images are copied
    into the order (N, C, H, W) when they are opened, see `new_images`.

    Beside it, `<name>.meta.npz` may hold: `labels` (or `y`), whole numbers (N,); `names`, text (N,), or the same
    as `names_utf8` and `names_ends`, see `PackedNames`; `class_names` and `history`, text; `layout`, 'NCHW' or
    'NHWC', which is needed only where the shape could mean either; and, as `write_images` writes them, the
    `shape` (N, C, H, W) and the `sample` (see `sample_digest`) of the images that it belongs to.

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
        header = read_header(stream, np.uint8, what)
        layout = layout_of(header.shape, described.layout, what, f"in {beside.name} beside it")
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
        with reading(what):
            mapped = np.asarray(np.memmap(stream, np.uint8, "r", start, header.shape))
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
        return described.image_set(images, path, step)


def read_npz(path: Path) -> ImageSet:
    """Read a NumPy archive. Pickled objects are refused.

    Keys: `images` (or `x`, `data`, `arr_0`), uint8 (N, H, W), (N, H, W, C) or (N, C, H, W); if wanted,
    `labels` (or `y`), whole numbers (N,); `names`, `class_names` and `history`, text; and `layout`, 'NCHW' or
    'NHWC', which is needed only where the shape could mean either.

    Raises:
        UserError: The archive is damaged, a key is missing, or an array has a type or shape that cannot be
            meant.
    """
    with open_arrays(path) as arrays:
        key = next((key for key in _IMAGES if key in arrays.members), None)
        stored = None if key is None else arrays.array(key, np.uint8)
        if stored is None:
            found = ", ".join(sorted(arrays.members))[:200] or "nothing"
            raise UserError(
                f"{path} has no key {', '.join(_IMAGES)}; it has {found}. Save the images as 'images'."
            )
        described = _Described.of(arrays)
        images = as_nchw(stored, layout_of(stored.shape, described.layout, f"{path}: {key}", "beside it"))
        dropped, total = sorted(arrays.members.keys() - {key, *_USED}), len(arrays.members)
    passed_over = _passed_over(dropped, total, described.labels is None)
    with naming(path):
        return described.image_set(images, path, f"npz {path.name}: {len(images)} images", *passed_over)


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
    with reading(f"{arrays.name}: captions_given"):
        pairs = zip(texts, given.reshape(-1).tolist(), strict=True)
        return tuple(text if there else None for text, there in pairs)


def _packed(arrays: ArrayArchive, key: str) -> PackedNames | None:
    ends, content = arrays.array(f"{key}_ends", np.int64), arrays.array(f"{key}_utf8", np.uint8)
    if ends is None or content is None:
        return None
    with reading(f"{arrays.name}: {key}_utf8"):
        return PackedNames(content.tobytes(), ends.astype(np.int64))
