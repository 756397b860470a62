import json
import zipfile

import numpy as np
import pytest
from data_builders import cifar_parts, image_set, image_sets, write_cifar
from hypothesis import given, settings

from diffmem.data import balanced, build, open_images, write_images
from diffmem.errors import UserError


@pytest.mark.parametrize("ending", [".zip", ".npz"])
@settings(max_examples=60, deadline=None)
@given(images=image_sets())
def test_what_is_written_reads_back_the_same(tmp_path_factory, ending, images):
    path = tmp_path_factory.getbasetemp() / f"round{ending}"
    write_images(images, path)
    read = open_images(path)
    assert read.fingerprint == images.fingerprint
    assert (read.names, read.class_names) == (images.names, images.class_names)
    assert read.history[:-1] == images.history


@pytest.mark.parametrize("ending", [".zip", ".npz"])
def test_the_same_set_gives_the_same_bytes(tmp_path, ending):
    a, b = tmp_path / f"a{ending}", tmp_path / f"b{ending}"
    write_images(image_set(), a)
    write_images(image_set(), b)
    assert a.read_bytes() == b.read_bytes()


def test_the_zip_is_the_layout_that_edm_reads(tmp_path):
    path = tmp_path / "a.zip"
    write_images(image_set(3, (3, 4, 5)), path)
    with zipfile.ZipFile(path) as archive:
        assert archive.namelist() == [*(f"00000/img0000000{k}.png" for k in range(3)), "dataset.json"]
        assert all(info.compress_type == zipfile.ZIP_STORED for info in archive.infolist())
        labels = dict(json.loads(archive.read("dataset.json"))["labels"])
    assert labels == {f"00000/img0000000{k}.png": k for k in range(3)}


def test_the_npz_is_read_by_numpy_alone(tmp_path):
    images = image_set(3, (3, 4, 5))
    write_images(images, tmp_path / "a.npz")
    with np.load(tmp_path / "a.npz", allow_pickle=False) as archive:
        np.testing.assert_array_equal(archive["images"], images.images)
        assert archive["labels"].tolist() == [0, 1, 2]
        assert archive["names"].tolist() == list(images.names)


def test_a_thousand_images_fill_a_folder_of_the_zip(tmp_path):
    write_images(image_set(1001, (1, 1, 1)), tmp_path / "a.zip")
    with zipfile.ZipFile(tmp_path / "a.zip") as archive:
        assert archive.namelist()[999:1001] == ["00000/img00000999.png", "00001/img00001000.png"]


def test_an_existing_file_is_replaced_and_nothing_is_left_beside_it(tmp_path):
    path = tmp_path / "a.zip"
    path.write_text("old")
    write_images(image_set(), path)
    assert open_images(path).fingerprint == image_set().fingerprint
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize("name", ["a.tar", "a", "a.png"])
def test_other_endings_are_refused(tmp_path, name):
    with pytest.raises(UserError, match=name):
        write_images(image_set(), tmp_path / name)


def test_a_folder_is_not_replaced(tmp_path):
    (tmp_path / "a.zip").mkdir()
    with pytest.raises(UserError, match="folder"):
        write_images(image_set(), tmp_path / "a.zip")


@pytest.fixture
def unlabelled(tmp_path):
    write_images(image_set(8, classes=0), tmp_path / "unlabelled.npz")
    return tmp_path / "unlabelled.npz"


def test_a_labelled_set_is_balanced_unless_told_otherwise():
    digits = open_images("digits")
    assert build("digits", size=50).fingerprint == balanced(digits, 50).fingerprint
    assert build("digits", size=50, selection="first").names == digits.names[:50]
    assert (
        build("digits", size=50, selection="random", seed=3).history[-1] == "random 50 of 1797 images, seed 3"
    )


def test_an_unlabelled_set_gives_the_first_and_says_so(unlabelled):
    chosen = build(unlabelled, size=3)
    assert chosen.names == ("image 0", "image 1", "image 2")
    assert chosen.history[-1] == "first 3 of 8 images (no labels to balance)"


def test_balancing_an_unlabelled_set_on_request_is_refused(unlabelled):
    with pytest.raises(UserError, match="needs labels"):
        build(unlabelled, size=3, selection="balanced")


def test_a_size_that_cannot_be_balanced_is_not_rounded():
    with pytest.raises(UserError, match="50 and 60"):
        build("digits", size=55)


def test_classes_are_chosen_before_images_and_pixels_are_changed_last(tmp_path):
    archive = write_cifar(tmp_path / "c.tar.gz", cifar_parts(per_batch=40))
    images = build(archive, size=8, classes=["dog", "cat"], resolution=16, gray=True)
    assert images.shape == (1, 16, 16)
    assert images.class_names == ("cat", "dog")
    assert images.labels.tolist() == [0] * 4 + [1] * 4
    assert [step.split()[0] for step in images.history] == [
        "CIFAR-10",
        "classes",
        "classes",
        "balanced:",
        "resized",
        "turned",
    ]


def test_wishes_that_make_no_sense_are_refused():
    with pytest.raises(UserError, match="'best'"):
        build("digits", size=3, selection="best")
    with pytest.raises(UserError, match="needs a size"):
        build("digits", selection="random")


@pytest.mark.cifar
def test_the_balanced_set_of_the_real_archive_is_the_first_of_each_class(cifar_archive):
    images, chosen = open_images(cifar_archive), build(cifar_archive, size=100)
    expected = [index for label in range(10) for index in np.flatnonzero(images.labels == label)[:10]]
    np.testing.assert_array_equal(chosen.images, images.images[expected])
