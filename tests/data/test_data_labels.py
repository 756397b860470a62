import tracemalloc

import numpy as np
import pytest
from data_builders import image_set, process_seconds
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import binomtest, chisquare

from diffmem.data import (
    ImageSet,
    balanced,
    first,
    open_images,
    random_labels,
    random_subset,
    unique_labels,
    write_images,
)
from diffmem.errors import UserError

SET = image_set(60, (1, 3, 3), classes=3)
MANY = image_set(20_000, (1, 2, 3), classes=0)


def label_by_name(images):
    return dict(zip(images.names, images.labels.tolist(), strict=True))


@given(st.integers(1, 1000), st.integers(0, 2**64), st.integers(1, 20), st.integers(0, 5))
def test_an_image_keeps_its_random_label_at_every_size_order_and_selection(classes, seed, third, draw):
    # trap: in the original, the label of an image changes with the size of the set
    whole = label_by_name(random_labels(SET, classes, seed))
    for part in (first(SET, third), balanced(SET, 3 * third), random_subset(SET, third, draw)):
        assert label_by_name(random_labels(part, classes, seed)).items() <= whole.items()


def test_random_labels_keep_the_number_of_classes_that_was_asked_for():
    # trap: the original's label_dim is the largest label plus one, 998 of 1,000 classes at 1,000 images
    images = random_labels(SET, 1000, 0)
    assert images.labels.max() < 999
    assert images.num_classes == 1000
    assert images.take([3, 4], "two").num_classes == 1000
    assert images.class_names[:2] == ("random 0", "random 1")


def test_random_labels_are_uniform_over_the_classes():
    counts = np.bincount(random_labels(MANY, 10, 1).labels, minlength=10)
    assert chisquare(counts).pvalue > 1e-3


def test_random_labels_are_not_balanced():
    counts = np.bincount(random_labels(MANY, 10, 1).labels)
    assert len(set(counts.tolist())) > 1


def test_random_labels_of_other_seeds_are_independent():
    same = (random_labels(MANY, 4, 0).labels == random_labels(MANY, 4, 1).labels).sum()
    assert binomtest(int(same), len(MANY), 1 / 4).pvalue > 1e-3


def test_random_labels_do_not_depend_on_the_true_ones():
    assert (
        random_labels(SET, 7, 3).fingerprint
        == random_labels(SET.with_labels(None, None, "-"), 7, 3).fingerprint
    )


def test_exact_copies_share_their_random_label():
    twice = SET.take([*range(60), *range(60)], "twice")
    labels = random_labels(twice, 50, 0).labels
    np.testing.assert_array_equal(labels[:60], labels[60:])


def test_random_labels_never_change():
    assert random_labels(first(open_images("digits"), 8), 10, 0).labels.tolist() == [3, 8, 1, 6, 9, 0, 4, 3]


def test_one_class_of_random_labels_is_one_condition_for_all():
    images = random_labels(SET, 1, 5)
    assert images.num_classes == 1
    assert not images.labels.any()


def test_random_labels_are_recorded():
    assert random_labels(SET, 5, 9).history[-1] == "random labels of 5 classes, seed 9"


@pytest.mark.parametrize("ending", [".zip", ".npz"])
def test_the_number_of_random_classes_survives_a_file(tmp_path, ending):
    images = random_labels(SET, 1000, 0)
    write_images(images, tmp_path / f"a{ending}")
    read = open_images(tmp_path / f"a{ending}")
    assert (read.num_classes, read.fingerprint) == (1000, images.fingerprint)


@pytest.mark.parametrize(
    ("classes", "seed", "told"), [(0, 0, "not 0"), (10**7, 0, "10000000"), (3, -1, "not -1")]
)
def test_random_labels_out_of_range_are_refused(classes, seed, told):
    with pytest.raises(UserError, match=told):
        random_labels(SET, classes, seed)


def test_unique_labels_are_the_positions():
    images = unique_labels(SET)
    assert images.labels.tolist() == list(range(60))
    assert (images.num_classes, images.class_names) == (60, None)
    assert images.history[-1] == "a label for each of 60 images"


def test_fifty_thousand_unique_labels_are_quick_and_small():  # trap: one-hot vectors, 10 GB at 50,000
    images = ImageSet(np.zeros((50_000, 1, 1, 1), np.uint8), None, ("x",) * 50_000)
    tracemalloc.start()
    took, labelled = process_seconds(lambda: unique_labels(images))
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert labelled.num_classes == 50_000
    assert peak < 10_000_000
    assert took < 5


def test_a_set_of_one_image_can_be_labelled():
    one = first(SET, 1)
    assert unique_labels(one).labels.tolist() == [0]
    assert random_labels(one, 9, 0).num_classes == 9
