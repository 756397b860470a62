"""A zip of images with `dataset.json`, the layout that StyleGAN and EDM read and write.

Members are images (PNG or JPEG, where EDM is to read them) in any folders, ordered by name. `dataset.json` holds {"labels":
[["00000/img00000000.png", 3], ...]} or {"labels": null}. Sets written by `write_images` add keys of their
own, which other readers ignore: `class_names`, `names`, `captions`, `repeats`, `history` and `fingerprint`.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from diffmem.data.formats.arrays import naming
from diffmem.data.formats.decoding import Files, identity_of
from diffmem.data.formats.files import PassedOver, divide
from diffmem.data.formats.folder import labels_of
from diffmem.data.formats.guards import reading as as_text
from diffmem.data.formats.json_lists import read_object
from diffmem.data.formats.signatures import HEAD_BYTES
from diffmem.data.formats.stack import Stacked, stack_images
from diffmem.data.formats.zip_directory import ZipDirectory, open_directory
from diffmem.data.images import ImageSet, frozen
from diffmem.data.names import LazyNames, PackedNames
from diffmem.data.reading import AS_USUAL, Reading
from diffmem.errors import UserError
from diffmem.progress import NO_PROGRESS, Progress

__all__ = ["LABEL_FILE", "read_zip"]

LABEL_FILE = "dataset.json"
_SLACK = 2_000  # images' worth of description beyond the images that are there
_JSON_BYTES, _JSON_VALUES = 2_000, 64  # most for each image


def read_zip(
    path: Path, progress: Progress = NO_PROGRESS, reading: Reading = AS_USUAL, split: str | None = None
) -> ImageSet:
    """Read a zip of images: what `read_folder` reads in a folder.

    Args:
        path: The zip.
        progress: Called now and then while images are decoded.
        reading: How images are decoded.
        split: Which split is read, if its folders are splits; see `divide`.

    Returns:
        The images ordered by member name, with the labels of `dataset.json` if it has any. Folders are classes only
        inside of a split.

    Raises:
        UserError: The zip or an image is damaged or refused, sizes differ, there are several splits, or the labels do not
            fit the images.
    """
    what, passed_over = f"{path}: {LABEL_FILE}", PassedOver()
    with open_directory(path) as archive:
        names = archive.names
        every = np.array(
            [place for place in archive.order() if _is_image(archive, place, names[place], passed_over)],
            np.int64,
        )
        if not len(every):
            raise passed_over.nothing(str(path))
        listed = archive.names_at(every)
        chosen, classes, division = divide(map(_path, listed), split, str(path), in_archive=True)
        files = every[np.asarray(chosen)]
        encoded = Files(
            archive.names_at(files),
            lambda index: archive.read(int(files[index])),
            held=int(archive.packed[files].sum()),
            identity=identity_of([path]),
        )
        stacked = stack_images(encoded, str(path), reading, progress)
        described = _description(archive, listed, what)
    places = np.asarray(chosen)[stacked.files]
    labels, class_names = _labels(described, listed, places, what)
    if division and labels is None and all("/" in below for below in classes):
        labels, class_names = labels_of(classes, stacked.files)
    history = _text(described, "history", what) or ()
    conversions = (*division, *passed_over.conversions(len(every)), *stacked.conversions)
    steps = (f"zip {path.name}: {len(stacked.images)} images", *(one.sentence for one in conversions))
    shown = _names(described, stacked, places, len(every), what)
    captions = _captions(described, places, len(every), what)
    repeats = _repeats(described, places, len(every), what)
    with naming(path):
        result = ImageSet(
            stacked.images, labels, shown, class_names, (*history, *steps), conversions, captions, repeats
        )
    recorded = described.get("fingerprint")
    if recorded is not None and recorded != result.fingerprint:
        changed = f"{LABEL_FILE} records another fingerprint: the zip was changed after it was written"
        return replace(result, history=(*result.history, changed))
    return result


def _is_image(archive: ZipDirectory, place: int, name: str, passed_over: PassedOver) -> bool:
    path = _path(name)
    if name == LABEL_FILE or "__MACOSX" in path.split("/"):
        return False
    if any(part.startswith(".") for part in path.split("/")):
        passed_over.hide(path)
        return False
    return passed_over.is_read(path, lambda: archive.head(place, HEAD_BYTES))


def _path(name: str) -> str:
    """Return the name of a member with / between folders: Windows has written others."""
    return name.replace("\\", "/")


def _names(
    described: dict[str, Any], stacked: Stacked, places: NDArray[np.int64], total: int, what: str
) -> Sequence[str]:
    """Return the names that the description lists, else those of the files."""
    names = described.get("names")
    if not names:
        return stacked.names
    if not isinstance(names, PackedNames):
        raise UserError(f"{what}: 'names' must be a list of texts.")
    if len(names) != total:
        raise UserError(f"{what} lists {len(names)} names for {total} images; build the zip again.")
    if stacked.several:  # files of several pages
        return stacked.names
    return names.take(places)


def _captions(
    described: dict[str, Any], places: NDArray[np.int64], total: int, what: str
) -> tuple[str | None, ...] | None:
    captions = described.get("captions")
    if captions is None:
        return None
    if not isinstance(captions, list) or len(captions) != total:
        raise UserError(f"{what}: 'captions' must list a text or null for each of the {total} images.")
    return tuple(captions[place] for place in places.tolist())


def _repeats(
    described: dict[str, Any], places: NDArray[np.int64], total: int, what: str
) -> NDArray[np.int64] | None:
    repeats = described.get("repeats")
    if repeats is None:
        return None
    if (
        not isinstance(repeats, list)
        or len(repeats) != total
        or any(type(one) is not int or not 0 < one < 10**7 for one in repeats)
    ):
        raise UserError(
            f"{what}: 'repeats' must list a whole number from 1 on for each of the {total} images."
        )
    return np.array([repeats[place] for place in places.tolist()], np.int64)


def _description(archive: ZipDirectory, listed: LazyNames, what: str) -> dict[str, Any]:
    """Return what `dataset.json` says: its labels as numbers in the order of `listed`, its names packed."""
    place = next((place for place, name in enumerate(archive.names) if name == LABEL_FILE), None)
    if place is None:
        return {}
    images = len(listed)
    _check_size(int(archive.sizes[place]), _JSON_BYTES * (_SLACK + images), "bytes", images, what)
    content = archive.read(place)
    # A value is separated from another or opens a group of its own, and takes some 60 bytes however short it is.
    values = content.count(b",") + content.count(b"[") + content.count(b"{")
    _check_size(values, _JSON_VALUES * (_SLACK + images), "values", images, what)
    with as_text(what):
        text = content.decode(json.detect_encoding(content))
        del content
        described = read_object(
            text,
            {
                "labels": lambda pairs: _numbers(pairs, listed, what),
                "names": lambda names: _packed(names, what),
            },
        )
    if not isinstance(described, dict):
        raise UserError(f'{what} must hold {{"labels": [["image.png", 3], ...]}} or {{"labels": null}}.')
    if isinstance(described.get("labels"), dict):
        described["labels"] = _numbers(map(list, described["labels"].items()), listed, what)
    return described


def _packed(names: Iterator[object], what: str) -> PackedNames | None:
    def texts() -> Iterator[str]:
        for name in names:
            if not isinstance(name, str):
                raise UserError(f"{what}: 'names' must be a list of texts.")
            yield name

    content, ends = PackedNames.pack(texts())
    return PackedNames(content, ends) if len(ends) else None


def _check_size(count: int, limit: int, of: str, images: int, what: str) -> None:
    if count > limit:
        raise UserError(
            f"{what} is refused: it has {count:,} {of} for {images:,} images, which take {limit:,} at most."
        )


def _numbers(pairs: Iterator[object], listed: LazyNames, what: str) -> NDArray[np.int64]:
    """Return the label of each image that is listed, -1 for none.

    Usually they come in the order of the images, or nearly; only for others is a table of all names made.
    """
    labels = np.full(len(listed), -1, np.int64)
    table: dict[str, int] = {}
    unknown: set[str] = set()
    expected = 0
    for pair in pairs:
        if not isinstance(pair, list) or len(pair) != 2:
            raise UserError(f"{what}: 'labels' must be a list of pairs [image name, class number], or null.")
        name, label = pair
        if type(label) is not int or not 0 <= label <= np.iinfo(np.int32).max or not isinstance(name, str):
            raise UserError(
                f"{what}: the label of {str(name)[:100]!r} is {str(label)[:40]}; labels must be class "
                "numbers from 0 on (a one-hot vector becomes the position of its 1)."
            )
        name = name.replace("\\", "/")
        place: int | None = expected
        if expected == len(listed) or listed[expected] != name:
            table = table or {image: number for number, image in enumerate(listed)}
            place = table.get(name)
        if place is None:
            unknown.add(name)
            continue
        labels[place], expected = label, place + 1
    if unknown:
        raise UserError(
            f"{what} labels {len(unknown)} images that the zip lacks, the first is {min(unknown)[:100]!r}."
        )
    return labels


def _labels(
    described: dict[str, Any], listed: LazyNames, places: NDArray[np.int64], what: str
) -> tuple[NDArray[np.int64] | None, tuple[str, ...] | None]:
    """Return the labels of the images at some places, and the names of the classes."""
    every = described.get("labels")
    if every is None:
        return None, None
    if not isinstance(every, np.ndarray):
        raise UserError(f"{what}: 'labels' must be a list of pairs [image name, class number], or null.")
    labels = every[places]
    lacking = np.unique(places[labels < 0])
    if len(lacking):
        raise UserError(
            f"{what} has no label for {len(lacking)} images, the first is {listed[int(lacking[0])][:100]!r}."
        )
    return frozen(labels), _text(described, "class_names", what)


def _text(described: dict[str, Any], key: str, what: str) -> tuple[str, ...] | None:
    words = described.get(key)
    if words is None:
        return None
    if not isinstance(words, list) or not all(isinstance(word, str) for word in words):
        raise UserError(f"{what}: {key!r} must be a list of texts.")
    return tuple(words)
