"""Sets written as what other programs read: WebDataset shards, and folders as Hugging Face's imagefolder or kohya's trainers have them.

What neither format has a place for, the names of the classes and the history, lies in a hidden file, which both pass over.
"""

from __future__ import annotations

import io
import json
import os
import shutil
import tarfile
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from diffmem.data.formats.encoded import NOTE_FILE, REPEATS_KEY
from diffmem.data.formats.png import encode_png
from diffmem.data.images import ImageSet
from diffmem.errors import DiffmemError, UserError
from diffmem.files import atomic_path
from diffmem.progress import Progress

__all__ = ["check_captions", "check_new_folder", "write_image_folder", "write_kohya_folder", "write_tars"]


def write_tars(images: ImageSet, files: Sequence[Path], progress: Progress) -> None:
    """Write WebDataset shards: members 00000000.png, with .cls for a label and .txt for a caption; the same set gives the same bytes.

    Args:
        images: The set.
        files: The shards, of which each takes an equal part, the first ones an image more where that must be.
        progress: Called now and then.

    Raises:
        UserError: There are more shards than images.
        DiffmemError: A file cannot be written.
    """
    if len(files) > len(images):
        raise UserError(f"{len(files):,} shards cannot be made of {len(images):,} images; name fewer.")
    each, more = divmod(len(images), len(files))
    start = 0
    for number, file in enumerate(files):
        end = start + each + (number < more)
        with atomic_path(file) as temporary, tarfile.open(temporary, "w", format=tarfile.USTAR_FORMAT) as tar:
            if number == 0:
                _add(tar, NOTE_FILE, _note(images))
            for index in range(start, end):
                _add(tar, f"{index:08d}.png", encode_png(images.images[index]))
                if images.labels is not None:
                    _add(tar, f"{index:08d}.cls", str(images.labels[index]).encode())
                caption = None if images.captions is None else images.captions[index]
                if caption is not None:
                    _add(tar, f"{index:08d}.txt", caption.encode())
                if index % 256 == 255:
                    progress(index + 1, len(images), "writing images")
        start = end


def check_new_folder(out: Path) -> None:
    """Refuse a folder that is there already and not empty, and a file."""
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise UserError(f"{out} is there already; name a new folder, or a file (.zip, .npz, .npy, .tar).")


def write_image_folder(images: ImageSet, out: Path, progress: Progress) -> None:
    """Write a folder of PNGs with metadata.jsonl: file_name, and label, text and repeats where the set has them.

    Raises:
        UserError: The folder is there already and not empty.
        DiffmemError: It cannot be written; then there is none.
    """
    with _new_folder(out, images) as made, (made / "metadata.jsonl").open("w", encoding="utf-8") as listing:
        for index, pixels in enumerate(images.images):
            file = f"{index // 1000:05d}/img{index:08d}.png"
            _put(made / file, encode_png(pixels))
            row: dict[str, object] = {"file_name": file}
            if images.labels is not None:
                row["label"] = int(images.labels[index])
            if images.captions is not None:
                row["text"] = images.captions[index]
            if images.repeats is not None:
                row[REPEATS_KEY] = int(images.repeats[index])
            listing.write(f"{json.dumps(row)}\n")
            if index % 256 == 255:
                progress(index + 1, len(images), "writing images")


def check_captions(images: ImageSet) -> None:
    """Refuse a set that kohya's folders cannot hold: an image has no caption and would be trained on with its folder's name."""
    lacking = sum(caption is None for caption in images.captions or (None,))
    if lacking:
        raise UserError(
            f"Kohya's folders need a caption for each image, and {'all' if images.captions is None else f'{lacking:,}'} of {len(images):,}"
            " have none. Caption them, or write a folder of the form imagefolder."
        )


def write_kohya_folder(images: ImageSet, out: Path, progress: Progress) -> None:
    """Write a folder as kohya's trainers read it: `N_images/img00000000.png` with its caption in the .txt of that name.

    N is how often an epoch holds the images, 1 where the set does not tell. Line breaks in captions become spaces, since only the first
    line counts. Labels are not kept.

    Raises:
        UserError: The folder is there already and not empty, or an image has no caption.
        DiffmemError: It cannot be written; then there is none.
    """
    check_captions(images)
    with _new_folder(out, images) as made:
        for index, caption in enumerate(images.captions or ()):
            count = 1 if images.repeats is None else int(images.repeats[index])
            stem = made / f"{count}_images" / f"img{index:08d}"
            _put(stem.with_suffix(".png"), encode_png(images.images[index]))
            stem.with_suffix(".txt").write_text(
                f"{' '.join((caption or '').split())}\n", encoding="utf-8", newline="\n"
            )
            if index % 256 == 255:
                progress(index + 1, len(images), "writing images")


@contextmanager
def _new_folder(out: Path, images: ImageSet) -> Iterator[Path]:
    """Give a folder that becomes `out` once it is whole, with the note of a set."""
    check_new_folder(out)
    made = None
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        made = Path(tempfile.mkdtemp(prefix=f".{out.name}.", dir=out.parent))
        yield made
        (made / NOTE_FILE).write_bytes(_note(images))
        mask = os.umask(0)
        os.umask(mask)
        made.chmod(0o777 & ~mask)  # mkdtemp makes private folders
        made.replace(out)
    except OSError as error:
        raise DiffmemError(
            f"Cannot write {out}: {error.strerror or error}. No folder was made. Free some space, or choose another place."
        ) from error
    finally:
        if made is not None and made.exists():
            shutil.rmtree(made, ignore_errors=True)


def _put(file: Path, content: bytes) -> None:
    file.parent.mkdir(exist_ok=True)
    file.write_bytes(content)


def _note(images: ImageSet) -> bytes:
    return json.dumps({"class_names": images.class_names, "history": images.history}).encode()


def _add(tar: tarfile.TarFile, name: str, content: bytes) -> None:
    info = tarfile.TarInfo(name)
    info.size = len(content)
    tar.addfile(info, io.BytesIO(content))
    tar.getmembers().clear()  # the list itself, of no use here; of a million images it takes a gigabyte
