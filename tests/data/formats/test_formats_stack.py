import numpy as np
import pytest
from data_builders import encoded

from diffmem.data.formats.decoding import Files
from diffmem.data.formats.stack import stack_images
from diffmem.data.reading import AS_USUAL
from diffmem.errors import UserError

RNG = np.random.default_rng(0)
GREY = RNG.integers(0, 256, (5, 7), dtype=np.uint8)
RGB = RNG.integers(0, 256, (5, 7, 3), dtype=np.uint8)


def stacked(*images, reading=AS_USUAL):
    contents = [encoded(image) for image in images]
    names = [f"{i}.png" for i in range(len(images))]
    found = stack_images(Files(names, contents.__getitem__), "place", reading)
    return found.images, tuple(one.sentence for one in found.conversions)


def test_grey_images_are_stacked_with_one_channel():
    images, steps = stacked(GREY, GREY)
    assert images.shape == (2, 1, 5, 7)
    assert steps == ()


@pytest.mark.parametrize("order", [(GREY, RGB, GREY), (RGB, GREY, GREY)])
def test_one_colour_image_turns_all_into_rgb_and_this_is_told(order):
    images, steps = stacked(*order)
    expected = [
        np.repeat(GREY[None], 3, 0) if image.ndim == 2 else image.transpose(2, 0, 1) for image in order
    ]
    np.testing.assert_array_equal(images, expected)
    assert steps == ("2 grey images turned into RGB, like the other 1",)


def test_unequal_sizes_are_told_with_both_files():
    with pytest.raises(UserError, match=r"0\.png is 7 x 5 but 2\.png is 5 x 7"):
        stacked(GREY, GREY, GREY.T.copy())


def test_no_images_at_all_is_told():
    with pytest.raises(UserError, match="place holds no images"):
        stacked()


def test_a_set_that_would_not_fit_into_memory_is_refused(monkeypatch):
    monkeypatch.setattr("diffmem.data.formats.guards.MAX_TOTAL_BYTES", 100)
    with pytest.raises(UserError, match="GiB"):
        stacked(GREY, GREY, GREY)


def test_progress_is_reported_up_to_the_number_of_images():
    calls = []
    content = encoded(GREY)
    stack_images(
        Files(["x"] * 600, lambda index: content),
        "place",
        progress=lambda done, total, note="": calls.append((done, total)),
    )
    assert calls == [(256, 600), (512, 600), (600, 600)]
