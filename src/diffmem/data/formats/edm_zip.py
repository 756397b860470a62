"""A zip of images with `dataset.json`, the layout that StyleGAN and EDM read and write.

Members are images (PNG or JPEG, where EDM is to read them) in any folders, ordered by name. `dataset.json` holds {"labels":
[["00000/img00000000.png", 3], ...]} or {"labels": null}. Sets written by `write_images` add keys of their
own, which other readers ignore: `class_names`, `names`, `captions`, `history` and `fingerprint`.
"""

from __future__ import annotations

import json
import zipfile
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from diffmem.data.formats.arrays import naming
from diffmem.data.formats.files import PassedOver, divide
from diffmem.data.formats.folder import labels_of
from diffmem.data.formats.guards import checked_zip, read_member
from diffmem.data.formats.guards import reading as reading_text
from diffmem.data.formats.signatures import HEAD_BYTES
from diffmem.data.formats.stack import Stacked, stack_images
from diffmem.data.images import ImageSet, frozen
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
    with checked_zip(path) as archive:
        members = {info.filename: info for info in archive.infolist() if not info.is_dir()}
        every = sorted(name for name in members if _is_image(archive, members[name], passed_over))
        if not every:
            raise passed_over.nothing(str(path))
        chosen, classes, division = divide([_path(name) for name in every], split, str(path), in_archive=True)
        files = [every[index] for index in chosen]
        infos = [members[name] for name in files]
        stacked = stack_images(
            files,
            lambda index: read_member(archive, infos[index]),
            str(path),
            reading,
            progress,
            held=sum(info.compress_size for info in infos),
        )
        described = _description(archive, members.get(LABEL_FILE), len(every), what)
    by_file = _labels(described.get("labels"), files, every, what)
    labels = None if by_file is None else frozen(by_file[stacked.files])
    class_names = _text(described, "class_names", what) if labels is not None else None
    if division and labels is None and all("/" in below for below in classes):
        labels, class_names = labels_of(classes, stacked.files)
    history = _text(described, "history", what) or ()
    conversions = (*division, *passed_over.conversions(len(every)), *stacked.conversions)
    steps = (f"zip {path.name}: {len(stacked.images)} images", *(one.sentence for one in conversions))
    names = _names(described, stacked, chosen, len(every), what)
    captions = _captions(described, stacked, chosen, len(every), what)
    with naming(path):
        result = ImageSet(
            stacked.images, labels, names, class_names, (*history, *steps), conversions, captions
        )
    recorded = described.get("fingerprint")
    if recorded is not None and recorded != result.fingerprint:
        changed = f"{LABEL_FILE} records another fingerprint: the zip was changed after it was written"
        return replace(result, history=(*result.history, changed))
    return result


def _is_image(archive: zipfile.ZipFile, info: zipfile.ZipInfo, passed_over: PassedOver) -> bool:
    path = _path(info.filename)
    if info.filename == LABEL_FILE or any(
        part.startswith(".") or part == "__MACOSX" for part in path.split("/")
    ):
        return False
    return passed_over.is_read(path, lambda: _head(archive, info))


def _path(name: str) -> str:
    """Return the name of a member with / between folders: Windows has written others."""
    return name.replace("\\", "/")


def _head(archive: zipfile.ZipFile, info: zipfile.ZipInfo) -> bytes:
    with reading_text(f"{archive.filename}: {info.filename}"), archive.open(info) as stream:
        return stream.read(HEAD_BYTES)


def _names(
    described: dict[str, Any], stacked: Stacked, chosen: list[int], total: int, what: str
) -> tuple[str, ...]:
    """Return the names that the description lists, else those of the files."""
    names = _text(described, "names", what)
    if not names:
        return stacked.names
    if len(names) != total:
        raise UserError(f"{what} lists {len(names)} names for {total} images; build the zip again.")
    if len(stacked.files) != len(chosen):  # files of several pages
        return stacked.names
    return tuple(names[chosen[file]] for file in stacked.files)


def _captions(
    described: dict[str, Any], stacked: Stacked, chosen: list[int], total: int, what: str
) -> tuple[str | None, ...] | None:
    captions = described.get("captions")
    if captions is None:
        return None
    if not isinstance(captions, list) or len(captions) != total:
        raise UserError(f"{what}: 'captions' must list a text or null for each of the {total} images.")
    return tuple(captions[chosen[file]] for file in stacked.files)


def _description(
    archive: zipfile.ZipFile, info: zipfile.ZipInfo | None, images: int, what: str
) -> dict[str, Any]:
    if info is None:
        return {}
    _check_size(info.file_size, _JSON_BYTES * (_SLACK + images), "bytes", images, what)
    content = read_member(archive, info)
    # A value is separated from another or opens a group of its own, and takes some 60 bytes however short it is.
    values = content.count(b",") + content.count(b"[") + content.count(b"{")
    _check_size(values, _JSON_VALUES * (_SLACK + images), "values", images, what)
    with reading_text(what):
        described = json.loads(content)
    if not isinstance(described, dict):
        raise UserError(f'{what} must hold {{"labels": [["image.png", 3], ...]}} or {{"labels": null}}.')
    return described


def _check_size(count: int, limit: int, of: str, images: int, what: str) -> None:
    if count > limit:
        raise UserError(
            f"{what} is refused: it has {count:,} {of} for {images:,} images, which take {limit:,} at most."
        )


def _labels(listed: object, files: list[str], every: list[str], what: str) -> NDArray[np.int64] | None:
    if listed is None:
        return None
    pairs = list(listed.items()) if isinstance(listed, dict) else listed
    if not isinstance(pairs, list) or not all(
        isinstance(pair, (list, tuple)) and len(pair) == 2 for pair in pairs
    ):
        raise UserError(f"{what}: 'labels' must be a list of pairs [image name, class number], or null.")
    by_name: dict[str, int] = {}
    for name, label in pairs:
        if type(label) is not int or not 0 <= label <= np.iinfo(np.int32).max or not isinstance(name, str):
            raise UserError(
                f"{what}: the label of {str(name)[:100]!r} is {str(label)[:40]}; labels must be class "
                "numbers from 0 on (a one-hot vector becomes the position of its 1)."
            )
        by_name[name.replace("\\", "/")] = label
    unknown = sorted(by_name.keys() - set(every))
    if unknown:
        raise UserError(
            f"{what} labels {len(unknown)} images that the zip lacks, the first is {unknown[0][:100]!r}."
        )
    lacking = [file for file in files if file not in by_name]
    if lacking:
        raise UserError(f"{what} has no label for {len(lacking)} images, the first is {lacking[0][:100]!r}.")
    return np.array([by_name[file] for file in files], np.int64)


def _text(described: dict[str, Any], key: str, what: str) -> tuple[str, ...] | None:
    words = described.get(key)
    if words is None:
        return None
    if not isinstance(words, list) or not all(isinstance(word, str) for word in words):
        raise UserError(f"{what}: {key!r} must be a list of texts.")
    return tuple(words)
