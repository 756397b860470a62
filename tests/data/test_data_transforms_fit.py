import numpy as np
import pytest
from data_builders import encoded, image_set
from PIL import Image

from diffmem.data import Reading, open_images, resize
from diffmem.data.transforms import fit_images, fitted
from diffmem.errors import UserError

WIDE = np.random.default_rng(0).integers(0, 256, (8, 16, 3), dtype=np.uint8)
SQUARE = np.full((4, 4, 3), 90, np.uint8)


def test_each_way_gives_a_square():
    def by_pillow(pixels, width, height):
        return np.asarray(Image.fromarray(pixels).resize((width, height), Image.Resampling.LANCZOS))

    np.testing.assert_array_equal(
        fitted(WIDE, "crop", 4), by_pillow(np.ascontiguousarray(WIDE[:, 4:12]), 4, 4)
    )
    np.testing.assert_array_equal(fitted(WIDE, "crop", 8), WIDE[:, 4:12])
    np.testing.assert_array_equal(fitted(WIDE, "stretch", 4), by_pillow(WIDE, 4, 4))
    padded = fitted(WIDE, "pad", 8)
    np.testing.assert_array_equal(padded[2:6], by_pillow(WIDE, 8, 4))
    assert not padded[:2].any()
    assert not padded[6:].any()
    assert fitted(WIDE[..., 0], "pad", 4).shape == (4, 4)


def test_the_shortest_side_keeps_a_pixel_and_the_right_size_stays_as_it_is():
    assert fitted(np.ones((1, 200), np.uint8), "pad", 4).sum() == 4
    assert fitted(SQUARE, "pad", 4) is SQUARE


def test_images_of_unequal_shapes_are_brought_to_one_and_this_is_told(tmp_path):
    for name, pixels in (("a.png", WIDE), ("b.png", SQUARE), ("c.png", WIDE.transpose(1, 0, 2).copy())):
        (tmp_path / name).write_bytes(encoded(pixels))
    with pytest.raises(
        UserError, match=r"a\.png is 16 x 8 but b\.png is 4 x 4\. Bring all to one size: --fit crop"
    ):
        open_images(tmp_path)
    for fit, told in (
        ("crop", "centre-cropped to a square"),
        ("stretch", "stretched"),
        ("pad", "padded with black"),
    ):
        images = open_images(tmp_path, reading=Reading(fit=fit, resolution=4))
        np.testing.assert_array_equal(
            images.images[2].transpose(1, 2, 0), fitted(WIDE.transpose(1, 0, 2), fit, 4)
        )
        assert images.history[1] == (
            f"brought to 4 x 4 in 2 of 3 images: {told} where not square, resampled (LANCZOS)"
        )
        assert [one.key for one in images.conversions] == ["fit"]


@pytest.mark.parametrize("channels", [1, 3])
def test_images_that_were_never_encoded_are_fitted_too(channels, tmp_path):
    images = image_set(5, (channels, 8, 6))
    assert fit_images(images, "crop", 5).fingerprint == resize(images, 5).fingerprint
    padded = fit_images(images, "pad", 8)
    np.testing.assert_array_equal(padded.images[..., 1:7], images.images)
    assert padded.history[-1].startswith("brought from 6 x 8 to 8 x 8: padded with black")
    assert fit_images(padded, "pad", 8) is padded
    np.savez(tmp_path / "a.npz", images=images.images, layout="NCHW")
    read = open_images(tmp_path / "a.npz", reading=Reading(fit="pad", resolution=8))
    np.testing.assert_array_equal(read.images, padded.images)
