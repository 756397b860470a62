import numpy as np
import pytest
from audit_tools import digits, image_set, times_of

from diffmem.auditing import AuditRequest, OtherSource, audit
from diffmem.auditing.detector import CopyDetector
from diffmem.auditing.notes import reading_problems
from diffmem.auditing.readings import OtherReading, compare_reading
from diffmem.auditing.request import AuditOptions
from diffmem.data import fit_images

TRAINING, FRESH = digits(400, 400)


def turned(images):
    """Images as another rule of orientation reads them."""
    return np.rot90(images, axes=(2, 3)).copy()


def again(training, samples, **settings):
    """What another reading shows, under which the training images are `training`; usually they are turned."""
    reading = OtherReading(
        "EXIF orientation applied", "--train-read exif=apply", image_set(training), image_set(samples), times_of(samples)
    )  # fmt: skip
    return record_of(reading, samples, **settings)


def record_of(reading, samples, **settings):
    detector = CopyDetector(TRAINING, "space")
    usual = detector.detect(samples)
    return compare_reading(reading, usual, detector, AuditOptions(**settings))[1]


def test_copies_under_another_reading_are_found():
    found = again(turned(TRAINING), np.concatenate([turned(TRAINING)[:60], FRESH[:240]]))
    assert found.copies == 60
    assert found.samples == 300
    assert found.criterion is not None
    copies, problems = reading_problems([found])
    assert len(copies) == 1
    assert not problems
    assert (
        "60 of 300 samples copy training images under another reading, EXIF orientation applied" in copies[0]
    )
    assert "--train-read exif=apply" in copies[0]


def test_where_all_samples_are_copies_the_other_reading_also_fits_better():
    found = again(turned(TRAINING), turned(TRAINING)[:300])
    assert found.fits_better
    assert found.median_distance == 0 < found.usual_distance
    assert found.copies == 300


def test_fresh_samples_fit_no_other_reading():
    found = again(turned(TRAINING), FRESH[:300])
    assert (found.copies, found.same_pictures, found.fits_better) == (0, 0, False)
    assert reading_problems([found]) == ([], [])


def test_one_copy_under_another_reading_is_not_cleared():
    found = again(turned(TRAINING), np.concatenate([turned(TRAINING)[:1], FRESH[:299]]))
    assert (found.copies, found.same_pictures) == (0, 1)
    copies, problems = reading_problems([found])
    assert not copies
    assert "1 of 300 samples are nearly identical" in problems[0]


def test_fresh_samples_that_fit_another_reading_better_are_not_cleared():
    found = again(turned(TRAINING), turned(FRESH)[:300])
    assert (found.copies, found.fits_better) == (0, True)
    copies, problems = reading_problems([found])
    assert not copies
    assert problems[0].startswith("another reading fits the samples better, EXIF orientation applied")


def test_copies_of_a_deduplicated_set_under_another_reading_are_not_cleared():
    samples = np.concatenate([turned(TRAINING)[:60], FRESH[:240]])
    found = again(turned(TRAINING), samples, deduplicated=True)
    assert found.copies == 0
    assert found.same_pictures == 60
    assert reading_problems([found])[1]


def test_stretched_copies_are_found_where_the_training_images_are_stretched():
    wide = np.repeat(TRAINING, 2, axis=3)[:, :, :, 2:14]
    training = image_set(np.ascontiguousarray(wide))
    stretched = fit_images(training, "stretch", 8)
    samples = np.concatenate([stretched.images[:50], FRESH[:250]])
    reading = OtherReading("stretched", "fit=stretch", stretched, image_set(samples), times_of(samples))
    assert record_of(reading, samples).copies == 50


@pytest.mark.parametrize(
    ("written", "read"),
    [
        (lambda images: 255 - images, lambda images: 255 - images),
        (lambda images: images // 2, lambda images: images * 2),
    ],
    ids=["inverted", "halved"],
)
def test_copies_in_another_range_of_values_are_found_under_the_right_reading(written, read):
    samples = np.concatenate([written(TRAINING[:60]), written(FRESH[:240])])
    reading = OtherReading(
        "values", "write them otherwise", image_set(TRAINING), image_set(read(samples)), times_of(samples)
    )
    found = record_of(reading, samples)
    assert found.copies == 60
    assert found.fits_better


def test_samples_that_are_no_trials_are_not_compared_again():
    samples = np.concatenate([turned(TRAINING)[:60], FRESH[:240]])
    times = times_of(samples)
    times[:60] = 0
    reading = OtherReading("turned", "turn", image_set(turned(TRAINING)), image_set(samples), times)
    found = record_of(reading, samples)
    assert (found.copies, found.samples) == (0, 240)


def test_the_pictures_and_the_matches_are_of_the_reading_that_holds_the_copies(tmp_path):
    training = image_set(TRAINING)
    turned = image_set(np.ascontiguousarray(np.rot90(TRAINING, axes=(2, 3))))
    samples = image_set(np.ascontiguousarray(np.rot90(TRAINING[:320], axes=(2, 3))))
    other = OtherSource("turned by a quarter", "--train-read exif=apply", lambda progress: turned)
    found = audit(AuditRequest(training=training, samples=samples, other_training=[other]), tmp_path)
    assert found.result.verdict.verdict == "copies found"
    assert "turned by a quarter" in found.result.verdict.sentence
    assert found.result.copies.samples == len(found.matches) == 320
    assert {match.variant for match in found.matches} == {"turned by a quarter"}
    np.testing.assert_array_equal(
        found.shown.training.images[found.matches[0].training], turned.images[found.matches[0].training]
    )
