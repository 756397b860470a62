import numpy as np
import pytest
from data_builders import encoded
from encoded_images import PHOTO, frames, png16, see_through, several, turned

from diffmem.data import Reading, open_images, other_readings, write_images
from diffmem.progress import NO_PROGRESS

TWELVE = np.arange(54).reshape(6, 9, 1) * 77 + 14  # up to 4095


def others(place, **choices):
    reading = Reading(**choices)
    images = open_images(place, reading=reading)
    return images, {one.text: one for one in other_readings(images, place, reading)}


@pytest.mark.parametrize(
    ("content", "choices", "texts"),
    [
        (see_through(9), {}, ["transparent pixels composited on black", "transparency dropped"]),
        (see_through(9), {"alpha": "drop"}, ["transparent pixels composited on white", "transparent pixels composited on black"]),
        (see_through(255), {}, []),
        (turned(3), {}, ["EXIF orientation applied"]),
        (turned(3), {"exif": "apply"}, ["EXIF orientation ignored"]),
        (turned(1), {}, []),
        (png16(TWELVE), {"white": 65535}, ["white level 4,095 of 16-bit files"]),
        (png16(TWELVE - 5), {"white": 4095}, ["white level 65,535 of 16-bit files", "white level 4,090 of 16-bit files"]),
        (png16(TWELVE * 16 + 15), {}, []),
        (several("WEBP", frames(3), lossless=True), {}, ["all pages and frames"]),
        (several("WEBP", frames(3), lossless=True), {"pages": "all"}, []),
        (encoded(PHOTO), {"fit": "pad", "resolution": 5}, ["centre-cropped to a square", "stretched to a square"]),
        (encoded(PHOTO[:6, :6]), {"fit": "pad", "resolution": 6}, []),
        (encoded(PHOTO), {}, []),
    ],
)  # fmt: skip
def test_each_choice_that_can_give_other_pixels_has_its_others(tmp_path, content, choices, texts):
    (tmp_path / "x").write_bytes(content)
    images, found = others(tmp_path, **choices)
    assert list(found) == texts
    for one in found.values():
        read = one.open(NO_PROGRESS)
        assert read.fingerprint != images.fingerprint
        assert read.fingerprint == open_images(tmp_path, reading=one.reading).fingerprint


def test_other_choices_and_the_split_stay(tmp_path):
    for name in ("train/a.jpg", "test/b.jpg"):
        (tmp_path / name).parent.mkdir()
        (tmp_path / name).write_bytes(turned(3))
    _, found = others(tmp_path, split="test", alpha="black")
    assert found["EXIF orientation applied"].reading == Reading(split="test", alpha="black", exif="apply")
    assert found["EXIF orientation applied"].open(NO_PROGRESS).names == ("test/b.jpg",)


def test_a_set_that_was_built_has_no_others(tmp_path):
    (tmp_path / "set").mkdir()
    (tmp_path / "set" / "x.png").write_bytes(see_through(9))
    write_images(open_images(tmp_path / "set"), tmp_path / "x.npz")
    assert others(tmp_path / "x.npz")[1] == {}
    assert others("digits")[1] == {}
