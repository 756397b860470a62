import numpy as np
import pytest
from data_builders import image_set
from PIL import Image

from diffmem.data import ImageSet, contact_sheet, open_images
from diffmem.errors import UserError


def sheet(images, tmp_path, **options):
    contact_sheet(images, tmp_path / "sheet.png", **options)
    return np.asarray(Image.open(tmp_path / "sheet.png"))


def test_the_sheet_is_an_rgb_png_of_about_1200_pixels_on_white(tmp_path):
    page = sheet(open_images("digits"), tmp_path)
    assert page.ndim == 3
    assert 1000 <= page.shape[1] <= 1500
    assert (page[0] == 255).all()
    assert (page[-1] == 255).all()


def test_pixels_are_enlarged_by_a_whole_number_and_stay_sharp(tmp_path):
    images = image_set(1, (3, 4, 5), classes=0)
    page = sheet(images, tmp_path, scale=3)
    enlarged = images.images[0].transpose(1, 2, 0).repeat(3, 0).repeat(3, 1)
    np.testing.assert_array_equal(page[24 : 24 + 12, 24 : 24 + 15], enlarged)


def test_classes_are_rows_in_order(tmp_path):
    colours = np.array([[255, 0, 0], [0, 128, 0], [0, 0, 255]], np.uint8)
    labels = np.arange(30) % 3
    images = ImageSet(np.tile(colours[labels][:, :, None, None], (1, 1, 8, 8)), labels, ("x",) * 30)
    page = sheet(images, tmp_path, columns=5, scale=1)
    right = page[24 : 24 + 3 * 11, -24 - 8]
    assert [right[4 + 11 * row].tolist() for row in range(3)] == colours.tolist()


def test_many_classes_are_shown_in_order_without_rows_of_their_own(tmp_path):
    images = image_set(100, (1, 2, 2), classes=50)
    assert sheet(images, tmp_path, columns=10, scale=1).shape[1] == 48 + 10 * 5 - 3


def test_large_images_are_reduced_to_the_width_of_the_sheet(tmp_path):
    images = image_set(20, (3, 200, 300), classes=0)
    assert 1000 <= sheet(images, tmp_path).shape[1] <= 1300


@pytest.mark.parametrize(
    ("options", "told"),
    [
        ({"columns": 0}, "1 column"),
        ({"rows": 0}, "1 row"),
        ({"scale": 0}, "scale"),
        ({"scale": 64, "columns": 200}, "fewer rows"),
    ],
)
def test_impossible_sheets_are_refused(tmp_path, options, told):
    images = image_set(200, (1, 40, 40), classes=0)
    with pytest.raises(UserError, match=told):
        sheet(images, tmp_path, **options)


def test_only_png_is_written(tmp_path):
    with pytest.raises(UserError, match=r"sheet\.jpg"):
        contact_sheet(image_set(), tmp_path / "sheet.jpg")
