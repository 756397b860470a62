import numpy as np
import pytest
from audit_tools import digits, noisy

from diffmem.auditing.detector import CopyDetector, Detections, joined
from diffmem.auditing.spaces import FeatureSpace
from diffmem.memorization import Transforms, measure, nearest_neighbours, variant_neighbours

TRAINING, HELDOUT = digits(300, 200)


def flat(images):
    return images.reshape(len(images), -1).astype(np.float64) + 1


FEATURES = FeatureSpace("features flat", "flat", "flat/1", 0.99, flat)
SPACES = ("pixels", "surroundings", "changed pixels", "features flat")


def prepared(training=TRAINING, **settings):
    return CopyDetector(
        training,
        "pixel-l2/uint8",
        **{"transforms": Transforms(True, 1), "features": [FEATURES], **settings},
    )


@pytest.fixture(scope="module")
def detector():
    return prepared()


def flags_of(detector, found):
    return {one.key: found.flags(one) for one in detector.criteria}


def criterion(detector, key):
    return next(one for one in detector.criteria if one.key == key)


def test_the_ratio_criterion_is_that_of_measure_with_its_protocol(detector):
    samples = np.concatenate([noisy(TRAINING[:50], 10), HELDOUT])
    known = measure(samples, TRAINING)
    found = detector.detect(samples)
    np.testing.assert_array_equal(found.flags(criterion(detector, "ratio")), known.memorized)
    np.testing.assert_array_equal(found.batch.neighbours["pixels"].indices[:, :2], known.neighbours.indices)
    assert detector.protocol(criterion(detector, "ratio")) == known.protocol


def test_the_authenticity_criterion_compares_with_the_gaps_of_the_training_images(detector):
    samples = np.concatenate([noisy(TRAINING[:50], 10), HELDOUT])
    nearest = nearest_neighbours(samples, TRAINING, 1)
    gaps = nearest_neighbours(TRAINING[nearest.indices[:, 0]], TRAINING, 2).distances[:, 1]
    flags = detector.detect(samples).flags(criterion(detector, "inauthentic"))
    np.testing.assert_array_equal(flags, nearest.distances[:, 0] <= gaps)


def test_the_transformed_ratio_is_that_of_variant_neighbours(detector):
    samples = np.concatenate([TRAINING[:20, :, :, ::-1], HELDOUT[:50]])
    known = variant_neighbours(samples, TRAINING, transforms=Transforms(True, 1))
    found = detector.detect(samples)
    np.testing.assert_array_equal(
        found.batch.neighbours["changed pixels"].indices[:, :2], known.neighbours.indices
    )
    assert found.flags(criterion(detector, "transforms"))[:20].all()
    assert set(found.batch.variants[:20]) == {"mirrored"}


def test_mirrored_copies_of_images_with_near_copies_in_the_training_set_are_seen():
    training = np.concatenate([TRAINING, noisy(TRAINING[:40], 4)])
    detector = prepared(training, transforms=Transforms(True, 0))
    flags = flags_of(detector, detector.detect(noisy(TRAINING[:40, :, :, ::-1], 4, seed=2)))
    assert flags["transforms"].mean() > 0.9
    assert not flags["repeats"].any()


def test_copies_are_seen_by_every_criterion_and_traced_to_their_image(detector):
    found = detector.detect(TRAINING[40:60])
    for key, flags in flags_of(detector, found).items():
        assert flags.all(), key
        np.testing.assert_array_equal(found.scores[key].copied, np.arange(40, 60), key)


def test_copies_within_the_training_set_are_collapsed_and_counted():
    detector = CopyDetector(np.concatenate([TRAINING, TRAINING[:30]]), "space")
    assert detector.occurrences[:40].tolist() == [2] * 30 + [1] * 10
    assert detector.occurrences[300:].tolist() == [0] * 30
    found = detector.detect(noisy(TRAINING[:30], 5))
    assert found.flags(criterion(detector, "ratio")).all()
    np.testing.assert_array_equal(found.scores["ratio"].copied, np.arange(30))


def test_a_training_image_is_compared_with_all_others(detector):
    own = np.array([3, 100, 299])
    found = detector.judge(detector.search(detector.references[own], own=own))
    for at, index in enumerate(own):
        alone = prepared(np.delete(TRAINING, index, axis=0))
        known = alone.detect(TRAINING[index : index + 1])
        for space in SPACES:
            assert found.batch.neighbours[space].distances[at, 0] == pytest.approx(
                known.batch.neighbours[space].distances[0, 0], abs=1e-6
            ), space
        for one in alone.criteria:
            assert found.scores[one.key].score[at] == pytest.approx(
                known.scores[one.key].score[0], abs=1e-6
            ), one.key
            assert index not in found.batch.neighbours[one.space].indices[at]


def test_a_training_image_whose_mirror_image_is_there_too_is_compared_with_the_rest():
    training = np.concatenate([TRAINING, TRAINING[:5, :, :, ::-1]])
    detector = prepared(training, transforms=Transforms(True, 0))
    own = np.arange(5)
    found = detector.judge(detector.search(training[:5], own=own, spaces=["changed pixels"]))
    assert (found.batch.neighbours["changed pixels"].distances[:, 0] > 0).all()
    assert not found.flags(criterion(detector, "transforms")).any()


def test_only_the_spaces_that_are_asked_for_are_searched(detector):
    batch = detector.search(HELDOUT[:5], spaces=["pixels"])
    assert set(batch.neighbours) == {"pixels"}
    assert set(detector.judge(batch).scores) == {
        one.key for one in detector.criteria if one.space == "pixels"
    }
    assert detector.spaces == SPACES


def test_what_is_found_of_an_image_does_not_depend_on_the_others(detector):
    samples = np.concatenate([noisy(TRAINING[:40], 12), HELDOUT[:40]])
    whole = detector.detect(samples)
    part, chosen = detector.detect(samples[30:50]), whole.take(np.arange(30, 50))
    for key, scores in part.scores.items():
        np.testing.assert_allclose(scores.score, chosen.scores[key].score, err_msg=key)
    np.testing.assert_array_equal(
        part.batch.neighbours["pixels"].indices, chosen.batch.neighbours["pixels"].indices
    )
    again = Detections.of([whole.take(np.arange(30)), part, whole.take(np.arange(50, 80))])
    assert again.batch.variants == whole.batch.variants
    for key, scores in again.scores.items():
        np.testing.assert_array_equal(scores.copied, whole.scores[key].copied, key)


def test_the_order_of_the_training_images_changes_no_flag(detector):
    order = np.random.default_rng(0).permutation(300)
    other = prepared(TRAINING[order])
    samples = np.concatenate([noisy(TRAINING[:40], 12), HELDOUT[:40]])
    one, two = detector.detect(samples), other.detect(samples)
    for key, flags in flags_of(detector, one).items():
        np.testing.assert_array_equal(flags, flags_of(other, two)[key], key)
        np.testing.assert_array_equal(one.scores[key].copied[:40], order[two.scores[key].copied[:40]], key)


def test_a_small_training_set_has_no_adaptive_criterion():
    keys = [one.key for one in CopyDetector(TRAINING[:60], "space").criteria]
    assert keys == ["identical", "ratio", "repeats", "near", "inauthentic"]
    three = CopyDetector(TRAINING[:3], "space")
    assert three.detect(HELDOUT[:5]).flags(criterion(three, "ratio")).shape == (5,)


@pytest.mark.parametrize("count", [1, 2])
def test_of_one_training_image_or_two_identity_features_and_nearness_are_left(count):
    few = prepared(np.repeat(TRAINING[:count], 4, axis=0))
    assert [one.key for one in few.criteria] == ["identical", "features flat", "near"]
    found = few.detect(np.concatenate([TRAINING[:1], noisy(TRAINING[:1], 3), 255 - TRAINING[:1]]))
    assert found.flags(criterion(few, "identical")).tolist() == [True, False, False]
    assert found.flags(criterion(few, "near")).tolist() == [True, True, False]


def test_two_training_images_are_compared_with_each_other():
    few = CopyDetector(TRAINING[:2], "space")
    found = few.judge(few.search(TRAINING[:2], own=np.arange(2)))
    assert found.scores["near"].copied.tolist() == [1, 0]


def gaps_by_hand(chosen, own=None):
    gaps = []
    for at, one in enumerate(chosen):
        others = np.delete(TRAINING, [one] if own is None else [one, own[at]], axis=0)
        rows = flat(others) - flat(TRAINING[one : one + 1])
        gaps.append(np.sqrt(np.square(rows).sum(1).min()))
    return np.array(gaps)


@pytest.mark.parametrize("searched", [False, True])
def test_the_gap_around_a_reference_is_the_distance_to_its_nearest_other_one_searched_before_or_not(searched):
    detector = CopyDetector(TRAINING, "space")
    if searched:
        own = np.arange(0, 300, 2)
        detector.search(TRAINING[own], own=own)
    chosen = np.array([5, 5, 0, 299, 12, 250])
    np.testing.assert_allclose(detector.gaps(chosen, None), gaps_by_hand(chosen))
    nearest = nearest_neighbours(TRAINING[chosen], TRAINING, 2).indices[:, 1]
    np.testing.assert_allclose(detector.gaps(chosen, nearest), gaps_by_hand(chosen, nearest))


def test_gaps_that_are_known_are_not_searched_again(monkeypatch):
    detector = CopyDetector(TRAINING, "space")
    detector.search(TRAINING, own=np.arange(300))
    monkeypatch.setattr(detector, "_pixels", lambda *given: pytest.fail("it was searched again"))
    np.testing.assert_allclose(detector.gaps(np.arange(300), None), gaps_by_hand(np.arange(300)))


def test_searches_in_parts_find_the_same(detector, monkeypatch):
    samples = np.concatenate([noisy(TRAINING[:40], 12), HELDOUT[:40]])
    whole = detector.detect(samples).batch.neighbours["pixels"]
    monkeypatch.setattr("diffmem.auditing.detector._PAIRS", 7 * len(detector.distinct))
    parts = detector.detect(samples).batch.neighbours["pixels"]
    np.testing.assert_array_equal(whole.indices, parts.indices)
    np.testing.assert_array_equal(whole.distances, parts.distances)


def test_what_two_detectors_find_together_is_what_one_of_both_sets_finds():
    samples = np.concatenate([noisy(TRAINING[:20], 6), noisy(HELDOUT[:20], 6), HELDOUT[180:]])
    one, other = prepared(TRAINING), prepared(HELDOUT[:180])
    both = prepared(np.concatenate([TRAINING, HELDOUT[:180]]))
    batch, known = joined(one.search(samples), other.search(samples), len(TRAINING)), both.search(samples)
    for space in SPACES:
        mine, theirs = batch.neighbours[space], known.neighbours[space]
        np.testing.assert_allclose(mine.distances, theirs.distances, atol=1e-6, err_msg=space)
        np.testing.assert_array_equal(mine.indices[:, 0], theirs.indices[:, 0], space)


def test_a_side_with_few_images_gives_what_it_has():
    one, other = CopyDetector(TRAINING, "space"), CopyDetector(HELDOUT[:3], "space")
    both = CopyDetector(np.concatenate([TRAINING, HELDOUT[:3]]), "space")
    samples = HELDOUT[50:80]
    found = joined(one.search(samples), other.search(samples), len(TRAINING)).neighbours["pixels"]
    np.testing.assert_allclose(found.distances, both.search(samples).neighbours["pixels"].distances)
