import numpy as np
import pytest
from onset_curves import Truth
from search_builders import TINY as SEARCH
from studies_builders import tiny_recipe

import diffmem as dm
from diffmem.__main__ import main
from diffmem.api.onset import Onset
from diffmem.api.studies import prepared
from diffmem.errors import UserError
from diffmem.studies.onset import onset_of_runs
from diffmem.studies.search.recipe import SearchRecipe


@pytest.fixture(scope="module")
def found():
    truth, rng = Truth(6.0, 1.0, 0.1, 3.0), np.random.default_rng(0)
    curves = [
        truth.run(size, seed, rng, 2**0.5, 500, 20_000)[0] for size in (64, 128, 256) for seed in (0, 1)
    ]
    return dm.onset(curves)


@pytest.fixture(scope="module")
def grid(tmp_path_factory):
    return dm.run_study(tiny_recipe(), tmp_path_factory.mktemp("grid"), device="cpu")


def test_curves_that_were_measured_elsewhere_are_told_about(found):
    assert list(found.levels) == ["base"]
    assert [line.line for line in found.record.lines] == [0.01, 0.1, 0.9]
    assert "Epochs until a share of copies" in str(found)
    assert "reaches 1% copies" in found._repr_html_()


def test_a_size_that_was_not_trained_has_its_epochs_with_a_prediction_interval(found):
    at = found.at(500, line=0.1)
    assert at.low < at.value < at.high
    assert at.epochs.value == pytest.approx(at.value / 500)


@pytest.mark.parametrize(
    ("given", "text"),
    [
        ({"size": 5000}, "Cannot tell for 5,000 images"),
        ({"size": 500, "line": 0.5}, "line 0.5 was not asked for; there are 0.01, 0.1, 0.9"),
        ({"size": 500, "level": "wide"}, "no level 'wide'; there are base"),
    ],
)
def test_what_is_not_known_is_refused(found, given, text):
    with pytest.raises(UserError, match=text):
        found.at(**given)


def test_a_study_with_levels_is_asked_by_level(found):
    two = Onset({"a": found.record, "b": found.record})
    assert two.at(500, level="a") == found.at(500)
    with pytest.raises(UserError, match="levels a, b"):
        _ = two.record
    assert "Epochs of a until" in str(two)


@pytest.mark.usefixtures("undrawn")
def test_a_study_and_its_folder_give_what_its_runs_say(grid):
    wanted = onset_of_runs(grid.result.runs)
    assert grid.result.levels[0].onset == wanted
    assert dm.onset(grid).record == wanted
    assert dm.onset(grid.folder).record == wanted
    assert {(run.size, run.seed) for run in wanted.lines[0].runs} == {(4, 0), (8, 0)}


def test_a_search_that_did_not_begin_has_no_times(tmp_path):
    search = prepared(SearchRecipe.model_validate(SEARCH), tmp_path, device="cpu")
    record = next(iter(dm.onset(search, lines=(0.5,)).levels.values()))
    assert [line.line for line in record.lines] == [0.5]
    assert record.lines[0].runs == []


def test_the_command_prints_the_times_and_refuses_a_prediction_that_nothing_tells(grid, capsys):
    main(["study", "onset", str(grid.folder), "--line", "0.5"])
    shown = capsys.readouterr().out
    assert "50% copies" in shown
    with pytest.raises(SystemExit) as caught:
        main(["study", "onset", str(grid.folder), "--line", "0.5", "--size", "16"])
    assert caught.value.code == 2
    assert "there is no prediction" in capsys.readouterr().err


GOOD = [(100, 10, 0, 50), (200, 20, 25, 50), (400, 40, 50, 50)]


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"points": [(100, 10, 60, 50)]}, "60 memorized of 50 at epoch 10 are no counts"),
        ({"points": [(100, 10, -1, 50)]}, "-1 memorized of 50"),
        ({"points": [(100, 10, 0.5, 50)]}, r"0\.5 memorized of 50"),
        (
            {"points": GOOD[::-1]},
            "200 images seen do not follow 400; give the evaluations in the order of training",
        ),
        ({"size": 0}, "a training set has 1 image or more"),
        ({"null": 5}, "the null, 5, is no share"),
    ],
)
def test_a_curve_that_cannot_be_is_refused(changes, words):
    with pytest.raises(UserError, match=words):
        dm.Curve(**{"size": 10, "seed": 0, "points": GOOD, **changes})


def test_a_run_that_is_given_twice_does_not_count_twice_and_no_line_is_no_question():
    curves = [dm.Curve(10, 0, GOOD), dm.Curve(10, 0, GOOD), dm.Curve(20, 0, GOOD)]
    with pytest.raises(UserError, match="2 curves are of N = 10 and seed 0"):
        dm.onset(curves)
    with pytest.raises(UserError, match="There is no line"):
        dm.onset(curves[1:], lines=[])
