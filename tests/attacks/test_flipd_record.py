"""FLIPD as a record: what canaries say about its values."""

import math

import numpy as np
import pytest
import torch

from diffmem.attacks.flipd import SIGMA, FlipdConfig, flipd
from diffmem.attacks.flipd_record import FlipdRecord, flipd_record
from diffmem.data import ImageSet, hold_out, open_images, plant_canaries
from diffmem.errors import UserError
from diffmem.optimum.optimum import Optimum


def planted(count=8, labels=True):
    images = hold_out(open_images("digits"), 120, 1)[1]
    if not labels:
        images = images.with_labels(None, None, "none")
    return plant_canaries(images, count, 2, 0)


def image_set(pixels):
    return ImageSet(np.ascontiguousarray(pixels), None, tuple(map(str, range(len(pixels)))))


class Blind:
    """D = x / 2: it treats all images alike."""

    sigma_min, sigma_max, image_shape, device = 0.0, math.inf, (1, 8, 8), torch.device("cpu")

    def __init__(self, num_labels=0):
        self.num_labels, self.asked = num_labels, []

    def __call__(self, x, sigma, labels=None):
        self.asked.append(labels)
        return x / 2


def test_around_all_that_the_optimum_knows_values_are_lower_than_around_all_else():
    made, canaries = planted()
    samples = image_set(np.concatenate([made.images[:15], canaries.control[:5]]))
    found = flipd_record(Optimum(made), samples, canaries)
    assert found.auc.value == 1
    assert found.p_value == 1 / math.comb(16, 8)
    assert found.planted["1"] < 1e-3 < found.threshold == found.unmarked["0"]
    assert found.planted_below.count == 8
    assert found.samples_below.count == 15
    assert found.samples_below.total == found.images == 20
    assert found.false_alarm == 1 / 9
    told = "15 of 20 samples and 8 of 8 planted canaries have fewer than any of 8 ordinary images"
    assert told in found.sentence
    assert "may be memorized all the same" not in found.sentence
    assert FlipdRecord.model_validate_json(found.model_dump_json()) == found


def test_a_model_that_treats_all_images_alike_shows_nothing_and_says_what_it_cannot_find():
    made, canaries = planted()
    found = flipd_record(Blind(), made, canaries, most=9)
    assert found.auc.low < 0.5 < found.auc.high
    assert 0.02 < found.p_value < 0.98
    assert found.planted_below.count < 4
    assert "samples above the threshold may be memorized all the same" in found.sentence


def test_without_canaries_there_are_quantiles_and_no_threshold():
    made, _ = planted()
    found = flipd_record(Optimum(made), made)
    nothing = (
        "planted", "control", "unmarked", "auc", "p_value", "threshold", "false_alarm", "planted_below", "samples_below",
    )  # fmt: skip
    assert all(getattr(found, name) is None for name in nothing)
    assert list(found.samples) == ["0", "0.05", "0.25", "0.5", "0.75", "0.95", "1"]
    assert "is not known without canaries" in found.sentence
    assert (found.sigma, found.trace, found.derivative, found.standard_error) == (
        SIGMA,
        "exact",
        "differences",
        None,
    )


def test_the_quantiles_are_those_of_the_values():
    samples = open_images("digits").take(range(30), "some")
    found = flipd_record(Blind(), samples, config=FlipdConfig(sigma=0.3))
    values = flipd(Blind(), samples.images, config=FlipdConfig(sigma=0.3)).values
    assert found.samples == {key: np.quantile(values, float(key)) for key in found.samples}


def test_at_most_so_many_samples_are_asked_about_and_the_seed_draws_them():
    samples = open_images("digits")
    one, again, other = (
        flipd_record(Blind(), samples, None, 9, FlipdConfig(seed=seed)) for seed in (0, 0, 1)
    )
    assert one == again
    assert one.images == 9
    assert one.samples != other.samples
    with pytest.raises(UserError, match="At least 1 sample"):
        flipd_record(Blind(), samples, None, 0)


def test_an_estimated_trace_tells_its_standard_error():
    made, canaries = planted(3)
    found = flipd_record(
        Optimum(made), made, canaries, most=5, config=FlipdConfig(sigma=1.0, trace="hutchinson", probes=8)
    )
    values = [found.samples[key] for key in ("0", "1")]
    assert (found.trace, found.probes) == ("hutchinson", 8)
    assert 0 < found.standard_error < max(map(abs, values))
    assert "hutchinson 8/seed=0" in found.protocol


def test_a_model_of_classes_is_asked_with_labels_and_their_lack_is_noted():
    made, canaries = planted(3)
    model = Blind(10)
    found = flipd_record(model, made, canaries, most=2)
    assert all(labels is not None for labels in model.asked)
    assert found.notes == []
    found = flipd_record(Blind(10), image_set(made.images), canaries, most=2)
    assert found.notes == [
        "The model has classes and the samples images have no labels: it was evaluated without."
    ]
    model = Blind(0)
    flipd_record(model, made, canaries, most=2)
    assert all(labels is None for labels in model.asked)


def test_one_canary_has_no_area_but_a_threshold():
    made, canaries = planted(1)
    found = flipd_record(Optimum(made), made, canaries, most=5)
    assert found.auc is None
    assert (found.p_value, found.false_alarm) == (0.5, 0.5)


def test_progress_rises_to_one():
    made, canaries = planted(2)
    told = []
    flipd_record(
        Blind(), made, canaries, most=3, progress=lambda done, total, note="": told.append(done / total)
    )
    assert told == sorted(told)
    assert told[-1] == pytest.approx(1)
