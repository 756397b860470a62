"""The images that the galleries of an audit show."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest
from audit_builders import make_audit, make_match, make_model
from audit_examples import private_found, without_training
from audit_pages import blobs
from audit_tools import image_set

from diffmem.auditing.audit import Audited
from diffmem.auditing.criteria import PIXELS, Batch
from diffmem.auditing.detector import Detections
from diffmem.auditing.report.gallery import audit_images
from diffmem.memorization import Neighbours

TRAINING = blobs(9, (3, 8, 8), 0)
SAMPLES = blobs(6, (3, 8, 8), 1)
NEAREST = np.array([[1, 2], [3, 4], [5, 6], [7, 8], [0, 1], [2, 3]])
RATIO = np.array([0.9, 0.1, 0.5, 0.2, 0.7, 0.5])


def audited(first=0, flagged=((1, 3), (3, 8)), result=None, times=(1, 1, 1, 1, 1, 1)):
    matches = [make_match(0, sample=first + at, training=training) for at, training in flagged]
    model = make_model().model_copy(update={"seeds": (first, first + 5)}) if first else None
    neighbours = Neighbours(np.stack([10 * RATIO, np.full(6, 10.0)], axis=1), NEAREST)
    shown = SimpleNamespace(
        matches=matches,
        samples=image_set(SAMPLES),
        training=image_set(TRAINING),
        detector=SimpleNamespace(distinct=np.arange(9)),
        found=Detections(Batch(SAMPLES, {PIXELS: neighbours}), {}, np.array(times)),
    )
    return Audited(make_audit(matches=matches, model=model) if result is None else result, shown)


@pytest.mark.parametrize("first", [0, 400])
def test_matches_stand_above_the_image_they_copy_and_the_nearest_other_one(first):
    worst = audit_images(audited(first))["worst"]
    assert (worst.samples == SAMPLES[[1, 3]]).all()
    assert (worst.nearest == TRAINING[[3, 8]]).all()
    assert (worst.second == TRAINING[[4, 7]]).all()


def test_near_misses_are_the_smallest_ratios_without_matches():
    near = audit_images(audited(400))["near"]
    assert near.heads == ["sample 402", "sample 405", "sample 404", "sample 400"]
    assert [foot.split("\n")[0] for foot in near.feet] == [
        "ratio 0.50",
        "ratio 0.50",
        "ratio 0.70",
        "ratio 0.90",
    ]
    assert (near.samples == SAMPLES[[2, 5, 4, 0]]).all()
    gap = SAMPLES[2].astype(float) - TRAINING[5]
    assert near.feet[0].endswith(f"RMS {np.sqrt((gap**2).mean()):.1f}")


def test_what_is_no_trial_is_no_near_miss():
    assert audit_images(audited(times=(1, 1, 0, 1, 1, 2)))["near"].heads == [
        "sample 5",
        "sample 4",
        "sample 0",
    ]


def test_where_every_sample_is_a_match_there_are_no_near_misses():
    assert audit_images(audited(flagged=[(at, int(NEAREST[at, 0])) for at in range(6)])).keys() == {"worst"}


def test_without_a_match_there_are_only_near_misses():
    galleries = audit_images(audited(flagged=()))
    assert galleries.keys() == {"near"}
    assert galleries["near"].heads == [f"sample {at}" for at in (1, 3, 2, 5, 4, 0)]


@pytest.mark.parametrize("result", [private_found(), without_training()])
def test_private_audits_and_those_without_training_images_have_none(result):
    assert audit_images(audited(result=result, flagged=())) == {}
