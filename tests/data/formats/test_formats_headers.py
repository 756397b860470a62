import io
import struct
import time

import hostile_files as make
import numpy as np
import pytest
from data_builders import encoded
from encoded_images import PHOTO, decode_image, frames, several
from hostile_files import PNG, chunk, patched
from PIL import Image

from diffmem.data.formats.av1 import read_avif
from diffmem.data.formats.headers import check_size, read_header_of
from diffmem.errors import UserError


@pytest.mark.parametrize("kind", ["PNG", "GIF", "WEBP", "AVIF", "TIFF"])
def test_size_and_number_of_frames_are_in_the_header(kind):
    one, five = encoded(PHOTO, kind), several(kind, frames(5))
    for content, count in ((one, 1), (five, 5)):
        header = read_header_of(content, kind)
        assert (header.width, header.height, header.frames) == (9, 6, count)
        assert Image.open(io.BytesIO(content)).n_frames == count


def test_lossless_and_lossy_webp_tell_their_size():
    for options in ({"lossless": True}, {"quality": 50}, {"exif": b"Exif\0\0II*\0\x08\0\0\0\0\0"}):
        header = read_header_of(encoded(PHOTO, "WEBP", **options), "WEBP")
        assert (header.width, header.height) == (9, 6)


def test_an_avif_of_more_than_8_bits_is_told():
    content = encoded(PHOTO, "AVIF").replace(b"pixi\0\0\0\0\3\x08\x08\x08", b"pixi\0\0\0\0\3\x0a\x0a\x0a")
    assert (read_header_of(encoded(PHOTO, "AVIF"), "AVIF").bits, read_header_of(content, "AVIF").bits) == (
        8,
        10,
    )


@pytest.mark.parametrize("size", [(1, 1), (33, 17), (4000, 3)])
@pytest.mark.parametrize("animated", [False, True])
def test_the_stream_of_an_avif_tells_its_size_whatever_its_boxes_say(size, animated):
    image = Image.fromarray(np.random.default_rng(0).integers(0, 256, (*size[::-1], 4), dtype=np.uint8))
    content = encoded(image, "AVIF", **({"save_all": True, "append_images": [image] * 2} if animated else {}))
    assert (read_avif(content).width, read_avif(content).height) == size
    bare = content.replace(b"ispe" + bytes(4) + struct.pack(">II", *size), b"ispe" + bytes(12))
    place = bare.find(b"av01", bare.find(b"stsd")) if animated else -1
    while place > 0:
        bare = patched(bare, place + 28, ">HH", 0, 0)
        place = bare.find(b"av01", bare.find(b"stsd", place))
    assert (read_avif(bare).width, read_avif(bare).height) == size


def avif_of_a_small_box():
    content = encoded(Image.new("RGB", (9000, 9000)), "AVIF", speed=10, quality=1)
    return content.replace(struct.pack(">II", 9000, 9000), struct.pack(">II", 4, 4))


def riff(*chunks):
    content = b"".join(
        kind + struct.pack("<I", len(part)) + part + bytes(len(part) % 2) for kind, part in chunks
    )
    return b"RIFF" + struct.pack("<I", len(content) + 4) + b"WEBP" + content


def webp_canvas(width, height, number=1):
    """An animation of a large canvas: its frames are small and there are as many as wished for."""
    three = [struct.pack("<I", side - 1)[:3] for side in (width, height, 4, 4)]
    frame = encoded(make.COLOUR, "WEBP", lossless=True)[12:]
    animation = bytes(6) + three[2] + three[3] + bytes(4) + frame
    head = (b"VP8X", b"\2\0\0\0" + three[0] + three[1]), (b"ANIM", bytes(6))
    return riff(*head, *[(b"ANMF", animation)] * number)


TOO_LARGE = {
    "a webp's canvas": (lambda: webp_canvas(9_633_796, 5), "9633796 x 5 pixels"),
    "a webp's frames": (lambda: webp_canvas(8000, 8000, 20), "20 pages or frames of 8000 x 8000"),
    "a gif's screen": (lambda: make.gif(60_000, 60_000), "60000 x 60000"),
    "a gif's frames": (
        lambda: make.gif(5000, 5000)[:-1] + make.gif(4, 4)[make.gif(4, 4).find(b"\x2c\0\0\0\0") : -1] * 50 + b";",
        "51 pages or frames of 5000 x 5000",
    ),
    "an animated png's frames": (
        lambda: make.png(5000, 5000, b"", chunk(b"acTL", struct.pack(">II", 2**31 - 1, 0))), "2,147,483,647 pages or frames",
    ),
    "a png's side": (lambda: make.png(70_000, 1), "70000 x 1 pixels"),
    "a tiff's side": (lambda: make.tiff(70_000, 1), "70000 x 1 pixels"),
    "an avif's box": (
        lambda: encoded(PHOTO, "AVIF").replace(struct.pack(">II", 9, 6), struct.pack(">II", 60_000, 60_000)), "60000 x 60000",
    ),
    "an avif's stream": (avif_of_a_small_box, "9000 x 9000"),
    "a bmp's side": (lambda: patched(encoded(PHOTO, "BMP"), 18, "<ii", 70_000, 1), "70000 x 1"),
    "a ppm": (lambda: b"P6 60000 60000 255 " + bytes(50), "60000 x 60000"),
    "a deep ppm": (lambda: b"P6 60000 60000 65535 " + bytes(50), "60000 x 60000"),
    "a plain ppm": (lambda: b"P3 60000 60000 255 1 2 3", "60000 x 60000"),
}  # fmt: skip


@pytest.mark.parametrize("name", TOO_LARGE)
def test_what_no_training_image_can_be_is_refused_before_anything_is_decoded(name):
    build, told = TOO_LARGE[name]
    content = build()
    started = time.process_time()
    with pytest.raises(UserError, match=rf"x is refused: it has {told}"):
        decode_image(content, "x")
    assert time.process_time() - started < 1


def pages_in_a_circle():
    content = bytearray(several("TIFF", frames(2)))
    first = struct.unpack_from("<I", content, 4)[0]
    entries = struct.unpack_from("<H", content, first)[0]
    struct.pack_into("<I", content, first + 2 + 12 * entries, first)
    return bytes(content)


def test_pages_in_a_circle_are_counted_once():
    assert read_header_of(pages_in_a_circle(), "TIFF").frames == 1


def test_pages_that_share_their_entries_are_refused():
    # A table of 60,000 entries begins at every fourth byte; the pointers to the next ones lie behind them all.
    count, tables = 60_000, 1000
    content = bytearray(b"II*\0" + struct.pack("<I", 8) + struct.pack("<H", count) * 2 * tables)
    content += bytes(8 + 2 + 12 * count - len(content))
    content += b"".join(struct.pack("<I", 8 + 4 * (number + 1)) for number in range(tables - 1)) + bytes(4)
    with pytest.raises(ValueError, match="claim the same bytes repeatedly"):
        read_header_of(bytes(content), "TIFF")


def test_tags_that_share_their_bytes_are_refused_before_they_are_read():
    with pytest.raises(ValueError, match="claim the same bytes repeatedly"):
        read_header_of(make.table_of_tags(40_000, 200_000), "TIFF")


def test_endless_chunks_and_boxes_are_refused():
    with pytest.raises(ValueError, match="more than 100,000 chunks"):
        read_header_of(riff(*[(b"abcd", b"")] * 100_001), "WEBP")
    with pytest.raises(ValueError, match="more than 100,000 boxes"):
        read_header_of(encoded(PHOTO, "AVIF") + struct.pack(">I4s", 8, b"free") * 100_001, "AVIF")
    with pytest.raises(ValueError, match="shorter than its header"):
        read_header_of(encoded(PHOTO, "AVIF") + struct.pack(">I4s", 7, b"free"), "AVIF")


def test_ordinary_sizes_are_admitted():
    check_size(8000, 8000, 1, "x")
    check_size(65_535, 900, 1, "x")
    check_size(1000, 1000, 1000, "x")
    assert decode_image(PNG, "x").shape == (4, 4, 3)
