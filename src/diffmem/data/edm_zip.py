"""A zip of images with `dataset.json`, the layout that StyleGAN and EDM read and write.

Members are PNG or JPEG files in any folders, ordered by name. `dataset.json` holds {"labels":
[["00000/img00000000.png", 3], ...]} or {"labels": null}. Sets written by `write_images` add keys of their
own, which other readers ignore: `class_names`, `names`, `history` and `fingerprint`.
"""

from __future__ import annotations

import json
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from diffmem.data.arrays import naming
from diffmem.data.decode import FORMATS, stack_images
from diffmem.data.guards import checked_zip, read_member, reading
from diffmem.data.images import ImageSet, frozen
from diffmem.errors import UserError
from diffmem.progress import NO_PROGRESS, Progress

__all__ = ["LABEL_FILE", "read_zip"]

LABEL_FILE = "dataset.json"
_FORMATS = ("PNG", "JPEG")
_SLACK = 2_000  # images' worth of description beyond the images that are there
_JSON_BYTES, _JSON_VALUES = 2_000, 64  # most for each image


def read_zip(path: Path, progress: Progress = NO_PROGRESS) -> ImageSet:
    """Read a zip of images.

    Returns:
        The images ordered by member name, with the labels of `dataset.json` if it has any.

    Raises:
        UserError: The zip or an image is damaged or refused, sizes differ, or the labels do not fit the
            images.
    """
    with checked_zip(path) as archive:
        members = {info.filename: info for info in archive.infolist() if not info.is_dir()}
        files = sorted(name for name in members if _is_image(name))
        infos = [members[name] for name in files]
        images, steps = stack_images(
            files,
            lambda index: read_member(archive, infos[index]),
            str(path),
            _FORMATS,
            progress,
            held=sum(info.compress_size for info in infos),
        )
        described = _description(archive, members.get(LABEL_FILE), len(files), f"{path}: {LABEL_FILE}")
    what = f"{path}: {LABEL_FILE}"
    labels = _labels(described.get("labels"), files, what)
    names = _words(described, "names", what) or tuple(files)
    if len(names) != len(files):
        raise UserError(f"{what} lists {len(names)} names for {len(files)} images; build the zip again.")
    class_names = _words(described, "class_names", what) if labels is not None else None
    history = _words(described, "history", what) or ()
    others = len(members) - len(files) - (LABEL_FILE in members)
    told = f"zip {path.name}: {len(files)} images" + (f"; {others} other files passed over" if others else "")
    with naming(path):
        result = ImageSet(images, labels, names, class_names, (*history, told, *steps))
    recorded = described.get("fingerprint")
    if recorded is not None and recorded != result.fingerprint:
        changed = f"{LABEL_FILE} records another fingerprint: the zip was changed after it was written"
        return ImageSet(images, result.labels, names, class_names, (*result.history, changed))
    return result


def _is_image(name: str) -> bool:
    folder, _, file = name.rpartition("/")
    hidden = file.startswith(".") or folder.split("/")[0] == "__MACOSX"
    return not hidden and FORMATS.get(Path(file).suffix.lower()) in _FORMATS


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
    with reading(what):
        described = json.loads(content)
    if not isinstance(described, dict):
        raise UserError(f'{what} must hold {{"labels": [["image.png", 3], ...]}} or {{"labels": null}}.')
    return described


def _check_size(count: int, limit: int, of: str, images: int, what: str) -> None:
    if count > limit:
        raise UserError(
            f"{what} is refused: it has {count:,} {of} for {images:,} images, which take {limit:,} at most."
        )


def _labels(listed: object, files: list[str], what: str) -> NDArray[np.int64] | None:
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
                "numbers from 0 on (a one-hot vector becomes the place of its 1)."
            )
        by_name[name.replace("\\", "/")] = label
    unknown = sorted(by_name.keys() - set(files))
    if unknown:
        raise UserError(
            f"{what} labels {len(unknown)} images that the zip lacks, the first is {unknown[0][:100]!r}."
        )
    lacking = [file for file in files if file not in by_name]
    if lacking:
        raise UserError(f"{what} has no label for {len(lacking)} images, the first is {lacking[0][:100]!r}.")
    return frozen(np.array([by_name[file] for file in files], np.int64))


def _words(described: dict[str, Any], key: str, what: str) -> tuple[str, ...] | None:
    words = described.get(key)
    if words is None:
        return None
    if not isinstance(words, list) or not all(isinstance(word, str) for word in words):
        raise UserError(f"{what}: {key!r} must be a list of texts.")
    return tuple(words)
