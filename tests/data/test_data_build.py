import numpy as np
import pytest
from data_builders import cifar_parts, image_set, write_cifar

from diffmem.data import (
    BuildConfig,
    balanced,
    build,
    choose_classes,
    duplicated,
    mixture,
    open_images,
    random_labels,
    write_images,
)
from diffmem.errors import UserError


@pytest.fixture
def unlabelled(tmp_path):
    write_images(image_set(8, classes=0), tmp_path / "unlabelled.npz")
    return tmp_path / "unlabelled.npz"


def test_a_labelled_set_is_balanced_unless_told_otherwise():
    digits = open_images("digits")
    assert build("digits", BuildConfig(size=50)).fingerprint == balanced(digits, 50).fingerprint
    assert build("digits", BuildConfig(size=50, selection="first")).names == digits.names[:50]
    assert (
        build("digits", BuildConfig(size=50, selection="random", seed=3)).history[-1]
        == "random 50 of 1797 images, seed 3"
    )


def test_an_unlabelled_set_gives_the_first_and_says_so(unlabelled):
    chosen = build(unlabelled, BuildConfig(size=3))
    assert chosen.names == ("image 0", "image 1", "image 2")
    assert chosen.history[-1] == "first 3 of 8 images (no labels to balance)"


def test_balancing_an_unlabelled_set_on_request_is_refused(unlabelled):
    with pytest.raises(UserError, match="needs labels"):
        build(unlabelled, BuildConfig(size=3, selection="balanced"))


def test_a_size_that_cannot_be_balanced_is_not_rounded():
    with pytest.raises(UserError, match="50 and 60"):
        build("digits", BuildConfig(size=55))


def test_classes_are_chosen_before_images_and_pixels_are_changed_last(tmp_path):
    archive = write_cifar(tmp_path / "c.tar.gz", cifar_parts(per_batch=40))
    images = build(archive, BuildConfig(size=8, classes=["dog", "cat"], resolution=16, gray=True))
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


@pytest.mark.parametrize("resolution", [None, 4, 8, 16])
def test_the_first_images_are_balanced_over_classes_at_every_resolution(resolution):
    # trap: figure 2(a) of the original takes the first images of the file, which are not balanced
    images = build("digits", BuildConfig(size=30, resolution=resolution))
    assert np.bincount(images.labels).tolist() == [3] * 10
    assert images.names == build("digits", BuildConfig(size=30)).names


def test_relabelling_comes_after_all_that_changes_pixels_and_duplication_comes_last():
    images = build(
        "digits",
        BuildConfig(
            size=20, resolution=4, labels="random", label_classes=50, duplicate=0.5, copies=3, seed=2
        ),
    )
    plain = build("digits", BuildConfig(size=20, resolution=4))
    expected = duplicated(random_labels(plain, 50, 2), 0.5, 3, 2)
    assert (images.fingerprint, images.names) == (expected.fingerprint, expected.names)
    assert images.num_classes == 50
    assert [step.split()[0] for step in images.history[1:]] == [
        "balanced:",
        "resized",
        "random",
        "duplicated:",
    ]


def test_each_kind_of_labels_can_be_built(unlabelled):
    plain = build("digits", BuildConfig(size=10))
    assert build("digits", BuildConfig(size=10, labels="true")).fingerprint == plain.fingerprint
    assert build("digits", BuildConfig(size=10, labels="none")).labels is None
    assert build(unlabelled, BuildConfig(size=5, labels="unique")).labels.tolist() == [0, 1, 2, 3, 4]
    assert build(unlabelled, BuildConfig(labels="random", label_classes=3)).num_classes == 3
    with pytest.raises(UserError, match="no true labels"):
        build(unlabelled, BuildConfig(labels="true"))


@pytest.mark.parametrize("selection", [None, "first", "random"])
def test_a_mixture_takes_its_share_of_chosen_classes(selection):
    # trap: the step that makes the single-class set of the mixture is missing from the original's instructions
    mixed = build(
        "digits",
        BuildConfig(
            size=10, classes=["5"], mix="digits", mix_classes=["7"], share=0.3, selection=selection, seed=4
        ),
    )
    fives, sevens = choose_classes(open_images("digits"), ["5"]), choose_classes(open_images("digits"), ["7"])
    expected = mixture(fives, sevens, 10, 0.3, seed=4 if selection == "random" else None)
    assert (mixed.fingerprint, mixed.names) == (expected.fingerprint, expected.names)


@pytest.mark.parametrize("share", [0, 1])
def test_a_mixture_of_nothing_or_all_of_a_source_can_be_built(share):
    mixed = build("digits", BuildConfig(size=6, classes=["5"], mix="digits", mix_classes=["7"], share=share))
    assert mixed.labels.tolist() == [share] * 6
    assert mixed.num_classes == 2


def test_both_parts_of_a_mixture_are_resized_and_turned_grey(tmp_path):
    write_images(image_set(9, (3, 6, 7), classes=0), tmp_path / "colour.npz")
    with pytest.raises(UserError, match="resize both"):
        build("digits", BuildConfig(size=4, mix=tmp_path / "colour.npz", share=0.5))
    with pytest.raises(UserError, match="turn the colour images grey"):
        build("digits", BuildConfig(size=4, mix=tmp_path / "colour.npz", share=0.5, resolution=4))
    mixed = build(
        "digits", BuildConfig(size=4, mix=tmp_path / "colour.npz", share=0.5, resolution=4, gray=True)
    )
    assert mixed.shape == (1, 4, 4)


def test_a_set_of_one_image_can_be_built_in_every_way(tmp_path):
    write_images(image_set(1, classes=1), tmp_path / "one.npz")
    one = build(
        tmp_path / "one.npz", BuildConfig(size=1, labels="random", label_classes=9, duplicate=1, copies=2)
    )
    assert (len(one), one.num_classes) == (2, 9)
    assert len(build("digits", BuildConfig(size=1, mix="digits", share=0.5))) == 1


def test_a_constant_set_can_be_built(tmp_path):
    # trap: the original's builders assert that the least pixel is 0 and the largest 255
    constant = image_set(4, (3, 5, 5)).with_images(np.full((4, 3, 5, 5), 9, np.uint8), "constant")
    write_images(constant, tmp_path / "constant.npz")
    images = build(tmp_path / "constant.npz", BuildConfig(size=3, resolution=2, labels="unique"))
    assert set(images.images.reshape(-1).tolist()) == {9}


@pytest.mark.parametrize(
    ("options", "told"),
    [
        ({"share": 0.5}, "share is about a mixture"),
        ({"mix_classes": ["1"]}, "mix classes is about a mixture"),
        ({"mix_synsets": "dogs"}, "mix synsets is about a mixture"),
        ({"mix": "digits", "size": 4}, "needs a share"),
        ({"mix": "digits", "share": 0.5}, "needs a size"),
        ({"mix": "digits", "share": 1.5, "size": 4}, "between 0 and 1"),
        ({"mix": "digits", "share": 0.5, "size": 0}, "at least 1"),
        ({"mix": "digits", "share": 0.5, "size": 4, "selection": "balanced"}, "not balanced"),
        ({"synsets": "dogs", "classes": ["1"]}, "classes and synsets do not go together"),
        ({"labels": "best"}, "'best'"),
        ({"labels": "random"}, "need label classes"),
        ({"labels": "unique", "label_classes": 5}, "random labels only"),
        ({"label_classes": 5}, "random labels only"),
        ({"duplicate": 0.5}, "needs both"),
        ({"copies": 5}, "needs both"),
        ({"duplicate": 2, "copies": 5}, "between 0 and 1"),
        ({"duplicate": 0.5, "copies": 1}, "at least 2"),
    ],
)
def test_choices_that_do_not_go_together_are_refused_before_anything_is_read(tmp_path, options, told):
    with pytest.raises(UserError, match=told):
        build(tmp_path / "missing", BuildConfig(**options))


def test_choices_that_make_no_sense_are_refused():
    with pytest.raises(UserError, match="'best'"):
        build("digits", BuildConfig(size=3, selection="best"))
    with pytest.raises(UserError, match="needs a size"):
        build("digits", BuildConfig(selection="random"))


@pytest.mark.cifar
def test_the_balanced_set_of_the_real_archive_is_the_first_of_each_class(cifar_archive):
    images, chosen = open_images(cifar_archive), build(cifar_archive, BuildConfig(size=100))
    expected = [index for label in range(10) for index in np.flatnonzero(images.labels == label)[:10]]
    np.testing.assert_array_equal(chosen.images, images.images[expected])
