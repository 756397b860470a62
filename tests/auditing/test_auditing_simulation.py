"""How often an audit of digits errs, roles drawn anew each time: what `test_auditing_simulation_cifar.py` does with photographs."""

import numpy as np
import pytest
from audit_tools import digits, noisy
from parameters import amount, these
from scipy.stats import binom
from simulation import Draw, Table, Universe, table_of

from diffmem.auditing.detector import CopyDetector
from diffmem.auditing.nulls import null_images
from diffmem.auditing.significance import FALSE_ALARM

DRAWS = amount(60, 200)
CLUSTERED = amount(20, 60)
PLANTED = amount(10, 30)  # draws with planted copies
COUNT = 50  # neighbours that the criteria look at
WIDTH = 300  # neighbours in the table
TRAINING, HELDOUT = 700, 300


@pytest.fixture(scope="module")
def images():
    return digits(1797)[0]


@pytest.fixture(scope="module")
def universe(images):
    return Universe.of(images, WIDTH)


@pytest.fixture(scope="module")
def planted(images):
    """Every image with noise of 2 grey levels."""
    return table_of(noisy(images, 2), images, WIDTH)


def most_alarms(draws):
    """Of an error of 1%, more are seen in one of a thousand simulations."""
    return int(binom.isf(0.001, draws, FALSE_ALARM))


def roles(order, training=TRAINING, heldout=HELDOUT):
    return np.sort(order[:training]), order[training : training + heldout], order[training + heldout :]


def simulate(universe, planted, copies, *, training=TRAINING, heldout=HELDOUT, draws=DRAWS, **settings):
    """How often each verdict is given, where so many samples are planted copies of different training images."""
    counts = {"copies found": 0, "none found": 0, "cannot tell": 0}
    for seed in range(draws):
        rng = np.random.default_rng([seed, copies])
        mine, fresh, others = roles(rng.permutation(len(universe)), training, heldout)
        draw = Draw(universe, mine, fresh, count=COUNT, **settings)
        samples = universe.table.take(others[copies:])
        if copies:
            samples = Table.of([samples, planted.take(rng.choice(mine, copies, replace=False))])
        counts[draw.audit(samples).verdict.verdict] += 1
    return counts


def test_a_draw_from_the_whole_table_sees_what_a_search_sees(images):
    whole = Universe.of(images, len(images) - 1)
    training, heldout, samples = roles(np.random.default_rng(0).permutation(len(images)))
    draw = Draw(whole, training, heldout)
    detector = CopyDetector(images[training], "pixel-l2/uint8")
    null = null_images(detector, images[heldout], len(samples))
    pairs = [
        (draw.detect(whole.table.take(samples)), detector.detect(images[samples])),
        (draw.null.heldout, null.heldout),
        *((draw.null.training[space], null.training[space]) for space in ("pixels", "surroundings")),
    ]
    for mine, theirs in pairs:
        deciding = {one.key for one in detector.criteria if one.role == "deciding"}
        assert set(mine.scores) == set(theirs.scores) & deciding
        for key, scores in mine.scores.items():
            np.testing.assert_allclose(scores.score, theirs.scores[key].score, err_msg=key)
            np.testing.assert_array_equal(scores.copied, theirs.scores[key].copied, key)


def test_a_narrow_table_makes_no_sample_look_more_like_a_copy(images, universe, planted):
    whole = Universe.of(images, len(images) - 1)
    training, heldout, samples = roles(np.random.default_rng(1).permutation(len(images)), 300, 300)
    narrow = Universe(Table(whole.table.distances[:, :60], whole.table.indices[:, :60]), whole.shape)
    few, many = (
        Draw(one, training, heldout).detect(one.table.take(samples[:200])) for one in (narrow, whole)
    )
    for key, scores in few.scores.items():
        assert (scores.score >= many.scores[key].score).all(), key
    assert (few.scores["adaptive"].score > many.scores["adaptive"].score).any()


@pytest.mark.thorough
def test_without_a_copy_copies_are_found_in_no_more_draws_than_the_error_allows(universe):
    counts = simulate(universe, None, 0)
    assert counts["copies found"] <= most_alarms(DRAWS)
    assert counts["none found"] >= 0.95 * DRAWS


@pytest.mark.thorough
def test_twenty_copies_among_eight_hundred_samples_are_found(universe, planted):
    assert simulate(universe, planted, 20, draws=PLANTED)["copies found"] == PLANTED


@pytest.mark.thorough
@pytest.mark.parametrize("deduplicated", [False, True])
def test_ten_copies_of_a_small_training_set_are_found_also_by_held_out_images_alone(
    universe, planted, deduplicated
):
    counts = simulate(
        universe, planted, 10, training=300, heldout=700, draws=PLANTED, deduplicated=deduplicated
    )
    assert counts["copies found"] >= 0.9 * PLANTED


@pytest.mark.thorough
@pytest.mark.parametrize("copies", [1, 2])
def test_one_copy_or_two_are_never_cleared(universe, planted, copies):
    assert simulate(universe, planted, copies, draws=PLANTED)["none found"] == 0


def clustered(images, size, groups, seed=0):
    """The images with some replaced by near-copies of others, in groups of one size, and which groups there are, int64 (groups, size)."""
    rng = np.random.default_rng(seed)
    members = rng.choice(len(images), (groups, size), replace=False)
    made = images.copy()
    for row in members:
        made[row] = noisy(images[np.repeat(row[:1], size)], rng.uniform(2, 6), seed=int(row[0]))
    return Universe.of(made, WIDTH), members


@pytest.mark.thorough
@pytest.mark.parametrize(("size", "groups"), these([(2, 60), (10, 12), (50, 4)], (2, 60), (50, 4)))
def test_near_copies_on_all_sides_are_no_copies_of_a_model(images, size, groups):
    universe, members = clustered(images, size, groups)
    assert len(members) == groups
    assert simulate(universe, None, 0, draws=CLUSTERED)["copies found"] <= most_alarms(CLUSTERED)


@pytest.mark.thorough
@pytest.mark.parametrize(("size", "groups"), these([(2, 60), (10, 12)], (10, 12)))
def test_near_copies_that_are_on_one_side_together_are_no_copies_of_a_model(images, size, groups):
    universe, members = clustered(images, size, groups)
    single = np.setdiff1d(np.arange(len(images)), members)
    alarms = 0
    for seed in range(CLUSTERED):
        rng = np.random.default_rng([seed, size])
        whole = rng.choice(3, groups, p=np.array([TRAINING, HELDOUT, 797]) / 1797)
        order, parts, at = rng.permutation(single), [], 0
        for role, total in enumerate((TRAINING, HELDOUT, 797)):
            mine = members[whole == role].ravel()
            parts.append(np.concatenate([mine, order[at : at + total - len(mine)]]))
            at += max(0, total - len(mine))
        draw = Draw(universe, np.sort(parts[0]), parts[1], count=COUNT)
        alarms += draw.audit(universe.table.take(parts[2])).verdict.verdict == "copies found"
    assert alarms <= most_alarms(CLUSTERED)
