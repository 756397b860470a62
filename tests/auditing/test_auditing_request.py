import numpy as np
import pytest
from audit_tools import digits, image_set, make_request

from diffmem.auditing import AuditRequest
from diffmem.auditing.request import PROBED
from diffmem.data import plant_canaries
from diffmem.errors import UserError
from diffmem.models import FunctionDenoiser

TRAINING, FRESH = digits(300, 100)


def model(classes=0):
    return FunctionDenoiser(lambda x, sigma, labels: x, (1, 8, 8), 0.002, 80, num_labels=classes)


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({}, "samples or a model"),
        ({"samples": image_set(FRESH), "model": model()}, "not both"),
        ({"training": None, "samples": image_set(FRESH)}, "--train"),
        ({"samples": image_set(FRESH), "target": 0}, "between 0 and 1"),
        ({"samples": image_set(FRESH), "target": 1}, "between 0 and 1"),
        ({"model": model(), "num": 0}, "At least 1 sample"),
    ],
)
def test_a_request_that_makes_no_sense_is_refused(settings, words):
    with pytest.raises(UserError, match=words):
        make_request(**{"training": image_set(TRAINING), **settings})


def test_canaries_without_labels_do_not_fit_a_model_with_classes():
    training, canaries = plant_canaries(image_set(TRAINING), 10, 2, 0)
    with pytest.raises(UserError, match="no labels"):
        AuditRequest(training=training, model=model(3), canaries=canaries)


def test_without_training_images_only_as_many_samples_are_drawn_as_flipd_is_measured_for():
    assert make_request(model=model(), num=10_000).settled.num == PROBED
    assert make_request(model=model(), num=10).settled.num == 10
    assert make_request(training=image_set(TRAINING), model=model(), num=10_000).settled.num == 10_000


def test_the_first_sample_has_its_seed_as_its_number_and_given_samples_count_from_zero():
    training = image_set(TRAINING)
    assert make_request(training=training, model=model(), first_seed=400).settled.first_seed == 400
    assert make_request(training=training, samples=training, first_seed=400).settled.first_seed == 0


def asked(history, **settings):
    images = image_set(TRAINING)
    changed = images.take(np.arange(len(images)), history) if history else images
    return make_request(training=changed, samples=image_set(FRESH), **settings).settled.deduplicated


@pytest.mark.parametrize(
    ("history", "removed"),
    [
        ("", False),
        ("random subset of 300 images", False),
        (
            "12 images removed that repeat an earlier one within 3 grey levels, directly or through others",
            True,
        ),
        (
            "1 image removed that repeat an earlier one within 0.5 grey levels, directly or through others",
            True,
        ),
        (
            "0 images removed that repeat an earlier one within 0 grey levels, directly or through others",
            False,
        ),
    ],
)
def test_that_near_copies_were_removed_is_read_from_the_history_of_the_set(history, removed):
    assert asked(history) == removed
    assert asked(history, deduplicated=True)
    assert not asked(history, deduplicated=False)
