import numpy as np
import pytest
from audit_tools import digits

from diffmem.auditing import power as module
from diffmem.auditing.detector import CopyDetector
from diffmem.auditing.positive_controls import POSITIVE_CONTROLS, near_copies
from diffmem.auditing.power import detect_controls, measure_power, power_records
from diffmem.errors import UserError
from diffmem.memorization import Rate, Transforms


@pytest.fixture(scope="module")
def training():
    return digits(400)[0]


@pytest.fixture(scope="module")
def detector(training):
    return CopyDetector(training, "pixel-l2/uint8", transforms=Transforms(True, 1))


@pytest.fixture(scope="module")
def power(detector, training):
    return measure_power(detector, training, seed=0, count=40)


def record(power, criterion, key):
    return next(one for one in power[criterion] if one.key == key)


def test_every_criterion_has_a_record_of_every_kind_in_order(detector, power):
    kinds = [(kind.key, kind.text) for kind in POSITIVE_CONTROLS if not kind.near_copies]
    assert list(power) == [one.key for one in detector.criteria]
    assert all([(one.key, one.kind) for one in records] == kinds for records in power.values())


def test_exact_copies_are_found_and_traced_by_all(power):
    rate = Rate(40, 40)
    for records in power.values():
        assert records[0].key == "exact"
        assert (records[0].detected.count, records[0].detected.total) == (40, 40)
        assert (records[0].detected.low, records[0].detected.high) == (rate.low, rate.high)
        assert records[0].traced.count == 40


def test_only_exact_copies_are_identical(power):
    counts = {one.key: one.detected.count for one in power["identical"]}
    assert counts.pop("exact") == 40
    assert not any(counts.values())


@pytest.mark.parametrize("key", ["mirrored", "shift1"])
def test_changes_are_found_only_by_the_criterion_that_looks_for_them(power, key):
    assert record(power, "transforms", key).detected.count == 40
    assert record(power, "transforms", key).traced.count == 40
    assert record(power, "ratio", key).detected.count == 0
    assert record(power, "ratio", key).traced.count < 10


def test_an_image_can_be_traced_without_being_flagged(power):
    strong = record(power, "ratio", "noise24")
    assert strong.traced.count == 40
    assert strong.detected.count < 10


def test_either_image_of_an_equal_blend_counts_as_traced(detector, training):
    (found,) = detect_controls(detector, training, np.arange(30), [POSITIVE_CONTROLS[-2]], 0)
    assert found.kind.key == "blend50"
    copied = detector.distinct[found.found.scores["ratio"].copied]
    right = (copied == found.sources) | (copied == found.partners)
    assert (copied == found.partners).any()
    assert power_records(detector, training, [found])["ratio"][0].traced.count == right.sum()


def test_the_same_seed_gives_the_same_records_and_another_one_other_images(detector, training):
    def planted(seed):
        return measure_power(detector, training, seed, count=30, keys=["noise12"])

    first = planted(1)
    assert planted(1) == first
    assert any(planted(seed) != first for seed in (2, 3))


def test_kinds_can_be_chosen_and_unknown_ones_are_refused(detector, training):
    found = measure_power(detector, training, 0, count=5, keys=["mirrored", "exact"])
    assert [one.key for one in found["ratio"]] == ["mirrored", "exact"]
    assert measure_power(detector, training, 0, keys=[])["ratio"] == []
    with pytest.raises(UserError, match="no positive control 'colour'"):
        measure_power(detector, training, 0, keys=["colour"])
    with pytest.raises(UserError, match="At least 1 copy of each kind"):
        measure_power(detector, training, 0, count=0)


def test_a_small_set_is_planted_whole_and_copies_in_it_once():
    few = np.repeat(digits(12)[0], 3, axis=0)
    detector = CopyDetector(few, "pixel-l2/uint8")
    found = measure_power(detector, few, 0, keys=["exact"])
    assert found["identical"][0].detected.total == 12
    assert found["ratio"][0].detected.count == found["ratio"][0].traced.count == 12


def test_copies_of_different_images_are_planted_whatever_the_training_set_repeats(monkeypatch):
    few = np.repeat(digits(12)[0], 3, axis=0)
    detector = CopyDetector(few, "pixel-l2/uint8")
    seen = []
    detect = detector.detect
    monkeypatch.setattr(
        detector, "detect", lambda images, *more: seen.append(images) or detect(images, *more)
    )
    measure_power(detector, few, 0, count=10, keys=["exact"])
    assert len(np.unique(seen[0], axis=0)) == len(seen[0]) == 10


def test_a_later_exact_copy_is_traced_to_the_first(training):
    pixels = np.concatenate([training, training[:5]])
    detector = CopyDetector(pixels, "pixel-l2/uint8")
    found = detect_controls(detector, pixels, np.arange(400, 405), [POSITIVE_CONTROLS[0]], 0)
    assert detector.distinct[found[0].found.scores["ratio"].copied].tolist() == [0, 1, 2, 3, 4]
    assert power_records(detector, pixels, found)["ratio"][0].traced.count == 5


def test_little_memory_changes_nothing(detector, training, power, monkeypatch):
    monkeypatch.setattr(module, "_MOST_BYTES", 3 * training[:40].nbytes)
    searches = []
    detect = detector.detect
    monkeypatch.setattr(detector, "detect", lambda *given: searches.append(1) or detect(*given))
    assert measure_power(detector, training, seed=0, count=40) == power
    assert len(searches) == 6


def test_all_kinds_are_compared_with_the_training_set_in_one_search(detector, training, power, monkeypatch):
    searches = []
    detect = detector.detect
    monkeypatch.setattr(
        detector, "detect", lambda images, *more: searches.append(len(images)) or detect(images, *more)
    )
    measure_power(detector, training, seed=0, count=10)
    assert searches == [170]


def test_a_stricter_step_finds_no_more_and_traces_the_same(detector, training, power):
    strict = measure_power(detector, training, seed=0, count=40, rungs={"ratio": 3, "adaptive": 2})
    for key, records in strict.items():
        for one, loose in zip(records, power[key], strict=True):
            assert one.traced == loose.traced
            assert one.detected.count <= loose.detected.count
            assert key in ("ratio", "adaptive") or one == loose
    assert (
        record(strict, "ratio", "noise12").detected.count < record(power, "ratio", "noise12").detected.count
    )


@pytest.mark.parametrize("count", [1, 2])
def test_of_one_training_image_or_two_copies_are_found_all_the_same(count):
    few = digits(2)[0][:count]
    found = measure_power(CopyDetector(few, "pixel-l2/uint8"), few, 0)
    kinds = [one.key for one in found["identical"]]
    assert ("blend50" in kinds) == (count == 2)
    assert found["identical"][0].detected.count == count
    assert found["near"][1].detected.count == count


def test_a_near_copy_of_the_right_picture_is_the_right_picture(training):
    originals = training[:60]
    pixels = np.concatenate([training, *near_copies(originals, 0)])
    names = np.concatenate([np.arange(len(training)), np.arange(60), np.arange(60)])
    detector = CopyDetector(pixels, "pixel-l2/uint8")
    found = detect_controls(detector, pixels, np.arange(60), [POSITIVE_CONTROLS[2], POSITIVE_CONTROLS[-1]], 0)
    by_pixels, by_picture = (power_records(detector, pixels, found, one)["repeats"] for one in (None, names))
    assert by_pixels[0].traced.count < 55
    assert by_picture[0].traced.count == 60
    assert by_picture[1].key == "averaged"
    assert by_picture[1].detected.count == 60
    assert power_records(detector, pixels, found)["ratio"][1].detected.count == 0


def test_progress_goes_from_the_beginning_to_the_end(detector, training):
    told = []
    measure_power(
        detector, training, 0, count=5, keys=["exact"], progress=lambda done, total, note="": told.append(done / total)
    )  # fmt: skip
    assert told == sorted(told)
    assert 0.7 < told[-1] <= 1
