"""A grid of levels in a folder."""

import pytest
import search_builders
from studies_builders import tiny_recipe

from diffmem.folder_lock import BusyFolderError
from diffmem.runs.recipe import StudyRecipe
from diffmem.studies.folder import read_study
from diffmem.studies.grid import GridStudy
from diffmem.studies.search.study import SearchStudy


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


@pytest.mark.parametrize("kind", ["grid", "search"])
def test_a_second_start_in_the_folder_of_a_study_that_is_at_work_is_refused_and_changes_nothing(
    tmp_path, kind
):
    first, second, refused = GridStudy(tiny_recipe("sizes=[4]"), tmp_path), GridStudy, []
    other = tiny_recipe("sizes=[4, 8]", "budget.images=0.001")
    if kind == "search":
        second, other = SearchStudy, search_builders.tiny_recipe("budget.images=0.001")

    def meanwhile(done, total, note=""):
        if not refused:
            refused.append(True)
            with pytest.raises(BusyFolderError, match=r"in use by process .* --out"):
                second(other, tmp_path).execute()
            assert read_study(tmp_path) == first.recipe

    first.execute(progress=meanwhile)
    assert refused
    assert first.result().finished
