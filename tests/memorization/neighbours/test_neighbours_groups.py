from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from diffmem.data import open_images
from diffmem.errors import UserError
from diffmem.memorization import near_duplicates
from diffmem.memorization.neighbours import groups as module

RNG = np.random.default_rng(0)
SHAPE = (3, 6, 5)


def distance(one, two):
    """Grey levels RMS, by the formula."""
    return float(np.sqrt(np.mean((one.astype(np.float64) - two.astype(np.float64)) ** 2)))


def far_apart(count):
    """Images of random pixels: about 100 grey levels RMS from each other, all values from 1 to 254."""
    return RNG.integers(1, 255, (count, *SHAPE), dtype=np.uint8)


def planted():
    """60 images of which 9 are copies; the groups by the radius from which on they are there."""
    images = far_apart(60)
    images[[20, 41]] = images[3]
    images[50] = images[7]
    noise = RNG.choice(np.array([-1, 1]), SHAPE)
    images[33] = images[11] + noise
    part = noise * (np.arange(90).reshape(SHAPE) % 2)
    images[2] = images[59] + part
    images[14], images[15] = images[58] + 1, images[58] - 1
    images[22], images[23] = images[30] + 1, images[30]
    exact = [(3, 20, 41), (7, 50), (23, 30)]
    half = [*exact, (2, 59)]
    one = [(2, 59), (3, 20, 41), (7, 50), (11, 33), (14, 15, 58), (22, 23, 30)]
    return images, {0: sorted(exact), np.sqrt(0.5): sorted(half), 1: one}


def members(found):
    return [tuple(group.tolist()) for group in found.members]


def test_every_planted_copy_is_found_at_its_radius_and_none_below():
    images, expected = planted()
    radii = sorted(expected)
    for radius in radii:
        assert members(near_duplicates(images, radius)) == expected[radius]
    for lower, upper in pairwise(radii):
        assert members(near_duplicates(images, np.nextafter(upper, 0) - 1e-9)) == expected[lower]
    assert members(near_duplicates(images, 20)) == expected[1]


def test_the_distances_of_a_group_are_those_of_the_formula():
    images, _ = planted()
    found = near_duplicates(images)
    for group, gaps, nearest, widest in zip(
        found.members, found.gaps, found.nearest, found.widest, strict=True
    ):
        table = np.array([[distance(images[i], images[j]) for j in group] for i in group])
        assert widest == pytest.approx(table.max(), abs=1e-12)
        np.fill_diagonal(table, np.inf)
        np.testing.assert_allclose(gaps, table.min(1), rtol=1e-12)
        assert nearest == gaps.min()
    chain = members(found).index((14, 15, 58))
    assert (found.nearest[chain], found.widest[chain]) == (1, 2)


@settings(max_examples=30)
@given(st.permutations(range(60)))
def test_groups_do_not_depend_on_the_order_of_the_images(order):
    images, expected = planted()
    found = near_duplicates(images[order])
    assert sorted(tuple(sorted(order[place] for place in group)) for group in found.members) == expected[1]
    assert all(np.all(np.diff(group) > 0) for group in found.members)
    firsts = [int(group[0]) for group in found.members]
    assert firsts == sorted(firsts)


@settings(max_examples=60)
@given(
    st.lists(st.lists(st.integers(0, 4), min_size=4, max_size=4), min_size=1, max_size=12),
    st.floats(0, 4),
)
def test_groups_are_the_components_of_the_graph_of_near_pairs(rows, radius):
    images = np.array(rows, np.uint8).reshape(-1, 1, 2, 2)
    count = len(images)
    label = list(range(count))
    for i in range(count):
        for j in range(i):
            if distance(images[i], images[j]) <= radius:
                label = [label[j] if one == label[i] else one for one in label]
    expected = {tuple(k for k in range(count) if label[k] == one) for one in label}
    found = near_duplicates(images, radius)
    assert set(members(found)) == {group for group in expected if len(group) > 1}
    assert found.distinct.tolist() == sorted(group[0] for group in expected)
    assert found.removed == count - len(expected)


def test_what_is_kept_is_one_image_of_each_group_and_has_no_near_pair_left():
    images, expected = planted()
    found = near_duplicates(images)
    assert found.removed == sum(len(group) - 1 for group in expected[1]) == 9
    assert len(near_duplicates(images[found.distinct])) == 0
    kept = set(found.distinct.tolist())
    assert all(
        [place in kept for place in group] == [True] + [False] * (len(group) - 1) for group in expected[1]
    )


def test_a_set_of_copies_of_one_image_is_one_group_and_makes_no_pairs(monkeypatch):
    monkeypatch.setattr("diffmem.memorization.neighbours.near.MOST_PAIRS", 1)
    monkeypatch.setattr(module, "_MOST_COPY_PAIRS", 1000)
    found = near_duplicates(np.repeat(far_apart(1), 300, axis=0), 5)
    assert members(found) == [tuple(range(300))]
    assert (found.widest.tolist(), found.removed) == ([0.0], 299)


def test_groups_are_the_same_whether_copies_take_part_in_the_search(monkeypatch):
    images, expected = planted()
    whole = near_duplicates(images)
    monkeypatch.setattr(module, "_MOST_COPY_PAIRS", 0)
    found = near_duplicates(images)
    assert members(found) == members(whole) == expected[1]
    np.testing.assert_array_equal(np.concatenate(found.gaps), np.concatenate(whole.gaps))
    np.testing.assert_array_equal(found.widest, whole.widest)


def test_largest_groups_come_first_and_of_equal_size_the_nearest():
    found = near_duplicates(planted()[0])
    listed = [members(found)[number] for number in found.by_size()]
    assert listed == [(3, 20, 41), (22, 23, 30), (14, 15, 58), (7, 50), (2, 59), (11, 33)]


def test_the_largest_distance_of_a_large_group_is_not_measured(monkeypatch):
    images, _ = planted()
    monkeypatch.setattr(module, "_MOST_MEASURED", 2)
    found = near_duplicates(images)
    assert [members(found)[k] for k in np.flatnonzero(np.isnan(found.widest))] == [(14, 15, 58)]


def test_the_largest_distance_is_exact_over_several_blocks_of_values(monkeypatch):
    images, _ = planted()
    whole = near_duplicates(images).widest
    monkeypatch.setattr(module, "_COLUMNS", 7)
    np.testing.assert_array_equal(near_duplicates(images).widest, whole)


def test_a_set_without_duplicates_has_no_groups():
    found = near_duplicates(open_images("digits").images)
    assert (len(found), found.removed, found.nearest.shape, found.by_size()) == (0, 0, (0,), [])
    assert len(near_duplicates(far_apart(1))) == 0


def test_a_mapped_set_has_the_groups_of_the_same_set_in_memory(tmp_path):
    images, expected = planted()
    np.save(tmp_path / "a.npy", images)
    assert members(near_duplicates(open_images(tmp_path / "a.npy").images)) == expected[1]


@pytest.mark.parametrize("radius", [-1, np.nan, np.inf, 256])
def test_a_radius_that_is_none_is_refused(radius):
    with pytest.raises(UserError, match="between 0 and 255"):
        near_duplicates(far_apart(2), radius)
