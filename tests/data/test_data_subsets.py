from collections import Counter
from dataclasses import replace

import numpy as np
import pytest
from data_builders import image_set
from hypothesis import given
from hypothesis import strategies as st

from diffmem.data import ImageSet, balanced, choose_classes, first, groups_by_name, hold_out, random_subset
from diffmem.errors import UserError

SET = image_set(30, (1, 2, 2), classes=3)
UNEVEN = SET.with_labels([0] * 20 + [1] * 7 + [2] * 3, ("ant", "bee", "cow"), "uneven")
UNLABELLED = image_set(30, (1, 2, 2), classes=0)


def numbers(images):
    return [int(name.removeprefix("image ")) for name in images.names]


def test_balanced_takes_the_first_of_each_class_sorted_by_class():
    chosen = balanced(SET, 6)
    assert numbers(chosen) == [0, 3, 1, 4, 2, 5]
    assert chosen.labels.tolist() == [0, 0, 1, 1, 2, 2]
    np.testing.assert_array_equal(chosen.images, SET.images[[0, 3, 1, 4, 2, 5]])
    assert chosen.history[-1] == "balanced: the first 2 of each of 3 classes, 6 images"


@given(st.integers(1, 10), st.integers(1, 10))
def test_balanced_sets_are_nested(a, b):
    small, large = sorted((a * 3, b * 3))
    assert set(numbers(balanced(SET, small))) <= set(numbers(balanced(SET, large)))


@given(st.integers(1, 10))
def test_every_class_of_a_balanced_set_has_the_same_number_of_images(each):
    assert np.bincount(balanced(SET, 3 * each).labels).tolist() == [each] * 3


def test_the_last_class_never_takes_a_remainder():
    # trap: the original's builder of some classes gives the last one what is left over
    with pytest.raises(UserError, match="8 images cannot be balanced over 3 classes"):
        balanced(SET, 8)


def test_balancing_names_a_class_that_has_a_name_but_no_images():
    gap = SET.with_labels([0, 2] * 15, ("ant", "bee", "cow", "doe"), "gaps")
    with pytest.raises(UserError, match=r"2 of 4 have none, the first is class 1 \(bee\); keep only"):
        balanced(gap, 4)
    assert np.bincount(balanced(choose_classes(gap, ["ant", "cow"]), 4).labels).tolist() == [2, 2]


@pytest.mark.parametrize(("n", "sizes"), [(7, "6 and 9"), (29, "27 and 30"), (2, "3")])
def test_a_size_that_cannot_be_balanced_names_the_nearest_that_can(n, sizes):
    with pytest.raises(
        UserError, match=f"{n} images cannot be balanced over 3 classes: the nearest sizes are {sizes}"
    ):
        balanced(SET, n)


def test_a_class_with_too_few_images_is_named():
    with pytest.raises(
        UserError, match=r"Class 2 \(cow\) has 3 images.* need 4 each; the largest balanced size is 9"
    ):
        balanced(UNEVEN, 12)


def test_balancing_needs_labels():
    with pytest.raises(UserError, match="needs labels"):
        balanced(UNLABELLED, 3)


@pytest.mark.parametrize(
    "choose", [balanced, first, lambda images, n: random_subset(images, n, 0), lambda i, n: hold_out(i, n, 0)]
)
def test_more_images_than_there_are_and_none_at_all_are_refused(choose):
    with pytest.raises(UserError, match="33 images were asked for but there are only 30"):
        choose(SET, 33)
    with pytest.raises(UserError, match="at least 1"):
        choose(SET, 0)


@given(st.integers(1, 30))
def test_first_keeps_the_order(n):
    assert numbers(first(SET, n)) == list(range(n))


@given(st.integers(1, 30), st.integers(1, 30), st.integers(0, 2**64))
def test_random_subsets_of_one_seed_are_nested_and_distinct(a, b, seed):
    small, large = sorted((a, b))
    inner, outer = numbers(random_subset(SET, small, seed)), numbers(random_subset(SET, large, seed))
    assert inner == outer[:small]
    assert len(set(outer)) == large


def test_random_subsets_depend_on_the_seed():
    assert numbers(random_subset(SET, 30, 0)) != numbers(random_subset(SET, 30, 1))


def test_random_subsets_never_change():
    assert numbers(random_subset(SET, 5, 0)) == [11, 3, 20, 13, 2]


@given(st.integers(1, 29), st.integers(0, 1000))
def test_held_out_and_rest_are_disjoint_and_whole_and_in_order(n, seed):
    rest, held_out = hold_out(SET, n, seed)
    assert len(held_out) == n
    assert sorted(numbers(rest) + numbers(held_out)) == list(range(30))
    assert numbers(rest) == sorted(numbers(rest))
    assert numbers(held_out) == sorted(numbers(held_out))


@given(st.integers(1, 29), st.integers(0, 100))
def test_held_out_images_are_not_in_the_random_subset_of_the_remaining_size(n, seed):
    rest, _ = hold_out(SET, n, seed)
    assert set(numbers(random_subset(SET, 30 - n, seed))) == set(numbers(rest))


def test_holding_out_everything_is_refused():
    with pytest.raises(UserError, match="leaves none"):
        hold_out(SET, 30, 0)


@given(st.lists(st.integers(0, 6), min_size=30, max_size=30), st.integers(1, 29), st.integers(0, 100))
def test_no_group_is_on_both_sides_and_the_last_one_held_out_was_needed(groups, n, seed):
    largest = max(Counter(groups).values())
    try:
        rest, held_out = hold_out(SET, n, seed, groups)
    except UserError:
        assert n > 30 - largest  # even the groups without the last one of the order are too few
        return
    sides = [{groups[at] for at in numbers(part)} for part in (rest, held_out)]
    assert not sides[0] & sides[1]
    assert sorted(numbers(rest) + numbers(held_out)) == list(range(30))
    assert n <= len(held_out) < n + largest


@given(st.integers(1, 20), st.integers(0, 100))
def test_held_out_groups_are_nested(n, seed):
    groups = [at // 3 for at in range(30)]
    fewer, more = (set(numbers(hold_out(SET, count, seed, groups)[1])) for count in (n, n + 4))
    assert fewer <= more


def test_groups_of_one_image_each_hold_out_the_same_images_as_no_groups():
    assert numbers(hold_out(SET, 7, 3, range(30))[1]) == numbers(hold_out(SET, 7, 3)[1])


def test_groups_are_what_a_pattern_finds_in_the_names():
    images = replace(SET.take(range(3), "three"), names=("a/p1.png", "a/p2.png", "b/p1.png"))
    assert groups_by_name(images, "^[^/]+") == ("a", "a", "b")
    assert groups_by_name(images, r"p(\d)") == ("1", "2", "1")


@pytest.mark.parametrize(
    ("pattern", "match"),
    [
        ("[", "no regular expression"),
        ("a/", "names of 1 of 3 images.*'p2.png'"),
        ("(a/)?p", "names of 1 of 3 images.*'p2.png'"),
    ],
)
def test_a_pattern_that_is_wrong_or_not_in_every_name_is_refused(pattern, match):
    images = replace(SET.take(range(3), "three"), names=("a/p1.png", "p2.png", "a/p1.png"))
    with pytest.raises(UserError, match=match):
        groups_by_name(images, pattern)


def test_values_for_another_number_of_images_are_refused():
    with pytest.raises(UserError, match="30 images but 3 values"):
        hold_out(SET, 3, 0, "abc")


def test_a_negative_seed_is_refused():
    with pytest.raises(UserError, match="-1"):
        random_subset(SET, 3, -1)


@pytest.mark.parametrize("classes", [["cow", "ant"], [2, 0], ["2", "ant"]])
def test_chosen_classes_are_renumbered_in_the_order_of_the_set(classes):
    chosen = choose_classes(UNEVEN, classes)
    assert chosen.labels.tolist() == [0] * 20 + [1] * 3
    assert chosen.class_names == ("ant", "cow")
    assert chosen.history[-2:] == ("classes ant, cow: 23 of 30 images", "classes renumbered 0 to 1")


def test_choosing_all_classes_changes_nothing():
    assert choose_classes(UNEVEN, ["bee", "ant", "cow"]).fingerprint == UNEVEN.fingerprint


def test_names_that_are_digits_win_over_numbers():
    images = ImageSet(SET.images[:2], [0, 1], ("a", "b"), ("1", "0"))
    assert choose_classes(images, ["1"]).names == ("a",)
    assert choose_classes(images, [1]).names == ("b",)


@pytest.mark.parametrize(
    ("classes", "told"),
    [
        (["bea"], "There is no class 'bea'. Did you mean 'bee'"),
        ([3], "0 to 2"),
        (["-1"], "There is no class"),
        (["ant", 0], "once"),
        ([], "at least one"),
    ],
)
def test_classes_that_cannot_be_chosen_are_told(classes, told):
    with pytest.raises(UserError, match=told):
        choose_classes(UNEVEN, classes)


def test_choosing_classes_needs_labels_and_images():
    with pytest.raises(UserError, match="no labels"):
        choose_classes(UNLABELLED, [0])
    with pytest.raises(UserError, match="Class 1 has no images"):
        choose_classes(SET.with_labels([0, 2] * 15, None, "gap"), [0, 1])
    with pytest.raises(UserError, match=r"Class 3 \(doe\) has no images"):
        choose_classes(SET.with_labels([0, 2] * 15, ("ant", "bee", "cow", "doe"), "gap"), ["doe"])
