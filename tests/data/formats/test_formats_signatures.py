import numpy as np
import pytest
from data_builders import encoded
from encoded_images import PHOTO, frames, several
from PIL import Image

from diffmem.data.formats.signatures import KINDS, not_an_image, readable_format, unread_kind


@pytest.mark.parametrize("kind", [*KINDS, "MPO", "DIB"])
def test_a_format_is_known_by_its_first_bytes(kind):
    expected = {"MPO": "JPEG", "DIB": None}.get(kind, kind)
    assert readable_format(encoded(PHOTO, kind)[:512]) == expected


def test_a_sequence_of_avif_is_an_avif():
    assert readable_format(several("AVIF", frames(2))[:512]) == "AVIF"


@pytest.mark.parametrize(
    ("content", "kind"),
    [
        (encoded(Image.new("RGB", (32, 32)), "ICO"), "ICO"),
        (encoded(PHOTO, "JPEG2000"), "JPEG 2000"),
        (encoded(PHOTO, "DDS"), "DDS"),
        (encoded(PHOTO, "SGI"), "SGI"),
        (encoded(PHOTO, "ICNS"), "ICNS"),
        (b"8BPS\0\1", "Photoshop (PSD)"),
        (b"\0\0\0\x18ftypheic\0\0\0\0mif1heic", "HEIC"),
        (b"\0\0\0\x18ftypmif1\0\0\0\0mif1heic", "HEIC"),
        (b"\0\0\0\x18ftypisom\0\0\0\0isommp42", "video (MP4)"),
        (bytes(128) + b"DICM", "DICOM"),
        (b'<?xml version="1.0"?>\n<!-- a picture -->\n<svg width="3"/>', "SVG"),
        (b"II*\0\x10\0\0\0CR\2\0", "camera raw"),
    ],
)
def test_images_that_are_not_read_have_a_name(content, kind):
    assert readable_format(content[:512]) is None
    assert unread_kind(content[:512]) == kind


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"BMW and other cars\n",
        b"P1 is the first, P2 the second\n",
        b"hello",
        b"\0\0",
        bytes(512),
        b"{}",
        b"PK\3\4",
    ],
)
def test_other_files_are_no_images(content):
    assert readable_format(content) is None
    assert unread_kind(content) is None


@pytest.mark.parametrize(
    ("content", "told"),
    [
        (b"", "it is empty"),
        (b"\n <!DOCTYPE html><html>", "it is an HTML page"),
        (b"<HTML><head>", "it is an HTML page"),
        (b"version https://git-lfs.github.com/spec/v1\n", "a pointer of Git LFS"),
        (b"PK\3\4", "it is a zip archive, no image"),
        (b"8BPS\0\1", r"of the kind Photoshop \(PSD\), which is not read; convert it"),
        (b"hello", "it is no image of the formats PNG, JPEG"),
    ],
)
def test_what_was_meant_as_an_image_and_is_none_is_told_for_what_it_is(content, told):
    import re

    assert re.search(told, str(not_an_image(content, "x.jpg")))
    assert str(not_an_image(content, "x.jpg")).startswith("Cannot read x.jpg: ")


def test_a_pnm_with_comments_is_one():
    assert readable_format(b"P5 # made by hand\n# and foot\n3 # wide\n2 255\n") == "PPM"
    assert readable_format(np.zeros(600, np.uint8).tobytes()) is None
    assert readable_format(encoded(Image.new("1", (9, 9)), "PPM")) == "PPM"
