"""The search for the time until training copies."""

import math
import shutil

import numpy as np
import pytest
from page_parser import Page
from reports_study import make_run
from scipy.special import expit, logit
from search_builders import ONSET, onset_recipe, table, until_copied

import diffmem as dm
from diffmem.console import rendered
from diffmem.errors import UserError
from diffmem.memorization.rates import Rate
from diffmem.settings import validated
from diffmem.studies.onset import Curve, run_time
from diffmem.studies.report.page import render_study
from diffmem.studies.report.tables import study_tables, watch_table
from diffmem.studies.search import plan as plan_module
from diffmem.studies.search import work
from diffmem.studies.search.decisions import CrossingRule
from diffmem.studies.search.onset_study import OnsetStudy
from diffmem.studies.search.plan import plan_onset
from diffmem.studies.search.recipe import OnsetRecipe, load_study
from diffmem.training import Trainer


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """A finished search; not to be changed."""
    return until_copied(tmp_path_factory.mktemp("onset"))


def test_a_training_ends_where_the_line_is_reached_and_a_point_before_is_certainly_below(finished):
    result = finished.result()
    assert result.finished
    for run, time in zip(result.runs, result.levels[0].onset.lines[0].runs, strict=True):
        verdicts = [one.verdict for one in run.evaluations]
        at = verdicts.index("at least")
        below = max(index for index in range(at) if verdicts[index] == "below")
        # What lies between has all images that it may get, and is still undecided.
        assert all(one.memorized.total == 200 for one in run.evaluations[below + 1 : at])
        assert (time.low, time.high) == (run.evaluations[below].images_seen, run.evaluations[at].images_seen)


def test_the_log_says_what_is_known_and_why_no_seeds_follow(finished):
    result = finished.result()
    assert result.seeds == [0, 1, 2]
    (entry,) = result.log
    assert entry.text.startswith("N = 4: 3 trainings, 20% between epochs ")
    assert entry.text.endswith("would help, more trainings would not.")  # evaluations lie a factor of 2 apart


def test_a_search_that_was_cut_off_ends_with_the_same_numbers(finished, tmp_path, monkeypatch):
    shutil.copytree(finished.folder, tmp_path / "cut")
    for found in (tmp_path / "cut/runs").glob("*/evaluations"):
        shutil.rmtree(found)  # what was trained is there
    calls, sample = [], work.SizeRun._evaluate_seeds

    def cut(*given, **named):
        calls.append(given)
        if len(calls) % 7 == 0:
            raise KeyboardInterrupt
        return sample(*given, **named)

    monkeypatch.setattr(work.SizeRun, "_evaluate_seeds", cut)
    while True:
        try:
            study = until_copied(tmp_path / "cut")
            break
        except KeyboardInterrupt:
            continue
    assert len(calls) > 7  # it was cut off at least once
    assert table(study.result()) == table(finished.result())


def test_the_page_and_the_tables_answer_when_and_do_not_speak_of_emm(finished):
    result = finished.result()
    page = render_study(result)
    answer = Page(page).words
    assert "when R_mem reaches 20%, by number of training images" in page
    assert "A training on 4 images reaches 20% copies after " in answer
    assert "EMM" not in answer
    assert "reached 20%" in answer
    printed = rendered(*study_tables(result), watch_table(result, {}))
    assert "20% copies" in printed
    assert "EMM" not in printed


def test_the_projection_is_the_most_that_it_takes(finished, monkeypatch):
    monkeypatch.setattr(plan_module, "measure_speed", lambda *given: plan_module.Speed(1000.0, 10.0, 1, 1))
    plan = plan_onset(finished, "cpu", 2, 1)
    (level,) = plan.levels
    assert (level.runs, level.runs_high, level.images_trained) == (3, 3, 3 * 320 * 4)
    assert plan.finished == len(finished.items())
    assert math.isclose(3600 * level.hours, 3 * (320 * 4 / 1000 + 5 * 200 / 10))


class Told(OnsetStudy):
    """A study whose trainings end where they are told to, between two evaluations that lie a factor of 1.1 apart."""

    def __init__(self, times, *settings):
        self.recipe, self.levels, self.times = onset_recipe(*settings), {"base": None}, times

    def _work(self, item):
        return item

    def outcome(self, item):
        return item.seed in self.times or None

    def size_record(self, item):
        seen, run = self.times[item.seed] * item.size, make_run(item.size, item.seed)
        rates = [(seen / 1.05, Rate(0, 500)), (seen * 1.05, Rate(500, 500))]
        points = [
            run.evaluations[0].model_copy(
                update={"epoch": at / item.size, "images_seen": round(at), "memorized": rate}
            )
            for at, rate in rates
            if at > 0
        ]
        return run.model_copy(update={"evaluations": points})


def searched(times, *settings):
    (size,) = Told(times, "seeds=[0,1,2]", "onset.most_seeds=9", *settings).sizes()
    return size


def test_trainings_that_agree_need_no_further_seeds():
    size = searched({0: 1000, 1: 1010, 2: 990})
    assert (size.seeds, size.waiting) == ((0, 1, 2), ())
    assert "narrow enough" in size.decisions[-1]


def test_trainings_that_differ_ask_for_half_as_many_seeds_again_and_stop_at_the_most():
    spread = {seed: 1000 * 3.0 ** (-1) ** seed for seed in range(9)}
    rounds = [searched({seed: spread[seed] for seed in range(known)}) for known in (2, 3, 4, 6, 9)]
    assert [size.waiting for size in rounds] == [(2,), (3,), (4, 5), (6, 7, 8), ()]
    assert "no more are allowed" in rounds[-1].decisions[-1]


def test_no_seeds_are_spent_where_the_evaluations_of_each_training_leave_more_open_than_the_tolerance():
    size = searched({0: 1000, 1: 1010, 2: 990}, "onset.tolerance=0.04")  # a time is known within 5%
    assert (size.seeds, size.waiting) == ((0, 1, 2), ())
    assert "known better than within 5%" in size.decisions[-1]
    assert "measure.samples" in size.decisions[-1]


@pytest.mark.parametrize("scatter", [0.1, 0.3, 0.5])
def test_the_interval_of_a_size_covers_its_time_although_it_says_when_seeds_end(scatter):
    rng, covered = np.random.default_rng(1), 0
    for _ in range(200):
        times = dict(enumerate(np.exp(math.log(1000) + scatter * rng.standard_normal(9))))
        study = Told(times, "seeds=[0,1,2]", "onset.most_seeds=9", "onset.tolerance=0.5")
        (size,) = study.sizes()
        (found,) = study.line_times([study.size_record(item) for item in size.items]).sizes
        covered += found.low <= 4 * 1000 <= found.high
    assert covered >= 0.93 * 200  # 95.6% and more in 4,000; 0.93 is 1.6 standard errors lower


def test_the_choice_of_seeds_is_a_function_of_the_outcomes_alone():
    times = {seed: 1000 * (1 + seed % 3) for seed in range(9)}
    assert searched(times) == searched(dict(reversed(times.items())))


def test_no_seeds_are_spent_on_a_size_that_does_not_get_there():
    never = Told({0: 1000, 1: 1000, 2: 1000}, "seeds=[0,1,2]", "onset.most_seeds=9")
    record = never.size_record

    def below(item):
        run = record(item)
        return run.model_copy(update={"evaluations": run.evaluations[: 1 if item.seed == 1 else 2]})

    never.size_record = below
    (size,) = never.sizes()
    assert (size.seeds, size.waiting) == ((0, 1, 2), ())
    assert "does not certainly reach 20% in all of them" in size.decisions[-1]


RULE = CrossingRule.of(0.1, 0.0125, 6, 400, 100_000)


def test_after_the_crossing_points_are_sampled_backwards_until_one_is_certainly_below():
    epochs = [1, 2, 4, 8, 16, 32]
    counts = [(0, 96), (3, 64), (7, 64), (40, 64), (0, 0), (0, 0)]
    state = RULE.state(epochs, counts)
    assert (state.point, state.more > 0) == (2, True)
    counts[2] = (42, 400)  # at its cap, and still undecided
    state = RULE.state(epochs, counts)
    assert (state.point, state.more > 0) == (1, True)
    counts[1] = (4, 200)
    state = RULE.state(epochs, counts)
    assert (state.verdict, state.stopped, state.more) == ("memorized", "decided", 0)


def test_a_training_that_does_not_get_there_is_sampled_as_in_a_search_for_emm():
    counts = [(0, 96)] * 6
    assert RULE.state([1, 2, 4, 8, 16, 32], counts).verdict == "not memorized"


def test_the_interval_of_a_time_covers_it_however_sampling_stops():
    epochs = [10 * 2 ** (i / 4) for i in range(33)]
    rule, covered, sampled = CrossingRule.of(0.1, 0.0125, len(epochs), 400, 1e9), 0, []
    for number in range(100):
        rng = np.random.default_rng(number)
        slope, middle = rng.uniform(1.5, 4), math.log(rng.uniform(100, 800))
        rates = [float(expit(slope * (math.log(epoch) - middle))) for epoch in epochs]
        counts = [(0, 0)] * len(epochs)
        while (state := rule.state(epochs, counts)).more:
            hits, total = counts[state.point]
            counts[state.point] = hits + int(rng.binomial(state.more, rates[state.point])), total + state.more
        points = [
            (round(100 * epoch), epoch, *one) for epoch, one in zip(epochs, counts, strict=True) if one[1]
        ]
        time = run_time(Curve(100, 0, points), 0.1, adaptive=True)
        true = 100 * math.exp(middle + float(logit(0.1)) / slope)
        covered += (time.low or 0) - 1 <= true <= (time.high or math.inf) + 1
        sampled.append(sum(total for _, total in counts))
    assert covered >= 0.95 * 100
    assert np.mean(sampled) < 0.25 * 400 * len(epochs)  # all images at every point


def test_a_recipe_with_onset_is_such_a_search(tmp_path):
    import yaml

    path = tmp_path / "recipe.yaml"
    path.write_text(yaml.safe_dump(ONSET))
    recipe = load_study(path)
    assert isinstance(recipe, OnsetRecipe)
    assert recipe.plan == "onset"
    with pytest.raises(UserError, match="onset"):
        load_study(path, ["plan=search"])


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"seeds": [0, 1]}, "seeds"),  # with two, the interval holds in 93% only
        ({"onset": {"most_seeds": 3}, "seeds": [0, 1, 2, 3]}, "most_seeds is 3"),
        ({"onset": {"line": 1.5}}, "line"),
        ({"measure": {"frechet": "inception"}}, "leave measure.frechet out"),
    ],
)
def test_what_makes_no_sense_is_refused(change, said):
    with pytest.raises(UserError, match=said):
        validated(OnsetRecipe, {**ONSET, **change}, "recipe")


def test_evaluations_lie_close_together_unless_the_recipe_says_otherwise():
    plain = validated(OnsetRecipe, {**ONSET, "training": {"epochs": 100}}, "recipe")
    assert plain.training.evaluations.per_doubling == 4
    assert onset_recipe().training.evaluations.per_doubling == 1


def test_the_same_search_from_python_goes_on_in_its_folder(finished, monkeypatch):
    settings = {key: value for key, value in ONSET.items() if key not in ("data", "sizes", "onset")}
    monkeypatch.setattr(Trainer, "step", None)  # nothing is trained again
    found = dm.find_onset(
        "digits", [4], 0.2, out=finished.folder, data={"selection": "random", "heldout": 20},
        onset={"tolerance": 0.1, "most_seeds": 3}, **settings,
    )  # fmt: skip
    assert table(found.result) == table(finished.result())
    assert (finished.folder / "report.html").is_file()
    assert "20% copies" in str(found)
    assert "epochs until" not in found._repr_html_()
    assert "unknown" not in found._repr_html_()


def test_its_folder_is_asked_for_other_lines_with_tests_that_hold_although_samples_followed_from_what_was_seen(
    finished,
):
    asked = dm.onset(finished.folder, lines=[0.2, 0.05]).record
    assert asked.lines[0].sizes == finished.result().levels[0].onset.lines[0].sizes
    assert [run.high for run in asked.lines[1].runs] <= [run.high for run in asked.lines[0].runs]
