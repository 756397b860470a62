import io
import struct

import numpy as np
import pytest
from data_builders import encoded
from encoded_images import PHOTO, decode_image, turned
from PIL import Image, ImageOps
from PIL.PngImagePlugin import PngInfo

from diffmem.data import Reading
from diffmem.data.conversions import Tally
from diffmem.data.formats.decode import decode_pages, stored_orientation
from diffmem.data.formats.headers import orientation_of, xmp_orientation

APPLY = Reading(exif="apply")


def by_pillow(content):
    return np.asarray(ImageOps.exif_transpose(Image.open(io.BytesIO(content))).convert("RGB"))


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP", "AVIF"])
def test_every_orientation_is_applied_as_pillow_does_and_ignored_by_default(kind, orientation):
    content, tally = turned(orientation, kind), Tally()
    np.testing.assert_array_equal(decode_pages(content, "i", APPLY, tally)[0], by_pillow(content))
    assert decode_image(content, "i").shape == PHOTO.shape
    assert tally.turned == (orientation != 1)


def test_an_orientation_in_xmp_or_in_the_text_of_an_old_png_is_found_where_pillow_finds_it():
    packet = b'<x:xmpmeta><rdf:Description tiff:Orientation="6"/></x:xmpmeta>'
    exif = Image.Exif()
    exif[0x0112] = 8
    text = PngInfo()
    text.add_text("Raw profile type exif", f"\nexif\n{len(exif.tobytes()):8}\n{exif.tobytes().hex()}\n")
    for content in (encoded(PHOTO, "JPEG", xmp=packet), encoded(PHOTO, "PNG", pnginfo=text)):
        found = decode_image(content, "i", reading=APPLY)
        assert found.shape == (9, 6, 3)
        np.testing.assert_array_equal(found, by_pillow(content))
    assert xmp_orientation(b"<tiff:Orientation>3</tiff:Orientation>") == 3
    assert xmp_orientation(b"<tiff:Orientation>9") == 0


def test_exif_data_of_either_byte_order_are_read():
    for order, mark in (("<", b"II"), (">", b"MM")):
        entry = struct.pack(f"{order}HHIH", 0x112, 3, 1, 6) + b"\0\0"
        table = mark + struct.pack(f"{order}HIH", 42, 8, 1) + entry
        assert orientation_of(table) == orientation_of(b"Exif\0\0" + table) == 6


@pytest.mark.parametrize(
    "exif", [b"", b"II*\0", b"II*\0\xff\xff\xff\xff", b"II*\0\x08\0\0\0\xff\xff", b"nothing of the kind"]
)
def test_damaged_exif_data_turn_nothing(exif):
    assert orientation_of(exif) == 0


def test_the_orientation_is_had_without_decoding():
    assert stored_orientation(turned(6)) == 6
    assert stored_orientation(turned(3, "PNG")) == 3
    assert stored_orientation(encoded(PHOTO, "JPEG")) == 0
    assert stored_orientation(b"no image") == 0
    assert stored_orientation(turned(3, "PNG")[:-9]) == 0
