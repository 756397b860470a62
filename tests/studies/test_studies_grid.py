"""A grid of levels in a folder."""

import pytest
from studies_builders import tiny_recipe

from diffmem.runs.recipe import StudyRecipe
from diffmem.studies.grid import GridStudy


@pytest.mark.parametrize(
    ("levels", "names"),
    [
        ({"base": {}}, ["N = 4, seed 0"]),
        ({"wide": {"training.epochs": 3}, "narrow": {}}, ["wide, N = 4, seed 0", "narrow, N = 4, seed 0"]),
    ],
)
def test_trainings_are_called_by_their_level_where_there_are_several(levels, names, tmp_path):
    content = tiny_recipe("sizes=[4]", "seeds=[0]").model_dump(mode="json")
    recipe = StudyRecipe.model_validate({**content, "levels": levels, "plan": "grid"})
    studies = GridStudy(recipe, tmp_path).studies.values()
    assert [study.work(run).name for study in studies for run in study.runs()] == names
