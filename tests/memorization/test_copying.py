from __future__ import annotations

import json

import numpy as np
import pytest
from scipy.stats import kstest

from diffmem.data.sources import read_digits
from diffmem.errors import UserError
from diffmem.memorization.cells import Cells
from diffmem.memorization.copying import (
    CellConfig,
    CellResult,
    CellResults,
    CopyingRecord,
    compare_ranks,
    copying_test,
)
from diffmem.memorization.neighbours.neighbours import nearest_neighbours


def digits() -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """600 images for training, 500 held out, 400 fresh."""
    images = read_digits("train").images
    order = np.random.default_rng(0).permutation(len(images))
    return images[order[:600]], images[order[600:1100]], images[order[1100:1500]]


def result_of(parts: list[tuple[np.ndarray, np.ndarray]]) -> CopyingRecord:
    return CopyingRecord.of("x", results_of(parts), 0.95)


def results_of(parts: list[tuple[np.ndarray, np.ndarray]]) -> CellResults:
    return CellResults(tuple(CellResult(9, len(s), len(h), compare_ranks(s, h)) for s, h in parts))


def test_c_t_is_the_mean_of_z_weighted_by_the_held_out_shares():
    rng = np.random.default_rng(0)
    parts = [(rng.random(30), rng.random(60)), (rng.random(90), rng.random(20) + 0.2)]
    result = result_of(parts)
    first, second = (compare_ranks(*part) for part in parts)
    assert result.c_t == pytest.approx(0.75 * first.z + 0.25 * second.z)
    assert result.nearer == pytest.approx(0.75 * first.nearer + 0.25 * second.nearer)
    assert results_of(parts).spread == pytest.approx(np.hypot(0.75, 0.25))


def test_the_formula_by_hand():
    training = np.array([[0.0], [1.0], [100.0], [101.0]])
    rng = np.random.default_rng(1)
    samples = np.concatenate([rng.normal(0, 1, (40, 1)), rng.normal(100, 1, (25, 1))])
    heldout = np.concatenate([rng.normal(0, 2, (30, 1)), rng.normal(100, 2, (50, 1))])
    result, _ = copying_test(samples, training, heldout, cells=CellConfig(2))
    expected = 0.0
    for low, weight in ((True, 30 / 80), (False, 50 / 80)):
        some, held, near = (part[(part[:, 0] < 50) == low] for part in (samples, heldout, training))
        s, h = (np.abs(part - near.T).min(1) for part in (some, held))
        u = (s[:, None] > h[None]).sum()
        m, n = len(s), len(h)
        expected += weight * (u - (n * m / 2 - 0.5)) / np.sqrt(n * m * (n + m + 1) / 12)
    assert result.c_t == pytest.approx(expected, abs=1e-12)


@pytest.fixture(scope="module")
def null_results() -> list[CopyingRecord]:
    """2,000 tests of fresh points against fresh points, with one training set."""
    rng = np.random.default_rng(2)
    training = rng.normal(size=(300, 3))
    partition = Cells.fit(training)
    home = partition.of(training)
    pool = rng.normal(size=(200_000, 3))
    cells = partition.of(pool)
    distances = np.empty(len(pool))
    for cell in range(3):
        inside = cells == cell
        distances[inside] = nearest_neighbours(pool[inside], training[home == cell], 1).distances[:, 0]
    results = []
    for at in range(0, 200_000, 100 + 100):
        groups = slice(at, at + 100), slice(at + 100, at + 200)
        results.append(
            result_of([tuple(distances[part][cells[part] == cell] for part in groups) for cell in range(3)])
        )
    for at in range(0, 200_000, 200):  # and the other way around in sizes
        groups = slice(at, at + 60), slice(at + 60, at + 200)
        results.append(
            result_of([tuple(distances[part][cells[part] == cell] for part in groups) for cell in range(3)])
        )
    return results


def test_z_is_standard_normal_where_samples_are_like_held_out_images(null_results):
    for some in (null_results[:1000], null_results[1000:]):
        z = np.array([result.z for result in some])
        assert kstest(z, "norm").pvalue > 1e-3
        assert abs(z.mean()) < 4 / np.sqrt(1000)
        assert z.std() == pytest.approx(1, abs=4 / np.sqrt(2000))


def test_c_t_itself_is_narrower_by_its_spread(null_results):
    values = np.array([result.c_t for result in null_results])
    assert values.std() == pytest.approx(
        np.mean([result.c_t / result.z for result in null_results]), rel=0.07
    )
    assert values.std() < 0.75


def test_false_alarms_are_as_rare_as_the_confidence_says(null_results):
    for conclusion in ("copying", "farther"):
        alarms = np.mean([result.conclusion == conclusion for result in null_results])
        assert alarms == pytest.approx(0.025, abs=4 * np.sqrt(0.025 / len(null_results)))


def test_the_interval_of_nearer_covers_one_half(null_results):
    covered = np.mean(
        [result.nearer_interval[0] <= 0.5 <= result.nearer_interval[1] for result in null_results]
    )
    assert covered == pytest.approx(0.95, abs=4 * np.sqrt(0.05 * 0.95 / len(null_results)))


def test_the_detectable_share_of_copies_is_found_four_times_in_five(null_results):
    rng = np.random.default_rng(3)
    share = float(np.mean([result.detectable_share for result in null_results[:200]]))
    assert 0.1 < share < 0.6
    found = 0
    for _ in range(400):
        parts = []
        for size in (30, 35, 35):
            distances = rng.random(size)
            distances[rng.random(size) < share] = 0
            parts.append((distances, rng.random(size)))
        found += result_of(parts).conclusion == "copying"
    assert 0.65 < found / 400 < 0.95


def test_copies_are_found_and_fresh_images_are_not():
    training, heldout, fresh = digits()
    copies = training[:150]
    noisy = (copies.astype(int) + np.random.default_rng(1).integers(-8, 9, copies.shape)).clip(0, 255)
    for some in (copies, noisy.astype(np.uint8)):
        result, _ = copying_test(np.concatenate([some, fresh[:150]]), training, heldout)
        assert result.conclusion == "copying"
        assert result.c_t is not None
        assert result.c_t < -3
    honest, cells = copying_test(fresh, training, heldout)
    assert honest.conclusion == "not shown"
    assert cells.covered == 1


def test_samples_far_from_the_data_are_farther():
    training, heldout, fresh = digits()
    noise = np.random.default_rng(2).integers(-90, 91, fresh.shape)
    spoiled = (fresh.astype(int) + noise).clip(0, 255).astype(np.uint8)
    assert copying_test(spoiled, training, heldout)[0].conclusion == "farther"


def test_neither_order_nor_repetition_of_training_images_matters():
    training, heldout, fresh = digits()
    order = np.random.default_rng(4).permutation(600)
    one = copying_test(fresh, training, heldout)
    assert one == copying_test(fresh[::-1], training[order], heldout[::-1])
    doubled, cells = copying_test(fresh, np.concatenate([training, training[:300]]), heldout)
    assert doubled == one[0]
    assert (cells.duplicates, cells.training_images) == (300, 900)


def test_held_out_training_images_are_left_out():
    training, heldout, fresh = digits()
    leaky, cells = copying_test(fresh, training, np.concatenate([heldout, training[:40]]))
    assert cells.heldout_overlap == 40
    assert leaky == copying_test(fresh, training, heldout)[0]


def test_samples_that_are_missing_where_the_data_are_tell_nothing():
    rng = np.random.default_rng(5)
    corners = 50 * np.eye(3)

    def draw(which: list[int], each: int) -> np.ndarray:
        return np.concatenate([corners[at] + rng.normal(size=(each, 3)) for at in which])

    training, heldout = draw([0, 1, 2], 40), draw([0, 1, 2], 40)
    one, cells = copying_test(draw([0], 120), training, heldout)
    assert cells.covered == pytest.approx(1 / 3)
    assert one.c_t is not None
    assert one.conclusion == "cannot tell"
    assert copying_test(draw([0, 1], 60), training, heldout)[0].conclusion != "cannot tell"


def test_no_cell_with_enough_of_both_has_no_value():
    samples, heldout = np.full((70, 1), 0.5), np.full((70, 1), 100.5)
    result, _ = copying_test(samples, np.array([[0.0], [100.0], [200.0]]), heldout)
    for number in (
        result.c_t,
        result.z,
        result.interval,
        result.nearer,
        result.detectable_share,
    ):
        assert number is None
    assert result.conclusion == "cannot tell"
    assert json.loads(result.model_dump_json())["c_t"] is None


@pytest.mark.parametrize(("samples", "heldout", "what"), [(62, 80, "samples"), (80, 62, "held-out images")])
def test_too_few_images_are_refused_with_the_needed_number(samples, heldout, what):
    rng = np.random.default_rng(6)
    training = rng.normal(size=(50, 2))
    with pytest.raises(UserError, match=f"62 {what}.*at least 63; give 1 more"):
        copying_test(rng.normal(size=(samples, 2)), training, rng.normal(size=(heldout, 2)))


def test_a_cell_needs_more_than_the_least_number():
    rng = np.random.default_rng(7)
    training = np.array([[0.0], [1.0]])
    result, _ = copying_test(rng.random((21, 1)), training, rng.random((21, 1)), cells=CellConfig(1))
    assert result.c_t is not None
    with pytest.raises(UserError, match="at least 21"):
        copying_test(rng.random((20, 1)), training, rng.random((21, 1)), cells=CellConfig(1))


def test_a_cell_with_no_more_than_the_least_number_is_left_out():
    rng = np.random.default_rng(9)
    training = np.array([[0.0], [100.0]])
    near, far = rng.random((60, 1)), 100 + rng.random((60, 1))
    for samples, heldout in (((60, 20), (60, 60)), ((60, 60), (60, 20)), ((60, 21), (60, 21))):
        _, found = copying_test(
            np.concatenate([near[: samples[0]], far[: samples[1]]]),
            training,
            np.concatenate([near[: heldout[0]] / 2, far[: heldout[1]]]),
            cells=CellConfig(2),
        )
        used = [cell.comparison is not None for cell in found.cells]
        assert used == [True, min(samples[1], heldout[1]) > 20]


def test_numbers_become_plain_json_with_their_protocol():
    training, heldout, fresh = digits()
    found, cells = copying_test(fresh, training, heldout, cells=CellConfig(seed=3))
    content = json.loads(found.model_dump_json())
    assert content["protocol"] == "pixel-l2/uint8/c_t/cells=3/pca=64/least=20/seed=3/v1"
    assert content["interval"][0] < content["c_t"] < content["interval"][1]
    assert sum(cell.training for cell in cells.cells) == 600
    assert sum(cell.heldout for cell in cells.cells) == 500


def test_progress_grows_to_the_whole():
    training, heldout, fresh = digits()
    seen: list[float] = []
    copying_test(fresh, training, heldout, progress=lambda done, total, note="": seen.append(done / total))
    assert seen == sorted(seen)
    assert seen[-1] == pytest.approx(1)


def test_features_name_their_space():
    rng = np.random.default_rng(8)
    parts = [rng.normal(size=(80, 5)).astype(np.float32) for _ in range(3)]
    assert copying_test(*parts, space="inception")[0].protocol.startswith("inception/c_t/")
