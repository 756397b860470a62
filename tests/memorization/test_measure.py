from __future__ import annotations

import json

import numpy as np
import pytest

from diffmem.errors import UserError
from diffmem.memorization.criteria import NormalizedRule, RatioRule
from diffmem.memorization.measure import measure
from diffmem.memorization.neighbours.neighbours import nearest_neighbours
from diffmem.memorization.rates import Intervals


def images(seed: int, count: int) -> np.ndarray:
    return np.random.default_rng(seed).integers(20, 236, (count, 3, 8, 8), dtype=np.uint8)


def noisy(originals: np.ndarray, seed: int = 0) -> np.ndarray:
    noise = np.random.default_rng(seed).integers(-3, 4, originals.shape)
    return (originals.astype(np.int64) + noise).astype(np.uint8)


def test_noisy_copies_are_memorized_and_fresh_images_are_not():
    training = images(0, 200)
    found = measure(np.concatenate([noisy(training[:60]), images(1, 140)]), training, heldout=images(2, 100))
    np.testing.assert_array_equal(found.memorized, [True] * 60 + [False] * 140)
    np.testing.assert_array_equal(found.neighbours.indices[:60, 0], np.arange(60))
    assert found.rate.value == 0.3
    assert found.distinct_replicated == 60
    assert found.null is not None
    assert (found.null.count, found.null.total) == (0, 100)
    assert found.warnings == []
    assert found.protocol == "pixel-l2/uint8/ratio<0.3333/exact-dups-collapsed/v1"


def test_copies_are_still_found_when_every_training_image_is_doubled():
    # trap: with duplicates d1 ~ d2, and copies of duplicated images are never counted
    training = images(0, 100)
    doubled = np.concatenate([training, training])
    samples = noisy(training)
    bare = RatioRule()(nearest_neighbours(samples, doubled, 2))
    assert bare.mean() == 0
    found = measure(samples, doubled)
    assert found.rate.value == 1
    assert found.duplicates == 100
    assert found.duplicate_groups_count == 100
    assert found.training_images == 200
    np.testing.assert_array_equal(found.ratio, measure(samples, training).ratio)
    assert any("100 training images are exact copies" in note for note in found.warnings)


def test_indices_refer_to_the_training_set_as_given():
    training = images(3, 50)
    padded = np.concatenate(
        [np.repeat(training[:1], 7, 0), training]
    )  # copies first: image i stands at i + 7, 0 at 0
    found = measure(noisy(training), padded)
    np.testing.assert_array_equal(found.neighbours.indices[:, 0], [0, *range(8, 57)])
    assert found.duplicates == 7
    assert found.duplicate_groups_count == 1


def test_repeated_copies_of_one_image_replicate_one_image():
    training = images(4, 50)
    found = measure(np.repeat(training[7:8], 20, 0), training)
    assert found.rate.count == 20
    assert found.distinct_replicated == 1
    assert found.mean_nearest_rms == 0


def test_the_mean_nearest_distance_is_in_rms_grey_levels():
    training = images(5, 50)
    found = measure(training + np.uint8(4), training)
    assert found.mean_nearest_rms == pytest.approx(4)


def test_heldout_images_that_are_training_images_are_told_and_left_out():
    training, fresh = images(6, 80), images(7, 40)
    found = measure(noisy(training), training, heldout=np.concatenate([training[:10], fresh]))
    assert found.heldout_overlap == 10
    assert found.null is not None
    assert found.null_neighbours is not None
    assert found.null.total == len(found.null_neighbours) == 40
    assert any("10 of 50 held-out images" in note for note in found.warnings)
    alone = measure(noisy(training), training, heldout=training[:10])
    assert alone.null is None
    assert any("no null rate" in note for note in alone.warnings)


def test_a_high_null_rate_is_told():
    training = images(8, 60)
    found = measure(noisy(training, 1), training, heldout=noisy(training, 2))
    assert found.null is not None
    assert found.null.value == 1
    assert any("also flags 100.0%" in note for note in found.warnings)
    assert any("overlaps" in note for note in found.warnings)


def test_another_criterion_stands_in_the_protocol():
    training = images(9, 50)
    found = measure(training, training, criterion=NormalizedRule(0, training.shape[1:]))
    assert found.rate.value == 1
    assert found.protocol == "pixel-l2/uint8/rms01<=0/exact-dups-collapsed/v1"


def test_rates_grow_with_the_threshold():
    training = images(10, 100)
    found = measure(np.concatenate([noisy(training[:50]), images(11, 50)]), training)
    counts = [RatioRule(threshold)(found.neighbours).sum() for threshold in (1e-9, 1 / 3, 1.0)]
    assert counts == [0, 50, 100]
    assert found.rate.count == 50


def test_the_json_holds_the_numbers_and_no_arrays():
    training = images(12, 50)
    found = measure(noisy(training), training, heldout=images(13, 30), intervals=Intervals(0.9, "wilson"))
    content = json.loads(json.dumps(found.to_json(), allow_nan=False))
    assert content["memorized"]["count"] == 50
    assert content["memorized"]["method"] == "wilson"
    assert content["null"]["confidence"] == 0.9
    assert content["protocol"] == found.protocol
    assert content["warnings"] == found.warnings


def test_progress_ends_at_one():
    seen: list[float] = []
    training = images(14, 50)
    measure(
        noisy(training), training, heldout=images(15, 30), progress=lambda d, t, note="": seen.append(d / t)
    )
    assert seen == sorted(seen)
    assert seen[-1] == pytest.approx(1)


@pytest.mark.parametrize("training", [images(16, 1), np.repeat(images(16, 1), 9, 0)])
def test_a_training_set_without_two_distinct_images_is_refused(training):  # trap: N = 1 fails, as k is 2
    with pytest.raises(UserError, match="1 are distinct, but 2 are needed"):
        measure(images(17, 5), training)


@pytest.mark.parametrize(
    ("samples", "heldout", "message"),
    [
        (np.zeros((5, 1, 8, 8), np.uint8), None, r"samples are uint8 \(1, 8, 8\).*\(3, 8, 8\).*bring both"),
        (images(0, 5), np.zeros((5, 3, 4, 4), np.uint8), r"held-out images are uint8 \(3, 4, 4\)"),
        (images(0, 5).astype(np.float32), None, "float32.*bring both to one type"),
        (images(0, 5).reshape(5, -1), None, "bring both to one type and shape"),
        (images(0, 0), None, "give at least one"),
    ],
)
def test_bad_input_is_refused_with_its_remedy(samples, heldout, message):
    with pytest.raises(UserError, match=message):
        measure(samples, images(18, 20), heldout=heldout)


def test_an_index_that_is_kept_changes_nothing_and_is_used_again(tmp_path):
    rng = np.random.default_rng(5)
    training = rng.integers(0, 256, (600, 1, 16, 16), dtype=np.uint8)
    samples, fresh = training[:30] ^ 1, rng.integers(0, 256, (40, 1, 16, 16), dtype=np.uint8)
    plain = measure(samples, training, heldout=fresh)
    path = tmp_path / "train.index"
    for _ in range(2):
        indexed = measure(samples, training, heldout=fresh, index=path)
        assert indexed.to_json() == plain.to_json()
        assert np.array_equal(indexed.neighbours.indices, plain.neighbours.indices)
    written = path.read_bytes()
    measure(samples, training, index=path)
    assert path.read_bytes() == written
    measure(samples, training[:500], index=path)
    assert path.read_bytes() != written
