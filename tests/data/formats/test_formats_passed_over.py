"""Files are known by their content, and a zip reads what a folder reads."""

import os

import numpy as np
import pytest
from data_builders import encoded, write_zip
from encoded_images import PHOTO

from diffmem.data import open_images
from diffmem.errors import UserError

CONTENTS = {
    "a.png": "PNG", "b.JPG": "JPEG", "c.jfif": "JPEG", "d.avif": "AVIF", "e.ppm": "PPM", "f": "PNG", "g.dat": "WEBP",
    "h.png": "GIF", "i.Tiff": "TIFF", "j.bmp": "BMP", "k.jpg": "WEBP", "deep/er/l.webp": "PNG", "deep/m.txt": "JPEG",
}  # fmt: skip


def files():
    return {name: encoded(PHOTO, kind) for name, kind in CONTENTS.items()}


def put(place, contents):
    for name, content in contents.items():
        (place / name).parent.mkdir(parents=True, exist_ok=True)
        (place / name).write_bytes(content)
    return place


def test_a_zip_reads_what_a_folder_reads_whatever_it_is_called(tmp_path):
    within = {f"all/{name}": content for name, content in files().items()}
    hidden = {
        "__MACOSX/all/._a.png": b"x",
        "all/.DS_Store": b"x",
        "all/.hidden/z.png": files()["a.png"],
        "all/notes.md": b"x",
    }
    folder = open_images(put(tmp_path / "set", within | hidden))
    archive = open_images(write_zip(tmp_path / "set.zip", within | hidden))
    np.testing.assert_array_equal(folder.images, archive.images)
    assert folder.names == archive.names == tuple(sorted(within))
    assert folder.history[1:] == archive.history[1:]
    assert folder.history[1:3] == (
        "1 hidden image not read (all/.hidden/z.png)", "1 other file skipped (all/notes.md)",
    )  # fmt: skip


def test_a_zip_that_holds_an_array_beside_its_images_is_one_of_images(tmp_path):
    images = open_images(write_zip(tmp_path / "set.zip", {"a.png": files()["a.png"], "features.npy": b"x"}))
    assert images.history[1].startswith("1 file that may hold further images not opened (features.npy)")


@pytest.mark.parametrize("archive", [False, True])
def test_archives_and_arrays_beside_images_and_hidden_images_are_told_apart(tmp_path, archive):
    contents = {
        **dict.fromkeys(("a.png", ".thumbnails/a.png", ".b.png", "._a.png", ".git/annex/c.png"), encoded(PHOTO)),
        **dict.fromkeys(("rest.zip", "part.tar.gz", "more.npz", "notes.txt"), b"x"),
    }  # fmt: skip
    place = write_zip(tmp_path / "s.zip", contents) if archive else put(tmp_path / "s", contents)
    images = open_images(place)
    assert images.names == ("a.png",)
    told = {one.key: one.count for one in images.conversions}
    assert told == {"hidden": 3 if archive else 2, "not-opened": 3, "passed-over": 1}


def test_a_source_of_archives_alone_says_what_to_do(tmp_path):
    with pytest.raises(
        UserError, match=r"2 files that may hold .* \(a\.zip, b\.npz\): unpack them, or name one"
    ):
        open_images(put(tmp_path / "s", {"a.zip": b"x", "b.npz": b"x"}))


def test_raw_files_of_cameras_and_kinds_without_a_signature_are_no_images_that_are_read(tmp_path):
    contents = {"a.png": encoded(PHOTO), "b.NEF": encoded(PHOTO, "TIFF"), "c.tga": encoded(PHOTO, "TGA")}
    images = open_images(put(tmp_path / "set", contents))
    assert images.names == ("a.png",)
    assert (
        "2 of 3 files not read: images of unsupported formats, camera raw 1, Targa (TGA) 1"
        in images.history[1]
    )


@pytest.mark.parametrize("archive", [False, True])
def test_a_source_of_nothing_but_other_kinds_says_which(tmp_path, archive):
    contents = {"a.heic": b"\0\0\0\x18ftypheic\0\0\0\0mif1heic", "b.txt": b"a cat"}
    place = write_zip(tmp_path / "s.zip", contents) if archive else put(tmp_path / "s", contents)
    with pytest.raises(
        UserError,
        match=r"holds no images; .* 1 of 2 files not read: .* HEIC 1 \(a\.heic\); 1 other file skipped \(b\.txt\)\.",
    ):
        open_images(place)


def test_names_in_the_history_are_short_and_send_nothing_to_a_terminal(tmp_path):
    names = {"a.png": encoded(PHOTO), "b\x1b[2J\nx": b"x", "c" * 200: b"x"}
    (told,) = open_images(put(tmp_path / "set", names)).history[1:]
    assert told == rf"2 other files skipped (b\x1b[2J\nx, {'c' * 40}...{'c' * 40})"


@pytest.mark.parametrize(
    ("name", "content", "told"),
    [
        ("x.jpg", b"<!DOCTYPE html><title>404", r"x\.jpg: it is an HTML page"),
        ("x.png", b"", r"x\.png: it is empty"),
        (
            "x.jpeg",
            b"\0\0\0\x18ftypheic\0\0\0\0mif1heic",
            r"x\.jpeg: it is of the kind HEIC, which is not read; convert",
        ),
        ("x.png", b"version https://git-lfs.github.com/spec/v1\n", r"x\.png: it is a pointer of Git LFS"),
        ("x.JFIF", b"hello", r"x\.JFIF: it is no image of the formats .*damaged or incomplete"),
        ("x", encoded(PHOTO)[:-9], r"x: the file is cut short"),
    ],
)
@pytest.mark.parametrize("archive", [False, True])
def test_what_was_meant_as_an_image_and_is_none_is_an_error_by_name(tmp_path, name, content, told, archive):
    contents = {"a.png": encoded(PHOTO), name: content}
    place = write_zip(tmp_path / "s.zip", contents) if archive else put(tmp_path / "s", contents)
    with pytest.raises(UserError, match=f"Cannot read .*{told}"):
        open_images(place)


def test_pipes_and_links_out_without_the_ending_of_an_image_are_not_opened(tmp_path):
    place = put(tmp_path / "set", {"a.png": encoded(PHOTO)})
    os.mkfifo(place / "pipe")
    (tmp_path / "secret").write_bytes(encoded(PHOTO))
    (place / "out").symlink_to(tmp_path / "secret")
    (place / "lost").symlink_to("nowhere")
    (place / "inside").symlink_to("a.png")
    images = open_images(place)
    assert images.names == ("a.png", "inside")
    assert images.history[1] == "3 other files skipped (lost, out, pipe)"
    (place / "lost.png").symlink_to("nowhere.png")
    with pytest.raises(UserError, match=r"lost\.png is a link to a file that is not there"):
        open_images(place)
