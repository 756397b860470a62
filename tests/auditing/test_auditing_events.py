import itertools
import math

import numpy as np
import pytest

from diffmem.auditing.events import Links, count_events, group_p_value, groups_of


def links(*pairs, own=None):
    """Links to references with their scores, and which references the images are themselves."""
    copied, score = zip(*pairs, strict=True) if pairs else ((), ())
    mine = np.array([] if own is None else own, np.int64)
    return Links(np.array(copied, np.int64), np.array(score, np.float64), mine)


def alone(count):
    return np.arange(count)


def counted(events):
    return events.samples, events.heldout, events.training


def test_every_reference_that_is_matched_is_an_event_of_the_kind_of_its_nearest_image():
    found = count_events(
        alone(6), links((0, 0.1), (1, 0.3)), links((1, 0.2), (2, 0.1)), links((4, 0.1), own=[5])
    )
    assert counted(found) == (1, 2, 1)
    assert found.heldout + found.training == 3
    assert found.members.tolist() == [[1, 0, 1], [1, 1, 1], [0, 1, 1], [0, 0, 2]]


def test_several_samples_of_one_image_are_one_event():
    found = count_events(alone(3), links((1, 0.1), (1, 0.2), (1, 0.05)), Links(), Links())
    assert counted(found) == (1, 0, 0)
    assert found.members.tolist() == [[3, 0, 1]]


def test_samples_of_near_copies_are_one_event():
    groups = groups_of(5, np.array([(0, 1), (1, 2)]))
    assert len(set(groups[:3])) == 1
    assert len(set(groups)) == 3
    found = count_events(groups, links((0, 0.1), (2, 0.2), (3, 0.1)), Links(), Links())
    assert found.samples == 2


def test_training_images_that_flag_each_other_are_one_event_with_all_its_members():
    groups = groups_of(4, np.array([(0, 1), (1, 0), (2, 1)]))
    found = count_events(groups, links((1, 0.3)), Links(), links((1, 0.1), (0, 0.1), (1, 0.2), own=[0, 1, 2]))
    assert counted(found) == (0, 0, 1)
    assert found.members.tolist() == [[1, 0, 3]]


def test_a_tie_is_not_counted_for_the_samples():
    tie = [(0, 0.1)]
    assert counted(count_events(alone(1), links(*tie), links(*tie), Links())) == (0, 1, 0)
    assert counted(count_events(alone(2), links(*tie), Links(), links(*tie, own=[1]))) == (0, 0, 1)


def test_repeats_of_a_sample_weigh_in_the_members_and_make_no_events():
    found = count_events(alone(2), links((0, 0.1), (1, 0.2)), links((1, 0.1)), Links(), np.array([7, 2]))
    assert counted(found) == (1, 1, 0)
    assert found.members.tolist() == [[7, 0, 1], [2, 1, 1]]


def test_without_links_there_are_no_events():
    found = count_events(alone(3), Links(), Links(), Links())
    assert counted(found) == (0, 0, 0)
    assert found.members.shape == (0, 3)
    assert len(groups_of(3, np.zeros((0, 2), np.int64))) == 3


def some(seed):
    """Random links of all kinds with different scores, and random groups."""
    rng = np.random.default_rng(seed)
    groups = groups_of(20, rng.integers(0, 20, (8, 2)))
    scores = rng.permutation(60) / 100
    one, two, three = (
        Links(rng.integers(0, 20, 15), scores[at : at + 15], rng.integers(0, 20, 15)) for at in (0, 15, 30)
    )
    return groups, one, two, three


def shuffled(one, order):
    return Links(one.copied[order], one.score[order], one.own[order])


@pytest.mark.parametrize("seed", range(5))
def test_neither_the_order_of_images_nor_the_numbers_of_references_change_the_events(seed):
    groups, *three = some(seed)
    rng = np.random.default_rng(seed + 100)
    known = count_events(groups, *three)
    again = count_events(groups, *(shuffled(one, rng.permutation(15)) for one in three))
    assert counted(again) == counted(known)
    place = rng.permutation(20)
    moved = np.empty_like(groups)
    moved[place] = rng.permutation(groups.max() + 1)[groups]
    renumbered = count_events(moved, *(Links(place[one.copied], one.score, place[one.own]) for one in three))
    assert counted(renumbered) == counted(known)
    assert sorted(renumbered.members.tolist()) == sorted(known.members.tolist())


@pytest.mark.parametrize("seed", range(5))
def test_one_more_sample_never_takes_an_event_from_the_samples(seed):
    groups, one, two, three = some(seed)
    fewer = Links(one.copied[:-1], one.score[:-1], one.own[:-1])
    assert count_events(groups, fewer, two, three).samples <= count_events(groups, one, two, three).samples


def exact_chance(sizes, count, shares):
    """The chance of so many samples in groups of these sizes, each with a training image at least, by adding up all cases."""
    totals = {0: 1.0}
    for size in sizes:
        here = {}
        for kinds in itertools.product(range(3), repeat=size):
            if 2 in kinds:
                number = kinds.count(0)
                here[number] = here.get(number, 0.0) + math.prod(shares[kind] for kind in kinds)
        norm = sum(here.values())
        totals = {
            number: sum(chance * here.get(number - one, 0.0) / norm for one, chance in totals.items())
            for number in range(max(totals) + size + 1)
        }
    return sum(chance for number, chance in totals.items() if number >= count)


@pytest.mark.parametrize("images", [(100, 20, 480), (300, 300, 300), (10, 0, 90), (900, 50, 50)])
@pytest.mark.parametrize(
    "members", [[(1, 0, 1)], [(3, 0, 1)], [(2, 1, 1), (1, 0, 1)], [(2, 0, 1)] * 3, [(6, 0, 1), (0, 0, 2)]]
)
def test_the_p_value_of_groups_is_no_smaller_than_the_exact_chance(images, members):
    sizes = [sum(one) for one in members]
    count = sum(one[0] for one in members)
    shares = [one / sum(images) for one in images]
    exact = exact_chance(sizes, count, shares)
    found = group_p_value(np.array(members), *images)
    assert exact <= found * (1 + 1e-9)
    assert found <= 1


def test_the_p_value_of_groups_is_not_far_from_the_exact_chance():
    members = np.array([(5, 0, 1)])
    exact = exact_chance([6], 5, [1 / 6, 1 / 30, 0.8])
    assert group_p_value(members, 10_000, 2000, 48_000) < 20 * exact


def test_without_training_images_as_a_null_held_out_images_alone_count():
    from scipy.stats import binom

    members = np.array([(8, 2, 1), (4, 0, 1)])
    assert group_p_value(members, 100, 300, 0) == pytest.approx(binom.sf(11, 14, 0.25))
    assert group_p_value(members, 100, 0, 0) == 1


def test_groups_without_samples_and_no_groups_tell_nothing():
    assert group_p_value(np.array([(0, 2, 1)]), 10, 10, 10) == 1
    assert group_p_value(np.zeros((0, 3), np.int64), 10, 10, 10) == 1
