import struct

import numpy as np
import pytest
from encoded_images import png16, tiff16
from hostile_files import chunk

from diffmem.data import Reading
from diffmem.data.conversions import Tally
from diffmem.data.formats.decode import decode_pages
from diffmem.data.formats.decoding import Files
from diffmem.data.formats.stack import stack_images
from diffmem.errors import UserError

RNG = np.random.default_rng(3)
CT = RNG.integers(0, 4096, (6, 9, 4))


def read(content, tally=None, **choices):
    return decode_pages(content, "i", Reading(**choices), Tally() if tally is None else tally)[0]


def in_eight_bits(values, white):
    return np.minimum(255, (values * 255 + white // 2) // white)


CONTENTS = {
    "png": png16,
    "tiff": tiff16,
    "big-endian tiff": lambda values: tiff16(values, ">"),
    "packed tiff": lambda values: tiff16(values, packed=True),
    "packed big-endian tiff": lambda values: tiff16(values, ">", packed=True),
}


@pytest.mark.parametrize("channels", [3, 4])
@pytest.mark.parametrize("kind", CONTENTS)
def test_colours_of_16_bits_keep_their_lower_bytes(kind, channels):
    values = CT[..., :channels].copy()
    values[..., 3:] = 65535
    tally = Tally()
    found = read(CONTENTS[kind](values), tally, white=4095)
    np.testing.assert_array_equal(found, in_eight_bits(values[..., :3], 4095))
    assert (tally.deep, tally.transparent, tally.largest) == (1, 0, values[..., :3].max())


@pytest.mark.parametrize("channels", [1, 2])
def test_grey_of_16_bits_stays_grey(channels):
    values = CT[..., :channels].copy()
    values[..., 1:] = 65535
    np.testing.assert_array_equal(read(png16(values), white=4095), in_eight_bits(values[..., 0], 4095))


def test_transparency_of_16_bits_is_laid_on_the_chosen_ground():
    values = np.full((2, 2, 4), 30_000)
    values[..., 3] = [[0, 16384], [49151, 65535]]
    share, colour = values[..., 3] / 65535, 30_000 / 257
    for alpha, expected in (
        ("white", colour * share + 255 * (1 - share)),
        ("black", colour * share),
        ("drop", colour + 0 * share),
    ):
        found = read(png16(values), alpha=alpha)
        assert np.abs(found[..., 0] - expected).max() < 1


def test_the_one_value_that_a_png_declares_transparent_is():
    values = np.array([[[5], [9]]])
    assert read(png16(values, chunk(b"tRNS", struct.pack(">H", 9)))).tolist() == [[0, 255]]
    values = np.array([[[5, 5, 5], [9, 8, 7]]])
    content = png16(values, chunk(b"tRNS", struct.pack(">HHH", 9, 8, 7)))
    assert read(content).tolist() == [[[0, 0, 0], [255, 255, 255]]]


def test_values_above_the_white_level_become_white_and_are_counted():
    tally = Tally()
    assert read(png16(np.array([[[2000], [4000], [1000]]])), tally, white=2000).tolist() == [[255, 255, 128]]
    assert tally.clipped == 1


@pytest.mark.parametrize(("magic", "channels"), [(b"P5", 1), (b"P6", 3)])
def test_a_pnm_declares_its_own_white_level(magic, channels):
    values = CT[..., :channels]
    content = magic + b"\n9 6 # width, height\n4095\n" + values.astype(">u2").tobytes()
    tally = Tally()
    np.testing.assert_array_equal(read(content, tally).reshape(6, 9, channels), in_eight_bits(values, 4095))
    assert (tally.undeclared, dict(tally.whites)) == (0, {4095: 1})
    assert read(content, white=65535).max() < 17
    with pytest.raises(UserError, match="i: the file is cut short"):
        read(content[:-1])


def test_a_layout_that_pillow_misreads_is_refused():
    content = bytearray(tiff16(CT[..., :3]))
    place = content.find(struct.pack("<HHII", 284, 4, 1, 1))
    struct.pack_into("<I", content, place + 8, 2)
    with pytest.raises(
        UserError, match="i: it has more than 8 bits and stores its colours one after the other"
    ):
        read(bytes(content))


def stacked(*arrays, **choices):
    contents = [png16(values) for values in arrays]
    names = [f"{number}.png" for number in range(len(contents))]
    return stack_images(Files(names, contents.__getitem__), "ct", Reading(**choices))


def test_a_set_that_uses_a_small_part_of_16_bits_asks_for_its_white_level():
    twelve = CT[..., :1].copy()
    twelve[0, 0] = 4095
    with pytest.raises(
        UserError,
        match=r"ct: the largest value .* 2 16-bit files is 4,095, which is 12 bits; .* 17 grey levels.* --white 4095",
    ):
        stacked(twelve, twelve // 2)
    with pytest.raises(UserError, match=r"14 bits; .* 65 grey levels.* --white 16383"):
        stacked(twelve * 4)


def test_a_window_of_values_far_from_zero_is_not_read_as_a_few_grey_levels():
    window = 32768 + CT[..., :1] % 1500
    window[0, 0], window[0, 1] = 32768, 34267
    with pytest.raises(UserError, match=r"run from 32,768 to 34,267; .* leaves 6 grey levels"):
        stacked(window)
    assert stacked(window, white=65535).images.max() == 133


def test_a_set_that_uses_the_range_or_whose_white_level_is_given_is_read_and_told():
    dark, bright = CT[..., :1], CT[..., :1] * 16
    bright[0, 0] = 65535
    (told,) = stacked(dark, bright).conversions
    assert (told.key, told.choice, told.count, told.total, told.largest) == (
        "white",
        "65535",
        2,
        2,
        bright.max(),
    )
    assert told.sentence == (
        "16 bits to 8 bits in 2 of 2 files: largest value 65,535, white level 65,535, up to 256 grey levels left"
    )
    (told,) = stacked(dark, white=4095).conversions
    assert "white level 4,095" in told.sentence
    (told,) = stacked(dark, white=65535).conversions
    assert "up to 17 grey levels left" in told.sentence


def test_8_bits_that_were_widened_and_black_images_ask_for_nothing():
    widened = RNG.integers(0, 20, (4, 4, 3)) * 257
    assert stacked(widened).images.max() < 20
    assert stacked(np.zeros((4, 4, 1), int)).images.max() == 0
