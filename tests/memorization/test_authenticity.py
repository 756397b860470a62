from __future__ import annotations

import json

import numpy as np
import pytest

from diffmem.data.formats.digits import read_digits
from diffmem.errors import UserError
from diffmem.memorization.authenticity import authenticity


def digits() -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """600 images for training, 300 held out, 300 fresh."""
    images = read_digits("train").images
    order = np.random.default_rng(0).permutation(len(images))
    return images[order[:600]], images[order[600:900]], images[order[900:1200]]


def noisy(images: np.ndarray) -> np.ndarray:
    noise = np.random.default_rng(1).integers(-8, 9, images.shape)
    return (images.astype(int) + noise).clip(0, 255).astype(np.uint8)


def test_a_sample_is_authentic_if_its_training_image_has_a_nearer_neighbour():
    training = np.array([[0.0], [3.0], [100.0]])
    samples = np.array([[2.9], [-2.9], [-3.0], [-3.1], [200.0], [6.5]])
    result = authenticity(samples, training)
    np.testing.assert_array_equal(result.gaps, [3, 3, 3, 3, 97, 3])
    np.testing.assert_array_equal(result.authentic, [False, False, False, True, True, True])
    assert result.percent == pytest.approx(50)
    assert (result.copied.count, result.copied.total) == (3, 6)
    np.testing.assert_array_equal(result.neighbours.indices[:, 0], [1, 0, 0, 0, 2, 1])


def test_copies_are_not_authentic_and_fresh_images_are_as_held_out_ones():
    training, heldout, fresh = digits()
    for copies in (training[:200], noisy(training[:200])):
        assert authenticity(copies, training).rate.count == 0
    result = authenticity(fresh, training, heldout=heldout)
    assert result.null is not None
    assert abs(result.rate.value - result.null.value) < 4 * np.sqrt(2 * 0.25 / 300)


def test_duplicated_training_images_change_nothing():  # trap: their nearest other image is at distance 0
    training, heldout, _ = digits()
    samples = np.concatenate([noisy(training[:100]), heldout[:100]])
    once, twice = (
        authenticity(samples, images) for images in (training, np.concatenate([training, training]))
    )
    np.testing.assert_array_equal(once.authentic, twice.authentic)
    np.testing.assert_array_equal(once.gaps, twice.gaps)
    np.testing.assert_array_equal(once.neighbours.indices, twice.neighbours.indices)
    assert (once.duplicates, twice.duplicates, twice.training_images) == (0, 600, 1200)


def test_the_order_of_the_training_images_does_not_matter():
    training, heldout, fresh = digits()
    order = np.random.default_rng(3).permutation(len(training))
    one, other = (authenticity(fresh, images, heldout=heldout) for images in (training, training[order]))
    np.testing.assert_array_equal(one.authentic, other.authentic)
    assert one.to_json() == other.to_json()


def test_the_share_grows_with_the_share_of_fresh_samples():
    training, _, fresh = digits()
    shares = [
        authenticity(np.concatenate([training[:copies], fresh[copies:]]), training).rate.count
        for copies in (0, 100, 200, 300)
    ]
    assert shares == sorted(shares, reverse=True)
    assert shares[-1] == 0 < shares[0]


def test_held_out_training_images_are_left_out_of_the_null():
    training, heldout, fresh = digits()
    mixed = np.concatenate([heldout[:50], training[:30]])
    result = authenticity(fresh, training, heldout=mixed)
    assert result.heldout_overlap == 30
    assert result.null is not None
    assert result.null.total == 50
    assert authenticity(fresh, training, heldout=training[:30]).null is None
    assert authenticity(fresh, training).null is None


def test_independent_points_are_authentic_about_as_often_as_held_out_ones():
    # Fresh and held-out points are exchangeable: over repetitions the difference has mean 0.
    rng = np.random.default_rng(5)
    differences = []
    for _ in range(60):
        points = rng.normal(size=(300, 4))
        result = authenticity(points[:100], points[100:200], heldout=points[200:])
        assert result.null is not None
        differences.append(result.rate.value - result.null.value)
    assert abs(np.mean(differences)) < 4 * np.std(differences) / np.sqrt(60)


def test_features_can_be_compared_by_their_angles():
    rng = np.random.default_rng(6)
    features = rng.normal(size=(60, 8)).astype(np.float32)
    result = authenticity(3 * features[:20], features, metric="cosine", space="sscd")
    assert result.rate.count == 0
    assert result.name == "sscd/authpct/exact-dups-collapsed/v1"


def test_numbers_become_plain_json_with_their_protocol():
    training, heldout, fresh = digits()
    content = json.loads(json.dumps(authenticity(fresh, training, heldout=heldout).to_json()))
    assert content["protocol"] == "pixel-l2/uint8/authpct/exact-dups-collapsed/v1"
    assert content["authentic"]["total"] == 300
    assert content["null"]["low"] < content["null"]["value"] < content["null"]["high"]


def test_progress_grows_to_the_whole():
    training, heldout, fresh = digits()
    seen: list[float] = []
    authenticity(
        fresh, training, heldout=heldout, progress=lambda done, total, note="": seen.append(done / total)
    )
    assert seen == sorted(seen)
    assert seen[-1] == pytest.approx(1)


def test_too_few_distinct_training_images_are_refused():
    with pytest.raises(UserError, match=r"3 images of which 1 is distinct.*at least 2"):
        authenticity(np.zeros((2, 1, 2, 2), np.uint8), np.ones((3, 1, 2, 2), np.uint8))


def test_no_samples_are_refused():
    with pytest.raises(UserError, match="at least one"):
        authenticity(np.zeros((0, 1, 2, 2), np.uint8), np.ones((3, 1, 2, 2), np.uint8))
