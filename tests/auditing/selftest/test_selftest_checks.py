import pytest

from diffmem.auditing.records import PowerRecord
from diffmem.auditing.selftest.checks import checked
from diffmem.auditing.selftest.records import CoverageRecord, SelfTestCriterion, SelfTestPart, SelfTestShare
from diffmem.memorization.rates import Rate


def rate(count, total=1000):
    return Rate(count, total)


def criterion(key, exact=1000, false_alarms=0, null=0, **changes):
    power = [PowerRecord(key="exact", kind="exact copy", detected=rate(exact), traced=rate(1000))]
    fields = {
        "key": key,
        "title": key.capitalize(),
        "deciding": True,
        "usable": null <= 10,
        "exact_only": key == "identical",
        "strictness": 0.5,
        "false_alarms": rate(false_alarms),
        "null": rate(null),
        "power": power,
    }
    return SelfTestCriterion(**(fields | changes))


def share(planted, verdict, measured=None, kind="exact"):
    measured = {"identical": planted, "ratio": planted} if measured is None else measured
    rates = {key: rate(count) for key, count in measured.items()}
    covers = {key: one.low <= planted / 1000 <= one.high for key, one in rates.items()}
    return SelfTestShare(
        kind=kind, share=planted / 1000, planted=planted, samples=1000, measured=rates, covers=covers, verdict=verdict
    )  # fmt: skip


def part(criteria=None, shares=(), false_verdicts=0):
    return SelfTestPart(
        duplication="none",
        training_images=5000,
        distinct_images=5000,
        criteria=criteria or [criterion("identical"), criterion("ratio")],
        shares=list(shares),
        found_from={},
        false_verdicts=rate(false_verdicts),
    )


def failures(one, coverage=()):
    return checked([one], coverage, 0.01)[0]


def test_what_is_as_it_must_be_gives_no_failure_and_no_note():
    rows = [
        share(0, "none found"),
        share(500, "copies found"),
        share(5, "cannot tell"),
        share(100, None, kind="blur"),
    ]
    assert checked([part(shares=rows)], [], 0.01) == ([], [])


def test_identity_alone_proves_nothing():
    missed = part([criterion("identical"), criterion("ratio", exact=949)])
    assert failures(missed) == [
        "Training set without copies: no usable deciding criterion, beside identity, finds 95% of exact copies; the best finds 94.9%."
    ]
    assert failures(part([criterion("identical"), criterion("ratio", exact=950)])) == []


@pytest.mark.parametrize("changes", [{"null": 11}, {"deciding": False}])
def test_a_criterion_that_does_not_decide_proves_nothing(changes):
    assert len(failures(part([criterion("identical"), criterion("near", **changes)]))) == 1


def test_more_false_alarms_than_the_target_fail_once_they_are_certain():
    assert failures(part([criterion("ratio", false_alarms=12)])) == []
    (line,) = failures(part([criterion("ratio", false_alarms=30)]))
    assert "'Ratio' flags 3.00% of fresh images, surely more than 1%" in line


def test_more_false_verdicts_than_promised_fail_once_they_are_certain():
    assert failures(part(false_verdicts=12)) == []
    assert "among fresh images in 3.00% of shuffles, more than 1%" in failures(part(false_verdicts=30))[0]


@pytest.mark.parametrize("wrong", ["none found", "cannot tell"])
def test_copies_must_be_found_where_half_of_the_samples_are_some(wrong):
    (line,) = failures(part(shares=[share(500, wrong)]))
    assert line == (
        "Training set without copies, 500 of 1000 samples are copies (exact): the verdict is"
        f" {wrong!r} and must be 'copies found'."
    )
    assert failures(part(shares=[share(499, wrong)])) == []


def test_copies_must_not_be_found_among_fresh_images():
    assert "'copies found' and must be 'none found'" in failures(part(shares=[share(0, "copies found")]))[0]


def test_doubt_about_fresh_images_is_a_failure_only_if_none_is_flagged():
    assert "'cannot tell' and must be 'none found'" in failures(part(shares=[share(0, "cannot tell")]))[0]
    flagged = share(0, "cannot tell", {"identical": 0, "ratio": 1})
    failed, noted = checked([part(shares=[flagged])], [], 0.01)
    assert failed == []
    assert noted == [
        "Training set without copies, 0 of 1000 samples are copies (exact): the verdict is 'cannot tell'. Fresh images are flagged by"
        " chance: 'Ratio' 1."
    ]


def test_an_interval_must_hold_the_planted_share_of_exact_copies():
    low = {"identical": 50, "ratio": 60}
    (line,) = failures(part(shares=[share(100, "copies found", low)]))
    assert line.endswith(
        "100 of 1000 samples are copies (exact): no criterion's interval contains the true share."
    )
    assert failures(part(shares=[share(100, None, low, kind="blur")])) == []


def test_intervals_must_cover_as_often_as_they_promise():
    coverage = CoverageRecord(
        trials=200, method="wilson", confidence=0.95, smallest=0.838, at=0.000883, mean=0.95
    )
    assert failures(part(), [coverage]) == [
        "Intervals of 200 trials cover a true share of 0.000883 with 83.80% only."
    ]
    assert failures(part(), [coverage.model_copy(update={"smallest": 0.95 - 1e-12})]) == []


def test_a_deciding_criterion_that_is_not_usable_is_a_note():
    criteria = [
        criterion("ratio"),
        criterion("adaptive", null=190),
        criterion("near", null=190, deciding=False),
    ]
    failed, noted = checked([part(criteria)], [], 0.01)
    assert failed == []
    (line,) = noted
    assert "'Adaptive' flags 19.0% of the held-out images, more than 1%" in line
