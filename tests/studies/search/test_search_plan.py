import pytest
from search_builders import TINY, tiny_recipe

from diffmem.runs.recipe import StudyRecipe
from diffmem.settings import validated
from diffmem.studies.search import plan as planning
from diffmem.studies.search.choice import Outcome
from diffmem.studies.search.plan import Speed, plan_grid, plan_search
from diffmem.studies.search.study import SearchStudy
from diffmem.studies.study import Study


@pytest.fixture
def measured(monkeypatch):
    """A machine that trains 1,000 and generates 100 images in a second."""
    monkeypatch.setattr(planning, "measure_speed", lambda *given: Speed(1000, 100, 10**9, 50_000))
    monkeypatch.setattr(planning, "_SIMULATIONS", 20)


def test_hours_follow_from_images_and_speed(measured, tmp_path):
    study = SearchStudy(tiny_recipe("search.most_sizes=12", "sizes=[16, 512]", "search.start=null"), tmp_path)
    plan = plan_search(study, "cpu", slots=2, threads=1)
    for level in plan.levels:
        assert level.hours == pytest.approx((level.images_trained / 1000 + level.images_sampled / 100) / 3600)
        assert 2 <= level.runs <= level.runs_high <= 12
        assert level.hours <= level.hours_high
        assert level.images_trained <= 12 * 24 * 512
    # The second level begins where the first one ended, so a second slot gains nothing.
    assert plan.hours == pytest.approx(sum(level.hours for level in plan.levels))
    assert plan.memory == 2 * 10**9
    assert plan.hours < 2 * plan.grid_hours  # of one process
    assert plan.finished == 0


@pytest.mark.parametrize("slots", [1, 2, 16])
def test_what_must_follow_one_another_is_not_planned_at_the_same_time(measured, tmp_path, slots):
    recipe = tiny_recipe("sizes=[16, 512]", "search.start=null", "levels={only: {}}")
    one = plan_search(SearchStudy(recipe, tmp_path), "cpu", slots, threads=1)
    assert one.hours == pytest.approx(one.levels[0].hours)  # a search trains one size after the other
    assert one.memory == 10**9
    apart = tiny_recipe("sizes=[16, 512]", "search.start=null", "search.hints=false")
    two = plan_search(SearchStudy(apart, tmp_path), "cpu", slots, threads=1)
    hours = [level.hours for level in two.levels]
    assert max(hours) <= two.hours <= sum(hours)
    assert (two.hours < 0.9 * sum(hours)) == (slots > 1)
    seeds = tiny_recipe("sizes=[16, 512]", "search.start=null", "levels={only: {}}", "seeds=[0, 1, 2]")
    three = plan_search(SearchStudy(seeds, tmp_path), "cpu", slots, threads=1)
    assert one.hours < three.hours <= three.levels[0].hours * 1.0001
    assert three.hours_high >= three.hours


@pytest.mark.parametrize("slots", [1, 3, 16])
def test_a_grid_takes_no_less_than_its_longest_training(measured, tmp_path, slots):
    without_search = {key: value for key, value in TINY.items() if key not in ("search", "levels")}
    recipe = validated(StudyRecipe, {**without_search, "plan": "grid", "sizes": [16, 512]}, "here")
    plan = plan_grid({"base": Study(recipe, tmp_path)}, "cpu", slots, threads=1)
    runs = Study(recipe, tmp_path).runs()
    hours = [(run.points[-1] / 1000 + len(run.points) * recipe.measure.samples / 100) / 3600 for run in runs]
    assert plan.hours == pytest.approx(max(sum(hours) / slots, max(hours)))
    assert plan.memory == min(slots, len(runs)) * 10**9


def test_what_a_search_knows_already_is_not_planned_again(measured, tmp_path):
    study = SearchStudy(
        tiny_recipe("search.most_sizes=12", "sizes=[16, 512]", "levels={only: {}}", "search.start=64"),
        tmp_path,
    )
    whole = plan_search(study, "cpu", slots=1, threads=1)
    small = Outcome("memorized", 1.0, 0.95, 1.0)
    large = Outcome("not memorized", 0.1, 0.0, 0.2)
    outcomes = {64: small, 160: large}
    study.outcome = lambda item: outcomes.get(item.size)
    half = plan_search(study, "cpu", slots=1, threads=1)
    assert half.finished == 2
    assert 0 < half.levels[0].images_trained < whole.levels[0].images_trained
    study.outcome = lambda item: small if item.size <= 100 else large
    done = plan_search(study, "cpu", slots=1, threads=1)
    assert (done.runs, done.hours, done.disk) == (0, 0, 0)
    assert done.finished > 2


def test_a_second_level_is_expected_to_be_cheaper_than_the_first(measured, tmp_path):
    recipe = tiny_recipe(
        "search.most_sizes=12", "sizes=[16, 1700]", "search.start=null", "search.tolerance=0.1"
    )
    first, second = plan_search(SearchStudy(recipe, tmp_path), "cpu", slots=1, threads=1).levels
    assert second.runs < first.runs + 1


def test_speed_is_measured_on_this_machine(tmp_path):
    study = SearchStudy(tiny_recipe(), tmp_path)
    speed = planning.measure_speed(study.smallest_run("8"), study.levels["8"].sampling, "cpu", 1, seconds=0.2)
    assert speed.trained > 0
    assert speed.sampled > 0
    assert speed.memory > 10**7
    assert speed.parameters > 1000
