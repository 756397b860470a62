import os

import numpy as np
import pytest
from data_builders import encoded

from diffmem.data import open_images
from diffmem.errors import UserError

PIXELS = np.random.default_rng(0).integers(0, 256, (6, 4, 4, 3), dtype=np.uint8)


def put(folder, *names):
    for name, pixels in zip(names, PIXELS, strict=False):
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(encoded(pixels))


def test_images_in_a_folder_are_sorted_and_unlabelled(tmp_path):
    put(tmp_path, "b.png", "a.png", "c.PNG")
    images = open_images(tmp_path)
    np.testing.assert_array_equal(images.images, PIXELS[[1, 0, 2]].transpose(0, 3, 1, 2))
    assert images.names == ("a.png", "b.png", "c.PNG")
    assert images.labels is None


def test_sub_folders_are_classes_in_sorted_order(tmp_path):
    put(tmp_path, "dog/2.png", "cat/deep/9.png", "dog/1.png")
    images = open_images(tmp_path)
    assert images.names == ("cat/deep/9.png", "dog/1.png", "dog/2.png")
    assert images.labels.tolist() == [0, 1, 1]
    assert images.class_names == ("cat", "dog")
    assert images.history == (f"folder {tmp_path.name}: 3 images in 2 classes",)


def test_every_understood_ending_is_read(tmp_path):
    kinds = {
        "png": "PNG",
        "jpg": "JPEG",
        "jpeg": "JPEG",
        "bmp": "BMP",
        "gif": "GIF",
        "webp": "WEBP",
        "tif": "TIFF",
        "tiff": "TIFF",
        "ppm": "PPM",
    }
    for ending, kind in kinds.items():
        (tmp_path / f"{ending}.{ending}").write_bytes(encoded(PIXELS[0], kind))
    assert len(open_images(tmp_path)) == len(kinds)


def test_hidden_and_other_files_are_passed_over(tmp_path):
    put(tmp_path, "a.png", ".b.png", ".hidden/c.png")
    (tmp_path / "labels.csv").write_text("x")
    images = open_images(tmp_path)
    assert images.names == ("a.png",)
    assert images.history == (
        f"folder {tmp_path.name}: 1 images",
        "2 hidden images not read (.b.png, .hidden/c.png)",
        "1 other file skipped (labels.csv)",
    )


def test_images_beside_and_inside_of_sub_folders_are_refused(tmp_path):
    put(tmp_path, "a.png", "cat/b.png")
    with pytest.raises(UserError, match=r"a\.png.*cat/b\.png"):
        open_images(tmp_path)


def test_an_empty_folder_is_told(tmp_path):
    with pytest.raises(UserError, match="no images"):
        open_images(tmp_path)


def test_a_broken_image_is_named(tmp_path):
    put(tmp_path, "a.png", "b.png")
    (tmp_path / "b.png").write_bytes(encoded(PIXELS[0])[:-20])
    with pytest.raises(UserError, match=r"b\.png: the file is cut short"):
        open_images(tmp_path)


def test_a_link_that_leads_out_is_refused_and_one_that_stays_is_read(tmp_path):
    put(tmp_path, "secret.png", "set/a.png")
    (tmp_path / "set" / "b.png").symlink_to("a.png")
    assert len(open_images(tmp_path / "set")) == 2
    (tmp_path / "set" / "c.png").symlink_to(tmp_path / "secret.png")
    with pytest.raises(UserError, match=r"c\.png is refused: it is a link that leads out"):
        open_images(tmp_path / "set")


def test_a_link_to_a_folder_is_refused(tmp_path):
    put(tmp_path, "other/a.png", "set/cat/a.png")
    (tmp_path / "set" / "dog").symlink_to(tmp_path / "other")
    with pytest.raises(UserError, match="link to a folder"):
        open_images(tmp_path / "set")


def test_a_pipe_that_is_named_like_an_image_is_refused(tmp_path):
    os.mkfifo(tmp_path / "a.png")
    with pytest.raises(UserError, match="no plain file"):
        open_images(tmp_path)


def test_a_name_that_is_no_utf_8_is_shown_with_question_marks(tmp_path):
    with open(os.fsencode(tmp_path) + b"/\xff.png", "wb") as stream:
        stream.write(encoded(PIXELS[0]))
    assert open_images(tmp_path).names == ("\ufffd.png",)
