"""Everything that can be wrong with images of unknown origin is told in one line, and costs neither memory nor time."""

from __future__ import annotations

import os
import struct
import sys
import tarfile
import zipfile
from pathlib import Path

import hostile_files as make
import numpy as np
import pytest
from data_builders import cifar_parts, encoded, idx_bytes, write_cifar, write_tar, write_zip
from hostile_files import COLOUR, GREY, MANY, PNG, chunk
from PIL import Image

from diffmem.data import open_images
from diffmem.data.formats.guards import check_bulk, in_one_line
from diffmem.errors import DiffmemError, UserError

TOO_LARGE = "60000 x 60000 pixels|3600000000 pixels"


def image(ending, content):
    """Builds a folder with this one image."""
    return lambda path: make.folder(path, **{f"x__{ending}": content() if callable(content) else content})


def file(content):
    """Builds a file of these bytes."""

    def build(path):
        path.write_bytes(content() if callable(content) else content)
        return path

    return build


def saved(**arrays):
    """Builds an .npz of these arrays."""

    def build(path):
        with path.open("wb") as stream:
            np.savez(stream, **arrays)
        return path

    return build


def zipped(**members):
    """Builds a zip of these members; in their names, two underscores stand for a dot."""
    return lambda path: write_zip(
        path, {name.replace("__", "."): content for name, content in members.items()}
    )


class Evil:
    """Pickled as a call of the shell."""

    def __reduce__(self):
        return os.system, ("touch ran",)


def idx_linked(path, kind):
    """A folder of IDX files of which one lies elsewhere."""
    make.folder(path)
    contents = {"images-idx3": idx_bytes(GREY[None]), "labels-idx1": idx_bytes(np.zeros(1, np.uint8))}
    for name, content in contents.items():
        place = path if name != kind else path.parent
        (place / f"train-{name}-ubyte").write_bytes(content)
    (path / f"train-{kind}-ubyte").symlink_to(path.parent / f"train-{kind}-ubyte")
    return path


HOSTILE = {
    # Images of far too many pixels, of each kind.
    "large png": (image("png", lambda: make.png(MANY, MANY)), TOO_LARGE),
    "long png": (image("png", lambda: make.png(4, 2**27)), "4 x 134217728 pixels"),
    "large jpeg": (
        image("jpg", lambda: make.patched(make.jpeg(), make.jpeg().find(b"\xff\xc0") + 5, ">HH", MANY, MANY)), TOO_LARGE,
    ),
    "large bmp": (image("bmp", lambda: make.patched(encoded(COLOUR, "BMP"), 18, "<ii", MANY, MANY)), TOO_LARGE),
    "large gif": (image("gif", lambda: make.gif(MANY, MANY)), TOO_LARGE),
    "large frame of a gif": (image("gif", lambda: make.gif(MANY, MANY, of_frame=True)), TOO_LARGE),
    "large tiff": (image("tif", lambda: make.tiff(MANY, MANY)), TOO_LARGE),
    "large webp": (
        image("webp", lambda: make.patched(encoded(COLOUR, "WEBP", lossless=True), 21, "<I", 0x0FFFFFFF)),
        "16384 x 16384 pixels",
    ),
    "large in a zip": (zipped(x__png=make.png(MANY, MANY)), TOO_LARGE),
    # Chunks and segments without end.
    "texts that inflate": (
        image("png", lambda: make.png_with(chunk(b"zTXt", b"a\0\0" + make.deflated(2**24)))), "Decompressed data too large",
    ),
    "a profile that inflates": (
        image("png", lambda: make.png_with(chunk(b"iCCP", b"a\0\0" + make.deflated(2**24)))), "Decompressed data too large",
    ),
    "endless chunks": (image("png", lambda: make.png_with(chunk(b"abCd", b"") * 100_001)), "more than 100,000 chunks"),
    "endless frames": (
        image("png", lambda: make.png_with(chunk(b"acTL", struct.pack(">II", 2**31 - 1, 0)), chunk(b"fdAT", b"") * 100_001)),
        "more than 100,000 chunks",
    ),
    "endless segments": (
        image("jpg", lambda: make.jpeg_with(make.jpeg_segment(0xFE, b"") * 10_001)), "scans or 10,000 segments",
    ),
    "endless scans": (image("jpg", lambda: make.jpeg_of_scans(101)), "more than 100 scans"),
    "endless data of a camera": (
        image("jpg", lambda: make.jpeg_with(make.jpeg_segment(0xE1, b"Exif\0\0" + bytes(65_000)) * 260)),
        "bytes come before its pixels",
    ),
    "endless padding": (image("jpg", lambda: b"\xff\xd8\xff\xd9" + b"\xff" * (2**24 + 10)), "bytes come before its pixels"),
    "tags of a tiff that share their bytes": (
        image("tif", lambda: make.table_of_tags(40_000, 200_000)), "parts claim the same bytes repeatedly",
    ),
    "a large tile": (image("tif", lambda: make.tiff_of_tiles(46_336)), "a tile is refused: it has 46336 x 46336 pixels"),
    "long rows": (image("bmp", lambda: make.bmp_of_runs(60_000_000, 1, b"\0\2\xff\xff\0\1")), "60000000 x 1 pixels; .* 65,535 a side"),
    "an endless comment": (
        image("gif", lambda: make.gif_with(b"\x21\xfe" + (b"\xff" + bytes(255)) * 4200 + b"\0")), "before its first image",
    ),
    "endless nothing": (image("gif", lambda: make.gif_with(bytes(2**20 + 1))), "before its first image"),
    # Links, pipes, devices and names.
    "a link out": (lambda path: make.linked(path, "x.png", "/etc/passwd"), "leads out"),
    "a link to a device": (lambda path: make.linked(path, "x.png", "/dev/zero"), "leads out"),
    "a link to itself": (lambda path: make.linked(path, "x.png", "x.png"), "leads in a circle"),
    "a link to nothing": (lambda path: make.linked(path, "x.png", "y.png"), "a link to a file that is not there"),
    "a link out of a folder of idx files": (lambda path: idx_linked(path, "images-idx3"), "leads out"),
    "a link of labels out of a folder of idx files": (lambda path: idx_linked(path, "labels-idx1"), "leads out"),
    "a folder in itself": (lambda path: make.linked(path, "sub", "."), "a link to a folder"),
    "a pipe": (lambda path: make.piped(path, "x.png"), "no plain file"),
    "a line break in a name": (lambda path: make.folder(path, **{"a\nb__png": PNG[:50]}), r"a\\nb\.png"),
    "a terminal's command in a name": (lambda path: make.folder(path, **{"\x1b[2J__png": PNG[:50]}), r"\\x1b\[2J\.png"),
    "an endless name": (zipped(**{"a" * 60_000 + "__png": b""}), r"a \.\.\. a"),
    "a source that is a pipe": (lambda path: os.mkfifo(path) or path, "nothing that images are read from"),
    "a device as a source": (lambda path: Path("/dev/zero"), "nothing that images are read from"),
    "a link in a circle as a source": (lambda path: path.symlink_to(path.name) or path, "There is nothing at"),
    "a source with an endless name": (lambda path: Path("a" * 5000), "Nothing can be at"),
    "a user that is not there": (lambda path: Path("~no-such-user/x"), "Nothing can be at"),
    # Empty and mixed.
    "an empty image": (image("png", b""), "it is empty"),
    "an empty file": (file(b""), "nothing that images are read from"),
    "two sizes": (lambda path: make.folder(path, a__png=PNG, b__png=encoded(GREY[:3])), "4 x 4 but b.png is 4 x 3"),
    "floats in an image": (image("tif", lambda: encoded(np.full((4, 4), np.nan, np.float32), "TIFF")), "floats"),
    "32 bits in an image": (image("tif", lambda: encoded(np.full((4, 4), 70_000, np.int32), "TIFF")), "outside of 16 bits"),
    # Arrays.
    "NaN pixels": (saved(images=np.full((2, 4, 4), np.nan)), "float64 values; save them as uint8"),
    "infinite pixels": (saved(images=np.full((2, 4, 4), np.inf, np.float32)), "float32 values; save them as uint8"),
    "objects": (saved(images=np.array([None])), "pickled Python objects"),
    "objects as labels": (saved(images=GREY[None], labels=np.array([None])), "pickled Python objects"),
    "an absurd shape": (file(lambda: make.npy_header((10**30, 10**30))), "no array has the shape"),
    "a shape of nothing": (file(lambda: make.npy_header((10**15, 0, 4))), "at least one image"),
    "a shape that wraps around": (file(lambda: make.npy_header((2**62, 4, 4))), "header declares"),
    "a negative shape": (file(lambda: make.npy_header((2, 2, 2)).replace(b"(2, 2, 2)", b"(-2,2, 2)")), "no array has the shape"),
    "nested brackets": (file(lambda: make.npy_header((2, 2, 2)).replace(b"(2, 2, 2)", b"(((((((((")), "Cannot read"),
    "letters beyond Unicode": (
        lambda path: write_zip(
            path,
            {
                "images.npy": make.npy_header((1, 4, 4)) + bytes(16),
                "names.npy": make.npy_header((1,), "<U2") + struct.pack("<II", 97, 0x20000061),
            },
        ),
        "letters that Unicode does not have",
    ),
    "half a letter": (
        lambda path: write_zip(
            path,
            {
                "images.npy": make.npy_header((1, 4, 4)) + bytes(16),
                "names.npy": make.npy_header((1,), "<U1") + struct.pack("<I", 0xD800),
            },
        ),
        "plain Unicode text",
    ),
    # Archives.
    "a zip in a zip": (make.nested_zip, "holds no images"),
    "a bomb in a zip": (lambda path: write_zip(path, {"x.png": bytes(2**25)}, method=zipfile.ZIP_DEFLATED), "bomb"),
    "descriptions without end": (zipped(x__png=PNG, dataset__json=b"[" + b"[]," * 200_000 + b"[]]"), "values for 1 images"),
    "a long description": (zipped(x__png=PNG, dataset__json=b'"' + b"a" * 5_000_000 + b'"'), "5,000,002 bytes for 1 images"),
    "a deep description": (zipped(x__png=PNG, dataset__json=b"[" * 100_000), "Cannot read"),
    "labels without names": (
        zipped(x__png=PNG, dataset__json=b'{"labels": [["x.png", 2]], "class_names": ["a", "b"]}'), "2 class names",
    ),
    "a line break in a member": (zipped(**{"a\nb__png": b""}), r"a\\nb\.png"),
    "too many images": (file(lambda: make.idx_header(200_000_000, 1, 1)), "200,000,000 images; the limit"),
    "an absurd idx": (file(lambda: make.idx_header(2**32 - 1, 2**32 - 1, 2**32 - 1)), "GiB; the limit"),
    "half an idx": (file(lambda: idx_bytes(GREY[None])[:-3]), "16 values but it has 13"),
    "a batch that runs code": (lambda path: write_cifar(path, cifar_parts() | {"data_batch_1": Evil()}), r"asks for posix\.system"),
    "a link in a tar": (lambda path: write_tar(path, {"a": tar_link()}), "a link or no plain file"),
}  # fmt: skip


def tar_link():
    info = tarfile.TarInfo("cifar-10-batches-py/data_batch_1")
    info.type, info.linkname = tarfile.SYMTYPE, "/etc/passwd"
    return info


@pytest.mark.parametrize("name", HOSTILE)
def test_images_of_unknown_origin_are_refused_in_one_line_that_names_them(tmp_path, monkeypatch, name):
    monkeypatch.chdir(tmp_path)
    build, told = HOSTILE[name]
    path = build(tmp_path / "source")
    with pytest.raises(UserError, match=told) as caught:
        open_images(path)
    make.one_line(str(caught.value), path)
    assert not (tmp_path / "ran").exists()


def test_an_image_whose_pixels_inflate_without_end_is_decoded_up_to_its_size(tmp_path):
    pixels = make.deflated(2**26)
    images = open_images(make.folder(tmp_path / "source", x__png=make.png(4, 4, pixels)))
    assert images.images.shape == (1, 3, 4, 4)
    assert not images.images.any()


def test_every_kind_of_pixel_is_read_beside_the_others(tmp_path):
    colour = Image.fromarray(COLOUR)
    images = open_images(
        make.folder(
            tmp_path / "source",
            a16__png=encoded(GREY.astype(np.uint16) * 257),
            alpha__png=encoded(np.dstack([COLOUR, GREY])),
            cmyk__jpg=encoded(colour.convert("CMYK"), "JPEG"),
            grey__bmp=encoded(GREY, "BMP"),
            palette__gif=encoded(colour.quantize(8), "GIF"),
            two__tif=encoded(colour.convert("1"), "TIFF"),
        )
    )
    assert images.images.shape == (6, 3, 4, 4)
    assert np.array_equal(images.images[0], np.repeat(GREY[None], 3, 0))


def test_a_cameras_note_of_its_orientation_turns_nothing(tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 6  # a quarter turn
    wide = COLOUR[:2]
    plain, turned = encoded(wide, "PNG"), encoded(wide, "PNG", exif=exif)
    images = open_images(make.folder(tmp_path / "source", a__png=plain, b__png=turned))
    assert np.array_equal(images.images[0], images.images[1])


def test_tags_of_a_camera_that_share_their_bytes_are_not_read(tmp_path, monkeypatch):
    monkeypatch.setattr(Image.Exif, "load", lambda *args: pytest.fail("the tags were read"))
    table = make.table_of_tags(2500, 30_000)
    content = make.jpeg_with(make.jpeg_segment(0xE1, b"Exif\0\0" + table)).replace(b"JFIF", b"NONE")
    images = open_images(make.folder(tmp_path / "source", x__jpg=content, y__jpg=make.jpeg()))
    assert np.array_equal(images.images[0], images.images[1])


def test_a_run_length_encoded_bmp_is_read(tmp_path):
    content = make.bmp_of_runs(
        4, 2, b"\4\1\0\0\0\2\2\0\2\3\0\1"
    )  # a run, the end of its row, a skip, a run, the end
    assert open_images(make.folder(tmp_path / "source", x__bmp=content)).images.shape == (1, 3, 2, 4)


def test_the_orientation_of_a_tiff_is_followed(tmp_path):
    turned = encoded(COLOUR[:2], "TIFF", tiffinfo={0x0112: 6})
    images = open_images(make.folder(tmp_path / "source", a__tif=turned))
    assert np.array_equal(images.images[0], np.rot90(COLOUR[:2], -1).transpose(2, 0, 1))


def test_an_image_with_as_many_chunks_as_encoders_make_is_read(tmp_path):
    content = make.png_with(chunk(b"tEXt", b"a\0b") * 5000)
    assert len(open_images(make.folder(tmp_path / "source", x__png=content))) == 1


def test_a_jpeg_with_notes_and_scans_as_encoders_make_them_is_read(tmp_path):
    notes = make.jpeg_segment(0xE1, b"http://ns.adobe.com/xap/1.0/\0" + b"\xff\xda" * 30_000) * 40
    content = make.jpeg_with(notes)
    progressive = encoded(COLOUR, "JPEG", progressive=True, comment=b"\xff\xd9")
    assert len(open_images(make.folder(tmp_path / "source", x__jpg=content, y__jpg=progressive))) == 2


def test_a_set_that_decodes_to_far_more_than_it_holds_is_refused():
    check_bulk(2**31, 1, "s")
    check_bulk(2**40, 2**33, "s")
    with pytest.raises(UserError, match=r"s is refused: 1,000 bytes of images decode to 3,000,000,000"):
        check_bulk(3_000_000_000, 1000, "s")


def test_a_batch_of_nothing_but_lists_is_refused(tmp_path, monkeypatch):
    monkeypatch.setattr("diffmem.data.formats.cifar10._MAX_OPCODES", 1000)
    batch = b"\x80\x02}(U\x01a](" + b"]" * 1000 + b"eu."
    path = write_cifar(tmp_path / "c.tar.gz", cifar_parts() | {"data_batch_1": batch})
    with pytest.raises(UserError, match="more than 1,000 opcodes"):
        open_images(path)


def test_a_folder_of_more_levels_than_python_calls_itself_is_walked(tmp_path):
    with (
        make.deep(tmp_path / "source", sys.getrecursionlimit() + 100) as path,
        pytest.raises(UserError, match="the file is cut short") as caught,
    ):
        open_images(path)
    make.one_line(str(caught.value), path)


def test_a_pipe_that_takes_the_place_of_an_image_is_not_waited_for(tmp_path):
    from diffmem.data.formats.guards import read_plain

    os.mkfifo(tmp_path / "x.png")
    with pytest.raises(UserError, match="no plain file"):
        read_plain(tmp_path / "x.png", 10, "x.png")


def test_the_kind_and_the_cause_of_an_error_survive_its_shortening():
    with pytest.raises(DiffmemError) as caught, in_one_line():
        raise DiffmemError("a\x1bb" + "c" * 10_000)
    assert type(caught.value) is DiffmemError
    assert str(caught.value).startswith("a\\x1bbccc")
    assert len(str(caught.value)) < 1600
