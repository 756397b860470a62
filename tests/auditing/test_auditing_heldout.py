import numpy as np
import pytest
from audit_tools import digits, image_set, noisy, times_of

from diffmem.auditing.compare import judge
from diffmem.auditing.detector import CopyDetector
from diffmem.auditing.heldout import MOST_NEAR, BothSides, check_heldout, near_share, unlike_training
from diffmem.auditing.nulls import null_images
from diffmem.auditing.request import AuditOptions

TRAINING, HELDOUT, FRESH = digits(500, 300, 500)


@pytest.fixture(scope="module")
def detector():
    return CopyDetector(TRAINING, "pixel-l2/uint8")


@pytest.fixture(scope="module")
def null(detector):
    return null_images(detector, HELDOUT, 500)


def check(detector, null, samples):
    return check_heldout(detector, detector.detect(samples, times=times_of(samples)), null)


def judged(detector, null, samples):
    sets = image_set(detector.training), image_set(samples)
    return judge(detector, *sets, null, AuditOptions(), times=times_of(samples)).around


def test_fresh_samples_are_no_held_out_images(detector, null):
    found = check(detector, null, FRESH)
    assert (found.copied, found.identical, found.seen) == (0, 0, False)
    assert found.split is not None


@pytest.mark.parametrize("count", [1, 10, 300])
def test_samples_that_are_held_out_images_show_that_the_model_has_seen_them(detector, null, count):
    samples = np.concatenate([HELDOUT[:count], FRESH[count:]])
    found = check(detector, null, samples)
    assert (found.copied, found.identical, found.seen) == (count, count, True)
    problem = judged(detector, null, samples).problems[0]
    words = "1 sample is" if count == 1 else f"{count} of 500 samples are"
    assert problem.startswith(f"{words} identical to held-out images and to no training image")
    assert "the model was trained on them" in problem


def test_repeats_of_a_held_out_image_are_counted_each(detector, null):
    found = check(detector, null, np.concatenate([np.repeat(HELDOUT[:1], 7, axis=0), FRESH[:100]]))
    assert (found.copied, found.identical) == (7, 7)


def test_samples_that_are_all_but_held_out_images_show_it_too(detector, null):
    samples = np.concatenate([noisy(HELDOUT[:20], 2), FRESH[20:]])
    found = check(detector, null, samples)
    assert (found.copied, found.identical, found.seen) == (20, 0, True)
    assert "20 of 500 samples are nearly identical" in judged(detector, null, samples).problems[0]


def test_one_that_is_all_but_a_held_out_image_may_be_chance_where_near_copies_are_natural():
    originals = HELDOUT[:30]
    detector = CopyDetector(np.concatenate([TRAINING, noisy(originals, 2)]), "space")
    null = null_images(detector, HELDOUT, 500)
    samples = np.concatenate([noisy(HELDOUT[40:41], 2, seed=5), FRESH])
    found = check(detector, null, samples)
    assert (found.copied, found.seen) == (1, False)
    assert any("chance may explain as many" in line for line in judged(detector, null, samples).said)


def test_training_and_held_out_images_that_were_swapped_are_asked_about(null):
    swapped = CopyDetector(HELDOUT, "space")
    found = judged(swapped, null_images(swapped, TRAINING, 400), TRAINING[:400])
    assert "Were --train and --heldout swapped, or is one set given under two names?" in found.problems[0]
    few = judged(swapped, null_images(swapped, TRAINING, 400), np.concatenate([TRAINING[:40], FRESH]))
    assert "swapped" not in few.problems[0]


def test_held_out_frames_of_the_training_clips_are_no_independent_images(detector):
    # 87% of the held-out images are other frames of what is in the training set.
    frames = np.concatenate([noisy(TRAINING[:261], 3), HELDOUT[:39]])
    null = null_images(detector, frames, 500)
    near, _ = near_share(null, detector.criteria)
    assert near == pytest.approx(0.87, abs=0.01)
    problem = judged(detector, null, FRESH).problems[0]
    assert problem.startswith("87% of the held-out images have a near-copy in the training set")
    assert "Split by clip or patient, not by frame" in problem


def test_a_training_set_of_frames_without_held_out_images_is_no_null():
    detector = CopyDetector(np.concatenate([TRAINING[:300], noisy(TRAINING[:150], 3)]), "space")
    null = null_images(detector, None, 500)
    near, training = near_share(null, detector.criteria)
    assert near is None
    assert training > MOST_NEAR
    assert "--heldout" in judged(detector, null, FRESH).problems[0]


def test_a_few_natural_near_copies_are_no_problem(detector):
    null = null_images(detector, np.concatenate([noisy(TRAINING[:15], 3), HELDOUT]), 500)
    near, training = near_share(null, detector.criteria)
    assert 0.04 < near < 0.06
    assert training < 0.01
    assert not judged(detector, null, FRESH).problems


def test_without_held_out_images_there_is_nothing_to_check(detector):
    found = check(detector, null_images(detector, None, 500), FRESH)
    assert (found.copied, found.identical, found.seen, found.split) == (0, 0, False, None)


def test_of_a_training_set_too_large_for_memory_both_sides_are_not_joined(detector, null, monkeypatch):
    monkeypatch.setattr("diffmem.auditing.heldout._MOST_BYTES", TRAINING.nbytes - 1)
    found = check(detector, null, HELDOUT[:10])
    assert found.split is None
    assert found.copied == 10


def test_among_both_sides_samples_are_compared_as_with_one_set_of_both(detector, null):
    samples = detector.detect(np.concatenate([FRESH[:50], noisy(TRAINING[:10], 4), noisy(HELDOUT[:10], 4)]))
    both = BothSides(detector, null)
    found = both.split(samples, both.heldout.detect(samples.batch.images))
    whole = CopyDetector(np.concatenate([TRAINING, HELDOUT]), "space")
    known = whole.detect(samples.batch.images)
    assert (found.training, found.heldout) == (500, 300)
    assert {one.key for one in found.criteria} == {
        one.key for one in whole.criteria if one.role == "deciding"
    }
    for one in found.criteria:
        np.testing.assert_allclose(
            found.detections.scores[one.key].score, known.scores[one.key].score, err_msg=one.key
        )
        np.testing.assert_array_equal(
            found.detections.scores[one.key].copied, known.scores[one.key].copied, one.key
        )


def test_near_copies_across_the_sides_are_pairs():
    detector = CopyDetector(TRAINING[:300], "space")
    fresh = np.concatenate([HELDOUT[:100], noisy(TRAINING[5:6], 2)])
    null = null_images(detector, fresh, 500)
    both = BothSides(detector, null)
    samples = detector.detect(FRESH[:5])
    near = {tuple(sorted(pair)) for pair in both.split(samples, both.heldout.detect(FRESH[:5])).near.tolist()}
    assert (5, 400) in near


SHAPE = TRAINING.shape[1:]


def test_fresh_images_in_the_form_of_the_training_images_can_be_held_out():
    assert unlike_training(HELDOUT, TRAINING, SHAPE, 0) is None
    larger = np.repeat(np.repeat(HELDOUT, 2, axis=2), 2, axis=3)
    assert unlike_training(larger, TRAINING, SHAPE, 0) is None
    assert unlike_training(HELDOUT[:1], TRAINING, SHAPE, 0) is None


@pytest.mark.parametrize(
    ("change", "word"),
    [
        (
            lambda images: np.zeros_like(images),
            "300 of 300 held-out images are one and the same constant image",
        ),
        (lambda images: np.repeat(images[:1], 300, axis=0), "held-out images show one and the same image"),
        (lambda images: noisy(np.full_like(images, 128), 60), "held-out images are noise"),
        (lambda images: images // 2, "The held-out images' values do not fit"),
        (lambda images: images[:, :, ::2, ::2], "have 4 x 4 pixels and 1 channel"),
    ],
    ids=["black", "one image", "noise", "halved", "smaller"],
)
def test_held_out_images_that_are_no_images_like_the_training_images_are_named(change, word):
    found = unlike_training(change(HELDOUT), TRAINING, SHAPE, 0)
    assert word in found
    assert "They are not used" in found


def test_grey_images_are_no_held_out_images_of_a_set_in_colour():
    colour = np.repeat(TRAINING, 3, axis=1)
    assert "1 channel" in unlike_training(HELDOUT, colour, colour.shape[1:], 0)
    assert unlike_training(HELDOUT, colour, SHAPE, 0) is None
