from pathlib import Path

import pytest
import yaml
from search_builders import TINY, tiny_recipe

from diffmem.errors import UserError
from diffmem.studies.search.decisions import FutilityRule
from diffmem.studies.search.recipe import load_study

RECIPES = Path(__file__).resolve().parents[3] / "recipes"


def written(tmp_path, **changes):
    path = tmp_path / "recipe.yaml"
    path.write_text(yaml.safe_dump({**TINY, **changes}, sort_keys=False))
    return path


def test_a_level_is_the_base_with_its_settings(tmp_path):
    recipe = load_study(
        written(tmp_path, levels={"wide": {"model.channels": 16, "data.labels": "true"}, "base": None})
    )
    wide, base = recipe.level("wide"), recipe.level("base")
    assert (wide.model.channels, wide.data.labels) == (16, "true")
    assert (base.model.channels, base.data.labels) == (8, "none")
    assert wide.training == base.training == recipe.training


def test_a_level_can_open_a_group_that_the_base_leaves_out(tmp_path):
    recipe = load_study(
        written(tmp_path, levels={"copies": {"data.duplication.share": 0.1, "data.duplication.copies": 3}})
    )
    assert recipe.level("copies").data.duplication.copies == 3


def test_a_recipe_that_is_written_reads_back_as_the_same():
    for executor in ("inline", "local", "{kind: local, processes: 3}"):
        recipe = tiny_recipe(f"executor={executor}", "search.futility=true")
        assert type(recipe).model_validate(recipe.model_dump(mode="json")) == recipe


def test_evaluation_points_do_not_move_with_the_epochs_unless_asked_for():
    without = {key: value for key, value in TINY["training"].items() if key != "evaluations"}
    assert (
        type(tiny_recipe()).model_validate({**TINY, "training": without}).training.evaluations.schedule
        == "doubling"
    )
    no_training = {key: value for key, value in TINY.items() if key != "training"}
    assert type(tiny_recipe()).model_validate(no_training).training.evaluations.schedule == "doubling"


def test_levels_may_be_numbers_and_words_that_yaml_has_a_meaning_for(tmp_path):
    recipe = load_study(written(tmp_path, levels={8: {"model.channels": 8}, True: {}}, published={8: 100}))
    assert list(recipe.levels) == ["8", "true"]
    assert recipe.published == {"8": 100.0}


def test_the_error_of_an_interval_is_shared_by_its_sizes():
    assert tiny_recipe("search.most_sizes=10", "search.confidence=0.9").alpha == pytest.approx(0.01)


def test_futility_is_off_unless_asked_for():
    assert tiny_recipe().search.futility is None
    assert tiny_recipe("search.futility=true").search.futility == FutilityRule()
    assert tiny_recipe("search.futility={pace: 3}").search.futility == FutilityRule(pace=3)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"sizes": [40, 4]}, "ascending"),
        ({"sizes": [4, 8, 16]}, "sizes"),
        ({"seeds": [1, 1]}, "repeats"),
        ({"search": {"start": 500}}, "not between"),
        ({"search": {"tolerence": 0.1}}, "tolerance"),
        ({"search": {"tolerance": 0.6}}, "tolerance"),
        ({"levels": {}}, "levels"),
        ({"levels": {"a": {"model.chanels": 8}}}, "channels"),
        ({"levels": {"a": {"measure.samples": 8}}}, "may change"),
        ({"levels": {"a": {"model.channels.x": 8}}}, "not a group"),
        ({"published": {"nobody": 5}}, "nobody"),
        ({"measure": {"frechet": "pixels"}}, "frechet"),
        ({"model": {"architecture": "optimum"}}, "optimum|architecture"),
        ({"executor": "cloud"}, "executor|cloud"),
    ],
)
def test_what_does_not_fit_is_told(tmp_path, changes, words):
    with pytest.raises(UserError, match=words):
        load_study(written(tmp_path, **changes))


def test_a_recipe_with_levels_or_search_is_that_of_a_search(tmp_path):
    assert load_study(written(tmp_path)).plan == "search"
    assert load_study(RECIPES / "digits.yaml").plan == "grid"
    child = tmp_path / "child.yaml"
    child.write_text("base: recipe.yaml\ntitle: Child\n")
    assert load_study(child).plan == "search"


@pytest.mark.parametrize("path", sorted(RECIPES.rglob("*.yaml")), ids=lambda path: path.stem)
def test_every_recipe_of_the_repository_can_be_read_and_takes_a_page_or_less(path):
    assert len(path.read_text().splitlines()) <= 60
    if "sizes" in path.read_text():
        load_study(path)


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        (["plan=grid"], "search is of plan: search, but the plan of this recipe is grid; remove search"),
        (["plan=search", "onset.line=0.1"], "onset is of plan: onset, but the plan of this recipe is search"),
        (["onset.line=0.1"], "search is of plan: search, but the plan of this recipe is onset"),
    ],
)
def test_the_settings_of_another_plan_are_named_as_such(tmp_path, settings, words):
    with pytest.raises(UserError, match=words):
        load_study(written(tmp_path), settings)
