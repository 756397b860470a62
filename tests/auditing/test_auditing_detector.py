import numpy as np
import pytest
from audit_tools import digits, noisy

from diffmem.auditing.detector import Instrument
from diffmem.auditing.spaces import FeatureSpace
from diffmem.errors import UserError
from diffmem.memorization import Transforms, authenticity, measure, variant_neighbours

TRAINING, HELDOUT = digits(300, 200)


def flat(images):
    return images.reshape(len(images), -1).astype(np.float64) + 1


FEATURES = FeatureSpace("features flat", "flat", "flat/1", 0.99, flat)


@pytest.fixture(scope="module")
def instrument():
    return Instrument(TRAINING, "pixel-l2/uint8", transforms=Transforms(True, 1), features=[FEATURES])


def test_the_ratio_criterion_is_that_of_measure_with_its_protocol(instrument):
    samples = np.concatenate([noisy(TRAINING[:50], 10), HELDOUT])
    known = measure(samples, TRAINING)
    sight = instrument.look(samples)
    np.testing.assert_array_equal(sight.flags["ratio"], known.memorized)
    np.testing.assert_array_equal(sight.neighbours.indices[:, :2], known.neighbours.indices)
    assert next(kind for kind in instrument.kinds if kind.key == "ratio").protocol == known.protocol


def test_the_authenticity_criterion_is_that_of_authenticity(instrument):
    samples = np.concatenate([noisy(TRAINING[:50], 10), HELDOUT])
    known = authenticity(samples, TRAINING)
    np.testing.assert_array_equal(instrument.look(samples).flags["inauthentic"], ~known.authentic)


def test_the_transformed_ratio_is_that_of_variant_neighbours(instrument):
    samples = np.concatenate([TRAINING[:20, :, :, ::-1], HELDOUT[:50]])
    known = variant_neighbours(samples, TRAINING, transforms=Transforms(True, 1)).samples
    sight = instrument.look(samples)
    np.testing.assert_array_equal(sight.changed.indices[:, :2], known.neighbours.indices)
    assert sight.flags["transforms"][:20].all()
    assert set(sight.variants[:20]) == {"mirrored"}


def test_mirrored_copies_of_images_with_near_copies_in_the_training_set_are_seen():
    training = np.concatenate([TRAINING, noisy(TRAINING[:40], 4)])
    instrument = Instrument(training, "pixel-l2/uint8", transforms=Transforms(True, 0))
    flags = instrument.look(noisy(TRAINING[:40, :, :, ::-1], 4, seed=2)).flags
    assert flags["transforms"].mean() > 0.9
    assert not flags["repeats"].any()


def test_copies_are_seen_by_every_criterion_and_traced_to_their_image(instrument):
    sight = instrument.look(TRAINING[40:60])
    for key, flags in sight.flags.items():
        assert flags.all(), key
        np.testing.assert_array_equal(sight.copied[key], np.arange(40, 60), key)


def test_copies_within_the_training_set_are_collapsed_and_counted():
    instrument = Instrument(np.concatenate([TRAINING, TRAINING[:30]]), "space")
    assert instrument.occurrences[:40].tolist() == [2] * 30 + [1] * 10
    assert instrument.occurrences[300:].tolist() == [0] * 30
    sight = instrument.look(noisy(TRAINING[:30], 5))
    assert sight.flags["ratio"].all()
    np.testing.assert_array_equal(sight.copied["ratio"], np.arange(30))


def test_a_training_image_is_held_against_all_others(instrument):
    own = np.array([3, 100, 299])
    sight = instrument.look(instrument.references[own], own=own)
    for at, index in enumerate(own):
        others = np.delete(TRAINING, index, axis=0)
        alone = Instrument(others, "space", transforms=Transforms(True, 1), features=[FEATURES])
        known = alone.look(TRAINING[index : index + 1])
        assert sight.neighbours.distances[at, 0] == known.neighbours.distances[0, 0]
        for key, flags in known.flags.items():
            assert sight.flags[key][at] == flags[0], key


def test_what_is_seen_of_an_image_does_not_depend_on_the_others(instrument):
    samples = np.concatenate([noisy(TRAINING[:40], 12), HELDOUT[:40]])
    whole = instrument.look(samples)
    part = instrument.look(samples[30:50])
    for key, flags in part.flags.items():
        np.testing.assert_array_equal(flags, whole.flags[key][30:50], key)
    np.testing.assert_array_equal(part.neighbours.indices, whole.take(np.arange(30, 50)).neighbours.indices)


def test_the_order_of_the_training_images_changes_no_flag(instrument):
    order = np.random.default_rng(0).permutation(300)
    other = Instrument(TRAINING[order], "pixel-l2/uint8", transforms=Transforms(True, 1), features=[FEATURES])
    samples = np.concatenate([noisy(TRAINING[:40], 12), HELDOUT[:40]])
    one, two = instrument.look(samples), other.look(samples)
    for key, flags in one.flags.items():
        np.testing.assert_array_equal(flags, two.flags[key], key)
        np.testing.assert_array_equal(one.copied[key][:40], order[two.copied[key][:40]], key)


def test_a_small_training_set_has_no_adaptive_criterion():
    keys = [kind.key for kind in Instrument(TRAINING[:60], "space").kinds]
    assert keys == ["identical", "ratio", "repeats", "near", "inauthentic"]
    assert Instrument(TRAINING[:3], "space").look(HELDOUT[:5]).flags["ratio"].shape == (5,)


def test_fewer_than_three_distinct_images_are_refused():
    with pytest.raises(UserError, match="5 images of which 1 are distinct"):
        Instrument(np.repeat(TRAINING[:1], 5, axis=0), "space")


def test_searches_in_parts_find_the_same(instrument, monkeypatch):
    samples = np.concatenate([noisy(TRAINING[:40], 12), HELDOUT[:40]])
    whole = instrument.look(samples)
    monkeypatch.setattr("diffmem.auditing.detector._PAIRS", 7 * len(instrument.kept))
    parts = instrument.look(samples)
    np.testing.assert_array_equal(whole.neighbours.indices, parts.neighbours.indices)
    np.testing.assert_array_equal(whole.neighbours.distances, parts.neighbours.distances)
