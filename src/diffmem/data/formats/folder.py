"""A folder of image files; its sub-folders, if it has any, are the classes."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from diffmem.data.conversions import Conversion, name_text
from diffmem.data.formats.decoding import FileFacts
from diffmem.data.formats.encoded import NOTE_FILE, Encoded, image_set_of, noted
from diffmem.data.formats.files import PassedOver, divide
from diffmem.data.formats.guards import MAX_FILE_BYTES, is_folder, is_plain_file, read_plain, stays_inside
from diffmem.data.formats.guards import reading as reading_text
from diffmem.data.formats.listing import METADATA, Listing, read_listing
from diffmem.data.formats.sidecars import SIDECAR_ENDINGS, read_sidecars, stem_of
from diffmem.data.formats.signatures import HEAD_BYTES, LIKELY, ending_of
from diffmem.data.images import ImageSet, frozen
from diffmem.data.reading import AS_USUAL, OPTIONS, Reading
from diffmem.errors import UserError
from diffmem.progress import NO_PROGRESS, Progress
from diffmem.text import count_text

__all__ = ["labels_of", "read_folder", "read_listed"]

_NOT_LOOKED_AT = frozenset({".git", ".hg", ".svn", ".dvc", "__MACOSX"})


def read_folder(
    path: Path, progress: Progress = NO_PROGRESS, reading: Reading = AS_USUAL, split: str | None = None
) -> ImageSet:
    """Read the images of a folder, sorted by their path.

    Files are known by their content, whatever they are called. Images right in the folder have no labels. Images in
    sub-folders have the sub-folder (of the first level) as their class; classes are numbered in sorted order. If the
    sub-folders are splits, as train and test, one of them is read, see `divide`. Where metadata.jsonl or metadata.csv
    describes the images, labels and captions are its, and sub-folders are no classes, as in Hugging Face's imagefolder. Elsewhere, texts
    beside images are their captions, and folders `N_name` that have such texts are repeats and no classes; see `read_sidecars`.
    Hidden files are skipped; so are files of other kinds, which the history then tells.

    Args:
        path: The folder.
        progress: Called now and then while images are decoded.
        reading: How images are decoded.
        split: Which split is read, if the folder holds splits.

    Raises:
        UserError: No image, a broken one, unequal sizes, images both beside and inside of sub-folders, several splits, a
            description without an image or an image without one, or a link that leads out of the folder or in a circle.
    """
    passed_over = PassedOver()
    found = _Found(path, reading.follow_links, passed_over)
    texts, others = found.texts()
    files = found.files
    names = [_shown(name) for name in files]
    if not names:
        raise passed_over.nothing(str(path))
    if found.metadata:
        for text in texts:
            passed_over.add(_shown(text))
    conversions = (*found.conversions(), *passed_over.conversions(len(names)))
    chosen, classes, division = divide(names, split, str(path))
    files, names = [files[index] for index in chosen], [names[index] for index in chosen]
    described = _described(found.metadata, names, path)
    beside = None if found.metadata else read_sidecars(path, files, classes, texts, others)
    direct = [name for name, below in zip(names, classes, strict=True) if "/" not in below]
    inside = [name for name, below in zip(names, classes, strict=True) if "/" in below]
    if described is None and direct and inside:
        raise UserError(
            f"{path} has images beside its sub-folders ({direct[0]}) and inside of them ({inside[0]}): the "
            "classes are unclear. Move the first into a sub-folder of their own, or out of the folder."
        )

    text = str(path)

    def path_of(index: int) -> str:
        return f"{text}/{files[index]}"

    def read(index: int) -> bytes:
        return read_plain(path_of(index), MAX_FILE_BYTES, f"{text}: {names[index]}")

    encoded = Encoded(
        names, read, found.held, path_of, str(found.facts), conversions=(*division, *conversions)
    )
    for one in (described, beside):
        if one is not None:
            encoded = replace(
                encoded,
                captions=one.captions,
                repeats=one.repeats,
                conversions=(*encoded.conversions, *one.conversions),
            )
    note = path / NOTE_FILE
    if (described is not None or encoded.repeats is not None) and note.is_file() and not note.is_symlink():
        class_names, history = noted(read_plain(note, MAX_FILE_BYTES, str(note)), str(note))
        labelled = described is not None and any(label is not None for label in described.labels or ())
        encoded = replace(encoded, class_names=class_names if labelled else None, history=history)
    if described is not None:
        encoded = replace(encoded, labels=described.labels)
    elif inside and encoded.repeats is None:
        numbers, class_names = labels_of(classes, np.arange(len(classes)))
        encoded = replace(encoded, labels=numbers.tolist(), class_names=class_names)
    return image_set_of(encoded, str(path), f"folder {path.resolve().name}", reading, progress)


def labels_of(paths: Sequence[str], files: NDArray[np.int64]) -> tuple[NDArray[np.int64], tuple[str, ...]]:
    """Return the label of each image and the names of the classes: the first folder of its path.

    Args:
        paths: Of each file, with / between folders.
        files: Which file each image is of.
    """
    class_names = tuple(sorted({path.partition("/")[0] for path in paths}))
    number = {name: label for label, name in enumerate(class_names)}
    labels = np.array([number[path.partition("/")[0]] for path in paths], np.int64)
    return frozen(labels[files]), class_names


class _Found:
    """The image files of a folder, sorted, with the bytes of all; and the files that describe them.

    Args:
        path: The folder.
        follow: Whether links to folders and out of the folder are followed.
        passed_over: Takes note of other files.

    Raises:
        UserError: A link is refused, or a folder cannot be read.
    """

    def __init__(self, path: Path, follow: bool, passed_over: PassedOver) -> None:
        with reading_text(str(path)):
            self._root = path.resolve()
        self._path, self._follow, self._passed_over = path, follow, passed_over
        self._links = 0
        self.metadata: list[Path] = []
        self._texts: list[tuple[str, os.DirEntry[str]]] = []
        self.files: list[str] = []
        self.held, self.facts = 0, FileFacts()
        waiting = [("", frozenset({self._root}))]
        while waiting:  # os.walk calls itself for each level of a deep folder
            below, above = waiting.pop()
            folder = path / below
            try:
                with os.scandir(str(folder)) as listed:
                    others = [entry for entry in listed if not self._taken(below, entry)]
                    for entry in sorted(others, key=lambda entry: entry.name):
                        name = below + entry.name
                        if entry.name.startswith(".") or entry.name == "__MACOSX":
                            self._hide(name, entry)
                            continue
                        if entry.is_dir(follow_symlinks=False):
                            # Links lead in a circle only through a folder that lies above them.
                            here = above | {(path / name).resolve()} if follow else above
                            waiting.append((f"{name}/", here))
                        elif entry.is_symlink() and is_folder(path / name):
                            waiting.append((f"{name}/", self._linked(path / name, above)))
                        elif self._is_metadata(name, entry):
                            self.metadata.append(path / name)
                        elif ending_of(name) in SIDECAR_ENDINGS:
                            self._texts.append((name, entry))
                        elif self._is_image(name, entry):
                            self._add(name, entry.stat())
            except OSError as error:
                raise UserError(f"Cannot read the folder {folder}: {error.strerror}.") from error
        self.files.sort()

    def texts(self) -> tuple[list[str], list[str]]:
        """Return the texts that have the path of an image but for the ending, and the other ones, which are skipped.

        To be called once, before `files` is used: what is called a text may be an image.
        """
        stems = {stem_of(name) for name in self.files}
        beside, others = [], []
        for name, entry in self._texts:
            if stem_of(name) in stems and entry.is_file() and (self._follow or self._is_inside(name, entry)):
                beside.append(name)
            elif self._is_image(name, entry):
                self._add(name, entry.stat())
            else:
                others.append(name)
        self.files.sort()
        return beside, others

    def _taken(self, below: str, entry: os.DirEntry[str]) -> bool:
        """Take an ordinary image file at once: of a million of them, the entries would take more memory than the names."""
        plain = (
            ending_of(entry.name) in LIKELY and entry.name[0] != "." and entry.is_file(follow_symlinks=False)
        )
        if plain:
            self._add(below + entry.name, entry.stat())
        return plain

    def _hide(self, name: str, entry: os.DirEntry[str]) -> None:
        """Count the images among hidden files; those of version control are not the user's."""
        if entry.is_file(follow_symlinks=False):
            self._passed_over.hide(_shown(name))
        elif entry.name not in _NOT_LOOKED_AT and entry.is_dir(follow_symlinks=False):
            for folder, _, files in os.walk(self._path / name):
                below = os.path.relpath(folder, self._path).replace(os.sep, "/")
                for file in files:
                    self._passed_over.hide(_shown(f"{below}/{file}"))

    def _add(self, name: str, facts: os.stat_result) -> None:
        self.files.append(name)
        self.facts.add(name, facts)
        self.held += facts.st_size

    def conversions(self) -> tuple[Conversion, ...]:
        """Return what is said of links that were followed."""
        if not self._links:
            return ()
        text = f"{count_text(self._links, 'link')} to folders, or out of {self._path.name}, followed"
        return (Conversion("links", "follow", self._links, len(self.files), text, True),)

    def _linked(self, file: Path, above: frozenset[Path]) -> frozenset[Path]:
        """Return the folders above those in a linked folder, itself among them."""
        if not self._follow:
            raise UserError(
                f"{file} is refused: it is a link to a folder. Put the images there instead, or follow links: --follow-links"
                f" ({OPTIONS})."
            )
        target = file.resolve()
        if target in above:
            raise UserError(f"{file} is refused: it is a link that leads in a circle; remove it.")
        self._links += 1
        return above | {target}

    def _is_inside(self, name: str, entry: os.DirEntry[str]) -> bool:
        return not entry.is_symlink() or stays_inside(self._path / name, self._root)

    def _is_metadata(self, name: str, entry: os.DirEntry[str]) -> bool:
        if entry.name not in METADATA or not entry.is_file():
            return False
        return self._follow or self._is_inside(name, entry)

    def _is_image(self, name: str, entry: os.DirEntry[str]) -> bool:
        inside = self._is_inside(name, entry)
        if ending_of(entry.name) not in LIKELY:
            shown = _shown(name)
            # Only a file of the folder itself is opened to see what it is: a pipe would be waited for, a link may lead anywhere.
            if not (inside or self._follow) or not entry.is_file():
                self._passed_over.add(shown)
                return False
            file = self._path / name
            if not self._passed_over.is_read(shown, lambda: _head(file, f"{self._path}: {shown}")):
                return False
        if entry.is_symlink() and not (self._path / name).exists():
            raise UserError(f"{self._path / name} is a link to a file that is not there; mend or remove it.")
        if not inside and not self._follow:
            raise UserError(
                f"{self._path / name} is refused: it is a link that leads out of {self._path}. Copy the image instead, or follow"
                f" links: --follow-links ({OPTIONS})."
            )
        if not entry.is_file():
            raise UserError(f"{self._path / name} is no plain file; remove it.")
        self._links += not inside
        return True


def _described(metadata: list[Path], names: list[str], path: Path) -> Listing | None:
    """Return what the files that describe images say of these; none if there are no such files."""
    if not metadata:
        return None
    place_of = {name: place for place, name in enumerate(names)}
    labels: list[int | str | None] = [None] * len(names)
    captions: list[str | None] = [None] * len(names)
    repeats: list[int | None] = [None] * len(names)
    by: list[Path | None] = [None] * len(names)
    conversions: list[Conversion] = []
    for file in sorted(metadata, key=lambda file: (len(file.parts), file)):
        listing = read_listing(file)
        folder = "" if file.parent == path else f"{_shown(file.parent.relative_to(path).as_posix())}/"
        if folder and not any(name.startswith(folder) for name in names):
            continue  # of another split
        conversions += listing.conversions
        for number, listed in enumerate(listing.files):
            place = place_of.get(folder + listed)
            if place is None:
                if is_plain_file(file.parent / listed):
                    continue  # of another split
                raise UserError(
                    f"{file} describes {name_text(listed)}, which is not there. Add the image, or remove its entry."
                )
            if by[place] is not None:
                raise UserError(
                    f"{names[place]} is described twice, in {by[place]} and {file}; keep one of the entries."
                )
            by[place] = file
            labels[place] = None if listing.labels is None else listing.labels[number]
            captions[place] = None if listing.captions is None else listing.captions[number]
            repeats[place] = None if listing.repeats is None else listing.repeats[number]
    lacking = [name for name, file in zip(names, by, strict=True) if file is None]
    if len(lacking) == len(names):
        return None
    if lacking:
        raise UserError(
            f"{path}: {count_text(len(lacking), 'image')} of {len(names):,} have no entry in {metadata[0].name}; the first is"
            f" {name_text(lacking[0])}. Describe them, or take them out."
        )
    sources = ", ".join(dict.fromkeys(file.name for file in by if file is not None))
    text = f"labels and captions of {sources}, not of sub-folders"
    note = Conversion("described", "metadata", len(names), len(names), text, False)
    return Listing(
        names,
        labels,
        captions,
        (note, *conversions),
        None if None in repeats else [one or 1 for one in repeats],
    )


def read_listed(
    path: Path, progress: Progress = NO_PROGRESS, reading: Reading = AS_USUAL, split: str | None = None
) -> ImageSet:
    """Read the images that a CSV or a file of JSON lines lists, in its order; a file that is listed twice is read twice.

    Args:
        path: The file; see `read_listing`. Its paths start at its own folder.
        progress: Called now and then while images are decoded.
        reading: How images are decoded.
        split: Which split is read, if the folders of the paths are splits; see `divide`.

    Raises:
        UserError: See `read_listing`; or a file is not there, lies outside of the folder, or is no image.
    """
    listing, base = read_listing(path), path.parent
    chosen, _, division = divide(listing.files, split, str(path), in_archive=True)
    files = [listing.files[index] for index in chosen]
    root, inside = base.resolve(), dict[str, bool]()
    held = outside = 0
    facts = FileFacts()
    for name in dict.fromkeys(files):
        file, folder = base / name, name.rpartition("/")[0]
        if not is_plain_file(file):
            raise UserError(
                f"{path} lists {name_text(name)}, which is not there. Add the image, or remove its entry."
            )
        if folder not in inside:
            inside[folder] = stays_inside(file.parent, root)
        if not inside[folder] or (file.is_symlink() and not stays_inside(file, root)):
            outside += 1
            if not reading.follow_links:
                raise UserError(
                    f"{file} is refused: it is a link that leads out of {base}. Copy the image instead, or follow links:"
                    f" --follow-links ({OPTIONS})."
                )
        held += file.stat().st_size
        facts.add(name, file.stat())
    conversions = [*division, *listing.conversions]
    if outside:
        text = f"{count_text(outside, 'link')} out of {root.name} followed"
        conversions.append(Conversion("links", "follow", outside, len(files), text, True))
    encoded = Encoded(
        files,
        lambda index: read_plain(base / files[index], MAX_FILE_BYTES, f"{path}: {files[index]}"),
        held * max(1, len(files) // max(1, len(set(files)))),
        lambda index: str(base / files[index]),
        str(facts),
        None if listing.labels is None else [listing.labels[index] for index in chosen],
        None if listing.captions is None else [listing.captions[index] for index in chosen],
        repeats=None if listing.repeats is None else [listing.repeats[index] for index in chosen],
        conversions=tuple(conversions),
    )
    return image_set_of(encoded, str(path), f"list {path.name}", reading, progress)


def _shown(name: str) -> str:
    """Return the path of a file as text; what is not valid UTF-8 is shown with question marks."""
    return name if name.isascii() else os.fsencode(name).decode("utf-8", "replace")


def _head(file: Path, what: str) -> bytes:
    with reading_text(what), file.open("rb") as stream:
        return stream.read(HEAD_BYTES)
