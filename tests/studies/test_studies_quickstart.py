import numpy as np
import pytest

from diffmem.executors.config import ExecutorConfig
from diffmem.studies.groups import Member, planned_groups
from diffmem.studies.quickstart import quickstart_recipe
from diffmem.studies.study import Study


def test_the_quickstart_has_four_sizes_from_16_to_112_and_trains_all_for_the_same_epochs():
    recipe = quickstart_recipe()
    assert len(recipe.sizes) == 4
    assert min(recipe.sizes) >= 16
    assert max(recipe.sizes) <= 112
    assert recipe.training.rounding == "exact"
    assert recipe.data.source == "digits"


def test_the_fast_quickstart_is_a_smaller_one_of_the_same_kind():
    fast, full = quickstart_recipe(fast=True), quickstart_recipe()
    assert fast.model == full.model
    assert fast.data == full.data
    assert len(fast.sizes) < len(full.sizes)
    assert fast.training.epochs < full.training.epochs
    assert fast.measure.samples < full.measure.samples


def test_the_recipe_is_the_same_every_time():
    assert quickstart_recipe() == quickstart_recipe()
    assert quickstart_recipe(fast=True).title == quickstart_recipe().title + " (one-minute setting)"


@pytest.mark.parametrize("fast", [False, True])
def test_every_size_of_the_quickstart_can_be_drawn_apart_from_the_held_out_images(tmp_path, fast):
    study = Study(quickstart_recipe(fast), tmp_path)
    assert sorted(study.sets) == sorted(study.recipe.sizes)
    assert len(study.heldout) == 500
    parameters = int(study.model.split()[-2].replace(",", ""))
    assert 90_000 < parameters < 110_000
    held = set(study.heldout.names)
    for size, images in study.sets.items():
        assert len(images) == size
        assert not held & set(images.names)
        assert len(np.unique(images.images.reshape(size, -1), axis=0)) == size


def test_on_two_cores_the_largest_size_has_a_process_to_itself_and_the_others_share_one(tmp_path):
    study = Study(quickstart_recipe(), tmp_path)
    members = [Member(run, study.work(run).units) for run in study.runs()]
    sizes = {run.run_id: len(run.training_set) for run in study.runs()}
    plan = planned_groups(members, ExecutorConfig(kind="local", processes=2), "cpu", tmp_path)
    assert [[sizes[run_id] for run_id in group] for group in plan.groups] == [[112], [64, 32, 16]]
