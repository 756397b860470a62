import pytest
from search_builders import tiny_recipe

from diffmem.studies.search import plan as planning
from diffmem.studies.search.plan import Speed, plan_search
from diffmem.studies.search.study import SearchStudy


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
    assert plan.hours == pytest.approx(sum(level.hours for level in plan.levels) / 2)
    assert plan.memory == 2 * 10**9
    assert plan.hours < plan.grid_hours
    assert plan.finished == 0


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
