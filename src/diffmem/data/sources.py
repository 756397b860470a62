"""`open_images`: whatever holds images, recognised by its content; and the same read by the other rules that loaders have."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np

from diffmem.data.conversions import Conversion
from diffmem.data.formats.cifar10 import CIFAR10, CIFAR100, read_cifar
from diffmem.data.formats.edm_zip import read_zip
from diffmem.data.formats.encoded import image_set_of
from diffmem.data.formats.folder import read_folder, read_listed
from diffmem.data.formats.foreign import TORCH, is_torch_zip, what_it_is
from diffmem.data.formats.guards import in_one_line, is_folder, is_plain_file, unpacked
from diffmem.data.formats.guards import reading as as_text
from diffmem.data.formats.hf_datasets import is_saved, read_cached, read_saved
from diffmem.data.formats.idx import IMAGE_MAGIC, idx_image_files, read_idx
from diffmem.data.formats.listing import is_listing
from diffmem.data.formats.npy import MAGIC, read_npy, read_npz
from diffmem.data.formats.published import first_folder
from diffmem.data.formats.shards import (
    TABLE_ENDINGS,
    TAR_ENDINGS,
    Shards,
    braces,
    find_shards,
    kind_of_shards,
    listed_shards,
)
from diffmem.data.formats.signatures import HEAD_BYTES, LIKELY, ending_of
from diffmem.data.formats.stl10 import FOLDER as STL10_FOLDER
from diffmem.data.formats.stl10 import SPLITS as STL10_SPLITS
from diffmem.data.formats.stl10 import read_stl10, stl10_folder
from diffmem.data.formats.svhn import MAGIC as MAT_MAGIC
from diffmem.data.formats.svhn import SPLITS as SVHN_SPLITS
from diffmem.data.formats.svhn import read_svhn, svhn_files
from diffmem.data.formats.tables import PARQUET_MAGIC, encoded_rows
from diffmem.data.formats.tar import is_tar
from diffmem.data.formats.webdataset import read_tars
from diffmem.data.formats.zip_directory import open_directory
from diffmem.data.images import ImageSet, frozen
from diffmem.data.reading import ALPHA_TEXT, AS_USUAL, FIT_TEXT, Reading, check_choice
from diffmem.data.transforms import fit_images
from diffmem.errors import UserError
from diffmem.progress import NO_PROGRESS, Progress, Stages

__all__ = ["UNDERSTOOD", "OtherReading", "Split", "open_images", "other_readings", "read_digits"]

Split = Literal["train", "test"]
"""The splits of sources that come with them (CIFAR and IDX files)."""

UNDERSTOOD = (
    "the word 'digits'; the archive of CIFAR-10, CIFAR-100 or STL-10 (cifar-10-python.tar.gz, cifar-100-python.tar.gz, "
    "stl10_binary.tar.gz) or its unpacked folder; SVHN's train_32x32.mat; a folder of images, "
    "with sub-folders as classes or metadata.jsonl; a .csv or .jsonl that lists image files; a .tar or .tar.gz of images, or "
    "WebDataset shards (train-{000..012}.tar, or their folder); Parquet with a column of images, or a folder of it; what Hugging Face "
    "datasets saved to disk, or its cache; a .zip of images with or without dataset.json; an .npz of images (MedMNIST, or any by --key); "
    "an .npy of images, which stays on disk and may be larger than memory, with or without "
    "its .meta.npz; "
    "IDX files such as train-images-idx3-ubyte.gz"
)
"""What `open_images` reads, in words."""


_HIGHEST = 65_535
_SHARDS = {"tars": TAR_ENDINGS, "parquets": TABLE_ENDINGS, "cached": (".arrow",)}
_TEXT: dict[str, dict[Any, str]] = {
    "alpha": {**ALPHA_TEXT},
    "exif": {"apply": "EXIF orientation applied", "ignore": "EXIF orientation ignored"},
    "pages": {"all": "all pages and frames"},
    "range": {"0..1": "float values of 0..1", "-1..1": "float values of -1..1"},
    "fit": {**FIT_TEXT, "stretch": "stretched to a square", "pad": "padded to a square"},
}

_ABOUT = {
    "images_key": ".npz files and tables",
    "labels_key": ".npz files, tables and published sets with labels",
    "range": "float images in .npz and .npy files",
    "layout": ".npz and .npy files",
}
_ARRAY_KEYS = frozenset(_ABOUT)
_LABELLED, _KEYED = frozenset({"labels_key"}), frozenset({"images_key", "labels_key"})
_ARRAY_KEYS_OF: dict[str, frozenset[str]] = {
    "npz": _ARRAY_KEYS, "npy": frozenset({"range", "layout"}),
    "cifar10": _LABELLED, "cifar100": _LABELLED, "stl10": _LABELLED, "svhn": _LABELLED,
    "parquet": _KEYED, "parquets": _KEYED, "saved": _KEYED, "cached": _KEYED,
}  # fmt: skip
_SPLITS = {"stl10": STL10_SPLITS, "svhn": SVHN_SPLITS}
_READERS: dict[str, Callable[[Path, str | None, str | None], ImageSet]] = {
    "cifar10": lambda path, split, labels: read_cifar(path, split or "train", CIFAR10, labels),
    "cifar100": lambda path, split, labels: read_cifar(path, split or "train", CIFAR100, labels),
    "stl10": lambda path, split, labels: read_stl10(path, split or "train", labels),
    "svhn": read_svhn,
    "idx": lambda path, split, labels: read_idx(path, split or "train"),
}


@in_one_line()
def open_images(
    source: str | Path,
    split: str | None = None,
    progress: Progress = NO_PROGRESS,
    reading: Reading = AS_USUAL,
) -> ImageSet:
    """Read images from whatever holds them.

    Args:
        source: The word 'digits' (the scans that come with scikit-learn), or a path. What is at the path is
            recognized by its content: a folder of images (also with metadata.jsonl, captions, or kohya's folders), a .csv or .jsonl
            list of paths, a .zip (EDM's layout), a .tar or WebDataset shards ('train-{000..012}.tar'), Parquet with images, what
            Hugging Face `datasets` saved or cached, an .npz or .npy file, IDX files (MNIST's format), SVHN's .mat files, or the
            archive or folder of CIFAR-10, CIFAR-100 or STL-10.
        split: Which split: 'train' or 'test' of CIFAR and IDX, also 'extra' of SVHN, 'unlabeled' of STL-10, and 'val' of
            MedMNIST, where none means 'train'; a folder's name where a folder or zip holds splits, which are not read
            together. 'train' of one set that has no splits is that set. The same as `reading.split`.
        progress: Called now and then while images are decoded.
        reading: How stored images become pixels, where loaders have different rules (transparency, EXIF orientation,
            16 bits, pages and frames, unequal shapes), and where arrays are (keys, range of float values, layout).

    Returns:
        The images in the source's own order. Reading the same source again gives the same set. What was done to the
        images, and what was skipped, is in its `history` and, for programs, in its `conversions`.

    Raises:
        UserError: Nothing is there, it is not understood, it is damaged, a split has to be chosen, or `reading` sets something
            that can have no effect on what is there.
    """
    if split is not None and reading.split is not None and split != reading.split:
        raise UserError(f"Two splits are asked for: {split} and {reading.split}. Name one.")
    split = reading.split if split is None else split
    if source == "digits":
        check_choice("split", split, (None, *get_args(Split)))
        _refuse_idle(source, reading, source)
        return _fitted(read_digits(split or "train"), reading, "digits", progress)
    listed = _listed(source)
    if listed is not None:
        return _of_shards(str(source), listed, progress, reading, split)
    path = _path(source)
    with as_text(str(path)):
        kind = _kind(path)
    if kind == "unknown":
        raise UserError(f"{path} is nothing that images are read from. Understood are: {UNDERSTOOD}.")
    _refuse_idle(kind, reading, str(path))
    members = _MEMBERS.get(kind)
    if members is not None:
        return members(path, progress, reading, split)
    if kind == "npz":
        images = read_npz(path, reading, split)
    elif kind == "npy":
        check_choice("split", split, (None, *get_args(Split)))
        if split == "test":
            raise UserError(
                f"{path} has no test split: it is one set. Leave the split out, or name the file of the test "
                "images."
            )
        images = read_npy(path, reading)
    else:
        check_choice("split", split, (None, *_SPLITS.get(kind, get_args(Split))))
        images = _READERS[kind](path, split, reading.labels_key)
    return _fitted(images, reading, str(path), progress)


def _refuse_idle(kind: str, reading: Reading, what: str) -> None:
    """Refuse a choice about arrays that cannot change anything in this kind of source."""
    for key in sorted(_ARRAY_KEYS - _ARRAY_KEYS_OF.get(kind, frozenset())):
        value = getattr(reading, key)
        if value is not None:
            raise UserError(
                f"{what}: {key} {value} can change nothing in it, it is for {_ABOUT[key]}. Leave it out."
            )


def _listed(source: str | Path) -> Shards | None:
    """Return the shards that a list in braces names; none where the source is no list."""
    names = braces(str(source))
    if names is None or is_plain_file(Path(source)) or is_folder(Path(source)):
        return None
    return Shards(listed_shards(str(source), names))


def _of_shards(
    what: str, shards: Shards, progress: Progress, reading: Reading, split: str | None
) -> ImageSet:
    if shards.files[0].name.endswith(TABLE_ENDINGS):
        stages = Stages(progress, look=1, decode=9)
        encoded = encoded_rows(shards.files, what, reading, stages.look, conversions=shards.conversions)
        return image_set_of(encoded, what, f"parquet {Path(what).name}", reading, stages.decode)
    return read_tars(
        shards.files, what, progress, reading, None if shards.conversions else split, shards.conversions
    )


def _read_tar(path: Path, progress: Progress, reading: Reading, split: str | None) -> ImageSet:
    return read_tars([path], str(path), progress, reading, split)


def _read_parquet(path: Path, progress: Progress, reading: Reading, split: str | None) -> ImageSet:
    if split not in (None, "train"):
        raise UserError(
            f"{path} has no {split} split: it is one set. Leave the split out, or name that file."
        )
    stages = Stages(progress, look=1, decode=9)
    encoded = encoded_rows([path], str(path), reading, stages.look)
    return image_set_of(encoded, str(path), f"parquet {path.name}", reading, stages.decode)


def _read_shard_folder(
    path: Path, progress: Progress, reading: Reading, split: str | None, kind: str
) -> ImageSet:
    return _of_shards(str(path), find_shards(path, _SHARDS[kind], split), progress, reading, split)


_MEMBERS: dict[str, Callable[[Path, Progress, Reading, str | None], ImageSet]] = {
    "zip": read_zip,
    "folder": read_folder,
    "listing": read_listed,
    "tar": _read_tar,
    "tars": partial(_read_shard_folder, kind="tars"),
    "parquet": _read_parquet,
    "parquets": partial(_read_shard_folder, kind="parquets"),
    "saved": read_saved,
    "cached": read_cached,
}
"""How each kind of source is read whose images are encoded."""


def _path(source: str | Path) -> Path:
    if source == "":  # which Path takes for this folder
        raise UserError(f"The source is an empty text. Images are read from: {UNDERSTOOD}.")
    try:
        path = Path(source).expanduser()
        there = path.exists()
    except (
        OSError,
        RuntimeError,
        ValueError,
    ) as error:  # a name that no file can have, a user that is not there
        raise UserError(
            f"Nothing can be at {str(source)[:200]} ({error}). Images are read from: {UNDERSTOOD}."
        ) from error
    if not there:
        raise UserError(f"There is nothing at {source}. Images are read from: {UNDERSTOOD}.")
    return path


def _fitted(images: ImageSet, reading: Reading, what: str, progress: Progress) -> ImageSet:
    """Bring images that were never encoded to one size; of everything else in `reading` they are no matter."""
    for key in ("alpha", "exif", "white", "pages"):
        value = getattr(reading, key)
        if value != getattr(AS_USUAL, key):
            raise UserError(
                f"{what} holds pixels, not encoded images: {key} {value} can change nothing in it. Leave it out."
            )
    if reading.fit is None or reading.resolution is None:
        return images
    return fit_images(images, reading.fit, reading.resolution, progress)


def _kind(path: Path) -> str:
    if path.is_dir():
        for kind, found in (
            ("cifar10", CIFAR10.folder_at), ("cifar100", CIFAR100.folder_at), ("stl10", stl10_folder), ("svhn", svhn_files),
        ):  # fmt: skip
            if found(path):
                return kind
        if idx_image_files(path):
            return "idx"
        if is_saved(path):
            return "saved"
        return kind_of_shards(path, _SHARDS) or "folder"
    if not path.is_file():
        return "unknown"
    with unpacked(path, HEAD_BYTES) as (stream, _):
        head = stream.read(HEAD_BYTES)
    if head.startswith(b"PK"):
        with open_directory(path) as archive:
            endings = set(map(ending_of, archive.names))
            if not endings & LIKELY and is_torch_zip(archive.names):
                raise UserError(f"{path} is {TORCH.format(name=path.name)}")
            return "npz" if ".npy" in endings and not endings & LIKELY else "zip"
    if head.startswith(MAGIC):
        return "npy"
    if head.startswith(IMAGE_MAGIC):
        return "idx"
    if head.startswith(MAT_MAGIC):
        return "svhn"
    if head[257:262] == b"ustar" or is_tar(head):
        published = {CIFAR10.folder: "cifar10", CIFAR100.folder: "cifar100", STL10_FOLDER: "stl10"}
        return published.get(first_folder(head), "tar")
    if head.startswith(PARQUET_MAGIC):
        return "parquet"
    if is_listing(path.name, head):
        return "listing"
    told = what_it_is(path, head)
    if told is not None:
        raise UserError(f"{path} is {told}")
    return "unknown"


@dataclass(frozen=True)
class OtherReading:
    """A source as it would be by another rule.

    Attributes:
        text: The rule in words.
        reading: The reading that follows it; all else is as it was.
        open: Reads the source so.
    """

    text: str
    reading: Reading
    open: Callable[[Progress], ImageSet]


def other_readings(images: ImageSet, source: str | Path, reading: Reading) -> list[OtherReading]:
    """Return the other readings of a source that can give other pixels, one for each rule that was a choice.

    Args:
        images: The set as it was read, or one that was made of it.
        source: What `open_images` was given.
        reading: How it was read; its split stays.
    """

    def opened(other: Reading, progress: Progress) -> ImageSet:
        return open_images(source, progress=progress, reading=other)

    return [
        OtherReading(text, other, partial(opened, other))
        for conversion in images.conversions
        if conversion.changes_pixels
        for text, other in _others(conversion, reading)
    ]


def _others(conversion: Conversion, reading: Reading) -> Iterator[tuple[str, Reading]]:
    for value, text in _TEXT.get(conversion.key, {}).items():
        if value != getattr(reading, conversion.key):
            yield text, replace(reading, **{conversion.key: value})
    if conversion.key == "white" and conversion.largest:
        largest = conversion.largest
        for white in dict.fromkeys((_HIGHEST, largest, 2 ** largest.bit_length() - 1)):
            if str(white) != conversion.choice:
                yield f"white level {white:,} of 16-bit files", replace(reading, white=white)


def read_digits(split: str) -> ImageSet:
    """Return the 1,797 handwritten digits that come with scikit-learn: (1797, 1, 8, 8), ten classes, in the order of scikit-learn.

    The values 0 to 16 of the scans become 0 to 255 by round(v * 255 / 16). Source: Alpaydin and Kaynak 1998,
    "Optical Recognition of Handwritten Digits", the test part of the UCI data set, as
    `sklearn.datasets.load_digits`.

    Raises:
        UserError: `split` is 'test': the digits are one set.
    """
    if split == "test":
        raise UserError(
            "The digits have no test split. Hold some out instead: diffmem.data.hold_out(images, n, seed) "
            "gives both parts."
        )
    from sklearn.datasets import load_digits

    scans, labels = load_digits(return_X_y=True)
    images = np.rint(scans * 255 / 16).astype(np.uint8).reshape(-1, 1, 8, 8)
    names = tuple(f"digit_{index:04d}" for index in range(len(images)))
    step = f"handwritten digits of scikit-learn: {len(images)} images"
    return ImageSet(frozen(images), labels.astype(np.int64), names, tuple("0123456789"), (step,))
