from dataclasses import replace

import numpy as np
import pytest
from parameters import ALL

from diffmem.auditing.detector import CopyDetector
from diffmem.auditing.positive_controls import POSITIVE_CONTROLS
from diffmem.auditing.selftest import run as module
from diffmem.auditing.selftest.records import MIXED, SelfTestResult
from diffmem.auditing.selftest.run import self_test
from diffmem.data import open_images, random_subset
from diffmem.errors import UserError
from diffmem.memorization import Transforms

pytestmark = pytest.mark.thorough  # with every kind of copy in `make test-slow`

SHARES = (0.0, 0.01, 0.1, 1.0)


@pytest.fixture(scope="module")
def images():
    return random_subset(open_images("digits"), 898, 0)


def planted(*keys):
    return tuple(kind for kind in POSITIVE_CONTROLS if kind.key in keys)


@pytest.fixture(scope="module", autouse=True)
def fewer_shuffles():
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "_DRAWS", 60)
        if not ALL:
            patch.setattr(
                module,
                "POSITIVE_CONTROLS",
                planted("exact", "noise4", "noise12", "jpeg75", "shift2", "averaged"),
            )
        yield


@pytest.fixture(scope="module")
def result(images):
    return self_test(images, seed=0, samples=299, shares=SHARES)


@pytest.fixture
def few_kinds(monkeypatch):
    """Two kinds of copies and few shuffles: for tests of what becomes of a self-test, not of every kind."""
    monkeypatch.setattr(module, "POSITIVE_CONTROLS", planted("exact", "noise4"))
    monkeypatch.setattr(module, "_DRAWS", 15)


def row(part, kind, share):
    return next(one for one in part.shares if one.kind == kind and one.share == share)


def test_the_detector_passes_on_real_images(result):
    assert result.failures == []
    assert result.passed
    assert [part.duplication for part in result.parts] == ["none", "exact copies", "near-copies"]
    assert (result.heldout, result.fresh, result.shape) == (299, 299, (1, 8, 8))


def test_training_sets_hold_two_copies_of_every_planted_image(result):
    assert [part.training_images for part in result.parts] == [300, 600, 600]
    assert [part.distinct_images for part in result.parts] == [300, 300, 600]


def test_exact_copies_are_found_with_and_without_duplicates(result):
    for part in result.parts:
        for key in ("identical", "ratio", "repeats"):
            exact = part.criterion(key).power[0]
            assert (exact.key, exact.detected.count, exact.detected.total) == ("exact", 150, 150)


def test_near_copies_in_the_training_set_hide_all_but_exact_copies_from_the_ratio(result):
    plain, _, near = result.parts
    for key in ("noise4", "averaged"):
        found = {
            one.key: next((power for power in one.power if power.key == key), None) for one in near.criteria
        }
        assert found["ratio"].detected.count == 0
        assert found["repeats"].detected.value > 0.95
        assert found["ratio"].traced.value > 0.95
    assert next(power for power in near.criterion("ratio").power if power.key == "noise12").traced.value == 1
    assert plain.criterion("ratio").power[1].detected.value > 0.95
    assert "averaged" not in {power.key for power in plain.criterion("ratio").power}


def test_the_verdict_follows_what_was_planted(result):
    for part in result.parts:
        for kind in ("exact", MIXED):
            assert row(part, kind, 0.0).verdict == "none found"
            assert row(part, kind, 0.01).verdict == "cannot tell"
            found = part.found_from[kind] <= row(part, kind, 0.1).planted
            assert (row(part, kind, 0.1).verdict == "copies found") == found
            assert row(part, kind, 1.0).verdict == "copies found"
        assert part.found_from["exact"] < row(part, "exact", 0.1).planted
        assert row(part, "noise4", 1.0).verdict is None


def test_intervals_hold_the_planted_share_where_all_copies_are_found(result):
    for part in result.parts:
        for share, count in zip(SHARES, (0, 3, 30, 299), strict=True):
            exact = row(part, "exact", share)
            assert (exact.planted, exact.samples) == (count, 299)
            assert exact.measured["identical"].count == count
            assert exact.covers["identical"]
        shifted = row(part, "shift2", 1.0)
        assert shifted.measured["identical"].count == 0
        assert not shifted.covers["identical"]


def test_the_smallest_number_of_copies_that_is_found_is_told(result):
    for part in result.parts:
        for kind in ("exact", MIXED, "noise12"):
            assert 2 <= part.found_from[kind] < 60, kind
        assert part.found_from["shift2"] is None


def test_fresh_images_are_taken_for_copies_no_more_often_than_promised(result):
    for part in result.parts:
        assert part.false_verdicts.value < 0.01
        assert part.false_verdicts.total == module._DRAWS
        for one in part.criteria:
            assert not one.usable or one.null.value <= 0.01
            assert (one.false_alarms.total, one.null.total) == (299, 299)
        assert part.criterion("ratio").usable


@pytest.mark.usefixtures("few_kinds")
def test_shuffles_find_copies_where_the_tests_of_chance_let_them(images, monkeypatch):
    monkeypatch.setattr("diffmem.auditing.significance.FALSE_ALARM", 20.0)
    (part,) = self_test(images, samples=299, shares=(1,), duplicated=("none",)).parts
    assert part.false_verdicts.value > 0.2


@pytest.mark.usefixtures("few_kinds")
def test_exact_copies_among_the_images_are_taken_for_one(images):
    doubled = images.take(np.repeat(np.arange(898), 2), "doubled")
    (part,) = self_test(doubled, samples=299, shares=(0,), duplicated=("none",)).parts
    assert (part.training_images, part.distinct_images) == (300, 300)


def test_a_criterion_that_is_not_usable_is_named(result):
    for part, words in zip(result.parts, ("without copies", "exact copies", "near-copies"), strict=True):
        for one in part.criteria:
            if one.deciding and not one.usable:
                assert any(one.title in note and words in note for note in result.notes)
    assert any(not one.usable for one in result.parts[0].criteria)


def test_coverage_is_stated_for_all_numbers_of_images(result):
    assert [one.trials for one in result.coverage] == [module._DRAWS, 150, 299]
    assert all(one.smallest >= 0.95 for one in result.coverage)


@pytest.mark.usefixtures("few_kinds")
def test_the_same_seed_gives_the_same_result_to_the_byte(images):
    def text(seed):
        return self_test(
            images, seed=seed, samples=299, shares=(0.1,), duplicated=("none",)
        ).model_dump_json()

    first = text(3)
    assert text(3) == first
    assert text(4) != first
    assert SelfTestResult.model_validate_json(first).model_dump_json() == first


def with_verdict(images, monkeypatch, verdict, **settings):
    """The self-test of an audit that always says the same."""
    asked = []

    def same(trial, samples, progress):
        asked.append((len(samples), len(trial.training), len(np.unique(samples.images, axis=0))))
        return verdict

    monkeypatch.setattr(module._Trial, "_verdict", same)
    return self_test(images, samples=299, **settings), asked


@pytest.mark.usefixtures("few_kinds")
def test_an_audit_that_always_finds_copies_is_found_out(images, monkeypatch):
    found, asked = with_verdict(
        images, monkeypatch, "copies found", shares=(0, 0.5), duplicated=("exact copies",)
    )
    assert asked == [(299, 600, 299)] * 4
    assert [one for one in found.failures if "must be 'none found'" in one]
    assert all("0 of 299 samples are copies" in one for one in found.failures)
    assert not found.passed


@pytest.mark.usefixtures("few_kinds")
def test_an_audit_that_never_finds_copies_fails(images, monkeypatch):
    found, _ = with_verdict(images, monkeypatch, "none found", shares=(0, 0.5), duplicated=("none",))
    assert found.failures == [
        f"Training set without copies, 150 of 299 samples are copies ({kind}): the verdict is 'none found' and must be 'copies found'."
        for kind in ("exact", MIXED)
    ]


@pytest.mark.usefixtures("few_kinds")
def test_an_audit_that_cannot_tell_without_reason_fails(images, monkeypatch):
    found, _ = with_verdict(images, monkeypatch, "cannot tell", shares=(0,), duplicated=("none",))
    assert len(found.failures) == 2


class _Changed(CopyDetector):
    """A detector whose criteria of distance score otherwise."""

    def judge(self, batch):
        found = super().judge(batch)
        for key in {"ratio", "repeats", "adaptive"} & found.scores.keys():
            found.scores[key] = replace(found.scores[key], score=self.changed(batch, found.scores[key].score))
        return found


@pytest.mark.usefixtures("few_kinds")
def test_a_detector_that_counts_duplicates_as_neighbours_fails(images, monkeypatch):
    class Naive(_Changed):
        def changed(self, batch, score):
            twice = self.occurrences[self.distinct[next(iter(batch.neighbours.values())).indices[:, 0]]] > 1
            return np.where(twice, 1.5, score)

    monkeypatch.setattr(module, "CopyDetector", Naive)
    found = self_test(images, samples=299, shares=(0,), duplicated=("none", "exact copies"))
    blind = "no usable deciding criterion, beside identity, finds 95% of exact copies; the best finds 0.0%."
    assert f"Training set with exact copies: {blind}" in found.failures
    assert not any("Training set without copies" in failure for failure in found.failures)


@pytest.mark.usefixtures("few_kinds")
def test_a_detector_that_flags_everything_finds_no_copies(images, monkeypatch):
    class Eager(_Changed):
        def changed(self, batch, score):
            return np.zeros_like(score)

    monkeypatch.setattr(module, "CopyDetector", Eager)
    found = self_test(images, samples=299, shares=(0.5,), duplicated=("none",))
    assert (
        "Training set without copies: no usable deciding criterion, beside identity, finds 95% of exact copies; the best finds 0.0%."
        in found.failures
    )


@pytest.mark.usefixtures("few_kinds")
def test_changed_copies_are_found_where_changes_are_looked_for(images, monkeypatch):
    monkeypatch.setattr(module, "POSITIVE_CONTROLS", planted("exact", "mirrored", "shift1", "shift2"))
    found = self_test(
        images, samples=299, shares=(0, 0.5), duplicated=("none",), transforms=Transforms(True, 1)
    )
    assert found.passed
    assert found.transforms == "flip+shift1"
    assert found.parts[0].found_from["mirrored"] < 40
    assert found.parts[0].found_from["shift1"] < 40
    assert found.parts[0].found_from["shift2"] is None


def test_bad_numbers_are_refused(images):
    few = random_subset(images, 300, 0)
    with pytest.raises(UserError, match="it needs 299, so 897 different images or more"):
        self_test(few)
    with pytest.raises(UserError, match="leave 98 of 898 to train on; leave at least 200"):
        self_test(images, samples=400)
    with pytest.raises(UserError, match="share must lie between 0 and 1, not 2"):
        self_test(images, shares=(2,))
    with pytest.raises(UserError, match="at least one kind of training set"):
        self_test(images, duplicated=())
    with pytest.raises(UserError, match="seed must be 0 or more"):
        self_test(images, seed=-1)


@pytest.mark.usefixtures("few_kinds")
def test_progress_goes_from_the_beginning_to_the_end(images):
    told = []
    self_test(
        images, samples=299, shares=(0, 1), duplicated=("none",), progress=lambda done, total, note="": told.append(done / total)
    )  # fmt: skip
    assert told == sorted(told)
    assert told[0] < 0.3
    assert 0.9 < told[-1] <= 1
