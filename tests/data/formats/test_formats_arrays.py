"""Images and labels of .npz and .npy files in the forms that other programs leave them in."""

import numpy as np
import pytest

from diffmem.data import Reading, open_images, other_readings
from diffmem.errors import UserError

RNG = np.random.default_rng(0)
GREY = RNG.integers(0, 256, (4, 5, 6), dtype=np.uint8)
RGB = RNG.integers(0, 256, (4, 5, 6, 3), dtype=np.uint8)
CLASSES = [2, 0, 1, 2]


def npz(folder, *arrays, **named):
    np.savez(folder / "a.npz", *arrays, **named)
    return folder / "a.npz"


def opened(path, **choices):
    return open_images(path, reading=Reading(**choices))


def test_images_and_labels_are_read_under_the_names_that_are_told(tmp_path):
    path = npz(tmp_path, pixels=RGB, target=np.array(CLASSES), images=RGB[::-1])
    images = opened(path, images_key="pixels", labels_key="target")
    np.testing.assert_array_equal(images.images, RGB.transpose(0, 3, 1, 2))
    assert images.labels.tolist() == CLASSES
    assert images.history[1] == "1 other array skipped (images)"


def test_names_that_are_not_there_are_refused_with_those_that_are(tmp_path):
    path = npz(tmp_path, pixels=RGB, target=np.array(CLASSES))
    with pytest.raises(UserError, match=r"it has pixels, target. Name the images by --key images=NAME"):
        open_images(path)
    for choices in ({"images_key": "pixel"}, {"images_key": "pixels", "labels_key": "targets"}):
        with pytest.raises(UserError, match=r"has no key '(pixel|targets)'; it has pixels, target"):
            opened(path, **choices)


def test_labels_are_left_out_by_choice(tmp_path):
    assert opened(npz(tmp_path, images=GREY, labels=np.array(CLASSES)), labels_key="none").labels is None


@pytest.mark.parametrize(
    ("labels", "numbers", "names", "told"),
    [
        (np.array(CLASSES)[:, None], CLASSES, None, None),
        (np.eye(3)[CLASSES], CLASSES, None, "one-hot rows"),
        (np.eye(4, dtype=bool)[CLASSES], CLASSES, None, "one-hot rows"),
        (
            np.array(["dog", "ant", "cat", "dog"]),
            CLASSES,
            ("ant", "cat", "dog"),
            "in this order: ant, cat, dog",
        ),
        (
            np.array([[b"dog"], [b"ant"], [b"cat"], [b"dog"]]),
            CLASSES,
            ("ant", "cat", "dog"),
            "labels are words",
        ),
    ],
)
def test_labels_may_be_columns_one_hot_rows_or_words(tmp_path, labels, numbers, names, told):
    images = open_images(npz(tmp_path, images=GREY, labels=labels))
    assert images.labels.tolist() == numbers
    assert images.class_names == names
    assert told in images.history[1] if told else len(images.history) == 1


def test_words_are_numbered_by_the_class_names_that_the_file_has(tmp_path):
    words, names = np.array(["dog", "ant", "cat", "dog"]), np.array(["dog", "cat", "bee", "ant"])
    images = open_images(npz(tmp_path, images=GREY, labels=words, class_names=names))
    assert images.labels.tolist() == [0, 3, 1, 0]
    assert images.class_names == tuple(names)
    with pytest.raises(UserError, match="labels holds 'ant', which is none of the class names"):
        open_images(npz(tmp_path, images=GREY, labels=words, class_names=names[:3]))


@pytest.mark.parametrize(
    ("labels", "told"),
    [
        (np.array([[1, 0], [1, 1], [0, 1], [0, 1]]), "row 1 is not one-hot.*labels=none"),
        (np.array([[1, 0], [0, 0], [0, 1], [0, 1]]), "row 1 is not one-hot"),
        (np.array([[1, 0.5], [0, 1], [0, 1], [0, 1]]), "row 0 is not one-hot"),
        (np.array([[1, 2, 3]] * 4), "row 0 is not one-hot"),
        (np.array([1.0, 0, 0, 0]), "labels holds float64 values; save the class numbers as whole numbers"),
        (np.array(CLASSES, "M8[s]"), "datetime64"),
        (np.array(["a", "b"]), r"4 images but the labels have shape \(2,\)"),
        (np.eye(3)[CLASSES][:2], r"4 images but the labels have shape \(2,\)"),
        (np.zeros((4, 1, 1), int), r"\(4, 1, 1\)"),
    ],
)
def test_labels_that_are_no_classes_are_refused(tmp_path, labels, told):
    with pytest.raises(UserError, match=told):
        open_images(npz(tmp_path, images=GREY, labels=labels))


@pytest.mark.parametrize("labels", [np.array(CLASSES), np.array(CLASSES, np.uint8)[:, None]])
def test_the_second_array_of_guided_diffusion_holds_the_labels(tmp_path, labels):
    images = open_images(npz(tmp_path, RGB, labels))
    assert images.labels.tolist() == CLASSES
    assert images.history[1:] == ("labels read from arr_1: a whole number for each image",)


@pytest.mark.parametrize(
    "second", [np.arange(3), np.zeros(4), np.array([0, 1, 2, -1]), RGB, np.array([print] * 4)]
)
def test_a_second_array_that_does_not_fit_is_told_and_not_read(tmp_path, second):
    images = open_images(npz(tmp_path, RGB, second))
    assert images.labels is None
    assert images.history[1] == "1 other array skipped (arr_1): if arr_1 holds labels, save them as 'labels'"


def medmnist(folder, **others):
    """The layout of MedMNIST: 4, 2 and 3 images and labels (N, 1)."""
    parts = {"train": GREY, "val": GREY[1:3], "test": GREY[1:]}
    arrays = {f"{split}_images": part for split, part in parts.items()}
    arrays |= {
        f"{split}_labels": np.array(CLASSES[: len(part)], np.uint8)[:, None] for split, part in parts.items()
    }
    return npz(folder, **(arrays | others))


@pytest.mark.parametrize(
    ("split", "pixels", "told"),
    [
        (None, GREY, "split train: 4 of 9 images (not read: val 2, test 3)"),
        ("train", GREY, "split train: 4 of 9 images (not read: val 2, test 3)"),
        ("val", GREY[1:3], "split val: 2 of 9 images (not read: train 4, test 3)"),
        ("test", GREY[1:], "split test: 3 of 9 images (not read: train 4, val 2)"),
    ],
)
def test_a_split_of_medmnist_is_read_and_the_others_are_told(tmp_path, split, pixels, told):
    images = open_images(medmnist(tmp_path), split)
    np.testing.assert_array_equal(images.images[:, 0], pixels)
    assert images.labels.tolist() == CLASSES[: len(pixels)]
    assert images.history == (f"{split or 'train'} split of npz a.npz: {len(pixels)} images", told)


def test_splits_of_medmnist_that_cannot_be_read_are_refused(tmp_path):
    path = medmnist(tmp_path)
    with pytest.raises(UserError, match="no split 'dev'; its splits are train, val, test"):
        open_images(path, "dev")
    several = np.array([[0, 1, 1], [0, 0, 0], [1, 0, 0], [0, 0, 0]])
    with pytest.raises(UserError, match=r"train_labels .*row 0 is not one-hot.*labels=none"):
        open_images(medmnist(tmp_path, train_labels=several))
    assert opened(path, labels_key="none").labels is None


def test_the_pairs_of_keras_are_splits(tmp_path):
    labels = np.array(CLASSES)
    path = npz(tmp_path, x_train=GREY, y_train=labels, x_test=GREY[:2], y_test=labels[:2])
    assert open_images(path).labels.tolist() == CLASSES
    assert open_images(path, "test").labels.tolist() == CLASSES[:2]


@pytest.mark.parametrize("kind", ["npz", "npy"])
@pytest.mark.parametrize("dtype", [np.float16, np.float32, ">f4", np.float64])
@pytest.mark.parametrize(("scale", "low"), [("0..1", 0.0), ("-1..1", -1.0)])
def test_float_images_of_a_range_become_the_levels_that_they_were(tmp_path, kind, dtype, scale, low):
    every = np.arange(256, dtype=np.uint8).reshape(1, 16, 16)
    values = (low + every / 255 * (1 - low)).astype(dtype)
    path = tmp_path / f"a.{kind}"
    np.save(path, values) if kind == "npy" else np.savez(path, images=values)
    images = opened(path, range=scale)
    np.testing.assert_array_equal(images.images[:, 0], every)
    assert f"values {scale} became 0 to 255, rounded to the nearest (halves to even), by" in images.history[1]
    assert images.history[1].endswith(f"smallest value {low:g}, largest 1")


def test_values_between_two_levels_go_to_the_nearer_one(tmp_path):
    values = np.array([0, 0.4, 0.6, 100.5, 101.5, 255]).reshape(1, 1, 6) / 255
    images = opened(npz(tmp_path, images=values), range="0..1")
    assert images.images.reshape(-1).tolist() == [0, 0, 1, 100, 102, 255]
    assert "by 0.5 of a grey level at most" in images.history[1]


def test_channels_of_float_images_may_come_last_or_in_fortran_order(tmp_path):
    expected = RGB.transpose(0, 3, 1, 2)
    for stored in (RGB / 255, np.asfortranarray(RGB / 255)):
        np.testing.assert_array_equal(opened(npz(tmp_path, images=stored), range="0..1").images, expected)
    np.save(tmp_path / "a.npy", RGB / 255)
    np.testing.assert_array_equal(opened(tmp_path / "a.npy", range="0..1").images, expected)


@pytest.mark.parametrize("kind", ["npz", "npy"])
@pytest.mark.parametrize(
    ("values", "scale", "told"),
    [
        (GREY / 255 * 2 - 1, "0..1", "the range is 0..1 but it holds values from -1 to"),
        (
            GREY / 1.0,
            "-1..1",
            "it holds values from 0 to 248. Give the range that the values have, clip them to it, or save",
        ),
        (np.where(GREY > 100, np.nan, 0), "0..1", "not a number"),
        (np.where(GREY > 100, np.inf, 0), "0..1", "values from 0 to inf"),
        (GREY, "0..1", "holds uint8 values: a range is for float images and can change nothing"),
        (GREY / 255, None, "float64 values; save them as uint8 .*--range 0..1 or --range -1..1"),
    ],
)
def test_values_outside_of_the_range_are_refused(tmp_path, kind, values, scale, told):
    path = tmp_path / f"a.{kind}"
    np.save(path, values) if kind == "npy" else np.savez(path, images=values)
    with pytest.raises(UserError, match=told):
        opened(path, range=scale)


def test_a_range_whose_lower_half_is_unused_is_told_and_the_other_is_offered(tmp_path):
    path = npz(tmp_path, images=GREY / 255)
    reading = Reading(range="-1..1")
    images = open_images(path, reading=reading)
    assert images.history[1].endswith("no pixel is darker than grey 128, 0..1 may be meant")
    assert [one.reading for one in other_readings(images, path, reading)] == [Reading(range="0..1")]


@pytest.mark.parametrize("kind", ["npz", "npy"])
def test_the_layout_is_asked_for_where_both_fit_and_taken_as_told(tmp_path, kind):
    pixels = RNG.integers(0, 256, (2, 3, 8, 3), dtype=np.uint8)
    path = tmp_path / f"a.{kind}"
    np.save(path, pixels) if kind == "npy" else np.savez(path, images=pixels)
    with pytest.raises(UserError, match=r"which could be .* say which by --layout chw or hwc"):
        open_images(path)
    np.testing.assert_array_equal(opened(path, layout="chw").images, pixels)
    np.testing.assert_array_equal(opened(path, layout="hwc").images, pixels.transpose(0, 3, 1, 2))


def test_a_layout_that_the_file_or_its_shape_contradicts_is_refused(tmp_path):
    with pytest.raises(UserError, match=r"shape \(4, 5, 6, 3\), which is not of the layout NCHW"):
        opened(npz(tmp_path, images=RGB), layout="chw")
    with pytest.raises(UserError, match="says of itself that its layout is NHWC, not NCHW"):
        opened(npz(tmp_path, images=RGB, layout=np.array("NHWC")), layout="chw")


@pytest.mark.parametrize(
    ("name", "choices", "told"),
    [
        ("a.npy", {"images_key": "x"}, "images_key x can change nothing in it, it is for .npz files"),
        ("digits", {"range": "0..1"}, "range 0..1 can change nothing"),
        ("folder", {"layout": "chw"}, "layout chw can change nothing"),
    ],
)
def test_a_choice_about_arrays_is_refused_where_it_can_change_nothing(tmp_path, name, choices, told):
    np.save(tmp_path / "a.npy", GREY)
    (tmp_path / "folder").mkdir()
    with pytest.raises(UserError, match=told):
        opened(name if name == "digits" else tmp_path / name, **choices)
