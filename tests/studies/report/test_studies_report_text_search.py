"""What a search says in words: answers, warnings, cost, method."""

from __future__ import annotations

import pytest
from reports_search import (
    empty_search,
    estimated,
    make_cost,
    make_search,
    make_search_level,
    make_training,
    many_levels,
    numeric_search,
    one_level,
    troubled_search,
    unfinished_search,
)
from reports_study import make_result

from diffmem.reports.text import large_text
from diffmem.studies.records import EmmRecord
from diffmem.studies.report.method import glossary, method_text
from diffmem.studies.report.text import (
    cost_text,
    emm_text,
    lead,
    level_answer,
    level_emm,
    share_text,
    warnings_of,
)

UNFINISHED = [
    (EmmRecord(status="unfinished"), "unfinished"),
    (EmmRecord(status="unfinished", low=64), "unfinished, at least 64 so far"),
    (EmmRecord(status="unfinished", high=1280), "unfinished, below 1,280 so far"),
    (EmmRecord(status="unfinished", low=64, high=128), "unfinished, 64 to 128 so far"),
    (EmmRecord(status="not monotone", low=32, high=256), "not monotone, 32 to 256"),
    (EmmRecord(status="not monotone"), "not monotone"),
]


def answers_of(result):
    return {level.name: level_answer(level, result) for level in result.levels}


@pytest.mark.parametrize(("emm", "words"), UNFINISHED)
def test_an_emm_without_a_single_number_says_what_is_known(emm, words):
    assert emm_text(emm, [16, 512]) == words


def test_the_lead_of_a_grid_says_that_it_goes_on():
    words = lead(make_result(emm=EmmRecord(status="unfinished", low=64)))
    assert "not all trainings are finished: so far it is at least 64 training images." in words
    words = lead(make_result(emm=EmmRecord(status="unfinished")))
    assert "no size is decided so far" in words


def test_the_lead_of_a_grid_says_that_emm_is_not_one_number():
    words = lead(make_result(emm=EmmRecord(status="not monotone", low=32, high=256)))
    assert words.startswith("EMM is not one number")
    assert "this happens within 32 to 256 training images." in words


def test_a_level_says_emm_with_its_interval_and_the_papers_value():
    answer = answers_of(make_search())["8x8"]
    assert answer == "EMM is about 96 training images (95% interval 88 to 106). The paper: 1,068."


def test_a_level_without_a_value_of_the_paper_mentions_none():
    assert "paper" not in answers_of(make_search())["6x6"]


def test_every_answer_but_a_number_is_said_plainly():
    answers = answers_of(troubled_search())
    assert answers["huge"].startswith("EMM is above 5,000: even 5,000 training images")
    assert answers["tiny"].startswith("EMM is below 16: not even 16 training images")
    assert answers["not monotone"].startswith("EMM is not one number")
    assert "within 32 to 256 training images" in answers["not monotone"]


def test_an_unfinished_level_says_what_is_known_so_far():
    answers = answers_of(unfinished_search())
    assert (
        answers["6x6"]
        == "EMM is not known yet, not all trainings are finished: so far it is 64 to 320 training images."
    )
    assert (
        answers["4x4"] == "EMM is not known yet, not all trainings are finished: no size is decided so far."
    )
    assert answers["2x2"] == "EMM is not known yet: no training has started."


def test_a_level_before_its_first_run_has_no_runs_yet():
    result = unfinished_search()
    assert level_emm(result.levels[3], result) == "no runs yet"


def test_the_lead_names_the_lowest_and_the_highest_emm():
    words = lead(make_search())
    assert words.startswith("By resolution, EMM goes from about 96 training images (8x8) to about 420 (4x4).")
    assert "at least 90% of a model's samples" in words


def test_the_lead_does_not_call_levels_different_whose_intervals_overlap():
    near = [make_search_level("8x8", 96), make_search_level("6x6", 100)]
    assert "it is not certain that they differ" in lead(make_search(near))
    assert "not certain" not in lead(make_search())


def test_the_lead_counts_the_levels_without_a_number():
    words = lead(troubled_search())
    assert words.startswith("Of 4 levels only damaged has a number for EMM: about 300 training images.")
    for part in ("above the largest size", "below the smallest size", "not monotone"):
        assert f"1 level is {part}" in words


def test_the_lead_of_a_single_level_is_its_answer():
    assert lead(one_level()).startswith("EMM is about 96 training images (95% interval 88 to 106).")


def test_the_lead_of_an_unfinished_search_says_so():
    assert "The study is not finished." in lead(unfinished_search())
    assert "running" not in lead(make_search())


def test_the_lead_before_the_first_training_says_that_nothing_is_known():
    assert lead(empty_search()).startswith("No training has finished yet")


def test_a_level_that_is_a_bare_number_says_of_what():
    assert "number of random classes C = 1 at N" in " ".join(warnings_of(numeric_search()))
    assert "(at 1) to about 180 (at 10)" in lead(numeric_search())


def test_one_seed_is_said_to_leave_out_the_variation_between_runs():
    note = "One run per size: the interval covers sampling error, not the variation between runs."
    assert warnings_of(one_level()).count(note) == 1
    levels = [
        make_search_level("8x8", emm=estimated(96, notes=[note])),
        make_search_level("4x4", emm=EmmRecord(status="above largest")),
    ]
    assert warnings_of(make_search(levels)).count(note) == 1
    assert note not in warnings_of(many_levels(2))


def test_the_warnings_hold_notes_null_rates_undecided_runs_and_incidents():
    warnings = warnings_of(troubled_search())
    assert warnings[0] == "The digits of scikit-learn stand in for CIFAR-10."
    for part in (
        "not monotone: R_mem does not fall.",
        "1 run was not decided within the allowed samples",
        "up to 7.0% of held-out images",
        "damaged at N\u00a0=\u00a0150",
        "damaged at N\u00a0=\u00a0420: A damaged snapshot at epoch 2,000 was found and regenerated.",
    ):
        assert sum(part in warning for warning in warnings) == 1


def test_a_finished_run_without_a_null_rate_is_a_warning_and_a_running_one_is_not():
    runs = [make_training("8x8", 64, 96, null=None), make_training("8x8", 80, 96, points=2, null=None)]
    warnings = warnings_of(make_search([make_search_level("8x8", runs=runs)]))
    assert any(warning.startswith("1 run has no null rate") for warning in warnings)


def test_a_training_that_was_given_up_is_a_warning():
    run = make_training("8x8", 400, 96).model_copy(update={"stopped": "hopeless", "epochs_trained": 2000.0})
    warnings = warnings_of(make_search([make_search_level("8x8", runs=[run])]))
    assert any("1 training was stopped by the futility rule" in warning for warning in warnings)


def test_a_long_list_of_runs_is_cut_and_counted():
    warning = next(one for one in warnings_of(many_levels()) if "not decided" in one)
    assert warning.startswith("36 runs were not decided")
    assert warning.endswith("; and 30 more.")
    assert len(warning) < 600


@pytest.mark.parametrize(
    ("number", "words"), [(830, "830"), (52_340, "52,300"), (4_210_000, "4.21 M"), (1.3e9, "1.3 G"), (0, "0")]
)
def test_large_numbers_are_short(number, words):
    assert large_text(number) == words


def test_the_cost_is_told_as_a_share_of_the_grids():
    cost = make_search().cost
    assert share_text(cost) == "17%"
    assert share_text(cost.model_copy(update={"grid_units": cost.units / 0.004})) == "0.4%"
    assert "21 runs: 15 M images trained on" in cost_text(make_search())
    assert "17% of the cost of a fixed grid" in cost_text(make_search())
    assert "11 runs so far" in cost_text(unfinished_search())


def test_without_a_grid_no_share_is_told():
    assert share_text(make_cost([make_training("8x8", 64, 96)]).model_copy(update={"grid_units": 0.0})) == "–"
    assert (
        cost_text(make_result(sizes=(16, 32)))
        == "2 runs: 192,000 images trained on and 14,000 images sampled."
    )


def test_the_words_of_the_page_name_the_rule_the_interval_and_the_versions():
    words = {
        heading: " ".join(lines) for heading, lines in glossary(make_search()) + method_text(make_search())
    }
    assert "less than 1/3 of its distance" in words["Copy"]
    assert "at most 10,000 images" in words["R_mem"]
    assert "betting confidence sequence" in words["Intervals"]
    assert "within 10% of EMM" in words["How sizes are chosen"]
    assert words["Versions"] == "diffmem 0.1.0, python 3.11.9, torch 2.6.0, device cpu"
    assert words["Data"] == "scikit-learn digits, 8x8, 1 channel"
    assert words["Sizes"] == "16 to 5,000"


def test_a_grid_says_nothing_of_what_only_a_search_does():
    words = {
        heading: " ".join(lines) for heading, lines in glossary(make_result()) + method_text(make_result())
    }
    assert not {"When sampling stops", "Cost", "What a level changes"} & set(words)
    assert "out of 1,000 images per evaluation" in words["R_mem"]


def test_what_differs_between_levels_is_told_for_each():
    levels = [
        make_search_level(name).model_copy(update={"model": f"U-Net for {name}"}) for name in ("8x8", "4x4")
    ]
    words = dict(method_text(make_search(levels)))
    assert words["Model"] == ["8x8: U-Net for 8x8", "4x4: U-Net for 4x4"]
    assert words["What a level changes"] == ["8x8: data.resolution = 8x8", "4x4: data.resolution = 4x4"]


def test_a_note_of_all_levels_is_told_once():
    levels = [
        make_search_level(name, emm=estimated(96, notes=["A wider interval than requested."]))
        for name in ("8x8", "4x4")
    ]
    assert warnings_of(make_search(levels))[0] == "A wider interval than requested."
