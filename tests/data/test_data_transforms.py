import numpy as np
import pytest
from data_builders import image_set, image_sets
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from diffmem.data import ImageSet, grayscale, resize, rgb
from diffmem.errors import UserError


@pytest.mark.parametrize("resolution", [4, 16, 31])
def test_resizing_is_pillows_lanczos(resolution):
    images = image_set(3, (3, 16, 16))
    resized = resize(images, resolution).images
    for before, after in zip(images.images, resized, strict=True):
        expected = Image.fromarray(before.transpose(1, 2, 0)).resize(
            (resolution, resolution), Image.Resampling.LANCZOS
        )
        np.testing.assert_array_equal(after.transpose(1, 2, 0), np.asarray(expected))


@given(
    st.integers(0, 255), st.integers(1, 12), st.integers(1, 12), st.integers(1, 12), st.sampled_from([1, 3])
)
def test_a_flat_image_stays_flat_at_any_resolution(value, height, width, resolution, channels):
    flat = ImageSet(np.full((1, channels, height, width), value, np.uint8), None, ("flat",))
    resized = resize(flat, resolution)
    assert resized.shape == (channels, resolution, resolution)
    assert (resized.images == value).all()


def test_images_that_are_not_square_are_cropped_in_the_middle_and_this_is_told():
    pixels = np.zeros((1, 1, 2, 6), np.uint8)
    pixels[..., 2:4] = 7
    cropped = resize(ImageSet(pixels, None, ("x",)), 2)
    assert (cropped.images == 7).all()
    assert cropped.history == ("centre crop from 6 x 2 to 2 x 2",)
    assert resize(ImageSet(pixels, None, ("x",)), 4).history == (
        "centre crop from 6 x 2 to 2 x 2; resized from 2 x 2 to 4 x 4 (LANCZOS)",
    )


def test_a_set_that_is_as_wished_is_returned_as_it_is():
    colour, grey = image_set(3, (3, 4, 4)), image_set(3, (1, 4, 4))
    assert resize(colour, 4) is colour
    assert rgb(colour) is colour
    assert grayscale(grey) is grey


@pytest.mark.parametrize("resolution", [0, -3, 5000])
def test_impossible_resolutions_are_refused(resolution):
    with pytest.raises(UserError, match=str(resolution)):
        resize(image_set(), resolution)


def test_turning_grey_is_pillows_mode_l():
    values = np.array(np.meshgrid(*[np.arange(0, 256, 5)] * 3), np.uint8).reshape(1, 3, 52, -1)
    grey = grayscale(ImageSet(values, None, ("all colours",)))
    expected = np.asarray(Image.fromarray(values[0].transpose(1, 2, 0)).convert("L"))
    np.testing.assert_array_equal(grey.images[0, 0], expected)


@given(image_sets())
def test_turning_grey_images_into_rgb_and_back_changes_nothing(images):
    grey = grayscale(images)
    assert grayscale(rgb(grey)).fingerprint == grey.fingerprint


def test_labels_and_names_stay():
    images = image_set(6, (3, 4, 4))
    changed = grayscale(resize(images, 2))
    assert changed.labels.tolist() == images.labels.tolist()
    assert changed.names == images.names
    assert changed.class_names == images.class_names
    assert len(changed.history) == 3
