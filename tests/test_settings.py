import pytest

from diffmem.errors import UserError
from diffmem.runs.recipe import StudyRecipe
from diffmem.settings import load_recipe, override


def written(folder, content):
    path = folder / "study.yaml"
    path.write_text(content)
    return path


def test_a_key_that_stands_twice_is_refused_as_its_first_value_would_be_lost(tmp_path):
    path = written(tmp_path, "title: a\ndata: {source: digits}\nsizes: [4, 8]\ntitle: b\n")
    with pytest.raises(UserError, match="line 4 repeats the key 'title' of line 1"):
        load_recipe(StudyRecipe, path)
    with pytest.raises(UserError, match="repeats the key 'share'"):
        override({}, ["data.mixture={share: 0.1, share: 0.2}"])


def test_anchors_aliases_and_merged_groups_of_yaml_are_read(tmp_path):
    path = written(
        tmp_path,
        "data: {source: digits}\nsizes: [4, 8]\ntraining: {ema: &ema {mode: mode1, half_life: 5}}\n"
        "levels: {a: {training.ema: *ema}, b: {training.ema: {<<: *ema, half_life: 7}}}\n",
    )
    recipe = load_recipe(StudyRecipe, path)
    lives = [recipe.level(name).training.ema.half_life for name in ("a", "b")]
    assert lives == [5, 7]
    assert recipe.level("b").training.ema.mode == "mode1"


def test_names_of_levels_are_those_that_are_written(tmp_path):
    levels = "levels:\n  on: {}\n  off: {}\n  0.10: {}\n  010: {}\n  1_000: {}\n  2026-01-02: {}\n"
    recipe = load_recipe(StudyRecipe, written(tmp_path, f"data: {{source: digits}}\nsizes: [4]\n{levels}"))
    assert list(recipe.levels) == ["on", "off", "0.10", "010", "1_000", "2026-01-02"]


def test_a_key_that_is_no_word_is_refused(tmp_path):
    with pytest.raises(UserError, match="the key in line 1 is not a word"):
        load_recipe(StudyRecipe, written(tmp_path, "? [a, b]\n: c\n"))
