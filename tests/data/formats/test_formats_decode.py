import io
import struct
import zlib

import numpy as np
import pytest
from data_builders import damaged, encoded
from encoded_images import decode_image
from hypothesis import given
from hypothesis import strategies as st
from parameters import examples
from PIL import Image

from diffmem.data.formats.png import check_png, encode_png
from diffmem.errors import UserError

RNG = np.random.default_rng(0)
GREY = RNG.integers(0, 256, (5, 7), dtype=np.uint8)
RGB = RNG.integers(0, 256, (5, 7, 3), dtype=np.uint8)


@pytest.mark.parametrize("kind", ["PNG", "BMP", "TIFF"])
@pytest.mark.parametrize("pixels", [GREY, RGB])
def test_lossless_formats_keep_every_pixel(kind, pixels):
    np.testing.assert_array_equal(decode_image(encoded(pixels, kind), "i"), pixels)


@pytest.mark.parametrize("kind", ["JPEG", "WEBP", "GIF"])
def test_lossy_formats_are_read_as_pillow_reads_them(kind):
    content = encoded(RGB, kind)
    np.testing.assert_array_equal(
        decode_image(content, "i"), np.asarray(Image.open(io.BytesIO(content)).convert("RGB"))
    )


@pytest.mark.parametrize(
    ("alpha", "expected"), [(255, [10, 20, 30]), (0, [255, 255, 255]), (51, [206, 208, 210])]
)
def test_transparency_is_composited_on_white(alpha, expected):
    pixels = np.full((2, 2, 4), (10, 20, 30, alpha), np.uint8)
    assert (decode_image(encoded(pixels), "i") == expected).all()


def test_grey_with_transparency_stays_grey_on_white():
    image = Image.merge("LA", [Image.new("L", (2, 1), 40), Image.fromarray(np.array([[255, 0]], np.uint8))])
    assert decode_image(encoded(image), "i").tolist() == [[40, 255]]


def test_a_transparent_colour_becomes_white():
    pixels = np.array([[[1, 2, 3], [4, 5, 6]]], np.uint8)
    assert decode_image(encoded(pixels, transparency=(1, 2, 3)), "i").tolist() == [
        [[255, 255, 255], [4, 5, 6]]
    ]


def test_a_palette_becomes_rgb():
    image = Image.fromarray(np.array([[0, 1]], np.uint8), "P")
    image.putpalette([9, 8, 7, 6, 5, 4])
    assert decode_image(encoded(image), "i").tolist() == [[[9, 8, 7], [6, 5, 4]]]


def test_one_bit_images_are_black_and_white():
    assert decode_image(encoded(Image.fromarray(np.array([[True, False]]))), "i").tolist() == [[255, 0]]


def test_cmyk_becomes_rgb():
    pixels = decode_image(encoded(Image.new("CMYK", (8, 8), (255, 0, 0, 0)), "TIFF"), "i")
    assert pixels.shape == (8, 8, 3)
    assert pixels[0, 0].tolist() == [0, 255, 255]


@pytest.mark.parametrize("kind", ["PNG", "TIFF"])
def test_16_bit_grey_is_rounded_to_8_bits(kind):
    values = np.array([[0, 128, 129, 257, 65535, 65406, 65407]], np.uint16)
    assert decode_image(encoded(values, kind), "i").tolist() == [[0, 0, 1, 1, 255, 254, 255]]


def test_float_images_are_refused():
    with pytest.raises(UserError, match="floats"):
        decode_image(encoded(np.zeros((2, 2), np.float32), "TIFF"), "i")


def test_an_image_of_too_many_pixels_is_refused_before_it_is_decoded():
    for side, told in [(8001, "8001 x 8001 pixels"), (100_000, "100000 x 100000 pixels")]:
        bomb = bytearray(encode_png(RGB.transpose(2, 0, 1)))
        bomb[16:24] = struct.pack(">II", side, side)
        bomb[29:33] = struct.pack(">I", zlib.crc32(bomb[12:29]))
        with pytest.raises(UserError, match=told):
            decode_image(bytes(bomb), "i")


def test_a_flipped_bit_in_a_png_is_found_by_its_crc():
    content = bytearray(encode_png(RGB.transpose(2, 0, 1)))
    content[70] ^= 1
    with pytest.raises(UserError, match="CRC of its 'IDAT' chunk"):
        decode_image(bytes(content), "i")


@given(st.sampled_from([1, 3]), st.integers(1, 40), st.integers(1, 40), st.integers(0, 2**32 - 1))
def test_the_own_png_writer_is_read_by_pillow_without_loss(channels, height, width, seed):
    pixels = np.random.default_rng(seed).integers(0, 256, (channels, height, width), dtype=np.uint8)
    content = encode_png(pixels)
    check_png(content)
    read = Image.open(io.BytesIO(content))
    assert read.mode == {1: "L", 3: "RGB"}[channels]
    np.testing.assert_array_equal(
        np.asarray(read).reshape(height, width, channels).transpose(2, 0, 1), pixels
    )


def test_a_png_of_more_than_one_zlib_block_is_whole():
    pixels = RNG.integers(0, 256, (3, 300, 400), dtype=np.uint8)
    np.testing.assert_array_equal(decode_image(encode_png(pixels), "i").transpose(2, 0, 1), pixels)


ANY = {kind: encoded(RGB, kind) for kind in ["PNG", "JPEG", "GIF", "WEBP", "TIFF", "BMP"]}


@pytest.mark.filterwarnings("ignore::UserWarning")
@examples(60, 300)
@given(st.one_of(*map(damaged, ANY.values()), st.binary(max_size=40)))
def test_damage_gives_a_user_error_or_pixels(content):
    told = None
    try:
        pixels = decode_image(content, "image.png")
    except UserError as error:
        told = str(error)
    assert pixels.dtype == np.uint8 if told is None else "image.png" in told
