import dataclasses
import hashlib
from dataclasses import replace

import numpy as np
import pytest
from data_builders import image_set
from hypothesis import given
from hypothesis import strategies as st

from diffmem.data import ImageSet, duplicated, mixture
from diffmem.errors import UserError


def test_a_set_knows_its_size_shape_and_classes():
    images = image_set(12, (3, 4, 5), classes=3)
    assert (len(images), images.shape, images.num_classes) == (12, (3, 4, 5), 3)


def test_a_set_without_labels_has_no_classes():
    assert image_set(classes=0).num_classes == 0


def test_classes_that_have_a_name_count_although_they_are_empty():
    # trap: the original's label_dim is the largest label plus one
    images = image_set(4, classes=2).with_labels([0, 1, 1, 0], tuple("abcde"), "named")
    assert images.num_classes == 5
    assert images.take([0], "one").num_classes == 5
    assert images.with_labels([0, 1, 1, 0], None, "bare").num_classes == 2


def test_the_fingerprint_tells_sets_with_other_numbers_of_classes_apart():
    images = image_set(4, classes=2)
    bare = images.with_labels(images.labels, None, "bare")
    more = images.with_labels(images.labels, ("a", "b", "c"), "three")
    assert bare.fingerprint == images.fingerprint
    assert len({images.fingerprint, more.fingerprint, images.with_labels(None, None, "-").fingerprint}) == 3
    renamed = images.with_labels(images.labels, ("x", "y", "z"), "three")
    assert renamed.fingerprint == more.fingerprint


def test_a_constant_set_and_a_set_of_one_image_are_sets():
    # trap: the original's builders assert that the least pixel is 0 and the largest 255
    images = ImageSet(np.full((1, 1, 2, 2), 7, np.uint8), [0], ("a",))
    assert (len(images), images.num_classes) == (1, 1)


def test_nothing_in_a_set_can_be_changed():
    images = image_set()
    with pytest.raises(ValueError, match="read-only"):
        images.images[0] = 0
    with pytest.raises(ValueError, match="read-only"):
        images.labels[0] = 1
    with pytest.raises(dataclasses.FrozenInstanceError):
        images.labels = None


def test_changing_the_array_that_a_set_was_made_from_does_not_change_the_set():
    pixels = np.zeros((2, 1, 2, 2), np.uint8)
    images = ImageSet(pixels, None, ("a", "b"))
    pixels[:] = 9
    assert images.images.max() == 0


def test_sets_are_equal_only_to_themselves():
    assert image_set() != image_set()
    assert len({image_set(), image_set()}) == 2


@given(st.integers(0, 11), st.integers(1, 255))
def test_the_fingerprint_depends_on_every_pixel(index, change):
    images = image_set()
    pixels = images.images.copy()
    pixels[index, index % 3, index % 4, index % 5] ^= np.uint8(change)
    assert images.with_images(pixels, "changed").fingerprint != images.fingerprint


def test_the_fingerprint_depends_on_labels_and_shape_but_not_on_names():
    images = image_set(12, (3, 4, 5))
    assert images.with_labels(None, None, "none").fingerprint != images.fingerprint
    assert images.with_labels(images.labels[::-1], None, "turned").fingerprint != images.fingerprint
    assert images.with_images(images.images.reshape(12, 3, 5, 4), "turned").fingerprint != images.fingerprint
    renamed = ImageSet(images.images, images.labels, tuple("abcdefghijkl"), None, ("other",))
    assert renamed.fingerprint == images.fingerprint


def test_the_fingerprint_is_the_sha_256_of_shape_pixels_and_labels():
    images = ImageSet(np.arange(8, dtype=np.uint8).reshape(2, 1, 2, 2), np.array([0, 1]), ("a", "b"))
    content = b"2 1 2 2" + bytes(range(8)) + b"labels" + bytes(8) + b"\x01" + bytes(7)
    assert images.fingerprint == hashlib.sha256(content).hexdigest()


def test_taking_keeps_pixels_labels_and_names_together_and_adds_to_the_history():
    images = image_set()
    taken = images.take([7, 0, 7], "three")
    np.testing.assert_array_equal(taken.images, images.images[[7, 0, 7]])
    assert taken.labels.tolist() == [1, 0, 1]
    assert taken.names == ("image 7", "image 0", "image 7")
    assert taken.history == ("made by a test", "three")


@pytest.mark.parametrize("indices", [[12], [-1], [], [0.5], [[0]], [True]])
def test_indices_outside_of_the_set_are_refused(indices):
    with pytest.raises(UserError):
        image_set(12).take(indices, "wrong")


def test_new_labels_replace_the_old_ones():
    images = image_set(4, classes=2).with_labels([5, 5, 0, 0], list("abcdef"), "other")
    assert images.num_classes == 6
    assert images.class_names == tuple("abcdef")
    assert images.labels.dtype == np.int64


OK = np.zeros((2, 1, 2, 2), np.uint8)


@pytest.mark.parametrize(
    ("parts", "told"),
    [
        ((OK.astype(np.float32), None, ("a", "b")), "uint8"),
        ((OK.tolist(), None, ("a", "b")), "list"),
        ((OK[:, 0], None, ("a", "b")), r"\(2, 2, 2\)"),
        ((np.zeros((2, 2, 2, 2), np.uint8), None, ("a", "b")), "C = 1 or 3"),
        ((OK[:0], None, ()), "at least one"),
        ((OK, [0], ("a", "b")), r"\(1,\)"),
        ((OK, [0.0, 1.0], ("a", "b")), "whole numbers"),
        ((OK, [0, -1], ("a", "b")), "-1"),
        ((OK, [0, 2**40], ("a", "b")), "between"),
        ((OK, None, ("a",)), "1 names"),
        ((OK, None, ("a", "b\0")), "Unicode"),
        ((OK, None, ("a", "\ud800")), "Unicode"),
        ((OK, None, ("a", 3)), "names"),
        ((OK, None, ("a", "b"), ("x",)), "without labels"),
        ((OK, [0, 1], ("a", "b"), ("x",)), "at least 2 class names"),
    ],
)
def test_parts_that_do_not_fit_are_refused(parts, told):
    with pytest.raises(UserError, match=told):
        ImageSet(*parts)


def test_captions_go_with_their_images():
    images = replace(image_set(4), captions=("a", None, "", "d"))
    assert images.take([2, 0, 2], "taken").captions == ("", "a", "")
    assert images.with_labels(None, None, "bare").captions == images.captions
    assert images.fingerprint == image_set(4).fingerprint
    assert duplicated(images, 1.0, 2, seed=0).captions == images.captions * 2
    mixed = mixture(images, image_set(4), 6, 0.5)
    assert mixed.captions == ("a", None, "", None, None, None)


def test_captions_that_do_not_fit_are_refused():
    for captions in (("a",), ("a", "b", "c", 4), ("a\0", "b", "c", "d")):
        with pytest.raises(UserError, match="captions"):
            replace(image_set(4), captions=captions)
