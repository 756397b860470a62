from __future__ import annotations

import pytest
from reports_study import ESTIMATED, make_rate, make_result, make_run

from diffmem.reports.text import rate_text, size_text, threshold_text
from diffmem.studies.records import EmmRecord
from diffmem.studies.report.text import emm_text, lead, warnings_of
from diffmem.text import percent


def test_shares_are_told_in_percent_with_their_interval():
    assert percent(0.9214) == "92.1%"
    assert rate_text(make_rate(0.5, 100)) == "50.0% [40.2, 59.8]"


@pytest.mark.parametrize(
    ("number", "words"),
    [(5000, "5,000"), (47.2, "47"), (3.46, "3.5"), (8, "8"), (0.0, "0"), (float("inf"), "∞")],
)
def test_numbers_are_plain(number, words):
    assert size_text(number) == words


def test_the_threshold_of_the_study_is_a_third():
    assert threshold_text(1 / 3) == "1/3"
    assert threshold_text(0.4) == "0.4"


@pytest.mark.parametrize(
    ("emm", "words"),
    [
        (ESTIMATED, "47 [41, 55]"),
        (EmmRecord(status="estimated", value=1068.4), "1,068"),
        (EmmRecord(status="above largest"), "above 512"),
        (EmmRecord(status="below smallest"), "below 16"),
        (EmmRecord(status="above largest", low=300.2), "above 512 [from 300]"),
        (EmmRecord(status="below smallest", high=40), "below 16 [up to 40]"),
        (EmmRecord(status="no runs"), "unknown"),
    ],
)
def test_emm_is_told_in_a_few_words(emm, words):
    assert emm_text(emm, [512, 16, 64]) == words


def test_the_lead_answers_the_question():
    words = lead(make_result())
    assert words.startswith("EMM is about 47 training images (95% interval 41 to 55).")
    assert "at least 90% of a model's samples are copies" in words


def test_a_model_that_copies_at_every_size_is_told_in_words():
    runs = [make_run(size, middle=1e6) for size in (100, 5000)]
    words = lead(make_result(runs=runs, emm=EmmRecord(status="above largest")))
    assert "even 5,000 training images, the most that were tried, are memorized" in words
    assert percent(runs[1].peak.memorized.value) in words
    assert "EMM is above 5,000" in words


def test_a_model_that_copies_at_no_size_is_told_in_words():
    runs = [make_run(size, middle=5) for size in (16, 32)]
    words = lead(make_result(runs=runs, emm=EmmRecord(status="below smallest")))
    assert "not even 16 training images, the fewest that were tried, are memorized" in words
    assert percent(runs[0].peak.memorized.value) in words
    assert "EMM is below 16" in words


@pytest.mark.parametrize(
    ("emm", "words"),
    [
        (EmmRecord(status="above largest", low=20), "goes down to 20."),
        (EmmRecord(status="below smallest", high=30), "goes up to 30."),
    ],
)
def test_an_emm_outside_the_sizes_that_is_not_certain_is_not_told_as_certain(emm, words):
    runs = [make_run(size, middle=30) for size in (16, 32)]
    assert f"This is not certain: the 95% interval of EMM {words}" in lead(make_result(runs=runs, emm=emm))


def test_a_study_without_runs_says_that_it_says_nothing():
    assert "No training has finished yet" in lead(make_result(runs=[], emm=EmmRecord(status="no runs")))


def test_a_clean_study_has_no_warnings():
    assert warnings_of(make_result()) == []


def test_warnings_hold_the_notes_and_what_the_null_rates_say():
    emm = ESTIMATED.model_copy(update={"notes": ["The curve is not monotone."]})
    runs = [make_run(16, null=None), make_run(32, null=0.07, duplicates=3)]
    warnings = warnings_of(make_result(runs=runs, emm=emm, emm_last=emm, notes=["One seed only."]))
    assert warnings[:2] == ["One seed only.", "The curve is not monotone."]
    for part in (
        "1 run has no null rate",
        "7.0% of held-out images",
        "1 training set holds exact duplicates (up to 3)",
    ):
        assert sum(part in warning for warning in warnings) == 1
    assert len(warnings) == 5
