import numpy as np
import pytest
from audit_tools import digits, noisy

from diffmem.auditing import nulls as module
from diffmem.auditing.detector import CopyDetector
from diffmem.auditing.nulls import SEARCHES, null_images
from diffmem.memorization import Transforms

TRAINING, HELDOUT = digits(400, 300)


@pytest.fixture(scope="module")
def detector():
    return CopyDetector(TRAINING, "pixel-l2/uint8")


def by_key(detector, key):
    return next(one for one in detector.criteria if one.key == key)


def test_every_training_image_is_compared_with_all_others_where_samples_are_many(detector):
    null = null_images(detector, None, 1000)
    found = null.training["pixels"]
    assert found.batch.own.tolist() == list(range(400))
    assert (found.batch.neighbours["pixels"].indices != np.arange(400)[:, None]).all()
    assert null.heldout is None
    assert (len(null.overlap), null.distinct, null.exchangeable) == (0, 400, True)


def test_images_that_are_in_the_training_set_several_times_are_compared_once():
    detector = CopyDetector(np.concatenate([TRAINING, TRAINING[:50]]), "space")
    null = null_images(detector, None, 1000)
    assert null.distinct == len(null.training["pixels"]) == 400
    assert not null.of_training(by_key(detector, "identical")).any()


def test_of_a_deduplicated_training_set_no_image_is_a_null(detector):
    null = null_images(detector, HELDOUT, 1000, deduplicated=True)
    assert null.training == {}
    assert not null.exchangeable
    assert len(null.of_training(by_key(detector, "ratio"))) == 0
    assert len(null.of_heldout(by_key(detector, "ratio"))) == 300


def test_held_out_images_that_are_training_images_are_told_and_left_out(detector):
    null = null_images(detector, np.concatenate([HELDOUT[:50], TRAINING[:7], HELDOUT[50:]]), 1000)
    assert np.flatnonzero(null.overlap).tolist() == list(range(50, 57))
    assert (len(null.overlap), len(null.heldout)) == (307, 300)
    np.testing.assert_array_equal(null.heldout.batch.images, HELDOUT)


def test_held_out_images_that_are_all_training_images_leave_no_null(detector):
    null = null_images(detector, TRAINING[:20], 1000)
    assert null.heldout is None
    assert null.overlap.all()
    assert len(null.overlap) == 20


def test_near_copies_among_training_images_flag_each_other():
    detector = CopyDetector(np.concatenate([TRAINING, noisy(TRAINING[:9], 3)]), "space")
    flags = null_images(detector, None, 1000).of_training(by_key(detector, "ratio"))
    assert np.flatnonzero(flags).tolist() == [*range(9), *range(400, 409)]


def test_for_each_sample_five_training_images_are_compared_and_the_seed_draws_them(detector, monkeypatch):
    monkeypatch.setattr(module, "_LEAST", 10)
    one, again, other = (
        null_images(detector, None, 12, seed=seed).training["pixels"].batch.own for seed in (0, 0, 1)
    )
    assert len(one) == SEARCHES * 12 == 60
    assert one.tolist() == again.tolist() == sorted(set(one.tolist()))
    assert one.tolist() != other.tolist()


def test_large_images_are_drawn_by_their_memory(detector, monkeypatch):
    monkeypatch.setattr(module, "_MOST_BYTES", 64 * 100)
    monkeypatch.setattr(module, "_LEAST", 50)
    assert len(null_images(detector, None, 1000).training["pixels"]) == 100


def test_where_a_search_is_slow_fewer_training_images_are_compared(monkeypatch):
    monkeypatch.setattr(module, "SLOW_SPACES_MOST", 25)
    monkeypatch.setitem(module._MOST, "surroundings", 60)
    detector = CopyDetector(TRAINING, "space", transforms=Transforms(True, 0))
    found = null_images(detector, None, 1000).training
    assert {space: len(one) for space, one in found.items()} == {
        "pixels": 400,
        "surroundings": 60,
        "changed pixels": 25,
    }
    assert set(found["changed pixels"].scores) == {"transforms"}
    assert not found["changed pixels"].flags(by_key(detector, "transforms")).any()


@pytest.mark.parametrize("count", [1, 2])
def test_of_one_training_image_there_is_no_other_and_of_two_there_is_one(count):
    detector = CopyDetector(TRAINING[:count], "space")
    null = null_images(detector, HELDOUT[:5], 1000)
    assert len(null.training) == count - 1
    assert len(null.heldout) == 5
