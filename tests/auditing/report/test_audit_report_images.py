"""The images that the galleries of an audit show."""

from __future__ import annotations

import numpy as np
import pytest
from audit_builders import blobs, make_audit, make_match, make_model
from audit_examples import private_found, without_training

from diffmem.auditing.audit import Audited
from diffmem.auditing.report.images import audit_images

TRAINING = blobs(9, (3, 8, 8), 0)
SAMPLES = blobs(6, (3, 8, 8), 1)
NEAREST = np.array([[1, 2], [3, 4], [5, 6], [7, 8], [0, 1], [2, 3]])
RATIO = np.array([0.9, 0.1, 0.5, 0.2, 0.7, 0.5])


def audited(first=0, flagged=((1, 3), (3, 8)), **changes):
    matches = [make_match(0, sample=first + at, training=training) for at, training in flagged]
    model = make_model().model_copy(update={"seeds": (first, first + 5)}) if first else None
    result = make_audit(matches=matches, model=model)
    return Audited(
        **(
            {
                "result": result,
                "matches": matches,
                "samples": SAMPLES,
                "training": TRAINING,
                "nearest": NEAREST,
                "ratio": RATIO,
            }
            | changes
        )
    )


@pytest.mark.parametrize("first", [0, 400])
def test_matches_stand_above_the_image_they_copy_and_the_nearest_other_one(first):
    images = audit_images(audited(first))
    assert (images.samples == SAMPLES[[1, 3]]).all()
    assert (images.nearest == TRAINING[[3, 8]]).all()
    assert (images.second == TRAINING[[4, 7]]).all()


def test_near_misses_are_the_smallest_ratios_without_matches():
    near = audit_images(audited(400)).near
    assert near.numbers == [402, 405, 404, 400]
    assert list(near.ratios) == [0.5, 0.5, 0.7, 0.9]
    assert (near.samples == SAMPLES[[2, 5, 4, 0]]).all()
    gap = SAMPLES[2].astype(float) - TRAINING[5]
    assert near.rms[0] == pytest.approx(np.sqrt((gap**2).mean()))


def test_where_every_sample_is_a_match_there_are_no_near_misses():
    assert audit_images(audited(flagged=[(at, int(NEAREST[at, 0])) for at in range(6)])).near is None


def test_without_a_match_there_are_only_near_misses():
    images = audit_images(audited(flagged=()))
    assert images.samples.shape == (0, 3, 8, 8)
    assert images.near.numbers == [1, 3, 2, 5, 4, 0]


@pytest.mark.parametrize("result", [private_found(), without_training()])
def test_private_audits_and_those_without_training_images_have_none(result):
    assert audit_images(audited(result=result, matches=[])) is None
